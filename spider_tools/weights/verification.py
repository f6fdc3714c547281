"""Which reading of a published checkpoint its own code agrees with, on the same regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from tqdm import tqdm

from ..import_record import AGREEMENT
from ..plain_text import escaped
from .head_reading import (
    PAPER_HEADS,
    HeadReading,
    assemble,
    assumed_reading,
    head_to_try,
    logits_of,
    possible_heads,
    possible_tokens,
)
from .published_parts import PublishedParts
from .source_code import SourceAnswer, SourceCode
from .source_pixels import normalised_alike

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

_SHOWN = 12
# Readings this much closer than others may be so by rounding alone: then the plainer one is meant.
_ROUNDING = 10.0


class VerificationError(ValueError):
    """No reading agrees with the source's own code.

    Attributes:
        table: What was tried, the closest first, as text.
    """

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


@dataclass(frozen=True)
class Tried:
    """A reading, and by how much its logits differ from those of the source's code, in parts of their spread."""

    reading: HeadReading
    difference: float


@dataclass(frozen=True)
class Verified:
    """A checkpoint as the model that its own code agrees with.

    Attributes:
        model: In float32.
        image_processor: Its own.
        proof: For the record in config.json: `date`, `code` (sha256 by file), `transformers`, `regions`, `difference`
            (the largest, of logits), `spread` (of logits between regions), `reading`, and `also_agree`, other readings
            that these regions do not tell from it.
        table: What was tried, the closest first, as text.
    """

    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    proof: dict[str, Any]
    table: str


def verify(
    parts: PublishedParts,
    image_processor: "SpiderImageProcessor",
    regions: Sequence[np.ndarray],
    code: SourceCode,
    answer: SourceAnswer,
) -> Verified:
    """Choose the reading that gives what the source's own code gives.

    Args:
        parts: Of the checkpoint.
        image_processor: As its configuration states it; if its code normalises otherwise, it is changed to that.
        regions: uint8 `(height, width, 3)` each, as the code has had them.
        code: That was run.
        answer: What it made of the regions.

    Raises:
        VerificationError: No reading agrees to `AGREEMENT` of the spread of the logits.
        ValueError: The code makes other pixel values, other classes, or the same logits of all regions.
    """
    spread = _spread_of(parts, answer)
    image_processor, patches = normalised_alike(parts.source.name, image_processor, regions, answer.pixel_values)
    embeddings = _embed(parts, patches)
    tried = _try_readings(parts, embeddings, answer.logits, spread)
    table = table_of(tried)
    best = _choose(tried, assumed_reading(parts))
    if best is None:
        raise VerificationError(_refusal(parts, tried, answer), table)
    model = assemble(parts, best.reading)
    with torch.no_grad():
        difference = float((model.classify_grid(embeddings) - answer.logits).abs().max())
    if difference > AGREEMENT * spread:
        raise VerificationError(f"{parts.source.name}: {best.reading.text()} agrees in parts only.", table)
    also = [t.reading.text() for t in tried if t.difference <= AGREEMENT and t.reading != best.reading]
    proof = {
        "date": date.today().isoformat(),
        "code": dict(code.files),
        "transformers": answer.versions["transformers"],
        "regions": len(regions),
        "difference": difference,
        "spread": spread,
        "reading": best.reading.text(),
        "also_agree": also[:_SHOWN],
    }
    return Verified(model, image_processor, proof, table)


def _refusal(parts: PublishedParts, tried: Sequence[Tried], answer: SourceAnswer) -> str:
    text = (
        f"{parts.source.name}: none of {len(tried)} readings gives what its own code gives; the closest differs by "
        f"{tried[0].difference:.2g} of the spread of the logits, {AGREEMENT:g} is wanted. "
    )
    if answer.unfilled:
        text += (
            f"Its files leave {len(answer.unfilled)} parameters of its own model unfilled, {answer.unfilled[0]} among "
            f"them: its code may be for another version of Transformers than {answer.versions['transformers']}, see "
            "--source-python. "
        )
    return text + "Nothing was written. Without --verify it is imported unproven, and marked so."


def table_of(tried: Sequence[Tried]) -> str:
    """The closest of what was tried, a line each."""
    lines = [f"{t.difference:12.3e}  {t.reading.text()}" for t in tried[:_SHOWN]]
    left = len(tried) - len(lines)
    return "\n".join(["difference    reading", *lines, *([f"... and {left} more"] if left else [])])


def _spread_of(parts: PublishedParts, answer: SourceAnswer) -> float:
    """How far logits differ between regions: their standard deviation, over all classes."""
    name, logits = parts.source.name, answer.logits
    if logits.shape[1] != len(parts.class_names):
        raise ValueError(f"{name}: its code gives {logits.shape[1]} logits, it names {len(parts.class_names)} classes.")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"{name}: its code gives logits that are not finite.")
    for row, names in zip(logits, answer.names):
        ours = parts.class_names[int(row.argmax())]
        if names is not None and names != [ours]:
            raise ValueError(f"{name}: its code calls {escaped(str(names))} what its class_names call {ours!r}.")
    spread = float(logits.var(dim=0).mean().sqrt())
    if not spread > 1e-4 * float(logits.abs().max()):
        raise ValueError(f"{name}: its code gives the same logits for all regions, which proves nothing. Try --images.")
    return spread


@torch.no_grad()
def _embed(parts: PublishedParts, patches: torch.Tensor) -> torch.Tensor:
    """Embeddings `(regions, patches, hidden)` of normalised patches `(regions, patches, 3, P, P)`."""
    rows = tqdm(patches, desc="this project's model", unit="region")
    return torch.stack([parts.backbone(region).pooler_output for region in rows])


def _try_readings(parts: PublishedParts, embeddings: torch.Tensor, logits: torch.Tensor, spread: float) -> list[Tried]:
    """All readings, the closest first: with the heads that are known, and only if none agrees with others."""
    known = parts.heads or PAPER_HEADS
    tried = _try_heads(parts, known, embeddings, logits, spread)
    if not parts.heads_are_said and not any(t.difference <= AGREEMENT for t in tried):
        others = [heads for heads in range(1, parts.width + 1) if parts.width % heads == 0 and heads != known]
        for heads in tqdm(others, desc="other numbers of attention heads", unit="number"):
            tried += _try_heads(parts, heads, embeddings, logits, spread)
    return sorted(tried, key=lambda t: t.difference)


def _try_heads(
    parts: PublishedParts, heads: int, embeddings: torch.Tensor, logits: torch.Tensor, spread: float
) -> list[Tried]:
    """All readings with so many heads: on the first region, and on the others too where that one is close."""
    model = head_to_try(parts, heads)

    def differences(readings: list[HeadReading], few: slice) -> list[Tried]:
        rows = (logits_of(model, parts, readings, embeddings[few]) - logits[few]).abs().amax(dim=(1, 2)) / spread
        return [Tried(reading, difference) for reading, difference in zip(readings, rows.tolist())]

    tried = [t for head in possible_heads(parts, heads) for t in differences(possible_tokens(parts, head), slice(1))]
    tried.sort(key=lambda t: t.difference)
    # Those that are left are no closer on all regions than on one.
    close = sum(t.difference <= AGREEMENT for t in tried)
    again = [differences([t.reading], slice(None))[0] for t in tried[: max(close, _SHOWN)]]
    return [*again, *tried[len(again) :]]


def _choose(tried: Sequence[Tried], assumed: HeadReading) -> Optional[Tried]:
    """The closest reading that agrees; of those that are as close but for rounding, the one nearest to the assumed."""
    closest = tried[0].difference
    alike = [t for t in tried if t.difference <= min(AGREEMENT, max(_ROUNDING * closest, 1e-5))]
    return min(alike, key=lambda t: (t.reading.departures(assumed), t.difference), default=None)
