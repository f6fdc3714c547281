"""The map of an imported model says whether the import was verified; and which heads share what a slide has."""

import hashlib
import json
import shutil

import pytest
import torch
from imported_models import HELD, MALFORMED, NEVER_HELD, note_import, unverified, verified
from report_page import Page
from slide_predictions import CLASSES, make_predictions

from spider_tools.cohorts.many import segment_slides
from spider_tools.model_folder import weights_sha256
from spider_tools.slides.composition import make_composition
from spider_tools.slides.html_report import make_report
from spider_tools.slides.model import SlideModel
from spider_tools.slides.settings import SlideSettings

WARNING = '<p class="warning">'


@pytest.fixture
def imported(model_folder, tmp_path):
    """`imported(record)`: the folder of a tiny model with this record."""
    folder = shutil.copytree(model_folder, tmp_path / "imported")
    return lambda record: note_import(folder, record)


@pytest.fixture
def map_of(fresh_accelerator, slide_file, tmp_path):
    """`map_of(folder)`: the status of a run with a model, and what slide.json and report.html then hold."""

    def run(folder):
        (result,) = segment_slides([slide_file], SlideSettings(str(folder), tmp_path / "R", num_workers=0))
        results = tmp_path / "R" / "slide"
        marker = json.loads((results / "slide.json").read_text(encoding="utf-8"))
        return result, marker, (results / "report.html").read_text(encoding="utf-8")

    return run


@pytest.mark.slow
def test_the_map_of_an_unverified_import_says_so_before_anything_else(map_of, imported):
    _, marker, report = map_of(imported(unverified()))
    assert marker["import"] == unverified() | {"sentence": NEVER_HELD}
    assert marker["facts"]["Import"] == NEVER_HELD
    assert report.count(WARNING) == 2
    texts = Page(report).texts
    assert texts.count(NEVER_HELD) == 2  # at the top, and among the settings
    assert texts.index(NEVER_HELD) < texts.index("Composition")
    assert texts[texts.index("Import") + 1 :].index(NEVER_HELD) <= 2


@pytest.mark.slow
def test_the_map_of_a_verified_import_states_it_without_a_warning(map_of, imported, model_folder):
    record = verified(weights_sha256=weights_sha256(model_folder))
    _, marker, report = map_of(imported(record))
    assert marker["import"] == record | {"sentence": HELD}
    assert report.count(WARNING) == 1
    assert Page(report).texts.count(HELD) == 1


@pytest.mark.slow
def test_a_map_is_written_again_once_the_import_is_verified_and_embeds_nothing(map_of, imported, model_folder):
    statuses = []
    for record in (unverified(), unverified(), verified(weights_sha256=weights_sha256(model_folder))):
        result, marker, report = map_of(imported(record))
        statuses.append((result.status, result.embedded > 0))
    assert statuses == [("done", True), ("skipped", False), ("done", False)]
    assert marker["import"]["verified"] is True
    assert NEVER_HELD not in report


@pytest.mark.slow
def test_the_map_of_a_model_that_was_not_imported_asks_for_what_earlier_versions_did(map_of, model_folder):
    _, marker, report = map_of(model_folder)
    assert marker["import"] is None
    assert "Import" not in marker["facts"]
    assert not any("import" in name for name in marker["request"])
    assert report.count(WARNING) == 1
    assert "mport" not in "".join(Page(report).texts)


@pytest.mark.parametrize("name", ["a word", "nothing", "no difference", "no spread", "a list for the source"])
def test_a_record_that_is_none_is_not_verified(imported, name, tmp_path):
    model = SlideModel.load(SlideSettings(str(imported(MALFORMED[name])), tmp_path / "R"), torch.device("cpu"))
    assert model.imported["verified"] is False
    assert model.imported["sentence"].startswith("Not verified: imported from ")


def test_a_warning_is_text_and_never_part_of_the_page():
    hostile = "</p><script>alert(1)</script>"
    composition = make_composition(make_predictions(CLASSES))
    page = make_report("t", composition, {}, [], {}, [hostile])
    assert "<script" not in page
    assert hostile in Page(page).texts


def head_digest(model):
    """As versions before read-outs wrote it."""
    digest = hashlib.sha256()
    for name in sorted(name for name in model.state_dict() if not name.startswith("backbone.")):
        tensor = model.state_dict()[name]
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


USUAL = {
    "head_readout": "center",
    "head_pooler": False,
    "head_residual": False,
    "head_beside": None,
    "head_num_attention_heads": 1,
}


def digest_with(make_model, processor, **changes):
    """What tells heads of the same weights apart; the fields are changed without building another head."""
    model = make_model(head_num_attention_heads=1)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return SlideModel(model, processor.image_processor, torch.device("cpu")).head_sha256


def test_the_usual_head_is_told_by_its_weights_alone_as_before(make_model, processor):
    expected = head_digest(make_model(head_num_attention_heads=1))
    assert digest_with(make_model, processor) == digest_with(make_model, processor, **USUAL) == expected


def test_heads_of_the_same_weights_that_answer_differently_are_told_apart(make_model, processor):
    changes = [
        {},
        {"logit_temperature": 2.0},
        {"head_readout": "first"},
        {"head_readout": "mean"},
        {"head_pooler": True},
        {"head_residual": True},
        {"head_beside": "projection"},
        {"head_beside": "backbone"},
        {"head_num_attention_heads": 2},
        {"head_num_attention_heads": 3},
        {"head_readout": "mean", "head_residual": True},
    ]
    digests = [digest_with(make_model, processor, **change) for change in changes]
    assert len(set(digests)) == len(changes)
    assert digest_with(make_model, processor, head_residual=True, head_readout="mean") == digests[-1]


@pytest.mark.slow
def test_a_slide_is_classified_again_when_the_head_is_read_elsewhere(map_of, make_model, processor, tmp_path):
    statuses = []
    for number, readout in enumerate(("center", "mean", "mean")):
        folder = tmp_path / str(number)
        make_model(head_readout=readout).save_pretrained(folder)
        processor.save_pretrained(folder)
        result, _, _ = map_of(folder)
        statuses.append((result.status, result.embedded > 0))
    assert statuses == [("done", True), ("done", False), ("skipped", False)]
