"""Sequences of images that are no list: what data sets, data frames and loaders hand over."""

import io
from collections import UserList, deque

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from cropped_by_loop import random_rgb, region_processor
from PIL import Image

from spider_tools import remote_code

REGIONS = [random_rgb(40, 40, 1), random_rgb(57, 43, 2), random_rgb(41, 90, 3)]


class WithoutEnd:
    """A data set that knows its length, makes any item, and never says that there is none."""

    def __len__(self):
        return len(REGIONS)

    def __getitem__(self, index):
        return Image.fromarray(REGIONS[index % len(REGIONS)])


def data_set():
    return datasets.Dataset.from_dict({"image": [Image.fromarray(region) for region in REGIONS], "number": [0, 1, 2]})


def objects():
    array = np.empty(len(REGIONS), dtype=object)
    array[:] = [Image.fromarray(region) for region in REGIONS]
    return array


SEQUENCES = {
    "column of a data set": lambda: data_set()["image"],
    "column of arrays": lambda: data_set().map(lambda row: {"grey": np.asarray(row["image"])[..., 0]})["grey"],
    "deque": lambda: deque(REGIONS),
    "user's list": lambda: UserList(REGIONS),
    "without an end": WithoutEnd,
    "subset of a data set": lambda: torch.utils.data.Subset(WithoutEnd(), [0, 1, 2]),
    "array of objects": objects,
    "series": lambda: pd.Series(list(objects()), index=["b", "a", "c"]),
}


@pytest.fixture(scope="module")
def processor():
    return region_processor()


@pytest.mark.parametrize("kind", [kind for kind in SEQUENCES if kind != "column of arrays"])
def test_a_sequence_gives_what_a_list_gives(processor, kind):
    expected = processor(REGIONS, return_tensors="np")
    for each in (processor, remote_code.processor_class()(processor)):
        result = each(images=SEQUENCES[kind](), return_tensors="np")
        for key in expected:
            assert np.array_equal(result[key], expected[key])


def test_what_a_data_set_makes_of_arrays_is_refused_by_type(processor):
    with pytest.raises(ValueError, match=r"^images\[0\] is list, expected a PIL image"):
        processor(SEQUENCES["column of arrays"]())


def encoded(region):
    file = io.BytesIO()
    Image.fromarray(region).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data_set()["number"], r"^images\[0\] is int, expected a PIL image"),
        (data_set, r"^images\[0\] is dict, expected a PIL image"),
        (
            lambda: data_set().cast_column("image", datasets.Image(decode=False))["image"],
            r"^images\[0\] is dict, expected",
        ),
        (lambda: deque([REGIONS[0], encoded(REGIONS[1])]), r"^images\[1\] is \d+ raw bytes"),
        (lambda: pd.Series(["a.png", "b.png"]), r"^images\[0\] is a path, 'a.png'"),
        (lambda: [REGIONS[0], deque(REGIONS)], r"^images\[1\] is deque, expected .* or a flat list of these"),
        (deque, "^`images` is an empty list"),
        (lambda: data_set().select([])["image"], "^`images` is an empty list"),
        (lambda: {"image": REGIONS[0]}, "^The image is dict, expected"),
        (lambda: {1, 2}, "^The image is set, expected"),
        (lambda: iter(REGIONS), "^The image is list_iterator, expected"),
        (lambda: pd.DataFrame({"image": [1, 2]}), "^The image is DataFrame, expected"),
    ],
)
def test_other_contents_and_containers_are_refused_by_name(processor, make, message):
    with pytest.raises(ValueError, match=message):
        processor(make())
