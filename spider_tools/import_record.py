"""Where an imported model comes from and whether it was proven there: the record `import` of config.json, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

from .plain_text import escaped

if TYPE_CHECKING:
    from .remote_code import SpiderConfig

RECORD = "import"


def import_record(config: "Union[SpiderConfig, Mapping[str, Any]]") -> Optional[dict[str, Any]]:
    """What a model's configuration says of its import, None for a model that was not imported.

    Args:
        config: A SpiderConfig, or the content of config.json.

    Returns:
        `source`, `revision`, `verified`, `assumptions` and `weights_sha256`; with `verified`, also `proof`: `date`,
        `code` (sha256 by file), `transformers`, `regions`, `difference` and `spread` (of logits). What is no record is
        taken for one that says nothing, so that it is not verified.
    """
    fields = config if isinstance(config, Mapping) else vars(config)
    record = fields.get(RECORD)
    if record is None:
        return None
    return dict(record) if isinstance(record, Mapping) else {}


def is_verified(record: Mapping[str, Any], weights_sha256: Optional[str] = None) -> bool:
    """Whether these weights gave what the source's own code gives.

    Args:
        record: Of `import_record`.
        weights_sha256: Of the weights as they are now, see `model_folder.weights_sha256`; None if it is not known.
    """
    same_weights = weights_sha256 is None or record.get("weights_sha256") == weights_sha256
    return record.get("verified") is True and isinstance(record.get("proof"), Mapping) and same_weights


def import_sentence(record: Optional[Mapping[str, Any]], weights_sha256: Optional[str] = None) -> Optional[str]:
    """What a reader of a report must know of a model's import, None for a model that was not imported.

    Args:
        record: Of `import_record`.
        weights_sha256: See `is_verified`.
    """
    if record is None:
        return None
    source = escaped(str(record.get("source") or "elsewhere"))
    origin = f"{source} at {escaped(str(record['revision']))}" if record.get("revision") else source
    if is_verified(record, weights_sha256):
        proof = record["proof"]
        relative = proof["difference"] / proof["spread"]
        return (
            f"Verified: imported from {origin} and held, on {proof['date']}, against the source's own code with "
            f"Transformers {proof['transformers']} on {proof['regions']} regions; logits differ by at most "
            f"{relative:.1e} of their spread."
        )
    if is_verified(record):
        return (
            f"Not verified: imported from {origin} and verified then, but the weights have changed since, so that "
            "the proof is not of these."
        )
    assumptions = [escaped(str(text)) for text in record.get("assumptions") or ["nobody knows what"]]
    return (
        f"Not verified: imported from {origin} and never held against the source's own code, so that figures may be of "
        f"another model than the published one. Assumed: {' '.join(assumptions)}"
    )
