"""Rows of a data set as numbers."""

import datasets
import numpy as np
import pyarrow as pa
import pytest

from spider_tools.data.grid import region_grid, rows_among, unique_patch_names

FEATURES = datasets.Features(
    {
        "slide_id": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["Fat", "Nerves", "Vessels"]),
        "patches": datasets.List(datasets.Value("string"), length=9),
    }
)


@pytest.fixture
def split():
    grids = [
        ["d", None, "b", "a", "c", "e", None, "b", "f"],
        [None] * 4 + ["a"] + [None] * 4,
        ["f", "e", "c", "a", "b", "d", "a", "b", "c"],
    ]
    columns = {"slide_id": ["s2", "s1", "s2"], "label": [2, 0, 1], "patches": grids}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def test_names_come_once_in_alphabetical_order_over_all_splits(split):
    other = split.map(lambda row: {"patches": [name and name + "x" for name in row["patches"]]})
    names = unique_patch_names({"train": split, "test": other})
    assert names.to_pylist() == ["a", "ax", "b", "bx", "c", "cx", "d", "dx", "e", "ex", "f", "fx"]


def test_a_grid_numbers_patches_row_by_row_and_missing_ones_minus_one(split):
    grid = region_grid(split, rows_among(unique_patch_names({"train": split})))
    expected = [[3, -1, 1, 0, 2, 4, -1, 1, 5], [-1] * 4 + [0] + [-1] * 4, [5, 4, 2, 0, 1, 3, 0, 1, 2]]
    np.testing.assert_array_equal(grid.rows, expected)
    assert grid.labels.tolist() == [2, 0, 1]
    assert grid.slides[0] == grid.slides[2] != grid.slides[1]


def test_what_was_filtered_out_or_put_in_another_order_is_respected(split):
    names = unique_patch_names({"train": split})
    grid = region_grid(split.select([2, 0]), rows_among(names))
    whole = region_grid(split, rows_among(names))
    np.testing.assert_array_equal(grid.rows, whole.rows[[2, 0]])
    assert grid.labels.tolist() == [1, 2]
    assert unique_patch_names({"train": split.select([1])}).to_pylist() == ["a"]


def test_a_patch_that_is_not_known_is_named(split):
    with pytest.raises(ValueError, match=r"The patch 'd' is not among the 1 known ones"):
        region_grid(split, rows_among(pa.array(["a"])))
