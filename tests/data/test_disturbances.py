"""Disturbances: what each does to pixels, by hand or by another way, and to the grid of a turned region."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageFilter

from spider_tools.data.disturbances import DISTURBANCES, MOST_VIEWS, UNDISTURBED, Disturbance, views
from spider_tools.data.disturbed_patches import DisturbedPatches, disturbed, turned_grid
from spider_tools.data.grid import RegionGrid
from spider_tools.data.patches import PatchSource

SIDE = 20
# Table of the paper, typed anew.
HEMATOXYLIN, EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])


@pytest.fixture
def patch():
    """A smooth picture with a step in it, uint8 `(20, 20, 3)`."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    channels = [90 + 6 * rows, 200 - 4 * columns, 60 + 3 * rows + 2 * columns + 40 * (columns > 9)]
    return np.stack(channels, axis=-1).astype(np.uint8)


class OnePatch(PatchSource):
    patch_size, fingerprint = SIDE, "data"

    def __init__(self, patch):
        self.patch = patch

    def read(self, name):
        return self.patch


def light_through(hematoxylin, eosin):
    """Beer and Lambert: what is left of white light behind so much of both stains."""
    return np.rint(255 * 10 ** -(hematoxylin * HEMATOXYLIN + eosin * EOSIN)).astype(np.uint8)


@pytest.mark.parametrize(("blue", "pink"), [(1.3, 1.0), (0.7, 1.0), (1.0, 1.3), (1.0, 0.7), (1.2, 0.8)])
def test_stains_of_known_amounts_become_as_much_more_as_is_said(blue, pink):
    for hematoxylin, eosin in [(0.4, 0.1), (0.2, 0.3), (0.0, 0.35), (0.5, 0.0), (0.0, 0.0)]:
        patch = np.broadcast_to(light_through(hematoxylin, eosin), (4, 4, 3))
        found = disturbed(patch, Disturbance(name="", hematoxylin=blue, eosin=pink), 0.5)
        expected = light_through(blue * hematoxylin, pink * eosin).astype(int)
        assert np.abs(found.astype(int) - expected).max() <= 2, "rounding to bytes, before and after"


def test_white_glass_stays_white_and_black_is_no_error():
    for value in (255, 0):
        patch = np.full((4, 4, 3), value, dtype=np.uint8)
        found = disturbed(patch, Disturbance(name="", hematoxylin=0.7), 0.5)
        assert found.dtype == np.uint8
        assert (found == 255).all() or value == 0


def test_light_is_multiplied_and_ends_at_white(patch):
    found = disturbed(patch, Disturbance(name="", brightness=1.2), 0.5)
    expected = [[[min(round(1.2 * int(v)), 255) for v in pixel] for pixel in row] for row in patch]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("mpp", "sigma"), [(0.5, 2), (1.0, 1)])
def test_blur_is_as_wide_in_um_whatever_the_pixel(patch, mpp, sigma):
    found = disturbed(patch, Disturbance(name="", blur_um=1.0), mpp).astype(float)
    pillow = Image.fromarray(np.pad(patch, ((9, 9), (9, 9), (0, 0)), mode="symmetric"))
    expected = np.array(pillow.filter(ImageFilter.GaussianBlur(sigma)))[9:-9, 9:-9].astype(float)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - patch).max() > 5


@pytest.mark.parametrize("ratio", [0.8, 1.2, 0.5, 1.5])
def test_a_wrong_um_per_px_magnifies_or_reduces_about_the_centre(ratio):
    rows, columns = np.mgrid[:40, :40] - 19.5
    patch = np.stack([128 + 4 * rows, 128 + 3 * columns, np.full((40, 40), 90)], axis=-1).astype(np.uint8)
    found = disturbed(patch, Disturbance(name="", mpp_ratio=ratio), 0.5).astype(float)
    assert found.shape == patch.shape
    inside = slice(9, 31)  # of the patch before, without what was mirrored
    np.testing.assert_allclose(found[inside, inside, 0], 128 + 4 * ratio * rows[inside, inside], atol=1.6)
    np.testing.assert_allclose(found[inside, inside, 1], 128 + 3 * ratio * columns[inside, inside], atol=1.6)
    assert (found[..., 2] == 90).all(), "nothing of what lies outside is made up"


def test_a_reduced_patch_shows_its_own_mirror_at_the_edge():
    patch = np.zeros((40, 40, 3), dtype=np.uint8)
    patch[:4] = 200  # mirrored, four more rows come before them: 8 rows, or nearly 7 at a ratio of 1.2
    found = disturbed(patch, Disturbance(name="", mpp_ratio=1.2), 0.5)
    assert (found[:6] > 180).all()
    assert (found[8:] < 20).all()


def test_compression_is_that_of_pillow(patch):
    file = io.BytesIO()
    Image.fromarray(patch).save(file, "JPEG", quality=50)
    expected = np.array(Image.open(file))
    np.testing.assert_array_equal(disturbed(patch, Disturbance(name="", jpeg_quality=50), 0.5), expected)


@pytest.mark.parametrize("number", range(8))
def test_patches_and_grid_of_a_turned_region_make_up_the_turned_image(number):
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)
    grid = RegionGrid(rng.permutation(9)[None], np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))

    def whole(rows, tiles):
        return np.vstack([np.hstack([tiles[row] for row in rows[start : start + 3]]) for start in (0, 3, 6)])

    change = Disturbance(name="", turn=number)
    found = whole(turned_grid(grid, number).rows[0], [disturbed(patch, change, 0.5) for patch in patches])
    image = Image.fromarray(whole(grid.rows[0], patches)).rotate(90 * (number % 4))
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number >= 4 else image
    np.testing.assert_array_equal(found, np.array(image))


def test_a_turned_grid_keeps_its_labels_and_what_is_missing_moves_along():
    grid = RegionGrid(np.array([[0, -1, 2, 3]]), np.array([5]), np.array([7]))
    turned = turned_grid(grid, 1)
    assert turned.rows.tolist() == [[-1, 3, 0, 2]]
    assert (turned.labels.tolist(), turned.slides.tolist()) == ([5], [7])


def test_every_disturbance_changes_a_patch_and_always_alike(patch):
    rng = np.random.default_rng(1)
    patch = (patch + rng.integers(0, 9, patch.shape)).astype(np.uint8)
    made = {d.name: disturbed(patch, d, 0.5) for d in DISTURBANCES}
    assert len({pixels.tobytes() for pixels in made.values()} | {patch.tobytes()}) == len(DISTURBANCES) + 1 == 18
    for disturbance in DISTURBANCES:
        again = DisturbedPatches(OnePatch(patch), disturbance, 0.5).read("any")
        assert (again.dtype, again.shape) == (np.uint8, patch.shape)
        np.testing.assert_array_equal(again, made[disturbance.name])


def test_nothing_happens_to_what_is_undisturbed(patch):
    source = DisturbedPatches(OnePatch(patch), UNDISTURBED, 0.5)
    np.testing.assert_array_equal(source.read("any"), patch)
    assert source.fingerprint == "data", "the store of the undisturbed patches is the one that there is"


def test_sources_of_other_pixels_have_other_fingerprints(patch):
    everything = {*DISTURBANCES, *views(MOST_VIEWS)}
    prints = {DisturbedPatches(OnePatch(patch), d, 0.5).fingerprint for d in everything}
    assert len(prints) == len({d.fingerprint for d in everything}) == 18 + 32
    same = [Disturbance(name=name, turn=3).fingerprint for name in ("one", "other")]
    assert same[0] == same[1]
    blur = Disturbance(name="", blur_um=1)
    assert len({DisturbedPatches(OnePatch(patch), blur, mpp).fingerprint for mpp in (0.5, 0.25)}) == 2


def test_a_disturbed_source_travels_to_workers(patch):
    source = pickle.loads(pickle.dumps(DisturbedPatches(OnePatch(patch), DISTURBANCES[8], 0.5)))
    np.testing.assert_array_equal(source.read("any"), disturbed(patch, DISTURBANCES[8], 0.5))


def test_views_are_the_turns_first_and_then_every_turn_in_every_stain():
    everything = views(MOST_VIEWS)
    assert everything[0] == UNDISTURBED
    assert [view.turn for view in everything] == list(range(8)) * 5
    assert all((view.hematoxylin, view.eosin) == (1, 1) for view in everything[:8])
    assert len({(view.turn, view.hematoxylin, view.eosin) for view in everything}) == MOST_VIEWS == 40
    stains = [(view.hematoxylin, view.eosin) for view in everything[8:]]
    assert {stains[:4].count(stain) for stain in stains} == {1}
    assert len({view.name for view in everything}) == MOST_VIEWS
    assert views(3) == everything[:3]


@pytest.mark.parametrize("count", [0, 41])
def test_other_numbers_of_views_are_refused(count):
    with pytest.raises(ValueError, match=f"from 1 to 40 views, got {count}"):
        views(count)
