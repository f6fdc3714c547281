"""The patches of a slide as AnnData, read back by its own functions, against the predictions they are of."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from slide_predictions import CLASS_NAMES, CLASSES, make_predictions

from spider_tools.slides.anndata_files import write_h5ad, write_zarr
from spider_tools.slides.output_files import check_class_names, column_key
from spider_tools.slides.outputs import predictions_table
from spider_tools.slides.patch_features import PatchFeatures

anndata = pytest.importorskip("anndata")
KINDS = {"h5ad": (write_h5ad, anndata.read_h5ad), "zarr": (write_zarr, anndata.read_zarr)}
SLASHES = ("Fat & <oil>/x", "50% / 50%", "µ 患者 'a' \"b\"", "../.")


def features_of(predictions, name="a slide"):
    """With embeddings that lie in a table in another order."""
    count = len(predictions.positions)
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(2 * count + 1, 6, generator=generator)
    rows = torch.randperm(len(table), generator=generator)[:count].numpy()
    return PatchFeatures(name, (300, 200), predictions, (0.5, 0.6), None, (300, 200), "m", table, rows)


@pytest.fixture(params=KINDS)
def read_back(request, tmp_path):
    """`read_back(features)`: what the library reads of what was written without a warning."""
    write, read = KINDS[request.param]

    def there_and_back(features):
        path = tmp_path / f".predictions.{request.param}.unfinished"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(path, features)
            return read(path)

    return there_and_back


def check_rows(read, features):
    predictions = features.predictions
    np.testing.assert_array_equal(read.X, features.table.numpy()[features.rows])
    assert read.X.dtype == np.float32
    lattice = predictions.lattice
    for number, (row, column) in enumerate(predictions.positions.tolist()):
        patch = read.obs.iloc[number]
        assert (patch["row"], patch["column"]) == (row, column)
        corner = (column * lattice.stride * lattice.scale[0], row * lattice.stride * lattice.scale[1])
        assert (patch["x_level0"], patch["y_level0"]) == corner
        half = (lattice.patch_size * lattice.scale[0] / 2, lattice.patch_size * lattice.scale[1] / 2)
        assert read.obsm["spatial"][number].tolist() == [corner[0] + half[0], corner[1] + half[1]]
        assert patch["class"] == predictions.class_names[predictions.probabilities[number].argmax()]
        for place, name in enumerate(predictions.class_names):
            assert patch[column_key(f"probability: {name}")] == predictions.probabilities[number, place]
    np.testing.assert_array_equal(read.obsm["probabilities"], predictions.probabilities)


def test_every_patch_is_an_observation(read_back, predictions):
    features = features_of(predictions)
    read = read_back(features)
    check_rows(read, features)
    assert list(read.obs) == predictions_table(predictions).column_names
    assert list(read.obs["class"].cat.categories) == list(CLASS_NAMES), "also of the class that nothing is of"
    np.testing.assert_allclose(read.obs["entropy"], predictions.entropy)
    assert (read.obs["tissue_share"] == 1).all()


def test_what_the_model_does_not_know_is_missing(read_back, predictions):
    read = read_back(features_of(predictions))
    assert read.obs["unfamiliarity"].isna().all()
    assert read.obs["unfamiliarity"].dtype == np.float32
    assert read.obs["is_familiar"].isna().all()


def test_what_it_knows_has_the_same_types(read_back, predictions):
    unfamiliarity = np.linspace(0, 1, len(predictions.positions)).astype(np.float32)
    knowing = replace(predictions, unfamiliarity=unfamiliarity, unfamiliarity_threshold=0.5, abstain=True)
    read = read_back(features_of(knowing))
    np.testing.assert_array_equal(read.obs["unfamiliarity"], unfamiliarity)
    assert read.obs["is_familiar"].dtype == pd.BooleanDtype()
    assert read.obs["is_familiar"].tolist() == (unfamiliarity <= 0.5).tolist()
    assert set(read.obs["class"]) == {"Stroma", "Fat & <oil>", "Vessels"}, (
        "as in the table, also where the map abstains"
    )


def test_names_with_slashes_percent_signs_and_any_letters(read_back, predictions):
    features = features_of(replace(predictions, class_names=SLASHES), name="Größe & <1>")
    read = read_back(features)
    check_rows(read, features)
    assert list(read.obs["class"].cat.categories) == list(SLASHES)
    assert list(read.uns["spider"]["class_names"]) == list(SLASHES)
    assert "probability: Fat & <oil>%2Fx" in read.obs
    assert "probability: 50%25 %2F 50%25" in read.obs


def test_keys_of_different_names_differ():
    names = ["a/b", "a%2Fb", "a%252Fb", "a\0b", "a%00b", "a b"]
    assert len({column_key(name) for name in names}) == len(names)
    assert all("/" not in column_key(name) and "\0" not in column_key(name) for name in names)


@pytest.mark.parametrize("classes", [[[2]], [[-1, -1], [-1, 3]]])
def test_one_prediction(read_back, classes):
    features = features_of(make_predictions(classes))
    read = read_back(features)
    check_rows(read, features)
    assert read.shape == (1, 6)


def test_a_patch_has_one_name_whatever_the_stride(read_back, predictions):
    coarse = read_back(features_of(predictions)).obs
    fine_predictions = make_predictions(np.zeros((7, 9), dtype=int), stride=14)
    fine = read_back(features_of(fine_predictions)).obs
    assert fine.index.is_unique
    assert set(coarse.index) < set(fine.index)
    for name in coarse.index:
        assert coarse.loc[name, "x_level0"] == fine.loc[name, "x_level0"]
        assert coarse.loc[name, "y_level0"] == fine.loc[name, "y_level0"]


def test_slides_are_joined_without_a_clash(read_back):
    read = [read_back(features_of(make_predictions(CLASSES, seed=seed), name=name)) for seed, name in enumerate("ab")]
    joined = anndata.concat(read, label="slide", keys=["a", "b"])
    assert joined.obs_names.is_unique
    assert joined.shape == (28, 6)
    assert list(joined.obs["class"].cat.categories) == list(CLASS_NAMES)


def test_what_is_said_of_the_slide_is_plain_json(read_back, predictions):
    about = read_back(features_of(predictions)).uns["spider"]
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in about.items()}
    plain = json.loads(json.dumps(plain, default=lambda number: number.item()))
    assert plain.pop("spider_tools")
    assert plain == {
        "slide": "a slide",
        "slide_size_level0": [300, 200],
        "mpp_level0": [0.25, 0.2],
        "mpp": [0.5, 0.6],
        "patch_size": 28,
        "stride": 28,
        "class_names": list(CLASS_NAMES),
        "model": "m",
    }


def test_the_same_slide_gives_the_same_file(predictions, tmp_path):
    for name in "ab":
        write_h5ad(tmp_path / name, features_of(predictions))
        write_zarr(tmp_path / f"{name}.zarr", features_of(predictions))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a.zarr", tmp_path / "b.zarr")
    ]
    assert contents[0] == contents[1]


def test_a_class_whose_name_is_longer_than_a_folders_can_be_is_refused_for_zarr_alone(predictions, tmp_path):
    long = "患" * 80
    check_class_names([long, "ä" * 120], ("h5ad", "h5"))
    check_class_names(["ä" * 120], ("zarr",))
    with pytest.raises(ValueError, match=r"that of '患+'\.\.\. would have 253 bytes|would have 25[0-9] bytes"):
        check_class_names([long, "ä" * 122], ("zarr",))
    write_h5ad(tmp_path / "p", features_of(replace(predictions, class_names=(long * 9, *CLASS_NAMES[1:]))))
    assert column_key(f"probability: {long * 9}") in anndata.read_h5ad(tmp_path / "p").obs
    write_zarr(tmp_path / "z", features_of(replace(predictions, class_names=("ä" * 120, *CLASS_NAMES[1:]))))
    assert anndata.read_zarr(tmp_path / "z").n_obs == 14
