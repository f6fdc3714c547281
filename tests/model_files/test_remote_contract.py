"""What a saved folder promises: it is a whole repository, alone, offline, in every supported Transformers version."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    pipeline,
)

ROOT = Path(__file__).resolve().parents[2]
REMOTE_FILES = sorted(path.name for path in ROOT.glob("*_spider.py"))
REPOSITORY = {"config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json", *REMOTE_FILES}

# Loads a folder as a user does, in a process that has only what the remote files may import, sees neither this
# checkout nor the network, and saves it again.
LOADS_ALONE = """
import json, sys
folder, image, copy, checkout = sys.argv[1:]
seen = []

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append((event, str(args)))
    if event == "open" and str(args[0]).startswith(checkout) and "/.venv" not in str(args[0]):
        seen.append((event, str(args[0])))

for name in ("spider_tools", "accelerate", "datasets", "evaluate", "sklearn", "scipy", "pandas", "matplotlib", "peft"):
    sys.modules[name] = None
sys.addaudithook(watch)

import transformers
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
outputs = model(**processor(images=Image.open(image), return_tensors="pt"))
model.save_pretrained(copy)
processor.save_pretrained(copy)
answers = [
    pipeline("image-classification", model=model, image_processor=processor.image_processor)(image, top_k=1),
    pipeline("image-classification", model=folder, trust_remote_code=True)(image, top_k=1),
]
print(json.dumps({
    "version": transformers.__version__, "logits": outputs.logits.tolist(), "names": outputs.predicted_class_names,
    "answers": answers, "seen": seen,
}))
"""


@pytest.fixture(scope="module")
def image():
    """One region of 140 px, no two patches alike."""
    return Image.fromarray(np.random.default_rng(4).integers(0, 256, (140, 140, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def image_path(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "region.png"
    image.save(path)
    return path


@pytest.fixture
def log(caplog):
    """What Transformers logs; it keeps its records from other loggers."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(params=["this Transformers", "the other Transformers"])
def python(request):
    if request.param == "this Transformers":
        return sys.executable
    if "SPIDER_OTHER_PYTHON" not in os.environ:
        pytest.skip("SPIDER_OTHER_PYTHON names no Python with the other Transformers version")
    return os.environ["SPIDER_OTHER_PYTHON"]


@pytest.fixture
def damaged(model_folder, tmp_path):
    """`damaged(lost)`: a copy of the saved folder without the weights whose names start with `lost`."""

    def make(lost):
        folder = tmp_path / "damaged"
        shutil.copytree(model_folder, folder)
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(lost)}
        assert 0 < len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


# Whole repositories


def test_a_saved_folder_is_a_whole_repository(model_folder):
    assert {path.name for path in model_folder.iterdir()} == REPOSITORY
    for name in REMOTE_FILES:
        assert (model_folder / name).read_bytes() == (ROOT / name).read_bytes()
    auto_map = json.loads((model_folder / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_spider.SpiderConfig",
        "AutoModel": "modeling_spider.SpiderForImageClassification",
        "AutoModelForImageClassification": "modeling_spider.SpiderForImageClassification",
    }


def test_all_auto_classes_know_the_folder(model_folder):
    def names(auto_class):
        return type(auto_class.from_pretrained(model_folder, trust_remote_code=True)).__name__

    assert names(AutoConfig) == "SpiderConfig"
    assert names(AutoModel) == names(AutoModelForImageClassification) == "SpiderForImageClassification"
    assert names(AutoImageProcessor) == "SpiderImageProcessor"
    assert names(AutoProcessor) == "SpiderProcessor"


@pytest.mark.slow
def test_a_bare_copy_gives_the_same_and_saves_the_same(
    python, model_folder, make_model, load_model, processor, image, image_path, tmp_path
):
    alone, elsewhere, home = tmp_path / "bare copy", tmp_path / "elsewhere", tmp_path / "home"
    shutil.copytree(model_folder, alone)
    elsewhere.mkdir()
    second = tmp_path / "second"
    environment = {"HF_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [python, "-I", "-c", LOADS_ALONE, str(alone), str(image_path), str(second), str(ROOT)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    with torch.no_grad():
        inputs = processor(images=image, return_tensors="pt")
        expected = make_model()(**inputs)
    assert told["seen"] == []
    assert "is not supported for image-classification" not in run.stderr
    torch.testing.assert_close(torch.tensor(told["logits"]), expected.logits, rtol=0, atol=5e-6)
    assert told["names"] == expected.predicted_class_names
    assert [answer[0]["label"] for answer in told["answers"]] == 2 * expected.predicted_class_names

    shutil.rmtree(alone)
    assert {path.name for path in second.iterdir()} == REPOSITORY
    with torch.no_grad():
        again = load_model(second)(**AutoProcessor.from_pretrained(second, trust_remote_code=True)(image, "pt"))
    torch.testing.assert_close(again.logits, expected.logits, rtol=0, atol=5e-6)


def test_the_root_config_is_the_published_architecture():
    config = AutoConfig.from_pretrained(ROOT, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=True)
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == 303_659_264, "Hibou-L"
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 303.9, "with the paper's head"
    assert model.classifier.out_features == len(config.class_names) == 13


def test_a_model_made_from_the_root_saves_a_whole_repository(make_config, load_model, pixel_values, tmp_path):
    backbone = make_config().backbone_config.to_dict()
    config = AutoConfig.from_pretrained(ROOT, trust_remote_code=True, patch_size=28, backbone_config=backbone)
    model = AutoModel.from_config(config, trust_remote_code=True).eval()
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(ROOT, trust_remote_code=True).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == REPOSITORY
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(pixel_values).logits, model(pixel_values).logits)


# Options of from_pretrained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["to", "dtype", "auto"])
def test_lower_precisions(make_model, load_model, model_folder, pixel_values, tmp_path, way, dtype):
    if way == "to":
        model = load_model(model_folder).to(dtype)
    elif way == "dtype":
        model = load_model(model_folder, dtype=dtype)
    else:
        make_model().to(dtype).save_pretrained(tmp_path)
        model = load_model(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    mask = torch.ones(3, 25, dtype=torch.bool)
    mask[1, 3:9] = False
    with torch.no_grad():
        expected = make_model()(pixel_values, context_mask=mask, output_attentions=True)
        outputs = model(pixel_values, context_mask=mask, labels=torch.tensor([3, 0, 1]), output_attentions=True)
        assert model.embed_patches(pixel_values[0]).dtype == outputs.logits.dtype == dtype
    torch.testing.assert_close(outputs.logits.float(), expected.logits, rtol=0, atol=0.1)
    torch.testing.assert_close(outputs.context_attention, expected.context_attention, rtol=0, atol=0.01)
    assert outputs.loss.dtype == torch.float32


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, {"backbone": "cpu", "": "disk"}])
def test_device_maps(make_model, load_model, model_folder, pixel_values, tmp_path, device_map):
    if device_map == {"backbone": "cpu", "": "disk"}:
        head = ("projection", "context_encoder", "dropout", "classifier")
        device_map = {"backbone": "cpu", **dict.fromkeys(head, "disk")}
    model = load_model(model_folder, device_map=device_map, offload_folder=tmp_path)
    with torch.no_grad():
        expected = make_model()(pixel_values, output_attentions=True)
        torch.testing.assert_close(model(pixel_values, output_attentions=True).to_tuple(), expected.to_tuple())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementations_reach_both_parts(
    make_model, load_model, model_folder, pixel_values, monkeypatch, implementation
):
    model = load_model(model_folder, attn_implementation=implementation)
    parts = (model, model.backbone, model.context_encoder)
    assert [part.config._attn_implementation for part in parts] == [implementation] * 3
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *args, **kwargs: calls.append(query.shape[-2]) or kernel(query, *args, **kwargs),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixel_values).logits, make_model(attn_implementation="eager")(pixel_values).logits
        )
    tokens = {8, 25}  # class token, 3 registers and 4 tokens of a patch; patches of a region
    assert set(calls) == (tokens if implementation == "sdpa" else set())


def test_options_of_the_config_are_taken(load_model, model_folder):
    model = load_model(model_folder, backbone_batch_size=3, freeze_backbone=False)
    assert model.config.backbone_batch_size == 3
    assert all(p.requires_grad for name, p in model.backbone.named_parameters() if "mask_token" not in name)


# Weights that do not fit


def test_another_number_of_classes_is_an_error(load_model, model_folder):
    with pytest.raises(RuntimeError, match="mismatch"):
        load_model(model_folder, num_labels=6)


def test_another_number_of_classes_is_taken_on_request(make_model, load_model, model_folder):
    names = ["a", "b", "c", "d", "e", "f"]
    model = load_model(model_folder, id2label=dict(enumerate(names)), ignore_mismatched_sizes=True)
    assert model.config.class_names == names
    assert model.num_labels == model.classifier.out_features == 6
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier.")}
    expected = make_model().state_dict()
    for name, tensor in kept.items():
        assert torch.equal(tensor, expected[name]), name
    assert 0.001 < model.classifier.weight.std() < 0.1, "initialised, not whatever was in memory"


@pytest.mark.parametrize(
    "lost", ["classifier.", "backbone.encoder.layer.1.mlp.weights_in.", "context_encoder.", "projection."]
)
def test_missing_weights_are_told_and_initialised(damaged, load_model, log, lost):
    model, info = load_model(damaged(lost), output_loading_info=True)
    fresh = [name for name in info["missing_keys"] if "embeddings.position_ids" not in name]
    prefix = lost.replace("weights_in.", "")  # Transformers 5 splits these in two
    assert fresh
    assert all(name.startswith(prefix) for name in fresh)
    assert "classifier.weight" in log.text if lost == "classifier." else prefix.split(".")[0] in log.text
    assert all(parameter.isfinite().all() and parameter.abs().max() < 10 for parameter in model.parameters())


def test_pickled_weights_are_refused(model_folder, make_model, load_model, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_model(folder)


def test_no_weights_are_an_error(model_folder, load_model, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_model(folder)


# Pipelines


def test_pipeline_answers_for_an_image_a_path_and_a_list(model_folder, make_model, processor, image, image_path, log):
    classify = pipeline("image-classification", model=str(model_folder), trust_remote_code=True)
    turned = image.rotate(90)
    with torch.no_grad():
        logits = make_model()(**processor(images=[image, turned], return_tensors="pt")).logits
    names = ["Stroma", "Epidermis", "Fat", "Vessels"]
    expected = [sorted(zip(row.softmax(-1).tolist(), names), reverse=True) for row in logits]

    def check(answer, ranked):
        assert [entry["label"] for entry in answer] == [name for _, name in ranked]
        assert [entry["score"] for entry in answer] == pytest.approx([score for score, _ in ranked], abs=1e-5)

    check(classify(image), expected[0])
    check(classify(str(image_path), top_k=2), expected[0][:2])
    for batch_size in (1, 2):
        answers = classify([image, turned], top_k=3, batch_size=batch_size)
        check(answers[0], expected[0][:3])
        check(answers[1], expected[1][:3])
    assert not [record.getMessage() for record in log.records if record.levelno >= logging.ERROR]


def test_pipeline_takes_a_model_and_its_image_processor(make_model, processor, image, log):
    classify = pipeline("image-classification", model=make_model(), image_processor=processor.image_processor)
    with torch.no_grad():
        expected = make_model()(**processor(images=image, return_tensors="pt"))
    assert classify(image, top_k=1)[0]["label"] == expected.predicted_class_names[0]
    assert not [record.getMessage() for record in log.records if record.levelno >= logging.ERROR]


def test_pipeline_says_what_is_wrong_with_an_image(model_folder, image):
    classify = pipeline("image-classification", model=str(model_folder), trust_remote_code=True)
    with pytest.raises(ValueError, match="140x140"):
        classify(image.crop((0, 0, 139, 140)))


# Real data


def test_a_region_of_a_real_slide_gets_one_name(shared_folder, make_model, make_processor, tmp_path):
    slide_path = shared_folder("slides") / "CMU-1-Small-Region.svs"
    openslide = pytest.importorskip("openslide", reason="OpenSlide is not installed")
    backbone = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 28,
    }
    make_model(backbone_config=backbone, patch_size=224).save_pretrained(tmp_path)
    make_processor(patch_size=224).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    with openslide.OpenSlide(slide_path) as slide:
        region = slide.read_region((300, 900), 0, (1120, 1120))  # RGBA
    with torch.no_grad():
        outputs = model(**processor(images=region, return_tensors="pt"))
    assert outputs.predicted_class_names == [model.config.class_names[outputs.logits[0].argmax()]]
