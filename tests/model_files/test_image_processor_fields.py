"""The image processor's fields, given to it, to one call, in the file or set later: checked, and never ignored."""

import json
import warnings

import numpy as np
import pytest
import torch
from cropped_by_loop import FIELDS, N, P, SpiderImageProcessor, random_rgb, region_processor

REFUSED = [
    *((field, value) for field in ("context_size", "patch_size") for value in (0, -1, 5.0, "5", True, [5])),
    *((field, 10**power) for field in ("context_size", "patch_size") for power in (6, 9, 30)),
    ("context_size", 4),
    ("context_size", 101),
    *(
        (field, value)
        for field in ("do_rescale", "do_normalize", "allow_missing_context")
        for value in ("no", "false", "", 0, 1, [])
    ),
    *((field, value) for field in ("image_mean", "image_std") for value in (0.5, "0.5", [0.5], [0.5] * 4, [0.5] * 2)),
    *((field, [0.5, 0.5, wrong]) for field in ("image_mean", "image_std") for wrong in ("0.5", True, [0.5])),
    *((field, [0.5, float(wrong), 0.5]) for field in ("image_mean", "image_std") for wrong in ("nan", "inf", "-inf")),
    ("image_mean", [123.675, 116.28, 103.53]),  # for pixels in 0..255
    ("image_mean", [0.5, 0.5, 1e30]),
    ("image_mean", [0.5, -0.1, 0.5]),
    ("image_mean", {"red": 0.5, "green": 0.5, "blue": 0.5}),
    ("image_std", [58.395, 57.12, 57.375]),
    ("image_std", [0.5, 0.5, 0.0]),
    ("image_std", [0.5, 1e-12, 0.5]),
    ("image_std", [-0.2, 0.2, 0.2]),
    ("image_std", np.full((3, 1), 0.5)),
]


@pytest.fixture
def folder(tmp_path):
    region_processor().save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- Values


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=lambda part: repr(part)[:40])
def test_a_wrong_value_is_refused_wherever_it_is_given(folder, field, value):
    processor = region_processor()
    ways = {
        "constructor": lambda: SpiderImageProcessor(**{field: value}),
        "call": lambda: processor(random_rgb(), **{field: value}),
        "loading": lambda: SpiderImageProcessor.from_pretrained(folder, **{field: value}),
        "dictionary": lambda: SpiderImageProcessor.from_dict(processor.to_dict() | {field: value}),
    }
    for run in ways.values():
        with pytest.raises(ValueError, match=rf"`{field}`.* must .* got"):
            run()
    setattr(processor, field, value)
    with pytest.raises(ValueError, match=rf"`{field}`.* must .* got"):
        processor(random_rgb())


@pytest.mark.parametrize("field", FIELDS)
def test_a_file_with_nothing_in_a_field_is_refused_or_takes_the_default(folder, field):
    edit(folder, **{field: None})
    if field in ("image_mean", "image_std"):
        assert getattr(SpiderImageProcessor.from_pretrained(folder), field) == getattr(SpiderImageProcessor(), field)
        return
    with pytest.raises(ValueError, match=f"`{field}` must be .*, got None"):
        SpiderImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.25, 1),
        np.array([0.5, 0.25, 1.0]),
        np.array([0.5, 0.25, 1.0], dtype=np.float32),
        [np.float32(0.5), np.float16(0.25), np.int64(1)],
        torch.tensor([0.5, 0.25, 1.0]),
    ],
)
def test_means_and_deviations_may_be_in_any_container(tmp_path, values):
    processor = SpiderImageProcessor(image_mean=values, image_std=values)
    processor.save_pretrained(tmp_path)
    for each in (processor, SpiderImageProcessor.from_pretrained(tmp_path)):
        assert each.image_mean == each.image_std == [0.5, 0.25, 1.0]


def test_the_bounds_are_taken():
    wide = SpiderImageProcessor(99, 4096, image_mean=[0, 1, 0.5], image_std=[0.001, 10, 1 / 255])
    assert wide.region_size == 99 * 4096


# --- Fields for one call


@pytest.mark.parametrize(
    "fields",
    [
        {"context_size": 3},
        {"patch_size": 4},
        {"do_normalize": False},
        {"image_mean": [0.1, 0.2, 0.3]},
        {"image_std": np.array([1.0, 2.0, 4.0])},
        {"image_mean": (0.5, 0.25, 0.75), "image_std": [0.5, 0.5, 2.0], "context_size": 1},
        {"allow_missing_context": True, "context_size": 7},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_fields_of_one_call_act_like_those_of_a_processor_and_for_that_call_only(fields):
    processor, rgb = region_processor(), random_rgb()
    before = processor.to_dict()
    expected = SpiderImageProcessor(**{"context_size": N, "patch_size": P} | fields)(rgb, return_tensors="np")
    result = processor(rgb, return_tensors="np", **fields)
    for key in result:
        assert np.array_equal(result[key], expected[key])
    assert processor.to_dict() == before
    assert not np.array_equal(processor(rgb, return_tensors="np")["pixel_values"], expected["pixel_values"])


def test_nothing_in_a_field_of_a_call_leaves_it_as_it_is():
    processor, rgb = region_processor(), random_rgb()
    result = processor(rgb, return_tensors="np", **dict.fromkeys(FIELDS))
    assert np.array_equal(result["pixel_values"], processor(rgb, return_tensors="np")["pixel_values"])


# --- Names

MISSPELT = {
    "allow_missing_contxt": "allow_missing_context",
    "allow_mising_context": "allow_missing_context",
    "contextsize": "context_size",
    "do_normalise": "do_normalize",
    "image_means": "image_mean",
    "patchsize": "patch_size",
}


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_keyword_is_refused_with_the_field_that_was_meant(folder, name):
    processor = region_processor()
    message = rf"Unknown arguments \['{name}'\], .* Did you mean `{MISSPELT[name]}`\?"
    for run in (
        lambda: SpiderImageProcessor(**{name: True}),
        lambda: SpiderImageProcessor.from_pretrained(folder, **{name: True}),
        lambda: processor(random_rgb(), **{name: True}),
    ):
        with pytest.raises(TypeError, match=message):
            run()


@pytest.mark.parametrize("name", ["size", "crop_size", "do_center_crop", "rescale_factor", "resample"])
def test_what_other_image_processors_do_is_refused(folder, name):
    for run in (
        lambda: SpiderImageProcessor(**{name: 224}),
        lambda: SpiderImageProcessor.from_pretrained(folder, **{name: 224}),
    ):
        with pytest.raises(TypeError, match=rf"Unknown arguments \['{name}'\], .* never resizes"):
            run()


def test_options_of_loading_are_no_fields(folder):
    options = {"local_files_only": True, "trust_remote_code": True, "use_fast": False, "subfolder": ""}
    loaded, unused = SpiderImageProcessor.from_pretrained(folder, **options, another=1, return_unused_kwargs=True)
    assert loaded.to_dict() == region_processor().to_dict()
    assert unused["another"] == 1


@pytest.mark.parametrize("name", [*MISSPELT, "size", "rescale_factor", "training"])
def test_a_file_with_another_field_loads_with_a_warning_and_is_saved_without(folder, tmp_path, name):
    edit(folder, **{name: True})
    with pytest.warns(UserWarning, match=rf"preprocessor_config\.json: Unknown arguments \['{name}'\]"):
        loaded = SpiderImageProcessor.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    assert name not in json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert loaded.to_dict() == region_processor().to_dict()


def test_what_transformers_writes_into_the_file_is_no_other_field(folder):
    edit(folder, image_processor_type="SpiderImageProcessor", processor_class="SpiderProcessor", do_resize=False)
    edit(folder, _processor_class="SpiderProcessor", feature_extractor_type="SpiderImageProcessor", _private=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = SpiderImageProcessor.from_pretrained(folder)
    assert {field: getattr(loaded, field) for field in FIELDS} == {
        field: getattr(region_processor(), field) for field in FIELDS
    }
