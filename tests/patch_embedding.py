"""Fifty patches that note who reads them, and their embeddings by the tiny model, one call or one by one."""

import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from spider_tools.embeddings.precompute import embed_patches_once
from spider_tools.embeddings.settings import EmbeddingSettings

SIDE = 28
HIDDEN = 32
NAMES = [f"slide-{i % 3}_{i:04d}.png" for i in range(50)]


def pixels_of(name):
    """Any patch that differs between names, uint8 `(28, 28, 3)`."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@dataclass(frozen=True)
class LoggingSource:
    """Makes patches, and notes in a file which ones were asked for and by which embedding process."""

    log: Path
    delay: float = 0.0
    bad: str = ""
    fingerprint: str = "made up"

    def read(self, name):
        with self.log.open("a") as file:
            file.write(f"{name} {os.environ.get('RANK', '0')}\n")
        time.sleep(self.delay)
        if name == self.bad:
            raise ValueError(f"The patch {name} cannot be used: it is torn.")
        return pixels_of(name)

    def names_read(self):
        """The names that were asked for since the last call, sorted."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sorted(line.split()[0] for line in lines)


class TinyEmbedding:
    """`embed(names, **what to replace)`: `embed_patches_once` with the tiny model.

    Its settings make shards of at most 12 patches, in whole batches of 4, without workers.
    """

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self.source = LoggingSource(folder / "reads.log")
        self.settings = EmbeddingSettings(folder / "stores", batch_size=4, num_workers=0, shard_size=14)
        self.model, self.image_processor = model, processor.image_processor

    def __call__(self, names, **changes):
        used = {"source": self.source, "model": self.model, "image_processor": self.image_processor}
        used |= {"settings": self.settings, **changes}
        return embed_patches_once(names, accelerator=Accelerator(cpu=True), **used)


def one_by_one(model, names):
    """Embeddings of single patches, normalised by hand, float32 `(names, hidden)`."""
    mean, std = np.array([0.7068, 0.5755, 0.7220]), np.array([0.1950, 0.2316, 0.1816])
    embeddings = []
    for name in names:
        pixels = ((pixels_of(name) / 255 - mean) / std).transpose(2, 0, 1)
        with torch.no_grad():
            inputs = torch.from_numpy(pixels[None]).float()
            embeddings.append(model.backbone(inputs).last_hidden_state[0, 0])
    return torch.stack(embeddings)
