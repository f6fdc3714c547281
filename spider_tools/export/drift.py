"""How far graphs lie from the model that they were made of, on drawn tissue, in batches of many sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..drawn_tissue import draw_mosaics
from ..import_record import AGREEMENT
from .graphs import Arrays, Runner

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor


class DriftError(ValueError):
    """Graphs drift too far from their model.

    Args:
        message: One sentence.
        table: The drift, as text.
    """

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


BATCHES = (1, 2, 3, 7, 25)
LEAST_SAME = 0.95  # share of regions that keep their class


@dataclass(frozen=True)
class Row:
    """One batch through the graphs and through the model.

    Attributes:
        batch: Patches of the encoder, then regions of as many grids of them.
        masked: Whether patches of the regions are missing.
        embeddings: Largest difference of an embedding, in parts of their spread.
        largest: Largest difference of a logit.
        logits: The same in parts of the spread of the logits.
        same_class: Share of regions that keep their class.
        classes: Number of classes that the model names in the batch.
    """

    batch: int
    masked: bool
    embeddings: float
    largest: float
    logits: float
    same_class: float
    classes: int


def largest_allowed(precision: str) -> float:
    """Largest difference of a logit that is accepted, in parts of the spread of the logits over regions."""
    return AGREEMENT if precision == "float32" else 0.25


def measure(
    encoder: Runner,
    head: Runner,
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    seed: int = 0,
) -> list[Row]:
    """Hold graphs against the model, in batches of `BATCHES`, with all patches and with ragged masks.

    Each batch of drawn patches is embedded once by either side; grids of these, drawn with repetition, make as many
    regions. The model gets pixels that its own image processor has normalised.

    Args:
        encoder: Runs the patch encoder.
        head: Runs the head.
        model: In float32 and evaluation mode.
        image_processor: Its own.
        seed: Same seed, same regions.

    Raises:
        ValueError: The model's own logits are not finite.
    """
    rng = np.random.default_rng(seed)
    config = model.config
    patches = np.stack(draw_mosaics(sum(BATCHES), 1, config.patch_size, seed))
    compared, start = [], 0
    for batch in BATCHES:
        own = patches[start : start + batch]
        start += batch
        with torch.no_grad():
            expected = model.embed_patches(processed(own, image_processor)).numpy()
        given = encoder(patches=np.ascontiguousarray(own.transpose(0, 3, 1, 2)))["patch_embeddings"]
        for masked in (False, True):
            grid = rng.integers(0, batch, (batch, config.num_context_patches))
            mask = _ragged(batch, config.num_context_patches, rng) if masked else np.ones(grid.shape, bool)
            answers = _ask(model, expected[grid], mask), head(patch_embeddings=given[grid], context_mask=mask)
            compared.append((batch, masked, (expected, given), answers))
    return _rows(compared)


def processed(patches: np.ndarray, image_processor: "SpiderImageProcessor") -> torch.Tensor:
    """What an image processor makes of patches, uint8 `(N, P, P, 3)`: `(N, 3, P, P)` as the model takes them."""
    of_patches = type(image_processor)(**{**image_processor.to_dict(), "context_size": 1})
    return of_patches(patches, return_tensors="pt", input_data_format="channels_last")["pixel_values"][:, 0]


def check(rows: Sequence[Row], precision: str) -> None:
    """Refuse graphs that are not the model.

    Raises:
        DriftError: Logits differ by more than `largest_allowed`, or too many regions change their class.
    """
    worst, allowed = max(row.logits for row in rows), largest_allowed(precision)
    same = _mean_same(rows)
    if worst <= allowed and same >= LEAST_SAME:
        return
    raise DriftError(
        f"The graphs in {precision} drift too far from the model: their logits differ by up to {worst:.2g} of the "
        f"spread of the logits, where {allowed:g} is allowed, and {same:.1%} of the regions keep their class, where "
        f"{LEAST_SAME:.0%} are wanted. Nothing was written; float32 is the precision that always holds.",
        table(rows, precision),
    )


def table(rows: Sequence[Row], precision: str) -> str:
    """The rows as text, one a line, and what is allowed."""
    lines = [f"{'batch':>5}  {'masked':6}  {'embeddings':>10}  {'logits':>10}  {'largest':>10}  same class  classes"]
    for row in rows:
        lines.append(
            f"{row.batch:5}  {'yes' if row.masked else 'no':6}  {row.embeddings:10.2e}  {row.logits:10.2e}  "
            f"{row.largest:10.2e}  {row.same_class:10.1%}  {row.classes:7}"
        )
    lines.append(
        f"Drift of {precision} from PyTorch in float32, of embeddings and logits in parts of their spread; up to "
        f"{largest_allowed(precision):g} of that of the logits and {LEAST_SAME:.0%} of equal classes pass."
    )
    return "\n".join(lines)


def _ask(model: "SpiderForImageClassification", embeddings: np.ndarray, mask: np.ndarray) -> Arrays:
    with torch.no_grad():
        logits = model.classify_grid(torch.from_numpy(embeddings), torch.from_numpy(mask)).numpy()
    if not np.isfinite(logits).all():
        raise ValueError("The model's own logits on drawn tissue are not finite: its weights are none to export.")
    return {"logits": logits}


def _ragged(regions: int, patches: int, rng: np.random.Generator) -> np.ndarray:
    """Masks, bool `(regions, patches)`, from the centre alone to nearly all."""
    mask = rng.random((regions, patches)) < rng.uniform(0, 1, (regions, 1))
    mask[:, patches // 2] = True
    return mask


def _rows(compared: Sequence[tuple[Any, ...]]) -> list[Row]:
    spread_of_embeddings = _spread([expected for *_, (expected, _), _ in compared])
    spread = _spread([answer["logits"] for *_, (answer, _) in compared])
    rows = []
    for batch, masked, (expected, given), (answer, said) in compared:
        largest = _difference(answer["logits"], said["logits"])
        named = answer["logits"].argmax(axis=1)
        same = named == said["logits"].argmax(axis=1)
        of_embeddings = _parts(_difference(expected, given), spread_of_embeddings)
        of_logits = _parts(largest, spread)
        rows.append(Row(batch, masked, of_embeddings, largest, of_logits, float(same.mean()), len(set(named.tolist()))))
    return rows


def _spread(values: Sequence[np.ndarray]) -> float:
    """Standard deviation between patches or regions, float, over all columns."""
    return float(np.sqrt(np.concatenate(values).astype(np.float64).var(axis=0).mean()))


def _difference(expected: np.ndarray, given: np.ndarray) -> float:
    """Infinite where a value is none."""
    difference = np.abs(expected.astype(np.float64) - given)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _parts(difference: float, spread: float) -> float:
    if difference == 0:
        return 0.0
    return difference / spread if spread > 0 else float("inf")


def _mean_same(rows: Sequence[Row]) -> float:
    return sum(row.same_class * row.batch for row in rows) / sum(row.batch for row in rows)
