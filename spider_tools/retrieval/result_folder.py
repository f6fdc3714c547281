"""What segment_slide.py left of one slide, read again: nothing is believed that its own files contradict."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from ..annotations.frame import Frame
from ..files import read_json_object
from ..probabilities import probability_name
from ..slide_files.content import older_identity
from ..slide_sources.task import checked_name
from ..slides.outputs import MARKER_NAME
from ..slides.saved_embeddings import EMBEDDINGS_NAME, EmbeddingTable
from ..slides.tensor_file import CHECKSUM, has_the_form, sha256_in
from .patches import SCHEMA, Patches

logger = logging.getLogger(__name__)

_AGAIN = "Run segment_slide.py on the slide again."
PREDICTIONS_NAME = "predictions.parquet"


@dataclass(frozen=True)
class SlideFacts:
    """What is known of a slide without its file, in the form of JSON.

    Attributes:
        file: Name of its file, escaped.
        identity: What tells it from others, as `Slide.identity`.
        size: `(width, height)` in level-0 px.
        mpp: `(x, y)`, um per level-0 px.
        scale: `(x, y)`, level-0 px per px of its patches.
        origin: x and y in level-0 px where QuPath's coordinates begin.
        patch_size: Side of a patch in px at the model's um/px.
        center_offset_nm: As `Frame.center_offset_nm`; None also where slide.json is of an earlier version.
        own_mpp: As `Frame.own_mpp`.
    """

    file: str
    identity: Mapping[str, Any]
    size: tuple[int, int]
    mpp: tuple[float, float]
    scale: tuple[float, float]
    origin: tuple[float, float]
    patch_size: int
    center_offset_nm: Optional[tuple[float, float]] = None
    own_mpp: Optional[tuple[float, float]] = None

    @classmethod
    def of(cls, marker: Mapping[str, Any]) -> "SlideFacts":
        """What slide.json says.

        Raises:
            KeyError, TypeError, ValueError: It lacks something, or it is of another form.
        """
        request = marker["request"]
        width, height = request["slide"]["size"]
        return cls.from_json(
            {
                "file": marker["facts"]["Slide"],
                "identity": request["slide"],
                "size": (width, height),
                "mpp": request["mpp"],
                "scale": request["scale"],
                "origin": marker["geojson_origin_level0"],
                "patch_size": request["model"]["preprocessing"]["patch_size"],
                "center_offset_nm": marker.get("center_offset_nm"),
                "own_mpp": marker.get("own_mpp"),
            }
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "SlideFacts":
        """What `as_json` gave, with the same errors as `of`."""
        pairs = {name: _pair(fields[name]) for name in ("size", "mpp", "scale", "origin")}
        if min(*pairs["scale"], *pairs["mpp"], *pairs["size"]) <= 0 or int(fields["patch_size"]) < 1:
            raise ValueError("sizes and scales of a slide are numbers above 0")
        known = {name: fields.get(name) for name in ("center_offset_nm", "own_mpp")}
        pairs |= {name: _pair(value) for name, value in known.items() if value is not None}
        return cls(str(fields["file"]), dict(fields["identity"]), **pairs, patch_size=int(fields["patch_size"]))

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @property
    def side_level0(self) -> tuple[float, float]:
        """Width and height of a patch in level-0 px."""
        return (self.patch_size * self.scale[0], self.patch_size * self.scale[1])

    def frame(self, name: str) -> Frame:
        """What the coordinates of annotations are relative to; of what was scanned it knows the corner alone."""
        (x, y), (width, height) = ((round(value) for value in pair) for pair in (self.origin, self.size))
        bounds = (x, y, width - x, height - y)
        return Frame(name, (width, height), self.mpp, bounds, self.center_offset_nm, self.own_mpp)


class ResultFolder:
    """The folder of one slide; its patches are those that were classified, not what is only context of others.

    Args:
        folder: Holds slide.json.

    Attributes:
        name: Of the slide.
        folder: As given.
        facts: Of the slide.
        content: What decides the embeddings of all slides alike, see `embeddings.identity`.
        class_names: Of the model.

    Raises:
        ValueError: A file is missing, damaged or of another run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = checked_name(folder.resolve().name, folder)
        marker = read_json_object(folder / MARKER_NAME, "The marker")
        try:
            self.facts = SlideFacts.of(marker)
            model = marker["request"]["model"]
            self.content: dict[str, Any] = {key: model[key] for key in model if key != "source"}
            self.class_names: list[str] = [str(name) for name in marker["request"]["class_names"]]
            self._stride = int(marker["request"]["stride"])
            sizes = dict(marker["outputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / MARKER_NAME} is no marker of a slide: {error!r}. {_AGAIN}") from error
        if PREDICTIONS_NAME not in sizes and marker["request"].get("outputs"):
            raise ValueError(f"{folder} was made without {PREDICTIONS_NAME}. {_AGAIN[:-1]} with --outputs parquet.")
        for name in (EMBEDDINGS_NAME, PREDICTIONS_NAME):
            if sizes.get(name) != _size(folder / name):
                raise ValueError(f"{folder / name} is missing or not as long as slide.json says. {_AGAIN}")
        self._embeddings = self._read_embeddings()
        self._predictions = self._read_predictions()
        self._rows = self._embedding_rows()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def hidden_size(self) -> int:
        """Values of one embedding."""
        return self._embeddings.embeddings.shape[1]

    def patches(self) -> Patches:
        """Of all predictions, in their order."""
        table, count = self._predictions, len(self)
        probabilities = self.probabilities()
        width, height = self.facts.side_level0
        columns = {
            "slide": _repeated(self.name, count),
            "source": _repeated(str(self.folder), count),
            "x_level0": table["x_level0"],
            "y_level0": table["y_level0"],
            "width_level0": pa.array(np.full(count, width)),
            "height_level0": pa.array(np.full(count, height)),
            "class": pa.DictionaryArray.from_arrays(
                pa.array(probabilities.argmax(axis=1).astype(np.int32)), pa.array(self.class_names, pa.string())
            ),
            "probability": pa.array(probabilities.max(axis=1)),
            "patch": pa.nulls(count, pa.string()),
        }
        return Patches(pa.table(columns, schema=SCHEMA))

    def probabilities(self) -> np.ndarray:
        """Of all classes, float32 `(n, classes)`."""
        columns = [self._predictions[probability_name(name)].to_numpy() for name in self.class_names]
        return np.stack(columns, axis=1).astype(np.float32)

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of patches, as they were saved: float32 `(len(rows), hidden)`, read from the mapped file."""
        return self._embeddings.embeddings[torch.from_numpy(self._rows[rows])].float().numpy()

    def _read_embeddings(self) -> EmbeddingTable:
        path = self.folder / EMBEDDINGS_NAME
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if not has_the_form(file):
                    raise ValueError("its tensors are not those of embeddings")
                if CHECKSUM not in metadata:
                    logger.info("%s is of an earlier version and holds no checksum: it is used as it is.", path)
                elif metadata[CHECKSUM] != sha256_in(path):
                    raise ValueError("its content does not fit its checksum")
                self._check_content(json.loads(metadata["content"]))
                return EmbeddingTable(file.get_tensor("xy").numpy().astype(np.int64), file.get_tensor("embeddings"))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or of another run: {error}. {_AGAIN}") from error

    def _check_content(self, content: dict[str, Any]) -> None:
        """Refuse embeddings that are not of the slide and the model of slide.json."""
        slide = content.pop("source")["slide"]
        if content != self.content or slide not in (self.facts.identity, older_identity(self.facts.identity)):
            raise ValueError("it is of another slide or model than slide.json")

    def _read_predictions(self) -> pa.Table:
        path = self.folder / PREDICTIONS_NAME
        names = ["row", "column", "x_level0", "y_level0", *map(probability_name, self.class_names)]
        try:
            table = pq.read_table(path, columns=names)
            if len(table.column_names) != len(names) or any(table[name].null_count for name in names):
                raise ValueError(f"expected the columns {names}, without gaps")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read: {error}. {_AGAIN}") from error
        return table

    def _embedding_rows(self) -> np.ndarray:
        """Where the embedding of every prediction lies, int64 `(n,)`."""
        positions = [self._predictions[name].to_numpy().astype(np.int64) for name in ("column", "row")]
        try:
            return self._embeddings.rows(np.stack(positions, axis=1) * self._stride)
        except (KeyError, IndexError) as error:
            raise ValueError(f"{self.folder / EMBEDDINGS_NAME} lacks patches of the predictions: {error}") from error


def _pair(values: Any) -> tuple[Any, Any]:
    first, second = values
    if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in (first, second)):
        raise ValueError(f"expected two numbers, got {values!r}")
    return first, second


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text], pa.string()))


def _size(path: Path) -> Optional[int]:
    return path.stat().st_size if path.is_file() else None
