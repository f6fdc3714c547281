"""Embedding with little shared memory, with a reader that dies, and of images that were overwritten in place."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from patch_embedding import NAMES, SIDE, LoggingSource, TinyEmbedding, one_by_one, pixels_of
from PIL import Image

from spider_tools import workers
from spider_tools.data.grid import unique_patch_names
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings
from spider_tools.workers import WorkerError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4 * SIDE**2 * 3


@pytest.fixture
def embed(model, processor, tmp_path):
    return TinyEmbedding(model, processor, tmp_path)


@pytest.mark.parametrize(("batches", "used"), [(6, None), (5, 1), (3, 0)])
def test_embedding_takes_as_many_readers_as_shared_memory_has_room_for(
    embed, model, monkeypatch, caplog, batches, used
):
    room = SimpleNamespace(f_bavail=batches * BATCH, f_frsize=1)
    monkeypatch.setattr(workers.os, "statvfs", lambda path: room)
    store = embed(NAMES, settings=replace(embed.settings, num_workers=2))
    said = f"Reading patches with {used} workers instead of 2"
    assert (said in caplog.text) == (used is not None)
    torch.testing.assert_close(store[store.rows(NAMES)].float(), one_by_one(model, NAMES), atol=2e-3, rtol=1e-3)


@dataclass(frozen=True)
class _DeadlySource(LoggingSource):
    """Its reader is sent a signal when it comes to a patch."""

    number: int = signal.SIGKILL

    def read(self, name):
        if name == sorted(NAMES)[29]:
            os.kill(os.getpid(), self.number)
        return super().read(name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reader_that_dies_or_stops_ends_the_run_in_words_and_what_was_finished_is_kept(embed, monkeypatch, number):
    init = workers.WatchedLoader.__init__
    monkeypatch.setattr(
        workers.WatchedLoader, "__init__", lambda self, *a, **options: init(self, *a, **options | {"seconds": 3})
    )
    settings = replace(embed.settings, num_workers=1)
    with pytest.raises(WorkerError, match=r"died or does not answer: .* --num_workers"):
        embed(NAMES, source=_DeadlySource(embed.source.log, number=number), settings=settings)
    embed.source.names_read()
    embed(NAMES)
    assert set(sorted(NAMES)[24:]) <= set(embed.source.names_read())


SMALL = """
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import conftest  # keeps caches apart
from patch_embedding import NAMES, TinyEmbedding
from spider_tools import remote_code
model = remote_code.model_class().from_pretrained(sys.argv[1])
processor = SimpleNamespace(image_processor=remote_code.image_processor_class().from_pretrained(sys.argv[1]))
embed = TinyEmbedding(model, processor, Path(sys.argv[2]))
store = embed(NAMES, settings=replace(embed.settings, num_workers=4, batch_size=32, shard_size=32))
print(len(store))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can make a small /dev/shm")
def test_a_small_shared_memory_as_in_docker_does_not_hang(model_folder, tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    program = f"mount -t tmpfs -o size=256k tmpfs /dev/shm && exec {sys.executable} small.py {model_folder} {tmp_path}"
    command = ["unshare", "-m", "sh", "-c", program]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env=environment
    )
    assert result.stdout.split() == ["50"], result.stderr
    assert "Reading patches with 0 workers instead of 4" in result.stderr


def test_embeddings_follow_images_that_are_normalised_in_place(embed, model, tmp_path):
    """Uncompressed files of the same names and sizes: nothing but their content tells them apart."""
    folder = tmp_path / "tissue"
    (folder / "images").mkdir(parents=True)
    names = [name.replace(".png", ".bmp") for name in NAMES[:6]]
    for name in names:
        Image.fromarray(pixels_of(name)).save(folder / "images" / name)
    records = [
        {"slide_id": name[:7], "image_name": name, "context_info": {}, "class": "ab"[i % 2], "split": "train"}
        for i, name in enumerate(names)
    ]
    (folder / "metadata.json").write_text(json.dumps(records))

    def embedded():
        data = load_regions(DataSettings(str(folder), cache_dir=tmp_path / "cache", patch_size=SIDE))
        store = embed(unique_patch_names(data.splits), source=data.patches)
        return store[store.rows(names)].float()

    before = embedded()
    torch.testing.assert_close(before, one_by_one(model, names), atol=2e-3, rtol=1e-3)
    path = folder / "images" / names[2]
    size = path.stat().st_size
    Image.fromarray(255 - pixels_of(names[2])).save(path)
    assert path.stat().st_size == size
    after = embedded()
    changed = (before != after).any(dim=1)
    assert changed.tolist() == [i == 2 for i in range(6)]
    np.testing.assert_array_equal(before[[0, 1, 3, 4, 5]].numpy(), after[[0, 1, 3, 4, 5]].numpy())
