"""One store and several who fill it: claims on shards, kills, rivals, and launched processes.

The file is also the program that its tests start: `python test_precompute_in_processes.py MODEL STORES LOG DELAY
[SAVE_EVERY]`.
"""

import contextlib
import copy
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import launched
import pyarrow as pa
import pytest
import torch
import warm_python
from accelerate import Accelerator
from patch_embedding import HIDDEN, NAMES, LoggingSource, TinyEmbedding

from spider_tools import remote_code
from spider_tools.embeddings.precompute import embed_patches_once
from spider_tools.embeddings.settings import EmbeddingSettings
from spider_tools.embeddings.shards import Shard, read_names, rows_of
from spider_tools.embeddings.shared_work import SharedWork
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import StoreIndex, prepare_store

FILE = Path(__file__).resolve()
ROOT = FILE.parents[2]


@pytest.fixture
def embed(model, processor, tmp_path):
    return TinyEmbedding(model, processor, tmp_path)


def test_a_shard_belongs_to_who_claims_it_until_it_is_given_up(tmp_path):
    prepare_store(tmp_path, {}, HIDDEN)
    names = pa.array(sorted(NAMES), pa.large_string())
    mine, other = (SharedWork(tmp_path, names, batch_size=10, shard_size=20, processes=2) for _ in range(2))
    assert next(mine.batches()) == sorted(NAMES)[:10]
    assert [batch[0] for batch in other.batches()] == [sorted(NAMES)[i] for i in (20, 30, 40)]
    other.finish(torch.zeros(20, HIDDEN, dtype=torch.float16))
    assert other.unfinished_patches() == mine.unfinished_patches() == 30
    assert list(other.batches()) == []

    mine.release()

    assert [batch[0] for batch in other.batches()] == [sorted(NAMES)[i] for i in (0, 10)]


@pytest.mark.parametrize(
    ("names", "processes", "rows"),
    [(50, 1, [12, 12, 12, 12, 2]), (50, 3, [12, 12, 12, 12, 2]), (21, 2, [12, 9]), (18, 3, [8, 8, 2]), (3, 2, [3])],
)
def test_shards_are_whole_batches_and_occupy_all_processes(tmp_path, names, processes, rows):
    prepare_store(tmp_path, {}, HIDDEN)
    work = SharedWork(tmp_path, pa.array(sorted(NAMES)[:names]), batch_size=4, shard_size=14, processes=processes)
    sizes = Counter()
    for batch in work.batches():
        sizes[len(work.claimed)] += len(batch)
    assert list(sizes.values()) == rows


def _program(*arguments):
    return [str(FILE), *map(str, arguments)]


def _environment(**more):
    """The environment of a program that finds spider_tools where it is not installed, and the tests' own modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **more}


def _start(*arguments):
    return warm_python.start([sys.executable, *_program(*arguments)], env=_environment())


def _shards(folder):
    """Number of finished shards in the only store below a folder; 0 before it exists."""
    indices = list(folder.glob("*/index.json"))
    return len(StoreIndex.read(indices[0].parent).shards) if indices else 0


def _wait_for_shards(folder, count, process):
    deadline = time.monotonic() + 60
    while _shards(folder) < count:
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline, "no shard was finished in a minute"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_resumes_with_its_current_shard_lost(embed, model_folder, tmp_path):
    source, settings = embed.source, embed.settings
    expected = embed(NAMES, settings=replace(settings, folder=tmp_path / "uninterrupted"))
    source.names_read()
    with _start(model_folder, settings.folder, source.log, 0.1) as process:
        _wait_for_shards(settings.folder, 2, process)
        process.send_signal(signal.SIGKILL)
    finished = _shards(settings.folder) * 12
    assert finished < 50
    resumed = replace(source, log=source.log.with_name("resumed.log"))

    store = embed(NAMES, source=resumed)  # the killed run's readers outlive it for some seconds, and its lock with them

    assert resumed.names_read() == sorted(NAMES)[finished:]
    assert [path for path in store.folder.iterdir() if path.name.startswith(".")] == []
    assert torch.equal(store[store.rows(NAMES)], expected[expected.rows(NAMES)])


@pytest.mark.slow
def test_a_killed_run_that_saved_resumes_in_the_middle_of_its_shard(embed, model_folder, tmp_path):
    source, settings = embed.source, embed.settings
    expected = embed(NAMES, settings=replace(settings, folder=tmp_path / "uninterrupted"))
    source.names_read()
    with _start(model_folder, settings.folder, source.log, 0.1, 0) as process:
        _wait_for_shards(settings.folder, 1, process)
        while not _left(settings.folder) < _left(settings.folder, with_unfinished=False):
            assert process.poll() is None, "the process ended by itself"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    left = _left(settings.folder)
    resumed = replace(source, log=source.log.with_name("resumed.log"))

    store = embed(NAMES, source=resumed)

    assert len(left) % 12 in (2, 6, 10)  # whole batches of 4 are saved
    assert resumed.names_read() == sorted(left)
    assert torch.equal(store[store.rows(NAMES)], expected[expected.rows(NAMES)])


def _left(folder, with_unfinished=True):
    """The names that the only store below a folder holds neither in shards nor in what is saved of one."""
    (folder,) = folder.glob("*")
    left = set(EmbeddingStore.open(folder).missing(NAMES).to_pylist())
    for path in folder.glob("unfinished/shard-*") if with_unfinished else ():
        with contextlib.suppress(ValueError):  # it was finished meanwhile
            left -= set(read_names(path.parent, Shard(path.name, rows_of(path), 0, "")).to_pylist())
    return left


@pytest.mark.slow
def test_of_two_runs_at_once_the_second_waits_and_reads_nothing(embed, model_folder, caplog):
    source, settings = embed.source, embed.settings
    with _start(model_folder, settings.folder, source.log, 0.05) as process:
        _wait_for_shards(settings.folder, 1, process)
        store = embed(NAMES)
        assert process.wait(timeout=60) == 0
    assert source.names_read() == sorted(NAMES)
    assert "another run writes the store" in caplog.text
    assert len(EmbeddingStore.open(store.folder, verify=True)) == 50


@pytest.mark.slow
def test_two_launched_processes_share_the_shards_and_give_the_same_digits(embed, model_folder):
    source, settings = embed.source, embed.settings
    program = [sys.executable, *_program(model_folder, settings.folder / "two", source.log, 0.05)]
    result = launched.run(program, env=_environment(), cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "patch/s" in result.stderr
    ranks = Counter(line.split()[1] for line in source.log.read_text().splitlines())
    assert set(ranks) == {"0", "1"}
    assert min(ranks.values()) >= 12
    assert source.names_read() == sorted(NAMES)
    (folder,) = (settings.folder / "two").iterdir()

    shared, alone = EmbeddingStore.open(folder, verify=True), embed(NAMES)

    assert folder.name == alone.folder.name
    assert torch.equal(shared[shared.rows(NAMES)], alone[alone.rows(NAMES)])


def main(model_folder, stores, log, delay, save_every=30):
    """Embed all patches, in as many processes as were launched; several are first tried with different backbones."""
    torch.set_num_threads(1)
    model = remote_code.model_class().from_pretrained(model_folder)
    image_processor = remote_code.image_processor_class().from_pretrained(model_folder)
    accelerator = Accelerator(cpu=True)
    settings = EmbeddingSettings(Path(stores), batch_size=4, num_workers=1, shard_size=14, save_every=float(save_every))
    if accelerator.num_processes > 1:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.backbone.layernorm.weight += accelerator.process_index
        with pytest.raises(ValueError, match="different backbones"):
            embed_patches_once(NAMES, LoggingSource(Path(log)), other, image_processor, accelerator, settings)
    source = LoggingSource(Path(log), float(delay))
    store = embed_patches_once(NAMES, source, model, image_processor, accelerator, settings)
    assert len(store) == len(NAMES)
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
