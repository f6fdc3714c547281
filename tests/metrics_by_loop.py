"""The headline figures once more, one region and one class at a time, and random regions to compute them of."""

import numpy as np


def one_hot(predicted, num_classes):
    return np.eye(num_classes)[predicted]


def random_regions(seed, regions=200, classes=5, slides=14):
    """Probabilities without ties, labels that agree with them more often than not, slides of unequal size."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), regions)
    labels = np.array([rng.choice(classes, p=row) for row in probabilities])
    slide_ids = [f"slide {number}" for number in (slides * rng.random(regions) ** 2).astype(int)]
    return probabilities, labels, slide_ids


def loop_figures(probabilities, labels):
    """The conventions of `spider_tools.evaluation.metrics`, one region and one class at a time."""
    true_positive, support, predicted = {}, {}, {}
    top3 = 0
    bins = [[] for _ in range(15)]
    for row, label in zip(probabilities.tolist(), labels.tolist()):
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        guess = order[0]
        support[label] = support.get(label, 0) + 1
        predicted[guess] = predicted.get(guess, 0) + 1
        true_positive[label] = true_positive.get(label, 0) + (guess == label)
        top3 += label in order[:3]
        (index,) = [b for b in range(15) if b / 15 < row[guess] <= (b + 1) / 15]
        bins[index].append((guess == label, row[guess]))
    present = sorted(set(support) | set(predicted))

    def mean_over(classes, numerator, denominator):
        ratios = [numerator(k) / denominator(k) if denominator(k) else 0.0 for k in classes]
        return sum(ratios) / len(ratios)

    def hits(k):
        return true_positive.get(k, 0)

    error = 0.0
    for members in filter(None, bins):
        share_hit = sum(hit for hit, _ in members) / len(members)
        confidence = sum(c for _, c in members) / len(members)
        error += len(members) / len(labels) * abs(share_hit - confidence)
    return {
        "accuracy": sum(true_positive.values()) / len(labels),
        "macro_precision": mean_over(present, hits, lambda k: predicted.get(k, 0)),
        "macro_recall": mean_over(present, hits, lambda k: support.get(k, 0)),
        "macro_f1": mean_over(present, lambda k: 2 * hits(k), lambda k: support.get(k, 0) + predicted.get(k, 0)),
        "balanced_accuracy": mean_over(sorted(support), hits, lambda k: support[k]),
        "top3_accuracy": top3 / len(labels),
        "expected_calibration_error": error,
    }
