"""The lattice: where patches, their cells and their context lie."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slide_files.reader import SlideError


def make(view_size=(1400, 1000), stride=224, scale=(1.0, 1.0), patch_size=224, context_size=5):
    return Lattice(patch_size, stride, context_size, view_size, scale)


def test_patches_that_are_not_wholly_on_the_slide_are_no_part_of_it():
    assert make((1400, 1000)).shape == (4, 6)  # 1000 = 4 * 224 + 104, 1400 = 6 * 224 + 56
    assert make((1344, 896)).shape == (4, 6)
    assert make((1343, 895)).shape == (3, 5)


@pytest.mark.parametrize("stride", [224, 112, 56])
def test_positions_are_a_stride_apart_and_the_last_patch_fits(stride):
    rows, columns = make(stride=stride).shape
    corners = make(stride=stride).corners(np.array([[0, 0], [2, 1], [rows - 1, columns - 1]]))
    assert corners[1].tolist() == [stride, 2 * stride]  # x, y
    assert all(side - stride < corner + 224 <= side for corner, side in zip(corners[2], (1400, 1000)))


def test_places_on_the_slide_are_not_rounded():
    lattice = make((50_000, 40_000), scale=(0.5 / 0.2527, 0.5 / 0.2531))
    corners = lattice.corners(np.array([[170, 210]]))
    um = lattice.level0(corners) * (0.2527, 0.2531)
    assert um[0] == pytest.approx((210 * 112, 170 * 112), abs=1e-6)


@pytest.mark.parametrize("stride", [224, 112, 56])
def test_cells_tile_the_map_and_lie_in_the_middle_of_their_patch(stride):
    lattice = make(stride=stride, scale=(2.0, 4.0))
    x_edges, y_edges = lattice.cell_edges_level0()
    assert (len(y_edges) - 1, len(x_edges) - 1) == lattice.shape
    assert np.diff(x_edges) == pytest.approx(stride * 2.0)
    centers = (x_edges[:-1] + x_edges[1:]) / 2
    assert centers == pytest.approx((np.arange(lattice.shape[1]) * stride + 112) * 2.0)
    assert (y_edges[0] + y_edges[1]) / 2 == pytest.approx(112 * 4.0)


@pytest.mark.parametrize(("stride", "context_size"), [(224, 5), (112, 5), (56, 3), (224, 1)])
def test_context_is_the_dilation_by_whole_patches(stride, context_size):
    lattice = make((3000, 2500), stride, context_size=context_size)
    positions = np.random.default_rng(0).random(lattice.shape) < 0.02
    expected = np.zeros_like(positions)
    reach, step = context_size // 2, 224 // stride
    for row, column in np.argwhere(positions):
        for r in range(row - reach * step, row + reach * step + 1, step):
            for c in range(column - reach * step, column + reach * step + 1, step):
                if 0 <= r < lattice.shape[0] and 0 <= c < lattice.shape[1]:
                    expected[r, c] = True
    np.testing.assert_array_equal(lattice.with_context(positions), expected)
    assert expected.sum() > positions.sum() or context_size == 1


def test_at_the_patch_size_it_is_the_dilation_by_two():
    lattice = make((5000, 3000))
    positions = np.zeros(lattice.shape, dtype=bool)
    positions[3, 4] = positions[9, 20] = positions[0, 0] = True
    expected = ndimage.binary_dilation(positions, np.ones((5, 5)))
    np.testing.assert_array_equal(lattice.with_context(positions), expected)


def test_regions_are_row_major_and_masked_beyond_the_edge():
    lattice = make((224 * 4 + 10, 224 * 3 + 200))
    rows = np.arange(12).reshape(3, 4)
    expected = [
        [-1, -1, -1, -1, -1],
        [-1, 0, 1, 2, 3],
        [-1, 4, 5, 6, 7],
        [-1, 8, 9, 10, 11],
        [-1, -1, -1, -1, -1],
    ]
    assert lattice.regions(np.array([[1, 1]]), rows).reshape(5, 5).tolist() == expected
    last = lattice.regions(np.array([[1, 1], [2, 3]]), rows)[1].reshape(5, 5)
    assert last[0].tolist() == [1, 2, 3, -1, -1]
    assert last[2].tolist() == [9, 10, 11, -1, -1]
    assert (last[3:] == -1).all()


def test_regions_of_a_finer_stride_are_made_of_whole_patches():
    lattice = make((4000, 4000), stride=112)
    rows = np.arange(np.prod(lattice.shape)).reshape(lattice.shape)
    region = lattice.regions(np.array([[9, 7]]), rows).reshape(5, 5)
    assert np.unravel_index(region[0, 0], lattice.shape) == (5, 3)
    assert np.unravel_index(region[2, 2], lattice.shape) == (9, 7)
    assert np.unravel_index(region[1, 4], lattice.shape) == (7, 11)


@pytest.mark.parametrize("size", [(223, 1000), (1000, 223), (5, 5)])
def test_a_slide_smaller_than_a_patch_is_refused(size):
    view = SimpleNamespace(size=size, scale=(1.0, 1.0), slide=SimpleNamespace(path="s.svs"))
    with pytest.raises(SlideError, match=rf"s\.svs has {size[0]} x {size[1]} px .*smaller than one patch of 224 px"):
        Lattice.on(view, SimpleNamespace(patch_size=224, context_size=5), 224)
