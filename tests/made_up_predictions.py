"""Predictions for slides that never were, and what the tests of the report share."""

import numpy as np

from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.results import ReportContext

CONTEXT = ReportContext(dataset="some data", split="test", model="some model", resamples=50)
NAMES = ["Fat", 'Wart, "flat"', "A|B", "Kaposi\N{RIGHT SINGLE QUOTATION MARK}s sarcoma", "Absent"]


def make_predictions(names=NAMES, regions=120, slides=15, seed=0, sharpness=1.5):
    """Predictions for all classes but the last, which is neither true nor predicted."""
    rng = np.random.default_rng(seed)
    classes = len(names)
    labels = rng.integers(0, classes - 1, (2, regions)).min(axis=0)  # the first class is the most frequent one
    logits = rng.normal(size=(regions, classes))
    logits[np.arange(regions), labels] += sharpness
    logits[:, -1] = -50
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slide_ids = [f"slide-{int(slides * rng.random() ** 1.5)}" for _ in range(regions)]
    return Predictions(
        probabilities.astype(np.float32), labels, slide_ids, names, [f"patch_{i}.png" for i in range(regions)]
    )


def table_rows(markdown):
    """Cells of the rows of all Markdown tables, headers included."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]
