"""Found patches of one slide as annotations for QuPath."""

import json
import uuid
from typing import TYPE_CHECKING, Any

from ..slides.colors import class_colors
from ..suggestions import SUGGESTED

if TYPE_CHECKING:
    from .finding import Finding

_DECIMALS = 3  # of level-0 px
_UNKNOWN_COLOR = (255, 160, 0)  # of what is none of the classes


def suggestions_of_slide(finding: "Finding", slide: str) -> str:
    """The patches that were found on one slide, as GeoJSON: a FeatureCollection of squares.

    Coordinates are level-0 px from where QuPath's begin. Each square is an annotation of the class "Suggested: <name>",
    with its score and its rank among the patches of all slides. The ids of two files of the same squares are the same.
    """
    origin = finding.slides[slide].origin
    slides = finding.patches.table["slide"].to_pylist()
    features = []
    for i, box in enumerate(finding.patches.boxes.tolist()):
        if slides[i] == slide and box[0] == box[0]:  # a patch of a data set has no place
            measurements = {finding.measure: round(float(finding.scores[i]), 6), "Rank": i + 1}
            features.append(_feature(slide, _ring(box, origin), _classification(finding, i), measurements))
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, allow_nan=False) + "\n"


def _feature(
    slide: str, ring: list[list[float]], classification: dict[str, Any], measurements: dict[str, Any]
) -> dict[str, Any]:
    identity = json.dumps([slide, classification["name"], ring])
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, identity)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "classification": classification,
            "isLocked": False,
            "measurements": measurements,
        },
    }


def _classification(finding: "Finding", i: int) -> dict[str, Any]:
    name = finding.names[i]
    color = class_colors(finding.class_names).get(name, _UNKNOWN_COLOR)
    return {"name": f"{SUGGESTED}{name}", "color": list(color)}


def _ring(box: list[float], origin: tuple[float, float]) -> list[list[float]]:
    x, y, width, height = box
    left, top = x - origin[0], y - origin[1]
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height), (left, top)]
    return [[round(float(value), _DECIMALS) for value in corner] for corner in corners]
