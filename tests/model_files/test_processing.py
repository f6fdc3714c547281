"""The processor that AutoProcessor gives, and the files that it and the repository itself consist of."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from cropped_by_loop import FIELDS
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, Trainer, TrainingArguments

from spider_tools import remote_code

ROOT = Path(__file__).resolve().parents[2]
SIDE = 40
CODE = [f"{name}_spider.py" for name in ("checks", "image_processor", "images", "pixels", "processing", "sources")]
FILES = ["preprocessor_config.json", "processor_config.json"]

SpiderImageProcessor = remote_code.image_processor_class()
SpiderProcessor = remote_code.processor_class()


@pytest.fixture
def image_processor():
    """An image processor of one's own whose fields all differ from the defaults."""
    return SpiderImageProcessor(
        context_size=3,
        patch_size=8,
        do_normalize=False,
        image_mean=[0.25, 0.5, 0.75],
        image_std=[0.5, 1.0, 2.0],
        allow_missing_context=True,
    )


@pytest.fixture
def folder(tmp_path, image_processor):
    """A folder to which a processor saved itself."""
    SpiderProcessor(image_processor).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def random_rgb(height=SIDE, width=SIDE):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def fields(image_processor):
    return {name: getattr(image_processor, name) for name in FIELDS}


# --- Calls


def test_the_processor_gives_what_its_image_processor_gives(image_processor):
    processor = SpiderProcessor(image_processor)
    images = [Image.fromarray(random_rgb(24, 31)), random_rgb(9, 24)]
    for kind in ("pt", "np"):
        expected = image_processor(images, return_tensors=kind)
        for result in (processor(images, return_tensors=kind), processor(images=images, return_tensors=kind)):
            assert list(result) == ["pixel_values", "context_mask"] == processor.model_input_names
            for key in result:
                assert type(result[key]) is type(expected[key])
                assert np.array_equal(np.asarray(result[key]), np.asarray(expected[key]))


def test_options_reach_the_image_processor():
    processor = SpiderProcessor(SpiderImageProcessor(context_size=3, patch_size=8))
    small = torch.from_numpy(random_rgb(8, 8)).permute(2, 0, 1)
    result = processor(small, return_tensors="pt", allow_missing_context=True, input_data_format="channels_first")
    assert result["context_mask"].tolist() == [[False] * 4 + [True] + [False] * 4]
    with pytest.raises(ValueError, match="expected at least 24x24 px"):
        processor(small)


@pytest.mark.parametrize("option", ["text", "videos", "do_resize", "images_kwargs"])
def test_unknown_options_are_refused(image_processor, option):
    with pytest.raises(TypeError, match=rf"Unknown arguments \['{option}'\]"):
        SpiderProcessor(image_processor)(random_rgb(), **{option: "x"})


def test_a_call_without_images_is_refused(image_processor):
    with pytest.raises(ValueError, match="The image is NoneType, expected a PIL image"):
        SpiderProcessor(image_processor)()


@pytest.mark.parametrize("wrong", [None, "preprocessor_config.json", 5])
def test_the_image_processor_must_be_one(wrong):
    with pytest.raises((TypeError, ValueError), match=r"(?i)image.?processor"):
        SpiderProcessor(wrong)


def test_a_trainer_takes_the_processor_and_saves_it_with_the_model(model, processor, tmp_path, fresh_accelerator):
    regions = processor([random_rgb(140, 140), random_rgb(150, 141)], return_tensors="pt")
    examples = [{key: value[i] for key, value in regions.items()} | {"labels": i} for i in range(2)]
    before = model.classifier.weight.detach().clone()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path / "run"), max_steps=1, report_to=[], use_cpu=True),
        train_dataset=examples,
        processing_class=processor,
    )
    trainer.train()
    assert not torch.equal(before, model.classifier.weight)
    for folder in (tmp_path / "run" / "checkpoint-1", tmp_path / "saved"):
        trainer.save_model(tmp_path / "saved")
        assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)).__name__ == "SpiderProcessor"


# --- Files


def test_saving_writes_the_flat_pair_and_the_code(folder):
    assert sorted(contents(folder)) == sorted(CODE + FILES)
    assert json.loads((folder / "processor_config.json").read_text()) == {
        "auto_map": {"AutoProcessor": "processing_spider.SpiderProcessor"},
        "processor_class": "SpiderProcessor",
    }
    assert json.loads((folder / "preprocessor_config.json").read_text()) == {
        "auto_map": {"AutoImageProcessor": "image_processor_spider.SpiderImageProcessor"},
        "context_size": 3,
        "patch_size": 8,
        "do_rescale": True,
        "do_normalize": False,
        "image_mean": [0.25, 0.5, 0.75],
        "image_std": [0.5, 1.0, 2.0],
        "allow_missing_context": True,
    }
    for name in CODE:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()


def test_saving_names_the_files_that_it_wrote(tmp_path, image_processor):
    files = SpiderProcessor(image_processor).save_pretrained(tmp_path)
    assert sorted(files) == sorted(os.fspath(tmp_path / name) for name in FILES)


def test_both_auto_classes_load_a_saved_folder(folder, image_processor):
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__name__ == "SpiderProcessor"
    alone = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert fields(processor.image_processor) == fields(alone) == fields(image_processor)
    expected = image_processor(random_rgb(), return_tensors="np")["pixel_values"]
    assert np.array_equal(processor(random_rgb(), return_tensors="np")["pixel_values"], expected)


def test_a_folder_saved_again_and_again_stays_the_same(folder, tmp_path):
    source = folder
    for step in ("second", "third"):
        AutoProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(tmp_path / step)
        assert contents(tmp_path / step) == contents(folder)
        source = tmp_path / step


def test_saving_over_the_nested_layout_leaves_one_layout(tmp_path, image_processor):
    nested = {"image_processor": {"context_size": 9}, "processor_class": "SpiderProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    SpiderProcessor(image_processor).save_pretrained(tmp_path)
    assert "image_processor" not in json.loads((tmp_path / "processor_config.json").read_text())
    assert AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True).image_processor.context_size == 3


def test_an_image_processor_saved_alone_needs_no_other_code(folder, tmp_path):
    image_processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True).image_processor
    SpiderProcessor(image_processor).save_pretrained(tmp_path / "both")
    image_processor.save_pretrained(tmp_path / "alone")
    assert sorted(contents(tmp_path / "alone")) == [*CODE[:4], "preprocessor_config.json"]
    assert "processing_spider" not in (tmp_path / "alone" / "preprocessor_config.json").read_text()
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "alone", trust_remote_code=True)
    assert fields(loaded) == fields(image_processor)


def test_fields_given_when_loading_replace_those_of_the_file_and_are_checked(folder):
    for auto_class in (AutoProcessor, AutoImageProcessor):
        loaded = auto_class.from_pretrained(folder, trust_remote_code=True, context_size=5, allow_missing_context=False)
        image_processor = getattr(loaded, "image_processor", loaded)
        assert (image_processor.context_size, image_processor.allow_missing_context) == (5, False)
        assert image_processor.patch_size == 8
        with pytest.raises(ValueError, match="`context_size` must be an odd, positive integer, got 4"):
            auto_class.from_pretrained(folder, trust_remote_code=True, context_size=4)


def test_a_loaded_processor_forgets_the_repository_it_came_from(folder, tmp_path):
    for name in FILES:
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = {
            auto: f"histai/SPIDER-skin-model--{code}" for auto, code in settings["auto_map"].items()
        }
        (folder / name).write_text(json.dumps(settings))
    image_processor = SpiderImageProcessor.from_pretrained(folder)
    SpiderProcessor(image_processor).save_pretrained(tmp_path / "copy")
    assert not [name for name in FILES if "--" in (tmp_path / "copy" / name).read_text()]


def test_an_upload_starts_when_all_files_are_written(tmp_path, image_processor, monkeypatch):
    uploads = []
    monkeypatch.setattr(
        SpiderProcessor,
        "push_to_hub",
        lambda self, repo_id, **kwargs: uploads.append((repo_id, kwargs, sorted(contents(tmp_path / "my-model")))),
    )
    processor = SpiderProcessor(image_processor)
    processor.save_pretrained(f"{tmp_path}/my-model/", push_to_hub=True, private=True)
    processor.save_pretrained(tmp_path / "my-model", push_to_hub=True, repo_id="somebody/spider")
    everything = sorted(CODE + FILES)
    assert uploads == [("my-model", {"private": True}, everything), ("somebody/spider", {}, everything)]


# --- The repository's own files


def test_the_files_of_the_repository_are_what_saving_the_default_processor_gives(tmp_path):
    SpiderProcessor(SpiderImageProcessor()).save_pretrained(tmp_path)
    for name in FILES:
        assert (ROOT / name).read_text() == (tmp_path / name).read_text()


def test_a_bare_copy_of_the_repository_loads_through_all_auto_classes(tmp_path):
    bare = tmp_path / "somewhere" / "else"
    bare.mkdir(parents=True)
    for name in [*CODE, "configuration_spider.py", *FILES, "config.json"]:
        shutil.copy(ROOT / name, bare)
    for folder in (ROOT, bare):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(processor).__name__ == "SpiderProcessor"
        assert fields(processor.image_processor) == fields(image_processor) == fields(SpiderImageProcessor())
        # The processor makes what the configuration asks for.
        assert (config.context_size, config.patch_size) == (image_processor.context_size, image_processor.patch_size)


# --- The other version of Transformers


@pytest.fixture
def other_python():
    """The interpreter of the test environment with the other version of Transformers; `make test` names it."""
    if "SPIDER_OTHER_PYTHON" not in os.environ:
        pytest.skip("SPIDER_OTHER_PYTHON names no Python with the other Transformers version")
    return os.environ["SPIDER_OTHER_PYTHON"]


LOAD_AND_SAVE = """
import json, sys
import numpy as np
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

source, target = sys.argv[1:]
config = AutoConfig.from_pretrained(source, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
region = np.load(f"{source}/region.npy")
np.save(f"{source}/patches.npy", processor(region, return_tensors="np")["pixel_values"])
assert image_processor.to_dict() == processor.image_processor.to_dict()
config.save_pretrained(target)
processor.save_pretrained(target)
print(json.dumps([transformers.__version__, config.class_names, config.backbone_config.num_hidden_layers]))
"""


@pytest.mark.slow
def test_folders_go_to_the_other_version_of_transformers_and_back(tmp_path, image_processor, other_python):
    here, there = tmp_path / "here", tmp_path / "there"
    config = remote_code.config_class()(
        class_names=["Stroma", "Kaposi\u2019s sarcoma", "Fat"],
        context_size=3,
        patch_size=8,
        backbone_config={"image_size": 8, "patch_size": 4, "num_hidden_layers": 2},
    )
    config.save_pretrained(here)
    SpiderProcessor(image_processor).save_pretrained(here)
    np.save(here / "region.npy", random_rgb(24, 40))

    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    environment.pop("HF_MODULES_CACHE", None)
    run = subprocess.run(
        [other_python, "-c", LOAD_AND_SAVE, here, there], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    version, *told = json.loads(run.stdout)
    assert version != transformers.__version__
    assert told == [config.class_names, 2]
    expected = image_processor(random_rgb(24, 40), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(np.load(here / "patches.npy"), expected, rtol=0, atol=1e-6)

    for name in CODE + FILES:
        assert (there / name).read_bytes() == (here / name).read_bytes()
    mine, theirs = (json.loads((each / "config.json").read_text()) for each in (here, there))
    assert (mine.pop("transformers_version"), theirs.pop("transformers_version")) == (transformers.__version__, version)
    assert mine == theirs
    back = AutoProcessor.from_pretrained(there, trust_remote_code=True)
    assert np.array_equal(back(random_rgb(24, 40), return_tensors="np")["pixel_values"], expected)
    assert AutoConfig.from_pretrained(there, trust_remote_code=True).class_names == config.class_names
