"""Classes that a program has proposed and nobody has checked yet."""

SUGGESTED = "Suggested: "


def is_suggestion(class_name: str) -> bool:
    """Whether a class of an annotation still stands as it was proposed, so that it is nobody's judgement."""
    return class_name.strip().casefold().startswith(SUGGESTED.strip().casefold())
