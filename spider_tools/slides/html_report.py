"""One HTML file with everything that a reader needs to judge the map of a slide."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import jinja2

from .colors import Look, looks_of_classes

_TEMPLATE = "report.html.j2"
# By name of the picture's file.
_CAPTIONS = {
    "overview.png": "The slide beside the predicted classes. Numbers name the largest areas of each class; what is "
    "hatched is unlike what the model has learnt from.",
    "heatmaps.png": "Probability of every class, all on one scale. Bright is certain; a patch's values add up to 1.",
    "tissue.png": "Which tissue was found and predicted. Check here first if something is missing from the map.",
}


def make_report(
    title: str,
    composition: Mapping[str, Any],
    facts: Mapping[str, Any],
    limits: Sequence[str],
    pictures: Mapping[str, bytes],
    warnings: Sequence[str] = (),
    looks: Optional[Mapping[str, Look]] = None,
) -> str:
    """The content of report.html, which needs no other file.

    Args:
        title: Name of the slide.
        composition: Of `make_composition`.
        facts: What was done, and with which settings.
        limits: What the map does not say, a sentence each.
        pictures: PNG files by name: overview.png, heatmaps.png and tissue.png, or some of them.
        warnings: What a reader must know before the map, a sentence each.
        looks: Of the classes, see `looks_of`; by default those of `looks_of_classes`.

    Raises:
        KeyError: A picture has another name.
    """
    figures = {
        name: {"caption": _CAPTIONS[name], "base64": base64.b64encode(content).decode("ascii")}
        for name, content in pictures.items()
    }
    return _template().render(
        title=title,
        composition=composition,
        looks=looks_of_classes(list(composition["classes"])) if looks is None else looks,
        facts=facts,
        limits=limits,
        warnings=warnings,
        figures=figures,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,  # names of slides and classes come from anywhere
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE)
