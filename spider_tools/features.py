"""Features once: the frozen backbone embeds each unique patch one time, into a store that training reads.

All processes of a run, and one run after the other, share a store. Its folder is named by what decides an embedding:
the backbone's weights, the preprocessing, the dtype and the source of the patches, so that a changed backbone can
never read the embeddings of an older one.
"""

import hashlib
import itertools
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .embedder import PatchEmbedder, check_precision
from .shared_work import POLL_SECONDS, SharedWork, only_run
from .store import EmbeddingStore, Names, as_names, prepare_store

logger = logging.getLogger(__name__)

# What decides the function that a backbone's weights compute.
_ARCHITECTURE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_register_tokens",
    "use_swiglu_ffn",
)
_PREPROCESSING_FIELDS = ("patch_size", "do_normalize", "image_mean", "image_std")

# The backbone's parameter names in Transformers 4, and in Transformers 5.
_NEWER_NAMES = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("mlp.weights_out.", "mlp.down_proj."),
)


class PatchSource(Protocol):
    """Where patches are read from, in the workers of a loader, so that it must be picklable.

    An attribute `fingerprint`, a string, tells data sets with equal patch names apart. Sources without it share their
    stores: give them different folders.
    """

    def read(self, name: str) -> np.ndarray:
        """One patch, uint8 `(P, P, 3)`; ValueError naming it if it cannot be read."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """How patches are embedded.

    Attributes:
        folder: Of the stores; each is a subfolder.
        dtype: Of the backbone while embedding, one of `embedder.PRECISIONS`. Embeddings are float16 always.
        compile: Whether to compile the backbone. The store is the same: compiling changes no more than the rounding.
        batch_size: Patches that are read at once; through the backbone go `config.backbone_batch_size` at most.
        num_workers: Processes that read patches, for each process that embeds.
        shard_size: Most patches of a shard. A run that is killed loses no more than this in each process.
    """

    folder: Path
    dtype: str = "float32"
    compile: bool = False
    batch_size: int = 64
    num_workers: int = 2
    shard_size: int = 4096

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_precision(self.dtype)
        for field, least in (("batch_size", 1), ("shard_size", 1), ("num_workers", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"`{field}` must be at least {least}, got {getattr(self, field)}.")


def embed_patches_once(
    names: Names,
    source: PatchSource,
    model: Any,
    image_processor: Any,
    accelerator: Accelerator,
    settings: EmbeddingSettings,
) -> EmbeddingStore:
    """Embed the patches that the store of this backbone lacks; all processes of the accelerator share the work.

    Every shard that is there is compared with its checksum first, and the patches of damaged ones are embedded again.
    A run that finds another one writing the same store waits for it. Random number generators are left as they are.

    Args:
        names: Of patches; repeated ones are embedded once.
        source: Reads them.
        model: A `SpiderForImageClassification`. It is not changed, whatever its mode and dtype.
        image_processor: Its `SpiderImageProcessor`.
        accelerator: Says which process this is, and on which device to embed.
        settings: See there.

    Returns:
        The store, with all of the patches and whatever it held before.

    Raises:
        ValueError: There are no names, a patch cannot be read, or the processes hold different backbones.
        FloatingPointError: An embedding is NaN or too large for float16.
        OSError: A shard cannot be written, as on a full disk. Shards that were finished stay usable.
    """
    wanted = _unique(names)
    model = accelerator.unwrap_model(model)
    content = store_content(source, model, image_processor, settings.dtype)
    folder = settings.folder / store_key(content)
    if len(set(gather_object([folder.name]))) > 1:
        raise ValueError(
            "The processes hold different backbones, preprocessing or sources. Load the same checkpoint in all of "
            "them, or set the same seed before making a random backbone."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder, accelerator):
        if accelerator.is_main_process:
            prepare_store(folder, content, model.config.backbone_config.hidden_size)
        accelerator.wait_for_everyone()
        missing = EmbeddingStore.open(folder).missing(wanted)
        accelerator.wait_for_everyone()  # nobody adds a shard before everybody knows what is missing
        if len(missing):
            logger.info("embedding %d of %d patches into %s", len(missing), len(wanted), folder)
            embed = PatchEmbedder(model, image_processor, accelerator.device, settings.dtype, settings.compile)
            work = SharedWork(folder, missing, settings.batch_size, settings.shard_size, accelerator.num_processes)
            loading = {
                "dataset": _BatchReader(source, image_processor.patch_size),
                "num_workers": settings.num_workers,
                "pin_memory": accelerator.device.type == "cuda",
            }
            with tqdm(total=len(missing), unit="patch", disable=not accelerator.is_main_process) as bar:
                _embed_shards(work, loading, embed, bar)
        accelerator.wait_for_everyone()
    return EmbeddingStore.open(folder)


def store_content(source: PatchSource, model: Any, image_processor: Any, dtype: str) -> dict[str, Any]:
    """What decides the embeddings of a store, in the form of JSON.

    Raises:
        ValueError: The image processor makes patches of another size than the model takes.
    """
    if image_processor.patch_size != model.config.patch_size:
        raise ValueError(
            f"The image processor makes patches of {image_processor.patch_size} px, the model takes "
            f"{model.config.patch_size} px."
        )
    backbone = model.config.backbone_config
    content = {
        "backbone_sha256": backbone_fingerprint(model.backbone),
        "architecture": {field: getattr(backbone, field) for field in _ARCHITECTURE_FIELDS},
        "preprocessing": {field: getattr(image_processor, field) for field in _PREPROCESSING_FIELDS},
        "dtype": dtype,
        "source": getattr(source, "fingerprint", None),
    }
    return json.loads(json.dumps(content))


def store_key(content: dict[str, Any]) -> str:
    """Name of the folder for a store of this content: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def backbone_fingerprint(backbone: nn.Module) -> str:
    """Hash of a backbone's weights, the same for equal weights under Transformers 4 and 5.

    The names are those of Transformers 5. Values are taken as float32, because the versions load a float16 checkpoint
    in different dtypes. The mask token is left out: no embedding depends on it, and not all checkpoints have one.

    Args:
        backbone: A `Dinov2WithRegistersModel`.

    Returns:
        sha256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_with_newer_names(backbone.state_dict()).items()):
        if name != "embeddings.mask_token":
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()


def _with_newer_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        if ".mlp.weights_in." in name:
            for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2)):
                renamed[name.replace("weights_in", part)] = half
            continue
        for older, newer in _NEWER_NAMES:
            name = name.replace(older, newer)
        renamed[name] = tensor
    return renamed


class _BatchReader(Dataset):
    """Reads batches of patches in the workers of a loader; they leave as bytes, a quarter of the size of floats."""

    def __init__(self, source: PatchSource, patch_size: int) -> None:
        self._source = source
        self._shape = (patch_size, patch_size, 3)

    def __getitem__(self, names: list[str]) -> torch.Tensor:
        """The patches with these names, uint8 `(len(names), P, P, 3)`."""
        batch = np.empty((len(names), *self._shape), dtype=np.uint8)
        for i, name in enumerate(names):
            patch = self._source.read(name)
            if patch.shape != self._shape or patch.dtype != np.uint8:
                raise ValueError(f"The patch {name} is {patch.dtype} {patch.shape}, expected uint8 {self._shape}.")
            batch[i] = patch
        return torch.from_numpy(batch)


def _embed_shards(work: SharedWork, loader_settings: dict[str, Any], embed: PatchEmbedder, bar: tqdm) -> None:
    """Embed until all shards are finished, by this process or another one."""
    try:
        while unfinished := work.unfinished_patches():
            batches = work.batches()
            first = next(batches, None)
            if first is None:  # others are at the last shards; should they die, their claims become free
                _show(bar, bar.total - unfinished)
                time.sleep(POLL_SECONDS)
                continue
            # A generator of its own: the loader must not draw from the global one, or training after embedding would
            # differ from training with embeddings that were there.
            loader = DataLoader(
                sampler=itertools.chain([first], batches),
                batch_size=None,
                generator=torch.Generator(),
                **loader_settings,
            )
            _embed_claimed(work, loader, embed, bar)
        _show(bar, bar.total)
    finally:
        work.release()


def _embed_claimed(work: SharedWork, loader: DataLoader, embed: PatchEmbedder, bar: tqdm) -> None:
    filled = 0
    for patches in loader:
        names = work.claimed[0].names
        embedded = embed(patches)
        if filled == 0:
            # On the device, so that a GPU runs ahead through the whole shard.
            embeddings = embedded.new_empty(len(names), embedded.shape[-1], dtype=torch.float16)
        embeddings[filled : filled + len(embedded)] = embedded
        filled += len(embedded)
        bar.update(len(embedded))
        if filled == len(names):
            embeddings = embeddings.cpu()
            _check_finite(names, embeddings)
            work.finish(embeddings)
            filled = 0
            _show(bar, bar.total - work.unfinished_patches())


def _show(bar: tqdm, patches: int) -> None:
    """Show how many patches all processes together have finished."""
    bar.n = patches
    bar.refresh()


def _check_finite(names: pa.Array, embeddings: torch.Tensor) -> None:
    bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(
            f"The embeddings of {len(bad)} of {len(names)} patches are NaN or exceed what float16 holds (65504), the "
            f"first is that of {names[bad[0]].as_py()}. Nothing of this shard was stored. Check the backbone, or embed "
            "in float32 or bfloat16 if it overflows in float16."
        )


def _unique(names: Names) -> pa.Array:
    """The names in order, each once."""
    wanted = as_names(names)
    if len(wanted) == 0 or wanted.null_count:
        raise ValueError(f"Expected the names of patches, got {len(wanted)}, of which {wanted.null_count} are None.")
    wanted = wanted.unique()
    return wanted.take(pc.sort_indices(wanted))
