"""One HTML file with everything that a reader needs to judge the map of a slide."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from markupsafe import Markup

from ..html_pages import page_environment
from .colors import Look, looks_of_classes
from .report_patches import PatchPicture
from .report_tiles import MOST_BYTES

_HERE = Path(__file__).parent
_TEMPLATE, _STYLE, _SCRIPTS = "report.html.j2", "report.css", ("report_cells.js", "report_view.js", "report_page.js")
# By name of the picture's file.
_CAPTIONS = {
    "overview.png": "The slide beside the predicted classes. Numbers name the largest areas of each class; what is "
    "hatched is unlike what the model has learnt from.",
    "heatmaps.png": "Probability of every class, all on one scale. Bright is certain; a patch's values add up to 1.",
    "tissue.png": "Which tissue was found and predicted. Check here first if something is missing from the map.",
}


@dataclass(frozen=True)
class SlideMap:
    """What a reader works with.

    Attributes:
        data: Of `make_map`.
        patches: Of `patch_pictures`.
        composition: Of `make_composition`.
    """

    data: Mapping[str, Any]
    patches: Mapping[str, Mapping[str, Sequence[PatchPicture]]]
    composition: Mapping[str, Any]

    @property
    def knows_unfamiliar(self) -> bool:
        """Whether the model knows what is unlike what it has learnt from."""
        return self.data["unfamiliarity_threshold"] is not None

    @property
    def said(self) -> str:
        """How closely the slide can be looked at, as a sentence."""
        finest = self.data["levels"][-1]["um"]
        most = MOST_BYTES >> 20
        return f"The pictures in this file have up to {finest:g} µm/px in the tissue, and take {most} MB at most."

    @cached_property
    def classes(self) -> list[dict[str, Any]]:
        """The classes that occur, from the largest area on: name, number in the data, and percent of the tissue."""
        numbers = {row["name"]: number for number, row in enumerate(self.data["classes"])}
        return [
            {"name": name, "number": numbers[name], "percent": row["percent_of_tissue"]}
            for name, row in self.composition["classes"].items()
            if row["patches"]
        ]


def make_report(
    title: str,
    composition: Mapping[str, Any],
    facts: Mapping[str, Any],
    limits: Sequence[str],
    pictures: Mapping[str, bytes],
    warnings: Sequence[str] = (),
    looks: Optional[Mapping[str, Look]] = None,
    slide_map: Optional[SlideMap] = None,
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
        slide_map: To be worked with; without it there are pictures only.

    Raises:
        KeyError: A picture has another name.
    """
    figures = {
        name: {"caption": _CAPTIONS[name], "base64": base64.b64encode(content).decode("ascii")}
        for name, content in pictures.items()
    }
    script = "".join(_text(name) for name in _SCRIPTS)
    return (
        page_environment(_HERE)
        .get_template(_TEMPLATE)
        .render(
            title=title,
            composition=composition,
            looks=looks_of_classes(list(composition["classes"])) if looks is None else looks,
            facts=facts,
            limits=limits,
            warnings=warnings,
            figures=figures,
            slide_map=slide_map,
            style=Markup(_text(_STYLE)),
            script=Markup(script),
            script_hash=_hash(script),
        )
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The only script that a browser may run in the page, as its Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
