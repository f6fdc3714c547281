"""An evaluation of an imported model says on every page whether the import was verified."""

import json
import shutil
from dataclasses import replace

import pytest
from imported_models import HELD, MALFORMED, NEVER_HELD, SHA256, note_import, unverified, verified
from made_up_predictions import CONTEXT, make_predictions, table_rows
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import CLASS_NAMES, SyntheticSettings, write_dataset
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.run import evaluate_model
from spider_tools.evaluation.settings import EvaluationSettings
from spider_tools.import_record import import_facts
from spider_tools.model_folder import weights_sha256

PAGES = ("per_class.md", "comparison.md", "context_ablation.md")


@pytest.fixture(scope="module")
def predictions():
    return make_predictions(regions=60)


@pytest.fixture
def report_on(predictions, tmp_path, monkeypatch):
    """`report_on(record)`: the folder of a report, without its picture, on a model with this record."""
    monkeypatch.setattr("spider_tools.evaluation.report.draw_confusion_matrix", lambda predictions: Figure())

    def write(record):
        imported = import_facts({"import": record}, SHA256)
        context = replace(CONTEXT, compare="breast", resamples=10, by_context_size={5: predictions, 1: predictions})
        write_report(tmp_path, predictions, replace(context, weights_sha256=SHA256, imported=imported))
        return tmp_path

    return write


def pages_of(folder):
    return {name: (folder / name).read_text(encoding="utf-8") for name in PAGES}


@pytest.mark.parametrize(
    ("record", "sentence", "header"),
    [
        (unverified(), NEVER_HELD, "Measured (NOT verified import)"),
        (verified(), HELD, "Measured (verified import)"),
    ],
)
def test_every_page_carries_the_sentence_of_an_import(report_on, record, sentence, header):
    folder = report_on(record)
    for text in pages_of(folder).values():
        assert text.count(f"{sentence}\n\n") == 1
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["import"] == record | {"sentence": sentence}
    assert json.loads((folder / "context_ablation.json").read_text(encoding="utf-8"))["import"] == results["import"]
    assert table_rows((folder / "comparison.md").read_text(encoding="utf-8"))[0][:3] == ["Figure", "Published", header]


def test_a_model_that_was_not_imported_has_nothing_said_of_an_import(report_on):
    folder = report_on(None)
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["import"] is None
    for text in pages_of(folder).values():
        assert "import" not in text
    assert "| Published | Measured | 95% interval |" in (folder / "comparison.md").read_text(encoding="utf-8")


def test_the_table_for_spreadsheets_is_the_same_for_every_import(report_on):
    tables = {(report_on(record) / "per_class.csv").read_bytes() for record in (None, unverified(), verified())}
    assert len(tables) == 1


def test_a_proof_of_other_weights_does_not_make_a_report_verified(report_on):
    folder = report_on(verified(weights_sha256="0" * 64))
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["import"]["verified"] is False
    pages = pages_of(folder)
    assert all("Not verified: imported from" in text and "have changed since" in text for text in pages.values())
    assert "Measured (NOT verified import)" in pages["comparison.md"]


@pytest.mark.parametrize("name", ["a word", "nothing", "no difference", "a number beyond floats", "no spread"])
def test_a_record_that_is_none_never_costs_the_report(report_on, name):
    folder = report_on(MALFORMED[name])
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["import"]["verified"] is False
    assert all("Not verified: imported from" in text for text in pages_of(folder).values())


def test_what_a_record_says_starts_no_html_and_no_row_of_a_table(report_on):
    record = unverified(source="<script>", assumptions=["a | b <img src=x>\n| c |"])
    pages = pages_of(report_on(record))
    plain = pages_of(report_on(unverified()))
    for name, text in pages.items():
        assert "<" not in text
        assert len(table_rows(text)) == len(table_rows(plain[name]))


@pytest.fixture
def imported(tmp_path, make_model, make_processor):
    """The folder of a model whose import was verified."""
    folder = tmp_path / "imported"
    make_model(class_names=CLASS_NAMES).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return note_import(folder, verified(weights_sha256=weights_sha256(folder)))


@pytest.mark.slow
def test_an_evaluation_holds_the_record_against_the_weights_that_it_ran(fresh_accelerator, imported, tmp_path):
    write_dataset(tmp_path / "tissue", SyntheticSettings(6, 4, lattice=9, patch_size=28, seed=8))
    data = DataSettings(str(tmp_path / "tissue"), cache_dir=tmp_path / "cache")
    settings = EvaluationSettings(model=str(imported), output_dir=tmp_path / "report", num_workers=0, resamples=10)
    results = evaluate_model(settings, data)
    assert results["import"] == verified(weights_sha256=results["weights_sha256"]) | {"sentence": HELD}

    changed = shutil.copytree(imported, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    save_file(
        weights | {"classifier.bias": weights["classifier.bias"] + 1}, changed / "model.safetensors", {"format": "pt"}
    )
    results = evaluate_model(replace(settings, model=str(changed)), data)
    assert results["import"]["verified"] is False
    assert "have changed since" in (tmp_path / "report" / "per_class.md").read_text(encoding="utf-8")
