"""The HDF5 files of a slide, read as CLAM and TRIDENT do, against the slide itself, its table and its embeddings."""

import functools

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from slide_files import draw_slide, write_pyramid, write_scn
from slide_predictions import make_predictions
from tool_readers import clam_bag, clam_patches, clam_stitch_sizes, trident_batch, trident_side_level0

from spider_tools.slide_sources.task import SlideTask
from spider_tools.slides.feature_files import write_coords, write_features
from spider_tools.slides.one import map_slide
from spider_tools.slides.patch_features import PatchFeatures
from spider_tools.slides.settings import SlideSettings

h5py = pytest.importorskip("h5py")
PATCH = 28
SCANNED_FROM = (64, 96)


def rows_of(folder):
    """Rows of the saved embeddings by row of the table of predictions, by the place in level-0 px alone."""
    table, saved = pq.read_table(folder / "predictions.parquet"), load_file(folder / "embeddings.safetensors")
    by_place = {tuple(place): row for row, place in enumerate(saved["xy_level0"].tolist())}
    places = list(zip(table["x_level0"].to_pylist(), table["y_level0"].to_pylist()))
    return np.array(places), saved["embeddings"][[by_place[place] for place in places]]


SLIDES = {
    "as it is": lambda path: write_pyramid(path / "s.tif", draw_slide(300, 230, seed=1), 0.5),
    "a lower level": lambda path: write_pyramid(path / "s.tif", draw_slide(600, 460, seed=1), 0.25, factors=(1, 2)),
    "scanned in part": lambda path: write_scn(path / "s.scn", draw_slide(300, 230, seed=1), SCANNED_FROM, (512, 448)),
    "resampled": lambda path: write_pyramid(path / "s.tif", draw_slide(610, 463, seed=1), 0.2525),
}


@pytest.fixture(scope="module")
def mapped(slide_model, model_folder, tmp_path_factory):
    """`mapped(kind)`: a slide of this kind, and the output folder of its run; each is mapped once."""

    @functools.cache
    def map_it(kind):
        folder = tmp_path_factory.mktemp("mapped")
        path = SLIDES[kind](folder)
        settings = SlideSettings(str(model_folder), folder / "R", num_workers=0, stride=14, outputs=("parquet", "h5"))
        map_slide(SlideTask(path, "s"), slide_model, settings)
        return path, folder / "R"

    return map_it


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLIDES)
def test_features_and_coords_are_those_of_the_table_row_by_row(mapped, kind):
    _, output_dir = mapped(kind)
    places, embeddings = rows_of(output_dir / "s")
    features, coords = clam_bag(output_dir, "s")
    assert features.dtype == torch.float32
    assert torch.equal(features, embeddings)
    assert coords.dtype == np.int64
    assert np.abs(coords - places).max() <= 0.5
    batch = trident_batch(output_dir / "h5_files" / "s.h5")
    assert torch.equal(batch["features"][0], features)
    assert batch["features"].shape[1] == batch["coords"].shape[1] == len(places) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SLIDES)[:3])
def test_embedding_what_clam_reads_at_the_coords_gives_the_features(mapped, kind, slide_model):
    path, output_dir = mapped(kind)
    with openslide.OpenSlide(path) as slide:
        patches, coords = clam_patches(output_dir, "s", slide)
    features, places = clam_bag(output_dir, "s")
    np.testing.assert_array_equal(coords, places)
    assert patches.shape[1:] == (PATCH, PATCH, 3)
    # CLAM paints what was not scanned black, OpenSlide says nothing of its colour.
    whole = (coords >= SCANNED_FROM) & (coords + PATCH <= np.add(SCANNED_FROM, (300, 230)))
    scanned = torch.from_numpy((whole | (kind != "scanned in part")).all(axis=1))
    assert scanned.sum() > 10
    got = slide_model.embed(torch.from_numpy(patches))
    torch.testing.assert_close(got[scanned], features[scanned], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_what_clam_reads_of_a_resampled_slide_is_what_the_model_saw(mapped, slide_model):
    path, output_dir = mapped("resampled")
    with openslide.OpenSlide(path) as slide:
        patches, _ = clam_patches(output_dir, "s", slide)
    assert patches.shape[1] == round(PATCH * 0.5 / 0.2525) == 55
    small = np.stack([np.asarray(Image.fromarray(patch).resize((PATCH, PATCH), 2)) for patch in patches])
    features = clam_bag(output_dir, "s")[0]
    near = torch.cosine_similarity(slide_model.embed(torch.from_numpy(small)), features)
    others = torch.cosine_similarity(features.roll(1, dims=0), features)
    assert near.min() > others.median()
    with h5py.File(output_dir / "h5_files" / "s.h5") as file:
        assert "patch_level" not in file["coords"].attrs, "patch_size is not of a level"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "magnification", "side", "level"),
    [
        ("as it is", 20, 28, 0),
        ("a lower level", 40, 56, 1),
        ("scanned in part", 20, 28, 0),
        ("resampled", pytest.approx(20 * 0.5 / 0.2525), 55, 0),
    ],
)
def test_attributes_tell_each_tool_how_large_a_patch_is(mapped, kind, magnification, side, level):
    path, output_dir = mapped(kind)
    attributes = trident_batch(output_dir / "h5_files" / "s.h5")["attributes"]
    assert trident_side_level0(attributes) == attributes["patch_size_level0"] == side
    assert attributes["level0_magnification"] == magnification
    assert (attributes["target_magnification"], attributes["patch_size"], attributes["overlap"]) == (20, PATCH, 14)
    assert (attributes["name"], attributes["savetodir"]) == ("s", "h5_files")
    np.testing.assert_allclose(attributes["mpp"], 0.5, rtol=1e-3)
    with openslide.OpenSlide(path) as slide:
        assert (attributes["level0_width"], attributes["level0_height"]) == slide.dimensions
        assert clam_stitch_sizes(output_dir, "s", slide) == ("s", (side, side))
    with h5py.File(output_dir / "patches" / "s.h5") as file:
        assert (file["coords"].attrs["patch_level"], file["coords"].attrs["save_path"]) == (level, "patches")
    if kind != "resampled":
        assert (attributes["patch_level"], attributes["patch_size"]) == (level, PATCH)


@pytest.mark.slow
def test_no_attribute_tells_of_folders_of_the_computer(mapped):
    _, output_dir = mapped("as it is")
    for path in (output_dir / "h5_files" / "s.h5", output_dir / "patches" / "s.h5"):
        assert str(output_dir.parent).encode() not in path.read_bytes()


@pytest.fixture
def features():
    """`features(classes, **fields)`: of made-up predictions, whose embeddings lie in a table in another order."""

    def make(classes=((0, 1, -1), (2, 0, 0)), dtype=torch.float32, **fields):
        predictions = make_predictions(classes)
        count = len(predictions.positions)
        generator = torch.Generator().manual_seed(3)
        table = torch.randn(2 * count + 1, 6, generator=generator).to(dtype)
        rows = torch.randperm(len(table), generator=generator)[:count].numpy()
        values = {"name": "s", "size": (300, 200), "mpp": (0.5, 0.6), "level": None, "level_size": (300, 200)}
        return PatchFeatures(**{**values, **fields}, predictions=predictions, model="m", table=table, rows=rows)

    return make


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_are_float32_whatever_the_backbone_ran_in(features, tmp_path, dtype):
    made = features(dtype=dtype)
    write_features(tmp_path / "s.h5", made)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["features"].dtype == np.float32
        np.testing.assert_array_equal(file["features"], made.table.float().numpy()[made.rows])


def test_rows_beyond_one_block_are_in_their_order(features, tmp_path):
    made = features(np.zeros((80, 60), dtype=int))
    assert len(made) > 4096
    write_features(tmp_path / "s.h5", made)
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["features"], made.table.numpy()[made.rows])


def test_one_patch_is_a_table_of_one_row(features, tmp_path):
    write_features(tmp_path / "s.h5", features([[2]]))
    batch = trident_batch(tmp_path / "s.h5")
    assert batch["features"].shape == (1, 1, 6)
    assert batch["coords"].tolist() == [[[0, 0]]]


def test_the_same_slide_gives_the_same_bytes(features, tmp_path):
    for write in (write_features, write_coords):
        for name in ("a.h5", "b.h5"):
            write(tmp_path / name, features(name="Größe 患者 & <1>"))
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["coords"].attrs["name"] == "Größe 患者 & <1>"
