"""Logging of the scripts."""

import logging


def set_up_logging() -> None:
    """Show what our own code tells, and only warnings of accelerate, which tells of every file that it writes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
