"""Image processor of SPIDER: a region becomes a grid of normalised patches."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .checks_spider import are_three_numbers, check_type, is_number, nearest
from .images_spider import AnyImage, common_device, list_images, to_planes
from .pixels_spider import HIBOU_MEAN, HIBOU_STD, normalize

_FIELDS = (
    "context_size",
    "patch_size",
    "do_rescale",
    "do_normalize",
    "image_mean",
    "image_std",
    "allow_missing_context",
)
# What Transformers writes beside the fields, and `do_resize`, which may say False.
_BESIDE_FIELDS = ("auto_map", "do_resize", "feature_extractor_type", "image_processor_type", "processor_class")
_SIZES = {
    "context_size": ("an odd, positive integer", range(1, 100, 2)),
    "patch_size": ("a positive integer", range(1, 4097)),
}
_NO_RESIZING = "SpiderImageProcessor never resizes: bring the region to the model's um/px first."


class SpiderImageProcessor(BaseImageProcessor):
    r"""Cuts square regions into a row-major grid of patches and normalises them.

    A region of `context_size * patch_size` px a side (1120 px, at 0.5 um/px) is tiled as it is. A larger image is
    cropped around its centre. A smaller one is refused unless `allow_missing_context=True`; then it is centred, and
    every patch that it does not cover whole is marked as missing. Nothing is ever resized: that would change the
    magnification.

    Args:
        context_size (`int`, *optional*, defaults to 5):
            Patches along one side of the region, odd, at most 99.
        patch_size (`int`, *optional*, defaults to 224):
            Side of one patch in px, at most 4096.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`; without it the values stay in [0, 1].
        image_mean (`list[float]`, *optional*, defaults to Hibou's):
            Mean of each channel, for values in [0, 1]; from 0 to 1.
        image_std (`list[float]`, *optional*, defaults to Hibou's):
            Standard deviation of each channel, for values in [0, 1]; from 0.001 to 10.
        allow_missing_context (`bool`, *optional*, defaults to `False`):
            Whether to take images that are smaller than a region but hold at least the central patch.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether bytes become floats in [0, 1]. Without it, and without `do_normalize`, patches stay uint8, a quarter
            of the memory, and the model normalises them on its device, to the same logits.

    Raises:
        ValueError: A field is of another type or out of its range.
        TypeError: A keyword is no field.
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
        do_rescale: bool = True,
        **kwargs: Any,
    ) -> None:
        unknown = kwargs.keys() - set(_BESIDE_FIELDS)
        if unknown:
            raise TypeError(_unknown(unknown, _FIELDS))
        if kwargs.get("do_resize"):
            raise ValueError(f"`do_resize` must be False, got {kwargs['do_resize']!r}. {_NO_RESIZING}")
        super().__init__(**kwargs)
        self.context_size = context_size
        self.patch_size = patch_size
        self.do_rescale = do_rescale
        self.do_normalize = do_normalize
        self.image_mean = _as_list(HIBOU_MEAN if image_mean is None else image_mean)
        self.image_std = _as_list(HIBOU_STD if image_std is None else image_std)
        self.allow_missing_context = allow_missing_context
        self._check_fields()

    @property
    def region_size(self) -> int:
        """Side of a region in px: `context_size * patch_size`."""
        return self.context_size * self.patch_size

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Like the base method; keyword arguments are checked as the constructor does, unless they say how to load.

        Files outlive versions and are edited by hand: what is no field in one is left out, with a warning.
        """
        known = {key: value for key, value in image_processor_dict.items() if key in _FIELDS + _BESIDE_FIELDS}
        unknown = {key for key in image_processor_dict.keys() - known.keys() if not key.startswith("_")}
        if unknown:
            warnings.warn(f"Ignored in preprocessor_config.json: {_unknown(unknown, _FIELDS)}", stacklevel=2)
        given = set(kwargs)
        for name in list(kwargs):
            if name in ImagesKwargs.__annotations__ or name in _FIELDS or nearest(name, _FIELDS):
                known[name] = kwargs.pop(name)
        if known.get("do_rescale") is False and known.get("do_normalize", True) and "do_rescale" not in given:
            warnings.warn(
                "Ignored in preprocessor_config.json: `do_rescale`, which `do_normalize` needs.", stacklevel=2
            )
            known["do_rescale"] = True
        return super().from_dict(known, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`, the same in every version of Transformers."""
        fields = super().to_dict()
        # Saving a processor adds its class and code, which saving the image processor alone does not export. An entry
        # of a loaded file may carry a "repo--" prefix, which would tie a saved copy to that repository.
        fields.pop("_processor_class", None)
        # With the type, Transformers 4 takes it for one of its own classes and warns that it is not the fast one.
        fields.pop("image_processor_type", None)
        fields["auto_map"] = {"AutoImageProcessor": "image_processor_spider.SpiderImageProcessor"}
        return fields

    def preprocess(
        self,
        images: Any,
        return_tensors: Optional[str] = None,
        allow_missing_context: Optional[bool] = None,
        input_data_format: Optional[str] = None,
        **fields: Any,
    ) -> BatchFeature:
        """Tile one region or a batch of regions.

        Args:
            images: A PIL image, a numpy array or torch tensor, or a list or other sequence of these, as a column of
                `datasets` is. Arrays are `(H, W)`, `(H, W, C)` or `(C, H, W)` for one region,
                `(B, H, W, C)` or `(B, C, H, W)` for a batch, with 1 or 3 channels, as uint8 or as floats in [0, 1].
                PIL images may have any mode that converts to RGB; transparency is flattened on white, 16 bits keep
                their depth. Pixels are taken as stored: an EXIF orientation is not applied, so that an image and the
                array of its pixels give the same patches, and their order is that of the slide's rows and columns.
                None of the images is changed, but for a damaged one, which is closed, and no gradient flows back.
            return_tensors: `"pt"` for torch tensors, `"np"` for numpy arrays, `None` for lists of numpy arrays.
            allow_missing_context: Replaces the field of this name for this call.
            input_data_format: `"channels_first"` or `"channels_last"`. By default the end of the shape with 1 or 3
                entries; if both have, as in `(3, H, 3)`, the last.
            **fields: Replace other fields for this call, and are checked like them. Anything else is refused, so that a
                misspelt or unsupported option is never ignored.

        Returns:
            `BatchFeature` with `pixel_values`, float32 `(B, context_size**2, 3, patch_size, patch_size)` in row-major
            order, or uint8 where neither `do_rescale` nor `do_normalize` is set, and `context_mask`, bool
            `(B, context_size**2)`, True where a patch is present. Tensors stay on the device of the first image.

        Raises:
            ValueError: An image or a field cannot be used; the message names it and says what was expected.
            TypeError: An argument is unknown.
        """
        unknown = fields.keys() - set(_FIELDS)
        if unknown:
            raise TypeError(_unknown(unknown, ("return_tensors", "input_data_format", *_FIELDS)))
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f"`return_tensors` must be 'pt', 'np' or None, got {return_tensors!r}.")
        if input_data_format not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"`input_data_format` must be 'channels_first' or 'channels_last', got {input_data_format!r}."
            )
        fields["allow_missing_context"] = allow_missing_context
        given = {field: value for field, value in fields.items() if value is not None}
        if given:
            own = {field: getattr(self, field) for field in _FIELDS}
            return type(self)(**{**own, **given}).preprocess(images, return_tensors, None, input_data_format)
        self._check_fields()

        items = list_images(images, input_data_format)
        placements = [self._place(name, image) for name, image in items]
        if not self.do_rescale:
            _check_bytes(items)

        grid = (len(items), self.context_size**2)
        device = common_device(items, needs_values=return_tensors != "pt")
        dtype = torch.float32 if self.do_rescale else torch.uint8
        pixel_values = _empty((*grid, 3, self.patch_size, self.patch_size), dtype, device)
        context_mask = torch.zeros(*grid, dtype=torch.bool, device=device)
        for i, ((name, image), place) in enumerate(zip(items, placements)):
            planes = to_planes(name, image, place.rows.part, place.columns.part).to(device)
            self._tile_into(pixel_values[i], context_mask[i], planes, place)
        data: dict[str, Any] = {"pixel_values": pixel_values, "context_mask": context_mask}
        if return_tensors != "pt":
            data = {key: value.cpu().numpy() for key, value in data.items()}
        if return_tensors is None:
            data = {key: list(value) for key, value in data.items()}
        return BatchFeature(data)

    def _check_fields(self) -> None:
        for field, (kind, allowed) in _SIZES.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
                raise ValueError(f"`{field}` must be {kind}, got {value!r}; the largest is {allowed[-1]}.")
        for field in ("do_rescale", "do_normalize", "allow_missing_context"):
            check_type(field, getattr(self, field))
        if self.do_normalize and not self.do_rescale:
            raise ValueError(
                "`do_normalize` needs `do_rescale`: pass do_rescale=False, do_normalize=False for uint8 patches, which "
                "the model normalises."
            )
        if not are_three_numbers(self.image_mean, 0, 1) or not are_three_numbers(self.image_std, 0.001, 10):
            raise ValueError(
                "`image_mean` and `image_std` must have three finite values, the latter above 0, both for pixels in "
                f"[0, 1]: from 0 to 1 and from 0.001 to 10, got {self.image_mean!r} and {self.image_std!r}."
            )

    def _place(self, name: str, image: AnyImage) -> "_Placement":
        height, width = image.height, image.width
        region, patch = self.region_size, self.patch_size
        if min(height, width) < patch:
            raise ValueError(
                f"{name} is {height}x{width} px (height x width), smaller than one patch. "
                f"Expected a {region}x{region} px region, at least {patch}x{patch} px."
            )
        if min(height, width) < region and not self.allow_missing_context:
            raise ValueError(
                f"{name} is {height}x{width} px (height x width), expected at least {region}x{region} px. Cut a larger "
                "region around the same centre, or pass allow_missing_context=True to classify it with the missing "
                'context masked out. For a tool that cannot pass arguments, set "allow_missing_context": true in the '
                "model's preprocessor_config.json."
            )
        return _Placement(_place_axis(height, region), _place_axis(width, region))

    def _tile_into(
        self, pixel_values: torch.Tensor, context_mask: torch.Tensor, planes: torch.Tensor, place: "_Placement"
    ) -> None:
        """Fill one region's `(n*n, 3, P, P)` patches and `(n*n,)` mask from its planes `(3, h, w)`."""
        n, p = self.context_size, self.patch_size
        if planes.dtype == torch.uint8 != pixel_values.dtype and planes.stride(0) < planes.stride(2):
            # Parting channels, then tiling and widening them takes less time than both in one copy of strided bytes.
            planes = torch.stack(planes.unbind())
        rows, columns = _whole_patches(place.rows, p), _whole_patches(place.columns, p)
        top, left = rows.start * p - place.rows.offset, columns.start * p - place.columns.offset
        whole = planes[:, top : top + len(rows) * p, left : left + len(columns) * p]
        tiles = whole.unflatten(2, (len(columns), p)).unflatten(1, (len(rows), p)).permute(1, 3, 0, 2, 4)
        window = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        if len(rows) * len(columns) < n * n:
            pixel_values.zero_()
        target = pixel_values.view(n, n, 3, p, p)[window].copy_(tiles)
        white = 255.0 if planes.dtype == torch.uint8 else 1.0
        if self.do_normalize:
            normalize(target, self.image_mean, self.image_std, white)
        elif self.do_rescale:
            target.div_(white)
        context_mask.view(n, n)[window] = True


@dataclass(frozen=True)
class _Span:
    """Where an image lies along one axis of the region: `image[start:start + length]` at `offset` of the region."""

    start: int
    length: int
    offset: int

    @property
    def part(self) -> slice:
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True)
class _Placement:
    rows: _Span
    columns: _Span


def _place_axis(length: int, region: int) -> _Span:
    """Crop a longer axis around its centre, centre a shorter one; the same floor for both."""
    if length >= region:
        return _Span((length - region) // 2, region, 0)
    return _Span(0, length, (region - length) // 2)


def _unknown(names: Iterable[str], expected: tuple[str, ...]) -> str:
    near = [f"`{nearest(name, expected)}`" for name in sorted(names) if nearest(name, expected)]
    hint = f" Did you mean {' and '.join(near)}?" if near else ""
    return f"Unknown arguments {sorted(names)}, expected {', '.join(expected)}.{hint} {_NO_RESIZING}"


def _as_list(values: Any) -> Any:
    """Numbers in any container as JSON keeps them; anything else as it is, for the check of the fields to refuse."""
    values = values.tolist() if isinstance(values, (np.ndarray, torch.Tensor)) else values
    if not isinstance(values, (list, tuple)):
        return values
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return [float(value) if is_number(value) else value for value in plain]


def _whole_patches(span: _Span, patch_size: int) -> range:
    return range(-(-span.offset // patch_size), (span.offset + span.length) // patch_size)


def _check_bytes(items: list[tuple[str, AnyImage]]) -> None:
    for name, image in items:
        if not image.has_bytes:
            kind = image.content.mode if isinstance(image.content, Image.Image) else image.content.dtype
            raise ValueError(
                f"{name} has pixels of the kind {kind}, which do_rescale=False would round to bytes. Expected uint8 or "
                "an image of 8 bits a channel; leave do_rescale and do_normalize on for others."
            )


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Room for float32 values or bytes."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    # NumPy asks Linux for huge pages; with torch.empty most of the time of a batch would go into page faults.
    return torch.from_numpy(np.empty(shape, dtype=np.uint8 if dtype == torch.uint8 else np.float32))
