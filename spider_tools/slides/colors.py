"""A colour per class, the same on every slide."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from .predictions import SlidePredictions

_GREY = (136, 136, 136)

# The seven colours of Okabe and Ito, then those that are farthest from all before them for normal sight, protanopia
# and deuteranopia alike, as far as there are such. Pictures also number the classes: no one must rely on colour.
_PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#2222DD", "#550000", "#55FF99",
    "#441144", "#DD0044", "#CCAA55", "#EEBBBB", "#555577", "#6699FF", "#773300", "#55DDEE", "#991144", "#557777",
    "#77BB77", "#AAEE66", "#4411CC", "#227733", "#550022", "#2255BB",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How pictures show a class.

    Attributes:
        color: Red, green and blue from 0 to 255.
        mark: What names it where colours are not told apart.
    """

    color: tuple[int, int, int]
    mark: str


def class_colors(class_names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Colours by class name, red, green and blue from 0 to 255.

    They depend on the set of the model's classes alone, not on their order or on the slide: the classes take the
    colours in alphabetical order.
    """
    return {name: _color(number - 1) for name, number in class_numbers(class_names).items()}


def looks_of(predictions: SlidePredictions) -> dict[str, Look]:
    """How each of `shown_names` looks: the classes as on every slide, what is unfamiliar in grey."""
    unfamiliar = dict.fromkeys(predictions.shown_names, Look(_GREY, "?"))
    return {**unfamiliar, **looks_of_classes(predictions.class_names)}


def looks_of_classes(class_names: Sequence[str]) -> dict[str, Look]:
    """How each class looks."""
    colors, numbers = class_colors(class_names), class_numbers(class_names)
    return {name: Look(colors[name], str(numbers[name])) for name in class_names}


def class_numbers(class_names: Sequence[str]) -> dict[str, int]:
    """Numbers by class name, from 1 on in alphabetical order, by which pictures name classes without colours."""
    return {name: number for number, name in enumerate(sorted(class_names), start=1)}


def _color(number: int) -> tuple[int, int, int]:
    if number < len(_PALETTE):
        return tuple(int(_PALETTE[number][i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[return-value]
    turn = (number * 0.618034) % 1  # the golden ratio never comes back to a hue
    red, green, blue = colorsys.hls_to_rgb(turn, (0.35, 0.5, 0.65, 0.8)[number % 4], 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)
