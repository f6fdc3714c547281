"""Image processor of SPIDER: a region becomes a grid of normalised patches."""

import os
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
import torch
from PIL import Image, ImageFile
from transformers import BaseImageProcessor, BatchFeature

HIBOU_MEAN = (0.7068, 0.5755, 0.7220)
HIBOU_STD = (0.1950, 0.2316, 0.1816)

_FIELDS = (
    "context_size",
    "patch_size",
    "do_normalize",
    "image_mean",
    "image_std",
    "allow_missing_context",
    "do_resize",
)
_NO_RESIZING = "SpiderImageProcessor never resizes: bring the region to the model's um/px first."


class SpiderImageProcessor(BaseImageProcessor):
    r"""Cuts square regions into a row-major grid of patches and normalises them.

    A region of `context_size * patch_size` px a side (1120 px, at 0.5 um/px) is tiled as it is. A larger image is
    cropped around its centre. A smaller one is refused unless `allow_missing_context=True`; then it is centred, and
    every patch that it does not cover whole is marked as missing. Nothing is ever resized: that would change the
    magnification.

    Args:
        context_size (`int`, *optional*, defaults to 5):
            Patches along one side of the region, odd.
        patch_size (`int`, *optional*, defaults to 224):
            Side of one patch in px.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`; without it the values stay in [0, 1].
        image_mean (`list[float]`, *optional*, defaults to Hibou's):
            Mean of each channel, for values in [0, 1].
        image_std (`list[float]`, *optional*, defaults to Hibou's):
            Standard deviation of each channel, for values in [0, 1].
        allow_missing_context (`bool`, *optional*, defaults to `False`):
            Whether to take images that are smaller than a region but hold at least the central patch.
    """

    model_input_names = ["pixel_values", "context_mask"]
    _auto_class = "AutoImageProcessor"

    def __init__(
        self,
        context_size: int = 5,
        patch_size: int = 224,
        do_normalize: bool = True,
        image_mean: Optional[list[float]] = None,
        image_std: Optional[list[float]] = None,
        allow_missing_context: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("do_resize"):
            raise ValueError(f"`do_resize` must be False, got {kwargs['do_resize']!r}. {_NO_RESIZING}")
        super().__init__(**kwargs)
        if not _is_positive_integer(context_size) or context_size % 2 == 0:
            raise ValueError(f"`context_size` must be an odd, positive integer, got {context_size!r}.")
        if not _is_positive_integer(patch_size):
            raise ValueError(f"`patch_size` must be a positive integer, got {patch_size!r}.")
        self.context_size = context_size
        self.patch_size = patch_size
        self.do_normalize = do_normalize
        self.image_mean = [float(mean) for mean in (HIBOU_MEAN if image_mean is None else image_mean)]
        self.image_std = [float(std) for std in (HIBOU_STD if image_std is None else image_std)]
        finite = np.isfinite(self.image_mean).all() and np.isfinite(self.image_std).all()
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or not finite or min(self.image_std) <= 0:
            raise ValueError(
                "`image_mean` and `image_std` must have three finite values, the latter above 0, "
                f"got {self.image_mean} and {self.image_std}."
            )
        self.allow_missing_context = allow_missing_context

    @property
    def region_size(self) -> int:
        """Side of a region in px: `context_size * patch_size`."""
        return self.context_size * self.patch_size

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Like the base method; fields given as keyword arguments are checked like those of the dictionary."""
        fields = {field: kwargs.pop(field) for field in _FIELDS if field in kwargs}
        return super().from_dict({**image_processor_dict, **fields}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`, the same in every version of Transformers."""
        fields = super().to_dict()
        # Saving a processor adds its class and code, which saving the image processor alone does not export. An entry
        # of a loaded file may carry a "repo--" prefix, which would tie a saved copy to that repository.
        fields.pop("_processor_class", None)
        fields["auto_map"] = {"AutoImageProcessor": "image_processor_spider.SpiderImageProcessor"}
        return fields

    def preprocess(
        self,
        images: Any,
        return_tensors: Optional[str] = None,
        allow_missing_context: Optional[bool] = None,
        input_data_format: Optional[str] = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tile one region or a batch of regions.

        Args:
            images: A PIL image, a numpy array or torch tensor, or a list of these. Arrays are `(H, W)`, `(H, W, C)` or
                `(C, H, W)` for one region, `(B, H, W, C)` or `(B, C, H, W)` for a batch, with 1 or 3 channels, as
                uint8 or as floats in [0, 1]. PIL images may have any mode that converts to RGB; transparency is
                flattened on white, 16 bits keep their depth. Pixels are taken as stored: an EXIF orientation is not
                applied, so that an image and the array of its pixels give the same patches, and their order is that
                of the slide's rows and columns. None of the images is changed, and no gradient flows back to it.
            return_tensors: `"pt"` for torch tensors, `"np"` for numpy arrays, `None` for lists of numpy arrays.
            allow_missing_context: Overrides the field of the same name for this call.
            input_data_format: `"channels_first"` or `"channels_last"`. By default the end of the shape with 1 or 3
                entries; if both have, as in `(3, H, 3)`, the last.
            **kwargs: Refused, so that a misspelt or unsupported option is never ignored.

        Returns:
            `BatchFeature` with `pixel_values`, float32 `(B, context_size**2, 3, patch_size, patch_size)` in row-major
            order, and `context_mask`, bool `(B, context_size**2)`, True where a patch is present. Tensors stay on the
            device of the first image.

        Raises:
            ValueError: An image cannot be used; the message names it and says what was expected.
            TypeError: An argument is unknown.
        """
        if kwargs:
            raise TypeError(
                f"Unknown arguments {sorted(kwargs)}, expected return_tensors, allow_missing_context or "
                f"input_data_format. {_NO_RESIZING}"
            )
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f"`return_tensors` must be 'pt', 'np' or None, got {return_tensors!r}.")
        if input_data_format not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"`input_data_format` must be 'channels_first' or 'channels_last', got {input_data_format!r}."
            )
        if allow_missing_context is None:
            allow_missing_context = self.allow_missing_context

        items = _list_images(images, input_data_format)
        placements = [self._place(name, image, allow_missing_context) for name, image in items]

        grid = (len(items), self.context_size**2)
        first = items[0][1].content
        device = first.device if isinstance(first, torch.Tensor) else torch.device("cpu")
        pixel_values = _empty((*grid, 3, self.patch_size, self.patch_size), device)
        context_mask = torch.zeros(*grid, dtype=torch.bool, device=device)
        for i, ((name, image), place) in enumerate(zip(items, placements)):
            planes = _to_planes(name, image, place).to(device)
            self._tile_into(pixel_values[i], context_mask[i], planes, place)
        data: dict[str, Any] = {"pixel_values": pixel_values, "context_mask": context_mask}
        if return_tensors != "pt":
            data = {key: value.cpu().numpy() for key, value in data.items()}
        if return_tensors is None:
            data = {key: list(value) for key, value in data.items()}
        return BatchFeature(data)

    def _place(self, name: str, image: "_AnyImage", allow_missing_context: bool) -> "_Placement":
        height, width = image.height, image.width
        region, patch = self.region_size, self.patch_size
        if min(height, width) < patch:
            raise ValueError(
                f"{name} is {height}x{width} px (height x width), smaller than one patch. "
                f"Expected a {region}x{region} px region, at least {patch}x{patch} px."
            )
        if min(height, width) < region and not allow_missing_context:
            raise ValueError(
                f"{name} is {height}x{width} px (height x width), expected at least {region}x{region} px. Cut a larger "
                "region around the same centre, or pass allow_missing_context=True to classify it with the missing "
                "context masked out."
            )
        return _Placement(_place_axis(height, region), _place_axis(width, region))

    def _tile_into(
        self, pixel_values: torch.Tensor, context_mask: torch.Tensor, planes: torch.Tensor, place: "_Placement"
    ) -> None:
        """Fill one region's `(n*n, 3, P, P)` patches and `(n*n,)` mask from its planes `(3, h, w)`."""
        n, p = self.context_size, self.patch_size
        rows, columns = _whole_patches(place.rows, p), _whole_patches(place.columns, p)
        top, left = rows.start * p - place.rows.offset, columns.start * p - place.columns.offset
        whole = planes[:, top : top + len(rows) * p, left : left + len(columns) * p]
        tiles = whole.unflatten(2, (len(columns), p)).unflatten(1, (len(rows), p)).permute(1, 3, 0, 2, 4)
        window = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        if len(rows) * len(columns) < n * n:
            pixel_values.zero_()
        target = pixel_values.view(n, n, 3, p, p)[window]
        self._normalize(target.copy_(tiles), 255.0 if planes.dtype == torch.uint8 else 1.0)
        context_mask.view(n, n)[window] = True

    def _normalize(self, patches: torch.Tensor, white: float) -> None:
        """Map patches `(..., 3, P, P)` with values in [0, white] to the backbone's input, in place."""
        if not self.do_normalize:
            patches.div_(white)
            return
        shift = torch.tensor(self.image_mean, dtype=torch.float32, device=patches.device).mul_(white).view(3, 1, 1)
        scale = torch.tensor(self.image_std, dtype=torch.float32, device=patches.device).mul_(white).view(3, 1, 1)
        patches.sub_(shift).div_(scale)


@dataclass(frozen=True)
class _Span:
    """Where an image lies along one axis of the region: `image[start:start + length]` at `offset` of the region."""

    start: int
    length: int
    offset: int


@dataclass(frozen=True)
class _Placement:
    rows: _Span
    columns: _Span


@dataclass(frozen=True)
class _AnyImage:
    """One image, not decoded yet: a PIL image, or a tensor `(H, W, C)` with 1 or 3 channels."""

    content: Union[Image.Image, torch.Tensor]
    height: int
    width: int


def _place_axis(length: int, region: int) -> _Span:
    """Crop a longer axis around its centre, centre a shorter one; the same floor for both."""
    if length >= region:
        return _Span((length - region) // 2, region, 0)
    return _Span(0, length, (region - length) // 2)


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _whole_patches(span: _Span, patch_size: int) -> range:
    return range(-(-span.offset // patch_size), (span.offset + span.length) // patch_size)


def _list_images(images: Any, input_data_format: Optional[str]) -> list[tuple[str, _AnyImage]]:
    """Every image with the name that error messages call it by."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("`images` is an empty list, expected at least one image.")
        return [(f"images[{i}]", _as_image(f"images[{i}]", image, input_data_format)) for i, image in enumerate(images)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        if len(images) == 0:
            raise ValueError(f"`images` is an empty batch of shape {tuple(images.shape)}, expected at least one image.")
        axis = _channel_axis("Each of `images`", images.shape[1:], input_data_format)
        data_format = "channels_first" if axis == 0 else "channels_last"
        return [(f"images[{i}]", _as_image(f"images[{i}]", image, data_format)) for i, image in enumerate(images)]
    return [("The image", _as_image("The image", images, input_data_format))]


def _as_image(name: str, image: Any, input_data_format: Optional[str]) -> _AnyImage:
    if isinstance(image, Image.Image):
        _check_decodable(name, image)
        return _AnyImage(image, image.height, image.width)
    if isinstance(image, (str, os.PathLike)):
        raise ValueError(f"{name} is a path, {str(image)[:200]!r}. Open it first, as with PIL.Image.open(path).")
    if isinstance(image, (bytes, bytearray, memoryview)):
        raise ValueError(
            f"{name} is {len(image)} raw bytes. Open them first, as with PIL.Image.open(io.BytesIO(data))."
        )
    if isinstance(image, np.ndarray):
        image = _as_tensor(name, image)
    if not isinstance(image, torch.Tensor):
        raise ValueError(
            f"{name} is {type(image).__name__}, expected a PIL image, a numpy array or a torch tensor, or a flat list "
            "of these."
        )

    if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise ValueError(
            f"{name} has dtype {image.dtype}, expected uint8, or floats in [0, 1]. Bring other integers to 0..255 "
            "and convert them to uint8."
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}, expected (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels. "
            "A batch, (B, H, W, C) or (B, C, H, W), is passed by itself, not in a list."
        )
    if _channel_axis(name, image.shape, input_data_format) == 0:
        image = image.permute(1, 2, 0)
    if image.dtype.is_floating_point:
        _check_unit_range(name, image)
    return _AnyImage(image.detach(), image.shape[0], image.shape[1])


def _as_tensor(name: str, array: np.ndarray) -> torch.Tensor:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    except TypeError as error:
        raise ValueError(f"{name} has dtype {array.dtype}, expected uint8, or floats in [0, 1].") from error


def _channel_axis(name: str, shape: Any, input_data_format: Optional[str]) -> int:
    """0 for channels first, 2 for channels last, of the shape of one image."""
    candidates = {"channels_first": (0,), "channels_last": (2,), None: (2, 0)}[input_data_format]
    for axis in candidates:
        if shape[axis] in (1, 3):
            return axis
    raise ValueError(
        f"{name} has shape {tuple(shape)}, expected 1 or 3 channels first or last"
        + (f" ({input_data_format})" if input_data_format else "")
        + ". Convert RGBA with PIL to have it flattened on white."
    )


def _check_unit_range(name: str, image: torch.Tensor) -> None:
    if image.numel() == 0:
        return  # the size check that follows names the problem
    low, high = (bound.item() for bound in torch.aminmax(image))
    if not (low >= 0 and high <= 1):  # NaN fails both comparisons
        raise ValueError(
            f"{name} holds floats from {low:g} to {high:g}, expected [0, 1] without NaN. Pass 0..255 values as uint8."
        )


def _to_planes(name: str, image: _AnyImage, place: _Placement) -> torch.Tensor:
    """The placed part of an image as `(3, h, w)`, uint8 or floats in [0, 1]."""
    rows, columns = place.rows, place.columns
    if isinstance(image.content, Image.Image):
        box = (columns.start, rows.start, columns.start + columns.length, rows.start + rows.length)
        return _decode(name, image.content, box)
    pixels = image.content[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    planes = pixels.permute(2, 0, 1).expand(3, -1, -1)
    # Parting the channels and then tiling and widening them takes less time than both in one copy of strided bytes.
    return torch.stack(planes.unbind()) if pixels.stride(2) < pixels.stride(1) else planes


def _check_decodable(name: str, image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and isinstance(image, ImageFile.ImageFile) and image.width * image.height > limit:
        raise ValueError(
            f"{name} has {image.width}x{image.height} px, more than PIL.Image.MAX_IMAGE_PIXELS ({limit}): it may be a "
            "decompression bomb. Expected a region; cut it out of the slide with OpenSlide, or raise the limit."
        )
    if image.mode in ("I", "F", "La"):
        raise ValueError(
            f"{name} has the mode {image.mode!r}, expected RGB or one that Pillow converts to it. Bring other values "
            "to an array of uint8 or of floats in [0, 1]."
        )


def _decode(name: str, image: Image.Image, box: tuple[int, int, int, int]) -> torch.Tensor:
    try:
        image.load()  # which some formats need to know their size
        region = image if box == (0, 0, *image.size) else image.crop(box)
    except Exception as error:  # Pillow's decoders raise errors of many classes; a closed file, AssertionError
        raise ValueError(
            f"{name} cannot be decoded ({image.mode}, {image.width}x{image.height} px), expected a whole image from a "
            f"file that is still open. {type(error).__name__}: {error}"
        ) from error
    if region.mode.startswith("I;16"):
        levels = np.asarray(region).astype(np.float32) / 65535
        return torch.from_numpy(levels).expand(3, -1, -1)
    if region.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in region.info:
        region = region.convert("RGBA")
        region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
    if region.mode != "RGB":
        region = region.convert("RGB")
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in region.split()]))


def _empty(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Room for float32 values."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.float32, device=device)
    # NumPy asks Linux for huge pages; with torch.empty most of the time of a batch would go into page faults.
    return torch.from_numpy(np.empty(shape, dtype=np.float32))
