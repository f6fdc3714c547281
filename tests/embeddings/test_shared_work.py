"""Shards belong to who claims them; those of a process that dies, or cannot write, are taken over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from spider_tools.embeddings import shared_work
from spider_tools.embeddings.shared_work import CLAIMS_FOLDER, SharedWork, only_run
from spider_tools.embeddings.store_index import prepare_store
from spider_tools.sharing import Claims

HIDDEN = 8
NAMES = [f"patch-{number:02}" for number in range(50)]
# What a process that embeds holds: the claim of the first shard. It needs no torch, and so starts at once.
CLAIM_AND_SLEEP = """
import sys, time
from pathlib import Path
from spider_tools.sharing import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.claim(sys.argv[2]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def make_work(tmp_path):
    prepare_store(tmp_path, {}, HIDDEN)
    names = pa.array(NAMES, pa.large_string())
    return lambda: SharedWork(tmp_path, names, batch_size=10, shard_size=20, processes=2)


def firsts(work):
    return [batch[0] for batch in work.batches()]


def test_a_shard_whose_process_is_killed_is_taken_over(tmp_path, make_work):
    mine = make_work()
    next(mine.batches())
    (lock,) = (tmp_path / CLAIMS_FOLDER).iterdir()
    mine.release()
    command = [sys.executable, "-c", CLAIM_AND_SLEEP, str(lock.parent), lock.name.removesuffix(".lock")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout.readline() == "True\n"
        work = make_work()
        assert firsts(work) == [NAMES[20], NAMES[30], NAMES[40]]
        other.send_signal(signal.SIGKILL)
    assert firsts(work) == [NAMES[0], NAMES[10]]


def test_a_shard_that_cannot_be_written_is_free_for_others(make_work, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    mine, other = make_work(), make_work()
    assert len(list(mine.batches())) == 5
    monkeypatch.setattr(shared_work, "add_shard", full)
    with pytest.raises(OSError, match="No space left"):
        mine.finish(torch.zeros(20, HIDDEN, dtype=torch.float16))
    assert firsts(other) == [NAMES[0], NAMES[10]]


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_run_waits_for_another_one_says_so_and_clears_away_the_claims(tmp_path, make_work, monkeypatch, caplog):
    monkeypatch.setattr(shared_work, "POLL_SECONDS", 0.05)
    earlier, attempts = Claims(tmp_path), []
    assert earlier.claim("run")
    claim_run = shared_work._claim_run

    def give_way_after_three_attempts(claims, accelerator):
        attempts.append(claim_run(claims, accelerator))
        if len(attempts) == 3:
            earlier.release("run")
        return attempts[-1]

    monkeypatch.setattr(shared_work, "_claim_run", give_way_after_three_attempts)
    with only_run(tmp_path, Accelerator(cpu=True)):
        assert not earlier.claim("run")
        next(make_work().batches())
        assert (tmp_path / CLAIMS_FOLDER).exists()
    assert attempts == [False, False, False, True]
    assert caplog.text.count("another run writes the store") == 1
    assert not (tmp_path / CLAIMS_FOLDER).exists()
    assert earlier.claim("run")
