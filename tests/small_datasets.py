"""SPIDER folders with images of 8 px, for the tests that read data."""

import functools
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PATCH = 8
KEYS = [f"{row}_{column}" for row in range(5) for column in range(5)]


def pixels_of(name: str, height: int = PATCH, width: int = PATCH) -> np.ndarray:
    """Pixels that tell every name and every place apart, uint8 `(height, width, 3)`."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


@functools.cache
def png_of(name: str) -> bytes:
    """A PNG file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels_of(name)).save(file, "PNG")
    return file.getvalue()


def record(slide: str, number: int, class_name: str, split: str, missing: Iterable[str] = ()) -> dict[str, Any]:
    """A record whose context shares a row of patches with that of the record before it."""
    names = [f"{slide}_{number * 20 + i:04d}.png" for i in range(25)]
    context = {key: name for key, name in zip(KEYS, names) if key != "2_2" and key not in missing}
    return {
        "slide_id": slide,
        "image_name": names[12],
        "context_info": context,
        "class": class_name,
        "split": split,
    }


def some_records() -> list[dict[str, Any]]:
    """18 records of 6 slides for training and 4 of 2 for testing, of the classes Vessels, Fat and Nerves."""
    records = []
    for slide in range(6):
        for number in range(2 + slide % 3):
            name = ("Vessels", "Fat", "Nerves")[(slide + number) % 3]
            records.append(record(f"s{slide}", number, name, "train", missing=("0_1", "4_0") if number == 1 else ()))
    for slide in ("t0", "t1"):
        records += [record(slide, 0, "Fat", "test"), record(slide, 1, "Nerves", "test")]
    return records


def write_folder(folder: Path, records: list[Any]) -> Path:
    """Write `metadata.json` and every image that it names, as PNG."""
    images = folder / "images"
    images.mkdir(parents=True)
    for names in [[r["image_name"], *r["context_info"].values()] for r in records]:
        for name in names:
            (images / name).write_bytes(png_of(name))
    (folder / "metadata.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def rewrite(folder: Path, records: Any) -> None:
    """Replace `metadata.json`, leaving the images alone."""
    (folder / "metadata.json").write_text(json.dumps(records), encoding="utf-8")
