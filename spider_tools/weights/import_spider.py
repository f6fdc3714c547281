"""A published SPIDER checkpoint as a model of this project: proven against its own code, or marked as assumed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from PIL import Image

from .. import remote_code
from ..drawn_tissue import draw_mosaics
from ..images import DECODING_ERRORS, to_rgb
from ..import_record import RECORD
from .dinov2_pieces import holds_backbone
from .head_reading import PAPER_HEADS, HeadReading, assemble, assumed_reading
from .published_parts import POSITIONS, TOKEN_TYPES, PublishedParts, recognise
from .reading import WeightSource, open_published
from .source_code import SourceCode, code_of, run_source_code
from .untrained import row_looks_untrained
from .verification import Verified, verify

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

logger = logging.getLogger(__name__)

_DRAWN_REGIONS = 4


@dataclass(frozen=True)
class Trial:
    """How a checkpoint is held against its own code.

    Attributes:
        trust_source_code: Whether the user lets that code run.
        source_python: Interpreter of an environment that it runs in; by default this one's.
        images: Image files of regions, or larger, on which the two are compared beside drawn ones.
    """

    trust_source_code: bool = False
    source_python: Optional[str] = None
    images: Sequence[str] = ()


@dataclass
class ImportedSpider:
    """A published checkpoint as a model of this project.

    Attributes:
        model: In float32; its configuration holds `record`.
        image_processor: Its own.
        mapping: Pairs of what the source calls a part or tensor and what this project calls it.
        notes: What was left out, a sentence each.
        record: See `import_record.import_record`.
        table: What was tried to prove it, None where nothing was.
    """

    model: "SpiderForImageClassification"
    image_processor: "SpiderImageProcessor"
    mapping: list[tuple[str, str]]
    notes: list[str]
    record: dict[str, Any] = field(default_factory=dict)
    table: Optional[str] = None

    def report(self) -> str:
        """Mapping, notes, assumptions and proof as text."""
        width = max(len(theirs) for theirs, _ in self.mapping)
        lines = [f"{theirs:<{width}}  ->  {ours}" for theirs, ours in self.mapping]
        lines += [f"- {note}" for note in [*self.notes, *self.record["assumptions"]]]
        if self.table is not None:
            lines += [
                "Held against the source's own code; largest difference in parts of the logits' spread:",
                self.table,
            ]
        return "\n".join(lines)


def import_spider(
    source: str,
    backbone_heads: Optional[int] = None,
    heads: Optional[int] = None,
    revision: Optional[str] = None,
    trial: Optional[Trial] = None,
) -> ImportedSpider:
    """Recognise the parts of a published SPIDER checkpoint, and prove or assume how they belong together.

    Args:
        source: Folder or Hub id, with a `class_names` list in its config.json.
        backbone_heads: Attention heads of its backbone, where config.json does not state them; see `load_backbone`.
        heads: Those of the head's encoder, likewise; by default the paper's one.
        revision: Branch, tag or commit on the Hub.
        trial: Holds the model against the source's own code. Without it nothing of that code runs, and the model's
            configuration says that it is not verified, and what was assumed.

    Raises:
        ValueError: A part is missing, ambiguous or of another shape, tensors are left over, the configuration cannot be
            expressed here, or nobody trusts the code that `trial` would run. The message names what.
        VerificationError: No reading of the checkpoint gives what its own code gives.
        OSError: There is no such source, or it cannot be downloaded.
    """
    opened = open_published(source, holds_backbone, revision)
    code = None if trial is None else _trusted_code(opened, trial)
    parts = recognise(opened, backbone_heads, heads)
    image_processor = _stated_image_processor(parts)
    if trial is None or code is None:
        return _assumed(parts, image_processor)
    regions = [*_read_images(trial.images, parts), *draw_mosaics(_DRAWN_REGIONS, parts.context_size, parts.patch_size)]
    answer = run_source_code(code, regions, trial.source_python)
    return _proven(parts, verify(parts, image_processor, regions, code, answer))


def _trusted_code(source: WeightSource, trial: Trial) -> SourceCode:
    code = code_of(source)
    if not trial.trust_source_code:
        raise ValueError(f"--verify would run {code.statement()}, and say --trust-source-code if you trust it.")
    logger.warning("running %s", code.statement())
    return code


def _assumed(parts: PublishedParts, image_processor: "SpiderImageProcessor") -> ImportedSpider:
    reading = assumed_reading(parts)
    assumptions = [*parts.assumptions, *_assumptions(parts, reading)]
    return _imported(parts, assemble(parts, reading), image_processor, {"verified": False, "assumptions": assumptions})


def _proven(parts: PublishedParts, verified: Verified) -> ImportedSpider:
    facts = {"verified": True, "assumptions": [], "proof": verified.proof}
    imported = _imported(parts, verified.model, verified.image_processor, facts)
    imported.table = verified.table
    return imported


def _imported(
    parts: PublishedParts,
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    facts: dict[str, Any],
) -> ImportedSpider:
    record = {"source": _shown_name(parts.source), "revision": parts.source.revision, **facts}
    setattr(model.config, RECORD, record)
    return ImportedSpider(model, image_processor, parts.mapping, parts.notes, record)


def _shown_name(source: WeightSource) -> str:
    """A Hub id, or the name of a folder: where somebody keeps it is nobody else's business."""
    if source.folder is None or not Path(source.name).exists():
        return source.name
    folder = source.folder.resolve()
    kind, *parts = folder.parent.parent.name.split("--")  # of the Hub's cache, models--org--name/snapshots/commit
    in_cache = source.revision is not None and kind == "models" and len(parts) == 2
    return "/".join(parts) if in_cache else folder.name


def _assumptions(parts: PublishedParts, reading: HeadReading) -> list[str]:
    """What a reading takes for granted, a sentence each."""
    center = len(parts.encoder[POSITIONS]) // 2
    sentences = [
        "A patch's embedding is the backbone's class token after the last layer norm.",
        "The encoder's tokens are the patches in row-major order.",
    ]
    if reading.pooler:
        sentences.append("The class is read through BERT's pooler, which is trained, at the first token (token 0).")
    else:
        sentences.append(f"The class is read at the centre (token {center}), with nothing added to it.")
        if parts.pooler:
            sentences.append(
                "The pooler is not read, since it is as BERT initialises it: nothing was learnt through it."
            )
    if parts.heads is None:
        sentences.append(f"The encoder has {PAPER_HEADS} attention head, as in the paper.")
    if reading.beside:
        sentences.append(f"The classifier reads the {reading.beside} of the central patch first, the encoder after it.")
    sentences += _token_type_sentences(parts)
    if not {"image_mean", "image_std"} <= (parts.source.preprocessor or {}).keys():
        sentences.append("Colours are normalised as for Hibou.")
    return sentences


def _token_type_sentences(parts: PublishedParts) -> list[str]:
    types = parts.encoder[TOKEN_TYPES]
    trained = [str(row) for row in range(1, len(types)) if not row_looks_untrained(types[row])]
    if not trained:
        return ["All patches are of token type 0; the others look as BERT initialises them."] if len(types) > 1 else []
    rows = f"row {trained[0]} looks" if len(trained) == 1 else f"rows {', '.join(trained)} look"
    return [f"All patches are of token type 0, although {rows} trained too."]


def _stated_image_processor(parts: PublishedParts) -> "SpiderImageProcessor":
    stated = parts.source.preprocessor or {}
    fields = {name: stated[name] for name in ("image_mean", "image_std") if name in stated}
    return remote_code.image_processor_class()(patch_size=parts.patch_size, context_size=parts.context_size, **fields)


def _read_images(paths: Sequence[str], parts: PublishedParts) -> list[np.ndarray]:
    """The user's images, uint8 `(height, width, 3)` each."""
    least = parts.context_size * parts.patch_size
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(to_rgb(image))
        except DECODING_ERRORS as error:
            raise ValueError(f"--images: {path} cannot be read as an image: {error}") from error
        if min(images[-1].shape[:2]) < least:
            height, width = images[-1].shape[:2]
            raise ValueError(f"--images: {path} is {height}x{width} px (height x width), expected at least {least}.")
    return images
