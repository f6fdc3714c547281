"""What a card says of how far a model's answers can be believed."""

from collections.abc import Mapping
from typing import Any, Optional


def limit_sentences(config: Mapping[str, Any]) -> list[str]:
    """What config.json says of probabilities, of what is unfamiliar, and of prediction sets; as far as it does."""
    record = config.get("calibration")
    told = [_calibration_sentence(config)]
    if isinstance(record, dict):
        told += [_familiarity_sentence(record.get("familiarity")), _sets_sentence(record.get("sets"))]
    return [sentence for sentence in told if sentence is not None]


def _calibration_sentence(config: Mapping[str, Any]) -> Optional[str]:
    """What config.json says of how far the probabilities can be believed; None if it says nothing."""
    record, temperature = config.get("calibration"), config.get("logit_temperature", 1.0)
    if not isinstance(record, dict):
        return None if temperature == 1 else f"The logits are divided by {temperature:g}; nothing says why."
    if record.get("regions") and temperature != 1:
        doubt = f" But {record['reason']}." if record.get("reason") else ""
        return (
            f"The probabilities are calibrated: the logits are divided by {temperature:.3g}, fitted on "
            f"{record['regions']:,} regions of {record.get('slides', 0):,} patients or slides that were kept out of "
            f"training.{doubt}"
        )
    return f"The probabilities are what the training left: {record.get('reason') or 'no temperature was fitted'}."


def _familiarity_sentence(record: Any) -> Optional[str]:
    if not isinstance(record, dict):
        return None
    threshold, rate = record.get("threshold"), record.get("false_alarm_rate")
    if threshold is None or rate is None:
        return f"It does not say what is unfamiliar: {record.get('reason') or 'nobody taught it'}."
    return (
        f"A region with an `unfamiliarity` above {threshold:.3g} is unlike what it has learnt from, `is_familiar` is "
        f"False, and its class is a guess: {rate:.0%} of {record.get('regions', 0):,} regions of "
        f"{record.get('slides', 0):,} patients or slides that were kept out of training exceed it."
    )


def _sets_sentence(record: Any) -> Optional[str]:
    if not isinstance(record, dict) or not record:
        return None
    counts = [one.get("slides" if one.get("by") == "slide" else "regions", 0) for one in record.values()]
    return (
        "`outputs.prediction_sets(alpha)` names the classes that cannot be ruled out, fitted class by class. Each can "
        f"be ruled out from an `alpha` of {1 / (1 + min(counts)):.2g} on."
    )
