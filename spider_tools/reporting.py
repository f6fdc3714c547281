"""The report of an evaluation: results.json, tables, predictions, pictures, comparisons."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from . import metrics
from .files import replacing
from .published import PublishedOrgan, published_organ

_OPTIONAL_FILES = ("comparison.md", "context_ablation.md", "context_ablation.json")
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
_NOT_AVAILABLE = "n/a"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about the regions of a split.

    Attributes:
        probabilities: Float `(regions, classes)`; each row adds up to 1.
        labels: Integer `(regions,)`, the true classes.
        slide_ids: The slide of every region.
        class_names: In the order of the probabilities.
        region_ids: Name of the central patch of every region, or `None`.

    Raises:
        ValueError: Lengths, shapes or ranges do not fit, there is no region, or all regions are of one class.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    slide_ids: Sequence[str]
    class_names: Sequence[str]
    region_ids: Optional[Sequence[str]] = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        metrics.check_probabilities(self.probabilities, self.labels)
        regions, classes = self.probabilities.shape
        if len(self.class_names) != classes or len(set(self.class_names)) != classes:
            raise ValueError(f"Expected {classes} different class names, got {list(self.class_names)}.")
        metrics.check_comparable(self.labels, self.class_names)
        for field in ("slide_ids", "region_ids"):
            values = getattr(self, field)
            if values is not None and len(values) != regions:
                raise ValueError(f"Expected one of `{field}` per region, got {len(values)} for {regions} regions.")

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of every region, int64 `(regions,)`."""
        return self.probabilities.argmax(axis=1)

    @property
    def num_slides(self) -> int:
        """Number of different slides."""
        return len(set(self.slide_ids))


@dataclass(frozen=True)
class ReportContext:
    """What was evaluated, and what the report shall hold.

    Attributes:
        dataset: Name or folder of the data set.
        split: The evaluated split.
        model: Name or folder of the model.
        compare: An organ of `published.organ_names()` to compare with.
        by_context_size: Predictions for the same regions by context size, in patches along one side of the region.
        resamples: Number of sets of slides that the intervals come from.
        seed: Chooses these sets.
    """

    dataset: str
    split: str
    model: str
    compare: Optional[str] = None
    by_context_size: Optional[Mapping[int, Predictions]] = None
    resamples: int = metrics.RESAMPLES
    seed: int = 0


def write_report(output_dir: Path, predictions: Predictions, context: ReportContext) -> dict[str, Any]:
    """Write the report of an evaluation.

    | file | content |
    |---|---|
    | results.json | headline figures with 95% intervals, scores per class, what was evaluated |
    | per_class.csv, per_class.md | recall, precision, F1 and support of every class |
    | predictions.parquet | one row per region: slide, patch, classes, probabilities, entropy |
    | confusion_matrix.png | counts, coloured by their share of the true class |
    | comparison.md | with `compare`: the published figures beside these |
    | context_ablation.md, context_ablation.json | with `by_context_size`: figures by context size |

    No file is replaced before all of them are written; files of an earlier report that this one lacks are removed.

    Args:
        output_dir: Made if it is absent.
        predictions: For all regions of the split; under distribution, gathered, and on one process only.
        context: What was evaluated.

    Returns:
        What results.json holds.

    Raises:
        ValueError: The organ is unknown, or the predictions by context size are for different regions.
        OSError: The folder cannot be written.
    """
    results = make_results(predictions, context)
    texts = {"results.json": _json(results), **_per_class_tables(results["per_class"])}
    if context.compare is not None:
        texts["comparison.md"] = _comparison(results, published_organ(context.compare))
    if context.by_context_size is not None:
        ablation = make_context_ablation(context.by_context_size, context)
        texts["context_ablation.json"] = _json(ablation)
        texts["context_ablation.md"] = _context_ablation_table(ablation)
    # A dictionary's order: results.json takes its name last, as the sign of a complete report.
    writers: dict[str, Callable[[Path], Any]] = {name: _text_writer(text) for name, text in texts.items()}
    writers["predictions.parquet"] = lambda path: pq.write_table(predictions_table(predictions), path)
    writers["confusion_matrix.png"] = lambda path: _save_picture(draw_confusion_matrix(predictions), path)
    _write_all(output_dir, writers)
    return results


def _write_all(output_dir: Path, writers: Mapping[str, Callable[[Path], Any]]) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # The stack unwinds from the end, so that the first file is replaced last.
        for name, write in writers.items():
            write(stack.enter_context(replacing(output_dir / name)))
    for name in set(_OPTIONAL_FILES) - set(writers):
        (output_dir / name).unlink(missing_ok=True)


def _text_writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(text.encode("utf-8"))


def _save_picture(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def make_results(predictions: Predictions, context: ReportContext) -> dict[str, Any]:
    """The content of results.json.

    Returns:
        `metrics`: `value` and `ci95` by figure, and a `reason` where `ci95` is `None`; `per_class`: `recall`,
        `precision`, `f1` and `support` by class name; `dataset`, `split`, `model`; the numbers of `regions` and
        `slides`.
    """
    table = metrics.per_class_table(predictions.labels, predictions.predicted, predictions.class_names)
    return {
        "metrics": _figures_with_intervals(predictions, context),
        "per_class": {
            name: {"recall": row.recall, "precision": row.precision, "f1": row.f1, "support": row.support}
            for name, row in table.items()
        },
        "dataset": context.dataset,
        "split": context.split,
        "model": context.model,
        "regions": len(predictions.labels),
        "slides": predictions.num_slides,
    }


def _figures_with_intervals(predictions: Predictions, context: ReportContext) -> dict[str, dict[str, Any]]:
    figures = metrics.headline_figures(predictions.probabilities, predictions.labels)
    intervals = metrics.bootstrap_by_slide(
        predictions.probabilities, predictions.labels, predictions.slide_ids, context.resamples, context.seed
    )
    return {name: _with_interval(value, name, intervals) for name, value in figures.items()}


def _with_interval(value: float, name: str, intervals: metrics.Intervals) -> dict[str, Any]:
    if intervals.ci95 is None:
        return {"value": value, "ci95": None, "reason": intervals.reason}
    return {"value": value, "ci95": list(intervals.ci95[name])}


def make_context_ablation(by_size: Mapping[int, Predictions], context: ReportContext) -> dict[str, Any]:
    """The content of context_ablation.json.

    Returns:
        `context_sizes`: by context size, from the largest on, `metrics` as in results.json and, from the second size
        on, `change`: accuracy and macro F1 minus those of the largest size. The intervals of a change come from the
        same sets of slides on both sides. `published`: accuracy by context size, if the compared organ has it.

    Raises:
        ValueError: There are no predictions, a size is no positive odd number, or the regions differ.
    """
    sizes = sorted(by_size, reverse=True)
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"Expected predictions by odd context size, got the sizes {sizes}.")
    largest = by_size[sizes[0]]
    for size in sizes[1:]:
        other = by_size[size]
        same_regions = np.array_equal(other.labels, largest.labels) and list(other.slide_ids) == list(largest.slide_ids)
        if not same_regions or list(other.class_names) != list(largest.class_names):
            raise ValueError(f"The predictions for context sizes {size} and {sizes[0]} are not for the same regions.")
    rows: dict[str, Any] = {str(s): {"metrics": _figures_with_intervals(by_size[s], context)} for s in sizes}
    for size in sizes[1:]:
        rows[str(size)]["change"] = _changes(largest, by_size[size], context)
    published = published_organ(context.compare).context_ablation if context.compare else None
    return {
        "context_sizes": rows,
        "published": published and {str(size): value for size, value in published.items()},
    }


def _changes(before: Predictions, after: Predictions, context: ReportContext) -> dict[str, dict[str, Any]]:
    names = ("accuracy", "macro_f1")
    values = [metrics.headline_figures(p.probabilities, p.labels) for p in (before, after)]
    slide_names, slides = np.unique(np.asarray(before.slide_ids, dtype=str), return_inverse=True)
    if len(slide_names) < metrics.MIN_SLIDES_FOR_INTERVAL:
        intervals = metrics.Intervals(None, metrics.no_interval_reason(len(slide_names)))
    else:
        counts = metrics.resample_counts(len(slide_names), context.resamples, context.seed)
        old, new = (metrics.resampled_figures(p.probabilities, p.labels, slides, counts) for p in (before, after))
        intervals = metrics.Intervals({name: metrics.percentile_interval(new[name] - old[name]) for name in names})
    return {name: _with_interval(values[1][name] - values[0][name], name, intervals) for name in names}


def predictions_table(predictions: Predictions) -> pa.Table:
    """One row per region.

    Returns:
        `slide_id`, `patch` (name of the central patch, or null), `true_class`, `predicted_class`, one float column
        `probability: <class>` for every class, and `entropy` of the probabilities in nat, 0 to ln(classes).
    """
    names = pa.array(list(predictions.class_names), pa.string())

    def class_column(indices: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), names)

    probabilities = predictions.probabilities
    positive = np.where(probabilities > 0, probabilities, 1.0).astype(np.float64)
    patches = [None] * len(predictions.labels) if predictions.region_ids is None else list(predictions.region_ids)
    columns = {
        "slide_id": pa.array([str(slide) for slide in predictions.slide_ids], pa.string()),
        "patch": pa.array(patches, pa.string()),
        "true_class": class_column(predictions.labels),
        "predicted_class": class_column(predictions.predicted),
    }
    for index, name in enumerate(predictions.class_names):
        columns[f"probability: {name}"] = pa.array(np.ascontiguousarray(probabilities[:, index]))
    # Rounding can take the sum a little below 0.
    columns["entropy"] = pa.array(np.maximum(-(positive * np.log(positive)).sum(axis=1), 0.0))
    return pa.table(columns)


def draw_confusion_matrix(predictions: Predictions) -> Figure:
    """A picture of the confusion matrix: true classes are rows, colours are shares of the row, texts are counts.

    The picture grows with the number of classes. Rows without regions stay grey, cells without regions have no text.
    """
    names = list(predictions.class_names)
    counts = metrics.confusion_matrix(predictions.labels, predictions.predicted, len(names))
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    cell_inches = 0.42 if len(names) <= 40 else 0.24
    margin = 1.6 + 0.075 * min(max(map(len, names)), 60)
    side = margin + cell_inches * len(names)
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    # A dollar sign in a name is no formula.
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9, parse_math=False)
    axes.set_yticks(ticks, [f"{n}  ({s:,})" for n, s in zip(names, support[:, 0])], fontsize=9, parse_math=False)
    # Thin lines lead the eye from a cell to its names.
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class (regions)")
    figure.colorbar(image, ax=axes, shrink=0.5, label="Share of the true class")
    _write_counts(axes, counts, shares, cell_inches)
    return figure


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray, cell_inches: float) -> None:
    for row, column in zip(*np.nonzero(counts)):
        text = f"{counts[row, column]:d}"
        # A digit is 0.64 of the font size wide; points are a 72nd of an inch.
        font_size = min(9.0, 0.9 * cell_inches * 72 / (0.64 * len(text)))
        if font_size < 5:
            continue
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=font_size, color=color)


def headline_table(results: Mapping[str, Any]) -> str:
    """The headline figures of results.json as a Markdown table, and why they have no intervals where this is so."""
    figures = results["metrics"]
    rows = [[title, f"{figures[name]['value']:.3f}", _interval(figures[name])] for name, title in _TITLES.items()]
    return _markdown_table(["Figure", "Value", "95% interval"], rows) + _reasons(figures.values())


def _reasons(figures: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"\n{reason}\n" for reason in sorted({f["reason"] for f in figures if f["ci95"] is None}))


def _per_class_tables(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *_SCORES, "support"])
    writer.writerows([name, *(row[score] for score in _SCORES), row["support"]] for name, row in per_class.items())
    rows = [[name, *(f"{row[s]:.3f}" for s in _SCORES), f"{row['support']:,}"] for name, row in per_class.items()]
    text = _markdown_table(["Class", "Recall", "Precision", "F1", "Support"], rows)
    absent = [name for name, row in per_class.items() if row["support"] == 0]
    if absent:
        text += f"\nNo region is of these classes, so their recall and F1 say nothing: {_join(absent)}.\n"
    return {"per_class.csv": file.getvalue(), "per_class.md": text}


def _comparison(results: Mapping[str, Any], organ: PublishedOrgan) -> str:
    figures = results["metrics"]
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
        f"{results['regions']:,} regions of {results['slides']:,} slides. "
        "The two can be compared only where the regions and the classes are the same.\n\n"
        + _markdown_table(["Figure", "Published", "Measured", "95% interval", "Difference"], rows)
        + "\nThe published accuracy may be a macro recall: where recalls of the classes are published, "
        "their mean equals it. It therefore stands beside both.\n"
    )
    return text + _reasons(figures.values()) + _class_comparison(results["per_class"], organ)


def _beside(published: float, figure: Mapping[str, Any]) -> list[str]:
    return [f"{published:.3f}", f"{figure['value']:.3f}", _interval(figure), f"{figure['value'] - published:+.3f}"]


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
    return text + "\n" + _markdown_table([*header, "Our support"], rows)


def _context_ablation_table(ablation: Mapping[str, Any]) -> str:
    published = ablation["published"] or {}
    rows = []
    for size, row in ablation["context_sizes"].items():
        cells = [f"{size} x {size}"]
        for name in ("accuracy", "macro_f1"):
            figure = row["metrics"][name]
            change = row["change"][name] if "change" in row else None
            cells += [f"{figure['value']:.3f}", _interval(figure)]
            cells.append(_change(change) if change else _NOT_AVAILABLE)
        rows.append([*cells, f"{published[size]:.3f}" if size in published else _NOT_AVAILABLE])
    header = ["Context (patches)", "Accuracy", "95% interval", "Change", "F1 (macro)", "95% interval", "Change"]
    text = (
        "# Figures by context size\n\nOne model, with the patches outside the context masked. "
        "Changes are from the largest context, with a 95% interval from the same slides on both sides. "
        "The published models were trained anew for each size.\n\n"
        + _markdown_table([*header, "Published accuracy"], rows)
    )
    return text + _reasons(row["metrics"]["accuracy"] for row in ablation["context_sizes"].values())


def _interval(figure: Mapping[str, Any]) -> str:
    return _NOT_AVAILABLE if figure["ci95"] is None else "{:.3f} to {:.3f}".format(*figure["ci95"])


def _change(figure: Mapping[str, Any]) -> str:
    value = f"{figure['value']:+.3f}"
    return value if figure["ci95"] is None else "{} ({:+.3f} to {:+.3f})".format(value, *figure["ci95"])


def _join(names: Iterable[str]) -> str:
    return ", ".join(_escaped(name) for name in names)


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is left-aligned text and whose others are right-aligned figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(_escaped(cell) for cell in line) + " |\n" for line in lines)
