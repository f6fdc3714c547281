"""What an image may be for SPIDER, and its pixels: PIL images of any mode, arrays and tensors become RGB planes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
import torch
from PIL import Image, ImageFile

_PIXEL_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class AnyImage:
    """One image, not decoded yet: a PIL image, or a tensor `(H, W, C)` with 1 or 3 channels."""

    content: Union[Image.Image, torch.Tensor]
    height: int
    width: int

    @property
    def has_bytes(self) -> bool:
        """Whether its pixels have 8 bits a channel."""
        if isinstance(self.content, Image.Image):
            return not self.content.mode.startswith("I;16")
        return self.content.dtype == torch.uint8

    @property
    def device(self) -> torch.device:
        """Where its pixels are."""
        return self.content.device if isinstance(self.content, torch.Tensor) else torch.device("cpu")


def list_images(images: Any, input_data_format: Optional[str]) -> list[tuple[str, AnyImage]]:
    """Every image with the name that error messages call it by.

    Args:
        images: One image, a batch or a sequence, as `SpiderImageProcessor.preprocess` takes them.
        input_data_format: Where the channels of arrays are; None to find out.

    Raises:
        ValueError: One cannot be used. Files are not decoded yet, so that a damaged one is found by `to_planes`.
    """
    if isinstance(images, torch.Tensor):
        _check_tensor("`images`", images)
    if _is_sequence(images):
        if len(images) == 0:
            raise ValueError("`images` is an empty list, expected at least one image.")
        # Some sequences know their length and not where they end.
        named = [(f"images[{i}]", image) for i, image in zip(range(len(images)), images)]
        return [(name, _as_image(name, image, input_data_format)) for name, image in named]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        if len(images) == 0:
            raise ValueError(f"`images` is an empty batch of shape {tuple(images.shape)}, expected at least one image.")
        axis = _channel_axis("Each of `images`", images.shape[1:], input_data_format)
        data_format = "channels_first" if axis == 0 else "channels_last"
        return [(f"images[{i}]", _as_image(f"images[{i}]", image, data_format)) for i, image in enumerate(images)]
    return [("The image", _as_image("The image", images, input_data_format))]


def common_device(items: list[tuple[str, AnyImage]], needs_values: bool) -> torch.device:
    """The device of the first of named images, to which the others can follow.

    Args:
        items: From `list_images`.
        needs_values: Whether results must have values. Images on the device "meta", which have none, then are refused.

    Raises:
        ValueError: An image is on the device "meta" and has to leave it.
    """
    first = items[0][1].device
    for name, image in items:
        if image.device.type == "meta" and (needs_values or first.type != "meta"):
            raise ValueError(f"{name} is on the device 'meta', expected one that holds values.")
    return first


def to_planes(name: str, image: AnyImage, rows: slice, columns: slice) -> torch.Tensor:
    """Decode one part of an image.

    Returns:
        `(3, height, width)` of the part, uint8 or floats in [0, 1], on the image's device; of an array a view.

    Raises:
        ValueError: The file is damaged or closed.
    """
    if isinstance(image.content, Image.Image):
        return _decode(name, image.content, (columns.start, rows.start, columns.stop, rows.stop))
    pixels = image.content[rows, columns]
    return pixels.permute(2, 0, 1).expand(3, -1, -1)


def _is_sequence(images: Any) -> bool:
    """Whether these are many images: a list, a column of a data set, an array of objects; no batch, text or mapping."""
    if isinstance(images, (torch.Tensor, str, bytes, bytearray, memoryview, Mapping)):
        return False
    if isinstance(images, np.ndarray):
        return images.ndim == 1 and images.dtype == object
    return hasattr(images, "__len__") and hasattr(images, "__getitem__") and getattr(images, "ndim", 1) == 1


def _as_image(name: str, image: Any, input_data_format: Optional[str]) -> AnyImage:
    if isinstance(image, Image.Image):
        _check_decodable(name, image)
        return AnyImage(image, image.height, image.width)
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

    _check_tensor(name, image)
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
    return AnyImage(image.detach(), image.shape[0], image.shape[1])


def _as_tensor(name: str, array: np.ndarray) -> torch.Tensor:
    if np.ma.is_masked(array):
        raise ValueError(f"{name} is an array with masked pixels, expected a value for each. Fill them in, or crop it.")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    except TypeError as error:
        raise ValueError(f"{name} has dtype {array.dtype}, expected uint8, or floats in [0, 1].") from error


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else f"a tensor of the layout {tensor.layout}"
        raise ValueError(f"{name} is {kind}, expected a dense one, as `to_dense()` gives.")
    if tensor.dtype not in _PIXEL_TYPES:
        raise ValueError(
            f"{name} has dtype {tensor.dtype}, expected uint8, or floats of 16 to 64 bits in [0, 1]. Bring other "
            "integers to 0..255 and convert them to uint8."
        )
    if tensor.is_meta and tensor.dtype != torch.uint8:
        raise ValueError(f"{name} is on the device 'meta', expected one that holds values, whose range is checked.")


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
        image.close()  # else some would give the part that was decoded when they are asked again
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
    size = region.height * region.width
    planes = bytearray(3 * size)
    for i, channel in enumerate("RGB"):
        planes[i * size : (i + 1) * size] = region.tobytes("raw", channel)
    return torch.frombuffer(planes, dtype=torch.uint8).view(3, region.height, region.width)
