"""The frozen backbone embeds each unique patch one time, into a store that training and evaluation read.

All processes of a run, and one run after the other, share a store. Its folder is named by what decides an embedding
(see `identity`).
"""

import itertools
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm.auto import tqdm

from ..data.patches import PatchSource
from ..sharing import refusal_in_words
from ..workers import WatchedLoader, usable_workers, worker_failures_in_words
from .embedder import PatchEmbedder
from .identity import store_content, store_key
from .settings import EmbeddingSettings
from .shared_work import CHOOSE_ANOTHER, POLL_SECONDS, ClaimedShard, SharedWork, only_run
from .store import EmbeddingStore, Names, as_names
from .store_index import StoreIndex, prepare_store
from .unfinished import take_over_unfinished

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification, SpiderImageProcessor

logger = logging.getLogger(__name__)

_BATCH_FLAG = "--embedding_batch_size"


def embed_patches_once(
    names: Names,
    source: PatchSource,
    model: "SpiderForImageClassification",
    image_processor: "SpiderImageProcessor",
    accelerator: Accelerator,
    settings: EmbeddingSettings,
) -> EmbeddingStore:
    """Embed the patches that the store of this backbone lacks; all processes of the accelerator share the work.

    Every shard that is there is compared with its checksum first, and the patches of damaged ones are embedded again.
    What a killed run had saved of its shards is taken over.
    A store that has all patches is read without a lock: it may be read-only, or another user's. A run that finds
    another one writing the same store waits for it. Random number generators are left as they are.

    Args:
        names: Of patches; repeated ones are embedded once.
        source: Reads them.
        model: It is not changed, whatever its mode and dtype.
        image_processor: Its own.
        accelerator: Says which process this is, and on which device to embed.
        settings: See there.

    Returns:
        The store, with all of the patches and whatever it held before.

    Raises:
        ValueError: There are no names, a patch cannot be read, or the processes hold different backbones.
        FloatingPointError: An embedding is NaN or too large for float16.
        OSError: A shard cannot be written, as on a full disk. What was saved stays usable.
        PermissionError: Patches are missing, and the store may not be written.
        WorkerError: A process that reads patches died.
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
    hidden_size = model.config.backbone_config.hidden_size
    if _holds_all(folder, StoreIndex(content, hidden_size), wanted, accelerator):
        return EmbeddingStore.open(folder)
    with refusal_in_words(folder, CHOOSE_ANOTHER):
        folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder, accelerator):
        if accelerator.is_main_process:
            prepare_store(folder, content, hidden_size)
            take_over_unfinished(folder)
        accelerator.wait_for_everyone()
        missing = EmbeddingStore.open(folder).missing(wanted)
        accelerator.wait_for_everyone()  # nobody adds a shard before everybody knows what is missing
        if len(missing):
            logger.info("embedding %d of %d patches into %s", len(missing), len(wanted), folder)
            embed = PatchEmbedder(model, image_processor, accelerator.device, settings.dtype, settings.compile)
            reader = _BatchReader(source, image_processor.patch_size)
            _embed_missing(folder, missing, embed, reader, accelerator, settings)
        accelerator.wait_for_everyone()
    return EmbeddingStore.open(folder)


def _holds_all(folder: Path, expected: StoreIndex, wanted: pa.Array, accelerator: Accelerator) -> bool:
    """Whether a store is whole and has all patches; the main process looks, and all learn what it saw."""
    holds = False
    if accelerator.is_main_process:
        try:
            store = EmbeddingStore.open(folder)
            same = replace(store.index, shards=()) == expected
            holds = same and not len(store.missing(wanted)) and not store.index.damaged(folder)
        except (FileNotFoundError, ValueError):
            pass  # there is none, or it is told when it is prepared for writing
    return broadcast_object_list([holds])[0]


def _embed_missing(
    folder: Path,
    missing: pa.Array,
    embed: PatchEmbedder,
    reader: "_BatchReader",
    accelerator: Accelerator,
    settings: EmbeddingSettings,
) -> None:
    work = SharedWork(folder, missing, settings.batch_size, settings.shard_size, accelerator.num_processes)
    batch = min(settings.batch_size, settings.shard_size, len(missing))
    loading = {
        "dataset": reader,
        "num_workers": usable_workers(settings.num_workers, batch * reader.bytes_per_patch, "patches"),
        "pin_memory": accelerator.device.type == "cuda",
        "batch_flag": _BATCH_FLAG,
    }
    with tqdm(total=len(missing), unit="patch", disable=not accelerator.is_main_process) as bar:
        _embed_shards(work, loading, embed, bar, settings.save_every)


class _BatchReader(Dataset):
    """Reads batches of patches in the workers of a loader; they leave as bytes, a quarter of the size of floats.

    Without workers nothing else is done meanwhile, so that threads, one for each core, share a batch: decoders leave
    the interpreter to the others.
    """

    def __init__(self, source: PatchSource, patch_size: int) -> None:
        self._source = source
        self._shape = (patch_size, patch_size, 3)
        self.bytes_per_patch = patch_size**2 * 3

    def __getitem__(self, names: list[str]) -> torch.Tensor:
        """The patches with these names, uint8 `(len(names), P, P, 3)`."""
        batch = np.empty((len(names), *self._shape), dtype=np.uint8)
        threads = min(len(names), os.cpu_count() or 1)
        if threads > 1 and get_worker_info() is None and getattr(self._source, "for_threads", False):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(partial(self._read, batch), range(len(names)), names))  # which raises what one raised
        else:
            for place, name in enumerate(names):
                self._read(batch, place, name)
        return torch.from_numpy(batch)

    def _read(self, batch: np.ndarray, place: int, name: str) -> None:
        patch = self._source.read(name)
        if patch.shape != self._shape or patch.dtype != np.uint8:
            raise ValueError(f"The patch {name} is {patch.dtype} {patch.shape}, expected uint8 {self._shape}.")
        batch[place] = patch


def _embed_shards(
    work: SharedWork, loader_settings: dict[str, Any], embed: PatchEmbedder, bar: tqdm, save_every: float
) -> None:
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
            loader = WatchedLoader(
                sampler=itertools.chain([first], batches),
                batch_size=None,
                generator=torch.Generator(),
                **loader_settings,
            )
            with worker_failures_in_words(_BATCH_FLAG):
                _embed_claimed(work, loader, embed, bar, save_every)
        _show(bar, bar.total)
    finally:
        work.release()


def _embed_claimed(work: SharedWork, loader: DataLoader, embed: PatchEmbedder, bar: tqdm, save_every: float) -> None:
    filling, last_save = None, time.monotonic()
    for patches in loader:
        embedded = embed(patches)
        if filling is None:
            filling = _Filling(work.claimed[0], embedded)
        filling.add(embedded)
        bar.update(len(embedded))
        if filling.is_full:
            work.finish(filling.embeddings())
            filling = None
            _show(bar, bar.total - work.unfinished_patches())
        elif time.monotonic() - last_save > save_every:
            work.save(filling.embeddings())
        else:
            continue
        last_save = time.monotonic()


class _Filling:
    """The embeddings that there are of a shard; they wait on the device, so that a GPU runs ahead."""

    def __init__(self, shard: ClaimedShard, like: torch.Tensor) -> None:
        self._names = shard.names
        self._rows = like.new_empty(len(shard.names), like.shape[-1], dtype=torch.float16)
        self._filled = 0
        if shard.saved is not None:
            self.add(shard.saved)

    @property
    def is_full(self) -> bool:
        return self._filled == len(self._names)

    def add(self, embeddings: torch.Tensor) -> None:
        self._rows[self._filled : self._filled + len(embeddings)] = embeddings
        self._filled += len(embeddings)

    def embeddings(self) -> torch.Tensor:
        """Of the first patches of the shard, finite, on the CPU."""
        embeddings = self._rows[: self._filled].cpu()
        _check_finite(self._names.slice(0, self._filled), embeddings)
        return embeddings


def _show(bar: tqdm, patches: int) -> None:
    """Show how many patches all processes together have finished."""
    bar.n = patches
    bar.refresh()


def _check_finite(names: pa.Array, embeddings: torch.Tensor) -> None:
    bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(
            f"The embeddings of {len(bad)} of {len(names)} patches are NaN or exceed what float16 holds (65504), the "
            f"first is that of {names[bad[0]].as_py()}. These are not stored. Check the backbone, or embed "
            "in float32 or bfloat16 if it overflows in float16."
        )


def _unique(names: Names) -> pa.Array:
    """The names in order, each once."""
    wanted = as_names(names)
    if len(wanted) == 0 or wanted.null_count:
        raise ValueError(f"Expected the names of patches, got {len(wanted)}, of which {wanted.null_count} are None.")
    wanted = wanted.unique()
    return wanted.take(pc.sort_indices(wanted))
