"""The report of an evaluation: results.json, tables, predictions, pictures, comparisons."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ..files import Writer, text_writer, write_together
from ..paper_results import published_organ
from .calibration import calibration_page, draw_reliability, make_calibration
from .confusion_matrix import draw_confusion_matrix
from .context_ablation import context_ablation_table, make_context_ablation
from .few_shot import few_shot_page, make_few_shot
from .prediction_sets import make_prediction_sets, prediction_sets_page
from .predictions import Predictions, predictions_table
from .results import ReportContext, make_results
from .risk_coverage import draw_risk_coverage, make_risk_coverage, other_scores, risk_coverage_page
from .robustness import draw_robustness, make_robustness, robustness_page
from .tables import comparison_page, import_paragraph, per_class_tables, views_text
from .unfamiliar import familiarity_text, make_familiarity

_OPTIONAL_FILES = (
    "comparison.md",
    "context_ablation.md",
    "context_ablation.json",
    "few_shot.md",
    "prediction_sets.md",
    "robustness.md",
    "robustness.json",
    "robustness.png",
)


def write_report(output_dir: Path, predictions: Predictions, context: ReportContext) -> dict[str, Any]:
    """Write the report of an evaluation.

    The pages, `*.md`, also say of an imported model whether its import was verified, and of figures of several views
    that the model alone does not give them.

    | file | content |
    |---|---|
    | results.json | headline figures with 95% intervals, scores per class, calibration, coverage, what was evaluated |
    | per_class.csv, per_class.md | recall, precision, F1 and support of every class |
    | predictions.parquet | one row per region: slide, patch, classes, probabilities, entropy |
    | confusion_matrix.png | counts, coloured by their share of the true class |
    | calibration.md, reliability.png | how sure the model is beside how often it is right; what it finds unfamiliar |
    | risk_coverage.md, risk_coverage.png | how right it is where the least certain regions are left unanswered |
    | comparison.md | with `compare`: the published figures beside these |
    | context_ablation.md, context_ablation.json | with `by_context_size`: figures by context size |
    | prediction_sets.md | with `coverage`: how often sets hold the true class, and their size |
    | few_shot.md | with `few_shot`: the head beside prototypes of a few regions per class |
    | robustness.md, robustness.json, robustness.png | with `disturbed`: figures of the same regions disturbed |

    No file is replaced before all of them are written, and results.json takes its name last, as the sign of a complete
    report. Files of an earlier report that this one lacks are removed.

    Args:
        output_dir: Made if it is absent.
        predictions: For all regions of the split; under distribution, gathered, and on one process only.
        context: What was evaluated.

    Returns:
        What results.json holds.

    Raises:
        ValueError: The organ is unknown, or predictions by context size or of prototypes are for different regions.
        OSError: The folder cannot be written.
    """
    results = {
        **make_results(predictions, context),
        "calibration": make_calibration(predictions, context),
        "familiarity": make_familiarity(predictions, context),
        "risk_coverage": make_risk_coverage(predictions, context, other_scores(predictions)),
    }
    if context.coverage is not None:
        results["prediction_sets"] = make_prediction_sets(predictions, context.coverage, context)
    if context.few_shot is not None:
        results["few_shot"] = make_few_shot(predictions, context, context.few_shot)
    if context.disturbed is not None:
        results["robustness"] = make_robustness(predictions, context.disturbed, context)
    writers: dict[str, Writer] = {name: text_writer(text) for name, text in _texts(results, context).items()}
    writers["predictions.parquet"] = lambda path: pq.write_table(predictions_table(predictions), path)
    writers["confusion_matrix.png"] = lambda path: _save_picture(draw_confusion_matrix(predictions), path)
    writers["reliability.png"] = lambda path: _save_picture(draw_reliability(predictions, context), path)
    writers["risk_coverage.png"] = lambda path: _save_picture(
        draw_risk_coverage(predictions, other_scores(predictions)), path
    )
    if context.disturbed is not None:
        writers["robustness.png"] = lambda path: _save_picture(draw_robustness(results["robustness"]), path)
    write_together(output_dir, writers, sign="results.json")
    for name in set(_OPTIONAL_FILES) - set(writers):
        (output_dir / name).unlink(missing_ok=True)
    return results


def _texts(results: dict[str, Any], context: ReportContext) -> dict[str, str]:
    texts = {"results.json": _json(results), **per_class_tables(results["per_class"], results["import"])}
    page = calibration_page(results["calibration"]) + familiarity_text(results["familiarity"])
    texts["calibration.md"] = import_paragraph(results["import"]) + page
    if "prediction_sets" in results:
        texts["prediction_sets.md"] = import_paragraph(results["import"]) + prediction_sets_page(
            results["prediction_sets"]
        )
    texts["risk_coverage.md"] = import_paragraph(results["import"]) + risk_coverage_page(results["risk_coverage"])
    if context.compare is not None:
        texts["comparison.md"] = comparison_page(results, published_organ(context.compare))
    if context.by_context_size is not None:
        ablation = make_context_ablation(context.by_context_size, context)
        texts["context_ablation.json"] = _json(ablation)
        texts["context_ablation.md"] = context_ablation_table(ablation)
    if context.few_shot is not None:
        texts["few_shot.md"] = import_paragraph(results["import"]) + few_shot_page(results)
    if "robustness" in results:
        texts["robustness.json"] = _json(results["robustness"])
        texts["robustness.md"] = robustness_page(results["robustness"])
    for name in texts:
        if name.endswith(".md"):
            texts[name] += views_text(context.views)
    return texts


def _save_picture(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
