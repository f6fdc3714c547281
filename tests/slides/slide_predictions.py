"""Predictions for the tests: four classes on a small lattice whose px are not square."""

import numpy as np

from spider_tools.slide_files.lattice import Lattice
from spider_tools.slides.predictions import SlidePredictions

CLASS_NAMES = ("Stroma", "Fat & <oil>", "Vessels", "Never")

SCALE, MPP = (2.0, 3.0), (0.25, 0.2)


CLASSES = [
    [0, 0, 0, -1, 2],
    [0, 1, 0, -1, 2],
    [0, 0, 0, 1, -1],
    [-1, -1, -1, 1, 1],
]


def make_predictions(classes, stride=28, seed=0):
    """Predictions of these classes, int `(rows, columns)`; -1 where there is no tissue."""
    classes = np.asarray(classes)
    rows, columns = classes.shape
    size = ((columns - 1) * stride + 28, (rows - 1) * stride + 28)
    positions = np.argwhere(classes >= 0)
    probabilities = np.random.default_rng(seed).dirichlet([1] * 4, len(positions)).astype(np.float32)
    best = probabilities.argmax(axis=1)
    wanted = classes[tuple(positions.T)]
    for row, (old, new) in enumerate(zip(best, wanted)):
        probabilities[row, [old, new]] = probabilities[row, [new, old]]
    return SlidePredictions(Lattice(28, stride, 5, size, SCALE), MPP, positions, probabilities, CLASS_NAMES)
