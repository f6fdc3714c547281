"""Where an imported model comes from and whether it was proven there: the record `import` of config.json, in words."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

from .plain_text import escaped

if TYPE_CHECKING:
    from .remote_code import SpiderConfig

RECORD = "import"
# How far logits may lie from those of the source's own code, in parts of their spread.
AGREEMENT = 1e-3
# Whatever lies in the working directory: what is said of a record depends on nothing else.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MOST = 1e300  # of a number; what is larger, infinite or NaN is none


def import_record(config: "Union[SpiderConfig, Mapping[str, Any]]") -> Optional[dict[str, Any]]:
    """What a model's configuration says of its import, None for a model that was not imported.

    Args:
        config: A SpiderConfig, or the content of config.json.

    Returns:
        `source`, `revision`, `verified`, `assumptions` and `weights_sha256`; with `verified`, also `proof`: `date`,
        `code` (sha256 by file), `transformers`, `regions`, `difference` and `spread` (of logits). What is no record is
        taken for one that says nothing, so that it is not verified. Every file can hold it: controls are escaped, and
        NaN is None.
    """
    fields = config if isinstance(config, Mapping) else vars(config)
    record = fields.get(RECORD)
    if record is None:
        return None
    return _plain(record) if isinstance(record, Mapping) else {}


def import_facts(
    config: "Union[SpiderConfig, Mapping[str, Any]]", weights_sha256: Optional[str] = None
) -> Optional[dict[str, Any]]:
    """What a report says of a model's import, None for a model that was not imported.

    Args:
        config: See `import_record`.
        weights_sha256: See `is_verified`.

    Returns:
        The record, and its `sentence`. `source` and `revision` are None or strings, with no folder of anybody's
        machine; `verified` is whether these weights are, whatever the record says.
    """
    record = import_record(config)
    if record is None:
        return None
    revision = record.get("revision")
    return {
        **record,
        "source": _shown_source(record),
        "revision": revision if isinstance(revision, str) else None,
        "verified": is_verified(record, weights_sha256),
        "sentence": import_sentence(record, weights_sha256),
    }


def is_verified(record: Mapping[str, Any], weights_sha256: Optional[str] = None) -> bool:
    """Whether these weights gave what the source's own code gives.

    Args:
        record: Of `import_record`. To claim it without a whole proof, or in spite of assumptions, does not count.
        weights_sha256: Of the weights as they are now, see `model_folder.weights_sha256`; None if it is not known.
    """
    return _has_proof(record) and weights_sha256 in (None, record["weights_sha256"])


def import_sentence(record: Optional[Mapping[str, Any]], weights_sha256: Optional[str] = None) -> Optional[str]:
    """What a reader of a report must know of a model's import, None for a model that was not imported.

    Args:
        record: Of `import_record`.
        weights_sha256: See `is_verified`.
    """
    if record is None:
        return None
    record = record if isinstance(record, Mapping) else {}
    origin = f"imported from {origin_of(record)}"
    if is_verified(record, weights_sha256):
        proof = record["proof"]
        return (
            f"Verified: {origin} and held, on {escaped(proof['date'])}, against the source's own code with "
            f"Transformers {escaped(proof['transformers'])} on {proof['regions']} regions; logits differ by at most "
            f"{proof['difference'] / proof['spread']:.1e} of their spread.{_also(proof)}"
        )
    if is_verified(record):
        return (
            f"Not verified: {origin} and verified then, but the files of its weights have changed since, so that the "
            "proof is not of these."
        )
    if record.get("verified") is False:
        return (
            f"Not verified: {origin} and never held against the source's own code, so that figures may be of another "
            f"model than the published one. {_assumed(record)}"
        )
    return (
        f"Not verified: {origin}, and what its record says of a verification is not whole, so that figures may be of "
        f"another model than the published one. {_assumed(record)}"
    )


def origin_of(record: Mapping[str, Any]) -> str:
    """The source that a record names and its revision; "elsewhere" where it names none."""
    source, revision = _shown_source(record), record.get("revision")
    if source is None:
        return "elsewhere"
    return f"{source} at {escaped(revision)}" if isinstance(revision, str) and revision else source


def _has_proof(record: Any) -> bool:
    """Whether a record is whole and says that the import was verified."""
    proof = record.get("proof") if isinstance(record, Mapping) else None
    if not isinstance(proof, Mapping) or record.get("verified") is not True or record.get("assumptions") != []:
        return False
    texts = (record.get("source"), record.get("weights_sha256"), proof.get("date"), proof.get("transformers"))
    return (
        all(isinstance(text, str) and text for text in texts)
        and isinstance(record.get("revision"), (str, type(None)))
        and isinstance(proof.get("code"), Mapping)
        and len(proof["code"]) > 0
        and _has_figures(proof)
    )


def _has_figures(proof: Mapping[str, Any]) -> bool:
    figures: list[Any] = [proof.get(name) for name in ("regions", "difference", "spread")]
    if not all(map(_is_number, figures)):
        return False
    regions, difference, spread = figures
    return isinstance(regions, int) and regions > 0 and spread > 0 and 0 <= difference <= AGREEMENT * spread


def _also(proof: Mapping[str, Any]) -> str:
    others = proof.get("also_agree")
    if not isinstance(others, list) or not others:
        return ""
    return f" These regions do not tell it from {len(others)} other readings of the checkpoint, which agree too."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST


def _shown_source(record: Mapping[str, Any]) -> Optional[str]:
    """A Hub id, or the last part of a path: where somebody keeps a folder is nobody else's business."""
    source = record.get("source")
    if not isinstance(source, str):
        return None
    return escaped(source if _HUB_ID.fullmatch(source) else re.split(r"[/\\]", source.rstrip("/\\"))[-1]) or None


def _assumed(record: Mapping[str, Any]) -> str:
    assumptions = record.get("assumptions")
    if not isinstance(assumptions, list) or not assumptions:
        return "What was assumed is not written down."
    return "Assumed: " + " ".join(escaped(str(text)) for text in assumptions)


def _plain(value: Any) -> Any:
    """A value from anywhere as JSON and UTF-8 can hold it."""
    if isinstance(value, Mapping):
        return {escaped(str(name)): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not _is_number(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else escaped(str(value))
