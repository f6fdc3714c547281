"""The report's tables, in Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ..paper_results import PublishedOrgan
from ..plain_text import markdown_cell, spreadsheet_cell

_TITLES = {
    "accuracy": "Accuracy",
    "macro_precision": "Precision (macro)",
    "macro_recall": "Recall (macro)",
    "macro_f1": "F1 (macro)",
    "balanced_accuracy": "Balanced accuracy",
    "top3_accuracy": "Top-3 accuracy",
    "expected_calibration_error": "Expected calibration error",
}
_SCORES = ("recall", "precision", "f1")
NOT_AVAILABLE = "n/a"


def headline_table(results: Mapping[str, Any]) -> str:
    """The headline figures of results.json as a Markdown table, and why they have no intervals where this is so."""
    figures = results["metrics"]
    rows = [[title, f"{figures[name]['value']:.3f}", interval_text(figures[name])] for name, title in _TITLES.items()]
    table = markdown_table(["Figure", "Value", "95% interval"], rows) + reasons_text(figures.values())
    return table + views_text(results.get("test_time_views", 1))


def views_text(views: int) -> str:
    """What a page says of figures that a model alone does not give, below them; nothing where it does."""
    if views == 1:
        return ""
    return f"\nMeans of the probabilities of {views} views of each region: the model alone answers otherwise.\n"


def reasons_text(figures: Iterable[Mapping[str, Any]]) -> str:
    """Why figures have no intervals, each reason once."""
    return "".join(f"\n{reason}\n" for reason in sorted({f["reason"] for f in figures if f["ci95"] is None}))


def import_paragraph(imported: Optional[Mapping[str, Any]]) -> str:
    """What a page says of a model's import, with an empty line after it; nothing for a model that was not imported.

    Args:
        imported: Of `import_record.import_facts`.
    """
    return "" if imported is None else f"{markdown_cell(imported['sentence'])}\n\n"


def per_class_tables(
    per_class: Mapping[str, Mapping[str, Any]], imported: Optional[Mapping[str, Any]] = None
) -> dict[str, str]:
    """The contents of per_class.csv and per_class.md, by file name; the second says what is known of an import."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *_SCORES, "support"])
    for name, row in per_class.items():
        writer.writerow([spreadsheet_cell(name), *(row[score] for score in _SCORES), row["support"]])
    rows = [[name, *(f"{row[s]:.3f}" for s in _SCORES), f"{row['support']:,}"] for name, row in per_class.items()]
    text = import_paragraph(imported) + markdown_table(["Class", "Recall", "Precision", "F1", "Support"], rows)
    absent = [name for name, row in per_class.items() if row["support"] == 0]
    if absent:
        text += f"\nNo region is of these classes, so their recall and F1 say nothing: {_join(absent)}.\n"
    return {"per_class.csv": file.getvalue(), "per_class.md": text}


def comparison_page(results: Mapping[str, Any], organ: PublishedOrgan) -> str:
    """The content of comparison.md."""
    figures, imported = results["metrics"], results["import"]
    published = dict(organ.metrics)
    rows = []
    for name, value in published.items():
        rows.append([_TITLES[name], *_beside(value, figures[name])])
    # What is published as accuracy equals the mean of the published recalls of the classes to the last digit.
    rows.insert(1, ["Published accuracy, our macro recall", *_beside(published["accuracy"], figures["macro_recall"])])
    counts = organ.counts
    size = f"{counts['test_regions']:,} regions" if counts["test_regions"] else "an unpublished number of regions"
    text = (
        f"# {organ.name.capitalize()}: published and measured\n\n"
        f"Published: `{organ.model}` on the test split of `{organ.dataset}`, {size}. "
        f"Measured: `{results['model']}` on the split `{results['split']}` of `{results['dataset']}`, "
        f"{results['regions']:,} regions of {results['slides']:,} slides{_of_patients(results)}. "
        "The two can be compared only where the regions and the classes are the same.\n\n"
        + import_paragraph(imported)
        + markdown_table(["Figure", "Published", _measured(imported), "95% interval", "Difference"], rows)
        + "\nThe published accuracy may be a macro recall: where recalls of the classes are published, "
        "their mean equals it. It therefore stands beside both.\n"
    )
    return text + reasons_text(figures.values()) + _class_comparison(results["per_class"], organ)


def _of_patients(results: Mapping[str, Any]) -> str:
    return f" of {results['patients']:,} patients" if results.get("patients") else ""


def _measured(imported: Optional[Mapping[str, Any]]) -> str:
    """The header of what was measured, in words that nobody overlooks beside the published figures."""
    if imported is None:
        return "Measured"
    return f"Measured ({'verified' if imported['verified'] else 'NOT verified'} import)"


def _beside(published: float, figure: Mapping[str, Any]) -> list[str]:
    return [f"{published:.3f}", f"{figure['value']:.3f}", interval_text(figure), f"{figure['value'] - published:+.3f}"]


def _class_comparison(ours: Mapping[str, Mapping[str, Any]], organ: PublishedOrgan) -> str:
    names = [name for name in organ.class_names if name in ours]
    text = ""
    for title, missing in (
        ("Published classes that were not evaluated", [name for name in organ.class_names if name not in ours]),
        ("Evaluated classes that are not published", [name for name in ours if name not in organ.class_names]),
    ):
        text += f"\n{title}: {_join(missing)}.\n" if missing else ""
    if organ.per_class is None:
        return text + "\nNo figures per class are published.\n"
    header = ["Class"]
    for score in ("recall", "precision", "F1"):
        header += [f"Published {score}", f"Our {score}"]
    rows = []
    for name in names:
        scores = [f"{side[name][score]:.3f}" for score in _SCORES for side in (organ.per_class, ours)]
        rows.append([name, *scores, f"{ours[name]['support']:,}"])
    return text + "\n" + markdown_table([*header, "Our support"], rows)


def interval_text(figure: Mapping[str, Any]) -> str:
    """The 95% interval of a figure as text."""
    return NOT_AVAILABLE if figure["ci95"] is None else "{:.3f} to {:.3f}".format(*figure["ci95"])


def change_text(figure: Mapping[str, Any]) -> str:
    """A difference with its sign, and with its 95% interval where it has one."""
    value = f"{figure['value']:+.3f}"
    return value if figure["ci95"] is None else "{} ({:+.3f} to {:+.3f})".format(value, *figure["ci95"])


def _join(names: Iterable[str]) -> str:
    return ", ".join(markdown_cell(name) for name in names)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is left-aligned text and whose others are right-aligned figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(markdown_cell(cell) for cell in line) + " |\n" for line in lines)
