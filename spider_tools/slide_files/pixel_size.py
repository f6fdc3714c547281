"""How large the px of a slide are: what its file says, which of that is believed first, and what contradicts it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import openslide

from .ome import positive
from .slide_error import SlideError
from .tiff_text import TiffText

OPENSLIDE = "OpenSlide's properties"
MPP_NAMES = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
_OF_POWER = "its objective power"
_USUAL = "usually 0.25 for a scan at 40x, 0.5 at 20x"
# Scanners lie between 0.1 and 1 um/px; beyond these bounds the tags of a file hold something else, as dots per inch.
_RANGE = (0.02, 10.0)
# What is rounded, or calibrated anew, differs by a few percent; another magnification or another unit by far more.
_MOST_APART = 1.1
_UM_TIMES_POWER = 10.0  # 0.25 um/px at 40x, 0.5 at 20x
# Cameras and adapters move scanners up to a half from the rule; the next magnification is twice as large.
_MOST_FROM_RULE = 1.5
_POWERS = (_UM_TIMES_POWER / _RANGE[1], 200.0)  # objectives reach 100x, some with a lens behind them
_APERIO_MPP = re.compile(r"(?:^|[|;\s])MPP\s*=\s*([\d.,]+(?:[eE][-+]?\d+)?)")
_APERIO_POWER = re.compile(r"(?:^|[|;\s])AppMag\s*=\s*([\d.,]+)")
_RESIZED = re.compile(r"\d+x\d+ *-> *\d+x\d+")  # such a text of Aperio describes the larger image that was reduced


@dataclass(frozen=True)
class PixelSize:
    """um per px of level 0, and how they are known.

    Attributes:
        mpp: `(x, y)`.
        source: Who says so, for the report; "" if the user does.
        is_guess: Whether it is neither the user nor OpenSlide who says so.
        own: What the file says where the user said something else.
        warnings: Sentences for log and report: a guess, and whatever contradicts the value.
    """

    mpp: tuple[float, float]
    source: str
    is_guess: bool = False
    own: Optional[tuple[float, float]] = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What the user says of um/px.

    Attributes:
        mpp: um per px of level 0, instead of what the file says.
        from_objective: Whether an objective power will do where nothing else is said; None where it cannot be asked
            for.
    """

    mpp: Optional[float] = None
    from_objective: Optional[bool] = None


@dataclass(frozen=True)
class _Said:
    """Where something stands, and what, um per px or a power."""

    source: str
    mpp: tuple[float, float]


def check_given(path: Path, mpp: float) -> None:
    """Refuse um/px of the user that no slide has.

    Raises:
        SlideError: They lie out of the range.
    """
    if not _is_plausible((mpp, mpp)):
        raise SlideError(_absurd(path, (mpp, mpp)))


def find_pixel_size(path: Path, asked: Asked, properties: Mapping[str, str], text: TiffText) -> PixelSize:
    """The um/px of a slide: the user's, or else what the first of these says.

    OpenSlide's properties; the resolution tags of a TIFF; its OME-XML; Aperio's text in it; and, where the user wants
    that, 10 um/px by the objective power.

    Args:
        path: The file.
        asked: By the user.
        properties: OpenSlide's, of a file that it reads.
        text: What the file itself says, if it is a TIFF.

    Raises:
        SlideError: Nothing says it, it is absurd, px are not square, or two sources contradict each other.
    """
    everything = _said(properties, text)
    said = [one for one in everything if _is_plausible(one.mpp)]
    powers = _powers(properties, text)
    if asked.mpp is not None:
        given = (asked.mpp, asked.mpp)
        return PixelSize(given, "", own=said[0].mpp if said else None, warnings=_against(given, said, powers))
    if not said and asked.from_objective and powers:
        said = [_Said(f"{where}, {power:g}x", (_UM_TIMES_POWER / power,) * 2) for where, power in powers]
    if not said:
        raise SlideError(_missing(path, everything, powers, asked))
    _check_agreement(path, said)
    first = said[0]
    _check_square(path, first.mpp)
    if first.source == OPENSLIDE:
        return PixelSize(first.mpp, OPENSLIDE, warnings=_odd_power(first.mpp, powers))
    guess = (
        f"{_pair(first.mpp)} um/px at level 0 is a guess, from {first.source}: compare it with what the scanner's "
        "software shows, and give the true value as --mpp."
    )
    return PixelSize(first.mpp, first.source, True, warnings=(guess, *_odd_power(first.mpp, powers)))


def _said(properties: Mapping[str, str], text: TiffText) -> list[_Said]:
    """Every um/px that stands anywhere, the most believed ones first, whether plausible or not."""
    found: list[_Said] = []
    own = numbers_of(properties, MPP_NAMES)
    if own is not None:
        found.append(_Said(OPENSLIDE, own))
    if text.resolution is not None:
        found.append(_Said(text.resolution_source, text.resolution))
    if text.ome is not None and text.ome.mpp is not None:
        found.append(_Said("its OME-XML", text.ome.mpp))
    value = positive(_in_text(_APERIO_MPP, text.description))
    if value is not None and not _RESIZED.search(text.description):
        found.append(_Said("Aperio's text in it", (value, value)))
    return found


def _powers(properties: Mapping[str, str], text: TiffText) -> list[tuple[str, float]]:
    """Every objective power that stands anywhere, with where it stands."""
    places = [
        (f"{_OF_POWER} in {OPENSLIDE}", positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))),
        (f"{_OF_POWER} in OME-XML", None if text.ome is None else text.ome.power),
        (f"{_OF_POWER} in Aperio's text", positive(_in_text(_APERIO_POWER, text.description))),
    ]
    return [(where, power) for where, power in places if power is not None and _POWERS[0] <= power <= _POWERS[1]]


def numbers_of(properties: Mapping[str, str], names: tuple[str, str]) -> Optional[tuple[float, float]]:
    """Two properties that are finite numbers, None where the file has no such ones."""
    try:
        x, y = (float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _in_text(pattern: re.Pattern[str], text: str) -> Optional[str]:
    found = pattern.search(text)
    return found[1] if found else None


def _is_plausible(mpp: tuple[float, float]) -> bool:
    return all(_RANGE[0] <= value <= _RANGE[1] for value in mpp)


def _check_agreement(path: Path, said: Sequence[_Said]) -> None:
    for one in said[1:]:
        if not _agree(said[0].mpp, one.mpp):
            raise SlideError(
                f"{path} contradicts itself: {_pair(said[0].mpp)} um/px by {said[0].source}, {_pair(one.mpp)} by "
                f"{one.source}, more than {_MOST_APART - 1:.0%} apart. Give the true value as --mpp, or in the column "
                "mpp of a manifest."
            )


def _check_square(path: Path, mpp: tuple[float, float]) -> None:
    if max(mpp) > _MOST_APART * min(mpp):
        raise SlideError(f"{path}: {_pair(mpp)} um/px, expected square pixels. Give the true value as --mpp.")


def _against(mpp: tuple[float, float], said: Sequence[_Said], powers: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """What the file has against um/px that the user gave."""
    others = [f"{_pair(one.mpp)} by {one.source}" for one in said if not _agree(mpp, one.mpp)]
    if not others:
        return _odd_power(mpp, powers)
    return (
        f"The file contradicts the given {mpp[0]:g} um/px: {', '.join(others)}. The given value is used, and sizes and "
        "areas follow it.",
    )


def _odd_power(mpp: tuple[float, float], powers: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """A warning where um/px and objective power do not go together."""
    for where, power in powers:
        rule = _UM_TIMES_POWER / power
        if max(mpp[0] / rule, rule / mpp[0]) > _MOST_FROM_RULE:
            return (
                f"{mpp[0]:g} um/px at level 0 does not go with {where}, {power:g}x, where {rule:g} is usual: one of "
                "them may be wrong.",
            )
    return ()


def _agree(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(max(a, b) <= _MOST_APART * min(a, b) * (1 + 1e-9) for a, b in zip(one, other))


def _missing(path: Path, said: Sequence[_Said], powers: Sequence[tuple[str, float]], asked: Asked) -> str:
    if said:
        text = _absurd(path, said[0].mpp, said[0].source)
    else:
        text = f"{path} does not say its um/px. Give it as --mpp: {_USUAL}."
    if powers and asked.from_objective is not None:
        where, power = powers[0]
        text += f" By {where}, {power:g}x, --mpp_from_objective takes {_UM_TIMES_POWER / power:g}."
    return text


def _absurd(path: Path, mpp: tuple[float, float], source: str = "") -> str:
    return (
        f"{path}: {_pair(mpp)} um/px is absurd{f' ({source})' if source else ''}, expected {_RANGE[0]:g} to "
        f"{_RANGE[1]:g}. Give the true value as --mpp: {_USUAL}."
    )


def _pair(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:g} x {mpp[1]:g}"
