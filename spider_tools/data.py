"""SPIDER folders: `metadata.json` and `images/` become regions, regions become batches of shared patches."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

CONTEXT_SIZE = 5  # of the published data sets
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Region:
    """One labelled region.

    Attributes:
        slide_id: The slide that it was cut from.
        class_name: Class of its central patch.
        split: `"train"` or `"test"`.
        patches: 25 file names below `images/` in row-major order, `None` where there is no patch.
    """

    slide_id: str
    class_name: str
    split: str
    patches: tuple[Optional[str], ...]


def read_regions(folder: Path) -> list[Region]:
    """Read the records of a SPIDER folder.

    Args:
        folder: Holds `metadata.json` and `images/`.

    Returns:
        One region per record, in the file's order.

    Raises:
        ValueError: The folder is not a SPIDER folder, or a record is broken; the message names record and field.
    """
    metadata = folder / "metadata.json"
    if not metadata.is_file() or not (folder / "images").is_dir():
        raise ValueError(f"{folder} is not a SPIDER folder: expected metadata.json and images/ in it.")
    try:
        records = json.loads(metadata.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{metadata} is not valid JSON: {error}.") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{metadata} must hold a non-empty list of records.")
    files = {path.name for path in (folder / "images").iterdir() if path.is_file() and not path.is_symlink()}
    return [_read_record(number, record, files) for number, record in enumerate(records)]


def _read_record(number: int, record: Any, files: set[str]) -> Region:
    def broken(field: str, problem: str) -> ValueError:
        return ValueError(f"Record {number} of metadata.json, field {field!r}: {problem}")

    if not isinstance(record, dict):
        raise broken("record", f"expected an object, got {type(record).__name__}.")
    for field in ("slide_id", "image_name", "class", "split"):
        if not isinstance(record.get(field), str) or not record[field]:
            raise broken(field, f"expected a non-empty string, got {record.get(field)!r}.")
    if record["split"] not in SPLITS:
        raise broken("split", f"expected one of {SPLITS}, got {record['split']!r}.")
    context = record.get("context_info")
    if not isinstance(context, dict):
        raise broken("context_info", f"expected an object, got {type(context).__name__}.")

    keys = [f"{row}_{column}" for row in range(CONTEXT_SIZE) for column in range(CONTEXT_SIZE)]
    center = len(keys) // 2
    unknown = sorted(set(context) - set(keys[:center] + keys[center + 1 :]))
    if unknown:
        raise broken("context_info", f"unknown keys {unknown}, expected '0_0' to '4_4' without '2_2'.")
    patches = [context.get(key) for key in keys]
    patches[center] = record["image_name"]
    for key, name in zip(keys, patches):
        # Only bare names of regular files in images/ are known, so that no path can leave the folder.
        if name is not None and name not in files:
            field = "image_name" if key == keys[center] else f"context_info.{key}"
            raise broken(field, f"there is no file {name!r} in images/.")
    return Region(record["slide_id"], record["class"], record["split"], tuple(patches))


def class_names_of(regions: Sequence[Region]) -> list[str]:
    """The classes of the regions, in alphabetical order: the order of the logits."""
    return sorted({region.class_name for region in regions})


class RegionDataset(Dataset):
    """Regions by number; `SharedPatchCollator` opens the images."""

    def __init__(self, regions: Sequence[Region], class_names: Sequence[str]) -> None:
        self.regions = list(regions)
        self._index = {name: i for i, name in enumerate(class_names)}
        unknown = sorted({region.class_name for region in self.regions} - set(self._index))
        if unknown:
            raise ValueError(f"Regions of the classes {unknown}, which are not among {list(class_names)}.")

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.regions)

    def __getitem__(self, number: int) -> tuple[Region, int]:
        """A region and the index of its class."""
        region = self.regions[number]
        return region, self._index[region.class_name]


class SlideOrderSampler(Sampler[int]):
    """Shuffles slides, and the regions within each slide, anew in every epoch.

    Neighbouring regions then share a batch, and with it their patches: each is embedded once for all of them.
    """

    def __init__(self, regions: Sequence[Region], seed: int) -> None:
        self._by_slide: dict[str, list[int]] = {}
        for number, region in enumerate(regions):
            self._by_slide.setdefault(region.slide_id, []).append(number)
        self._seed = seed
        self._epoch = 0
        self._length = len(regions)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the same seed and epoch give the same one."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Number of regions."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Numbers of regions."""
        rng = np.random.default_rng([self._seed, self._epoch])
        slides = list(self._by_slide.values())
        for slide in rng.permutation(len(slides)):
            yield from rng.permutation(slides[slide]).tolist()


class SharedPatchCollator:
    """Makes a batch in which every unique patch is opened once.

    Patches stay bytes: they are a quarter of the size of floats on their way out of a loader's worker.

    Args:
        images: Folder of the patches.
        patch_size: Side of a patch in px.
    """

    def __init__(self, images: Path, patch_size: int) -> None:
        self._images = images
        self._patch_size = patch_size

    def __call__(self, batch: Sequence[tuple[Region, int]]) -> dict[str, torch.Tensor]:
        """Open the patches of a batch of regions.

        Returns:
            `patches`, uint8 `(patches, P, P, 3)`; `patch_index`, int64 `(regions, 25)` into them, -1 where there is no
            patch; `labels`, int64 `(regions,)`.

        Raises:
            ValueError: A patch cannot be read or has another size.
        """
        names = sorted({name for region, _ in batch for name in region.patches if name is not None})
        position: dict[Optional[str], int] = {name: i for i, name in enumerate(names)}
        position[None] = -1
        return {
            "patches": torch.stack([self._read(name) for name in names]),
            "patch_index": torch.tensor([[position[name] for name in region.patches] for region, _ in batch]),
            "labels": torch.tensor([label for _, label in batch]),
        }

    def _read(self, name: str) -> torch.Tensor:
        side = self._patch_size
        try:
            with Image.open(self._images / name) as image:
                if image.size != (side, side):
                    raise ValueError(f"it is {image.width}x{image.height} px, expected {side}x{side}")
                return torch.from_numpy(np.array(image.convert("RGB")))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"The patch {name} cannot be used: {error}.") from error


class PatchNormalizer:
    """Turns patches into the backbone's input with the model's own image processor.

    Args:
        image_processor: A `SpiderImageProcessor`; of its fields only the context size is left out of account.
    """

    def __init__(self, image_processor: Any) -> None:
        self._processor = type(image_processor)(**{**image_processor.to_dict(), "context_size": 1})

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Float `(patches, 3, P, P)` from uint8 `(patches, P, P, 3)`."""
        return self._processor(patches, return_tensors="pt", input_data_format="channels_last")["pixel_values"][:, 0]
