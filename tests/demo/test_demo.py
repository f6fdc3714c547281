"""The demo, as `make demo` runs it: what it claims, and that a region of the user's gets a name."""

import json
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import warm_python
from imported_models import NEVER_HELD, note_import, unverified, verified
from PIL import Image
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoProcessor

from spider_tools import remote_code
from spider_tools.demo import __main__ as command
from spider_tools.demo import run as demo
from spider_tools.demo.synthetic import SyntheticSettings

pytestmark = pytest.mark.slow

ROOT = remote_code.REPOSITORY_ROOT


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")

    def launch(script, *flags):
        done = warm_python.run([sys.executable, str(ROOT / script), *flags])
        assert done.returncode == 0, done.stderr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "launch", launch)
        demo.run_demo(folder, SyntheticSettings(patch_size=56, test_slides=6))  # a sixteenth of the px that a user gets
    return folder


@pytest.fixture(scope="module")
def accuracies(demo_folder):
    sizes = json.loads((demo_folder / "report" / "context_ablation.json").read_text())["context_sizes"]
    return {int(size): values["metrics"]["accuracy"]["value"] for size, values in sizes.items()}


@pytest.mark.slow
def test_the_demo_model_is_right_on_slides_that_it_has_not_seen(accuracies):
    assert accuracies[5] >= 0.90


@pytest.mark.slow
def test_the_demo_model_needs_its_context(accuracies):
    assert accuracies[1] <= accuracies[5] - 0.10


@pytest.mark.slow
def test_the_demo_leaves_a_picture_and_a_model_that_loads(demo_folder):
    assert (demo_folder / "prediction.png").read_bytes().startswith(b"\x89PNG")
    model, processor = demo.load(str(demo_folder / "model"))
    assert model.config.training["settings"]["train_backbone"] == "full"
    assert processor.image_processor.region_size == 280


@pytest.mark.slow
def test_a_region_of_the_real_slide_gets_one_name(demo_folder, shared_folder):
    openslide = pytest.importorskip("openslide")
    slide = openslide.OpenSlide(shared_folder("slides") / "CMU-1-Small-Region.svs")
    region = slide.read_region((400, 700), 0, (1120, 1120)).resize((280, 280))
    model = AutoModel.from_pretrained(demo_folder / "model", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(demo_folder / "model", trust_remote_code=True)
    (name,) = model(**processor(images=region, return_tensors="pt")).predicted_class_names
    assert name in model.config.class_names


@pytest.mark.slow
def test_real_tissue_is_unfamiliar_to_a_model_that_has_seen_drawings(demo_folder, shared_folder):
    openslide = pytest.importorskip("openslide")
    slide = openslide.OpenSlide(shared_folder("slides") / "CMU-1-Small-Region.svs")
    corners = [(x, y) for x in (300, 700, 1100) for y in (500, 900, 1300, 1800)]
    regions = [slide.read_region(corner, 0, (1120, 1120)).convert("RGB").resize((280, 280)) for corner in corners]
    model, processor = demo.load(str(demo_folder / "model"))
    with torch.no_grad():
        strange = model(**processor(images=regions, return_tensors="pt"))
    assert not strange.is_familiar.any()
    known = pq.read_table(demo_folder / "report" / "predictions.parquet")
    scores = np.concatenate([known["unfamiliarity"].to_numpy(), strange.unfamiliarity.numpy()])
    assert roc_auc_score(np.arange(len(scores)) >= len(known), scores) >= 0.95
    assert np.mean(known["is_familiar"].to_numpy()) >= 1 - 2 * 0.05


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(3)", r"train\.py ended with exit code 3\."),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            r"train\.py was ended by SIGKILL\. Memory is the usual",
        ),
    ],
)
def test_a_script_that_does_not_end_well_ends_the_demo_in_words(tmp_path, monkeypatch, code, message):
    (tmp_path / "train.py").write_text(code)
    monkeypatch.setattr(demo, "REPOSITORY_ROOT", tmp_path)
    with pytest.raises(ChildProcessError, match=message):
        demo.launch("train.py", "--flag")


def classify(*words):
    return warm_python.run([sys.executable, "-m", "spider_tools.demo", *words], cwd=ROOT)


def test_an_image_of_the_users_is_classified_with_any_model(model_folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 160, 3), dtype=np.uint8)  # regions have 140 px
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    done = classify("--image", str(tmp_path / "mine.png"), "--model", str(model_folder))
    assert done.returncode == 0, done.stderr
    shares = re.findall(r"^ *([\d.]+)%  (\w+)$", done.stdout, flags=re.MULTILINE)
    model, processor = demo.load(str(model_folder))
    probabilities = model(**processor(images=pixels, return_tensors="pt")).logits.softmax(dim=-1)[0]
    expected = sorted(zip(probabilities.tolist(), model.config.class_names), reverse=True)
    assert [name for _, name in shares] == [name for _, name in expected]
    np.testing.assert_allclose([float(share) for share, _ in shares], [100 * p for p, _ in expected], atol=0.051)
    assert (tmp_path / "mine.prediction.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("record", "sentence"), [(unverified(), NEVER_HELD), (verified(), "have changed since")])
def test_a_prediction_of_an_imported_model_says_whether_that_was_verified(
    model_folder, tmp_path, capsys, record, sentence
):
    Image.new("RGB", (150, 160)).save(tmp_path / "mine.png")
    demo.classify_image(tmp_path / "mine.png", str(model_folder))
    before = capsys.readouterr().out
    folder = note_import(shutil.copytree(model_folder, tmp_path / "imported"), record)
    demo.classify_image(tmp_path / "mine.png", str(folder))
    after = capsys.readouterr().out.splitlines()
    assert "mported" not in before
    assert len(after) == len(before.splitlines()) + 1
    assert sentence in after[-2]


def test_a_prediction_of_something_unfamiliar_says_so(make_model, processor, tmp_path, capsys):
    model = make_model()
    model.remember(familiarity_means=1)
    hidden = model.config.backbone_config.hidden_size
    tensors = {"center": torch.zeros(hidden), "whitening": torch.eye(hidden), "means": torch.zeros(1, hidden)}
    model.familiarity.load_state_dict(tensors)
    Image.new("RGB", (150, 160)).save(tmp_path / "mine.png")
    for threshold, says in ((1e-6, True), (1e5, False)):
        model.config.unfamiliarity_threshold = threshold
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        demo.classify_image(tmp_path / "mine.png", str(tmp_path / "model"))
        assert ("unlike what the model has learnt from" in capsys.readouterr().out) == says


def test_an_image_that_is_too_small_is_refused_with_its_name(model_folder, tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: .* expected at least 140x140 px"):
        demo.classify_image(tmp_path / "small.png", str(model_folder))


def test_a_missing_image_and_a_model_without_an_image_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no image .*none\.png"):
        demo.classify_image(tmp_path / "none.png", "anywhere")
    with pytest.raises(SystemExit):
        command.parse_args(["--model", "anywhere"])
