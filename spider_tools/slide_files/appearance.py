"""Whether a slide looks like a scan of stained tissue at all, by a few px of its coarsest level."""

from dataclasses import dataclass
from typing import Optional

from .slide import Slide
from .slide_error import SlideError, UnreadableError

_WHOLE_PX = 1024  # a level up to this side is looked at as a whole
_WINDOW_PX = 256
_PLACES = (0.5, 0.25, 0.75)  # of the way across and down, the middle first
_BLACK = 64  # glass is bright: what is 12 bits in a file of 16 ends at 16, what is 14 bits at 64
_SHADED = 32  # grey levels that a picture has, but no empty glass


@dataclass(frozen=True)
class _Seen:
    """What some px have: the least and the greatest value, and whether any of them has a colour."""

    darkest: int
    brightest: int
    has_colour: bool


def check_brightness(slide: Slide) -> None:
    """Refuse a slide that is nearly black, as a file of 16 bits is that uses 12 of them.

    Raises:
        SlideError: It is.
    """
    seen = _look(slide)
    if seen is not None and seen.brightest <= _BLACK:
        raise SlideError(
            f"{slide.path} is nearly black: its brightest px have {seen.brightest} of 255, where glass is bright. If "
            "it holds 10, 12 or 14 bits in samples of 16, convert it to 8 bits; the models do not know fluorescence."
        )


def colour_warnings(slide: Slide) -> tuple[str, ...]:
    """A warning if a slide has no colour, although it is RGB."""
    seen = _look(slide)
    if seen is None or seen.has_colour or seen.brightest - seen.darkest < _SHADED:
        return ()
    return ("It is RGB without any colour: the models know stained tissue in colour only, and answer all the same.",)


def _look(slide: Slide) -> Optional[_Seen]:
    """At the coarsest level, as a whole if it is small; None where it cannot be read."""
    level = len(slide.levels) - 1
    values, has_colour = [], False
    for corner, size in _windows(slide.levels[level].size):
        try:
            pixels = slide.read_level(level, corner, size)
        except UnreadableError:
            return None
        values += [int(pixels.min()), int(pixels.max())]
        has_colour |= bool((pixels != pixels[..., :1]).any())
    return _Seen(min(values), max(values), has_colour)


def _windows(size: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Corner and size of what is looked at, in px of a level of this size."""
    if max(size) <= _WHOLE_PX:
        return [((0, 0), size)]
    window = (min(_WINDOW_PX, size[0]), min(_WINDOW_PX, size[1]))
    spare = (size[0] - window[0], size[1] - window[1])
    return [((int(x * spare[0]), int(y * spare[1])), window) for y in _PLACES for x in _PLACES]
