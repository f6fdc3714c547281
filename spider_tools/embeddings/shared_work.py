"""How processes share the embedding of one store: one run at a time, and within it every shard by one process."""

import logging
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..sharing import Claims
from .store_index import StoreIndex, add_shard, shard_file
from .unfinished import UNFINISHED_FOLDER, read_unfinished, remove_unfinished, save_unfinished

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CLAIMS_FOLDER = "claims"
CHOOSE_ANOTHER = "Choose a store of your own with --embedding_store."


@dataclass(frozen=True)
class _PlannedShard:
    file: str
    names: pa.Array


@dataclass(frozen=True, eq=False)
class ClaimedShard:
    """A shard that this process embeds.

    Attributes:
        file: Its name.
        names: Of its patches.
        saved: Embeddings of the first of them, float16 `(n, hidden)`, by a process that died; None if there are none.
    """

    file: str
    names: pa.Array
    saved: torch.Tensor | None


class SharedWork:
    """The shards to embed, of which every process claims the next one that no other has.

    When a process dies, its claims become free (see `Claims`); whoever waits then takes over what it had saved.

    Args:
        folder: Of the store, prepared.
        missing: Names of the patches to embed, each once; the same in every process.
        batch_size: Patches that are read and embedded at once.
        shard_size: Most patches of one shard.
        processes: That share the work.
    """

    def __init__(self, folder: Path, missing: pa.Array, batch_size: int, shard_size: int, processes: int) -> None:
        self.claimed: deque[ClaimedShard] = deque()
        self._folder = folder
        self._batch_size = min(batch_size, shard_size)
        # Whole batches, so that their composition, and with it every digit, does not depend on the processes. A small
        # set is cut into smaller shards than it needs to be, so that no process stands idle.
        batches = -(-len(missing) // self._batch_size)
        rows = self._batch_size * min(shard_size // self._batch_size, -(-batches // processes))
        slices = (missing.slice(start, rows) for start in range(0, len(missing), rows))
        self._shards = [_PlannedShard(shard_file(names), names) for names in slices]
        self._claims = Claims(folder / CLAIMS_FOLDER)

    def unfinished_patches(self) -> int:
        """Patches that no process has finished."""
        finished = self._finished_files()
        return sum(len(shard.names) for shard in self._shards if shard.file not in finished)

    def batches(self) -> Iterator[list[str]]:
        """Names of patches batch by batch, until there is no shard that is neither finished nor claimed.

        The loader asks ahead of the backbone, so that a shard is claimed before the one before it is finished, and
        reading never pauses between two shards. `claimed` holds the shards of the batches that are on their way.
        """
        for shard in self._shards:
            if shard.file not in self._finished_files() and self._claim(shard):
                saved = self._saved(shard)
                self.claimed.append(ClaimedShard(shard.file, shard.names, saved))
                for start in range(0 if saved is None else len(saved), len(shard.names), self._batch_size):
                    yield shard.names.slice(start, self._batch_size).to_pylist()

    def save(self, embeddings: torch.Tensor) -> None:
        """Save what there is of the first claimed shard; embeddings float16 `(patches so far, hidden)`."""
        shard = self.claimed[0]
        save_unfinished(self._folder, shard.file, shard.names.slice(0, len(embeddings)), embeddings)

    def finish(self, embeddings: torch.Tensor) -> None:
        """Write the first claimed shard; embeddings float16 `(patches, hidden)`."""
        shard = self.claimed.popleft()
        try:
            add_shard(self._folder, shard.names, embeddings)
            remove_unfinished(self._folder, shard.file)
        finally:
            self._claims.release(shard.file)

    def release(self) -> None:
        """Give up what is claimed and not finished; what is saved of it stays."""
        self.claimed.clear()
        self._claims.release_all()

    def _claim(self, shard: _PlannedShard) -> bool:
        if not self._claims.claim(shard.file):
            return False
        if shard.file in self._finished_files():  # between the look at the index and the claim
            self._claims.release(shard.file)
            return False
        return True

    def _saved(self, shard: _PlannedShard) -> torch.Tensor | None:
        """What another process has saved of a shard, if whole batches are left."""
        saved = read_unfinished(self._folder, shard.file, shard.names)
        usable = saved is not None and len(saved) < len(shard.names) and len(saved) % self._batch_size == 0
        return saved if usable else None

    def _finished_files(self) -> set[str]:
        return {shard.file for shard in StoreIndex.read(self._folder).shards}


@contextmanager
def only_run(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Wait until no other run writes the store, then keep others out; the main process holds the lock.

    Leave it when no process of the run embeds any more.

    Raises:
        PermissionError: The store may not be written.
    """
    claims = Claims(folder, CHOOSE_ANOTHER)
    waited = False
    while not _claim_run(claims, accelerator):
        if not waited:
            logger.warning("another run writes the store %s; waiting for it", folder)
        waited = True
    try:
        yield
        if accelerator.is_main_process:
            for name in (CLAIMS_FOLDER, UNFINISHED_FOLDER):
                shutil.rmtree(folder / name, ignore_errors=True)
    finally:
        claims.release_all()


def _claim_run(claims: Claims, accelerator: Accelerator) -> bool:
    """One attempt, whose result all processes learn: a wait at a barrier would end in a time-out after minutes."""
    claimed = accelerator.is_main_process and claims.claim("run", patience=POLL_SECONDS)
    return broadcast_object_list([claimed])[0]
