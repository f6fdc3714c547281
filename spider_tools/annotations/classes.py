"""Names of classes."""

from ..plain_text import escaped

IGNORED = "of the class Ignore"
WITHOUT_A_CLASS = "without a class"


def clean_class_name(text: str) -> str:
    """A name without white space around it, one space for any within; what would control a terminal is escaped."""
    return escaped(" ".join(text.split()))


def is_ignored(class_name: str) -> bool:
    """Whether QuPath leaves areas of this class, as of `Ignore*`, out of all it does."""
    return class_name.casefold().startswith("ignore")
