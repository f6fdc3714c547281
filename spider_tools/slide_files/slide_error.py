"""What is wrong with a slide."""


class SlideError(ValueError):
    """A slide cannot be used; the message names it, and says what was expected."""


class UnreadableError(SlideError):
    """Pixels at one place of a slide cannot be read; those at others may be."""


class StoppedError(Exception):
    """Whoever wanted a copy of a slide does not want it any more."""
