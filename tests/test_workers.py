"""Workers of loaders: how many shared memory allows, and that a dead or a stopped one ends the run in words."""

import logging
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from spider_tools.workers import (
    WORKER_TIMEOUT_SECONDS,
    WatchedLoader,
    WorkerError,
    usable_workers,
    worker_failures_in_words,
)

pytestmark = pytest.mark.slow

MB = 1 << 20


@pytest.fixture
def shared_memory(monkeypatch):
    """`shared_memory(bytes)`: what /dev/shm has free; None for a system without it."""

    def set_free(free):
        def statvfs(path):
            assert path == "/dev/shm"
            if free is None:
                raise FileNotFoundError(path)
            return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_bfree=1 << 40, f_bsize=1)

        monkeypatch.setattr(os, "statvfs", statvfs)

    return set_free


@pytest.mark.parametrize(
    ("free", "batch", "requested", "usable"),
    [
        (64 * MB, 9_633_792, 2, 2),  # Docker's, and 64 patches of 224 px: 6 batches fit, 10 would be needed
        (64 * MB, 9_633_792, 4, 2),
        (64 * MB, 2 * 9_633_792, 2, 0),  # 128 patches: 3 batches fit
        (0, 1, 3, 0),
        (10 * MB, MB, 4, 4),  # exactly two for each, and two in hand
        (10 * MB - 4096, MB, 4, 3),
        (1 << 40, 9_633_792, 32, 32),
        (None, 1 << 50, 4, 4),
        (0, MB, 0, 0),
        (MB, 0, 4, 4),
    ],
)
def test_workers_have_room_for_what_they_make_ahead(shared_memory, caplog, free, batch, requested, usable):
    shared_memory(free)
    assert usable_workers(requested, batch, "patches") == usable
    assert len(caplog.records) == (usable < requested)
    for said in ("Reading patches", f"with {usable} workers instead of {requested}", "--shm-size") * (
        usable < requested
    ):
        assert said in caplog.text


def test_processes_launched_together_share_the_room(shared_memory, monkeypatch, caplog):
    shared_memory(24 * MB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usable_workers(4, MB, "patches") == 2
    assert "has room for 6 MB" in caplog.text


class _Numbers(Dataset):
    """Batches of a size that goes through shared memory; `act` happens in a worker before one of them."""

    def __init__(self, act=None, at=None):
        self.act, self.at = act, at

    def __len__(self):
        return 40

    def __getitem__(self, number):
        if number == self.at:
            self.act()
        return torch.full((100_000,), number)


def _signal_myself(number):
    return lambda: os.kill(os.getpid(), number)


def _raise_like_a_dead_worker():
    raise RuntimeError("DataLoader worker (pid 1) is killed by signal: it is not.")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_watched_loader_gives_what_a_plain_one_gives(num_workers, persistent):
    options = {"persistent_workers": True} if persistent and num_workers else {}
    loader = WatchedLoader(_Numbers(), num_workers, batch_size=3, **options)
    assert loader.timeout == (WORKER_TIMEOUT_SECONDS if num_workers else 0)
    for _ in range(2):
        batches = list(loader)
        assert [batch[:, 7].tolist() for batch in batches] == [list(range(40))[i : i + 3] for i in range(0, 40, 3)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_worker_ends_the_loop_in_words(number):
    started = time.monotonic()
    loader = WatchedLoader(_Numbers(_signal_myself(number), 9), 2, batch_size=None)
    said = rf"(process ended by {number.name}|killed by signal: .*)\. Memory is the usual cause: .* --num_workers; 0 .*"
    with pytest.raises(WorkerError, match=said + r" A lower --batch_size takes less"):
        with worker_failures_in_words():
            list(loader)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("where", ["loader", "loop"])
def test_the_flag_that_a_script_has_for_its_batches_is_named(where):
    loader = WatchedLoader(_Numbers(_signal_myself(signal.SIGKILL), 9), 2, batch_size=None, batch_flag="--mine")

    def broken_loop():
        with worker_failures_in_words("--mine"):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    with pytest.raises(WorkerError, match="A lower --mine takes less memory too"):
        list(loader) if where == "loader" else broken_loop()


def test_workers_do_not_hear_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loader = WatchedLoader(_Numbers(_signal_myself(signal.SIGINT), 9), 2, batch_size=None)
        assert [batch[0].item() for batch in loader] == list(range(40))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_worker_that_stops_before_a_batch_ends_the_loop_in_words():
    started = time.monotonic()
    loader = WatchedLoader(_Numbers(_signal_myself(signal.SIGSTOP), 9), 2, seconds=2, batch_size=None)
    received = []
    with pytest.raises(WorkerError, match=r"does not answer: no batch came for 2 seconds\. Memory"):
        received.extend(batch[0].item() for batch in loader)
    assert time.monotonic() - started < 20


def test_a_worker_that_stops_with_a_batch_to_hand_over_ends_the_loop_in_words():
    """Receiving a tensor asks its worker for it, without a time-out of PyTorch's."""
    others = set(multiprocessing.active_children())
    batches = iter(WatchedLoader(_Numbers(), 1, seconds=2, batch_size=None))
    (worker,) = set(multiprocessing.active_children()) - others
    next(batches)
    time.sleep(0.5)  # the worker has made two ahead
    started = time.monotonic()
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="no batch came for 2 seconds"):
        with worker_failures_in_words():
            list(batches)
    assert time.monotonic() - started < 20
    assert not worker.is_alive()


def test_a_worker_that_dies_while_its_batches_are_used_is_told_in_words():
    others = set(multiprocessing.active_children())

    def use():
        with worker_failures_in_words():
            for _ in WatchedLoader(_Numbers(), 1, batch_size=None):
                for worker in set(multiprocessing.active_children()) - others:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(5)  # as a step of training, in which the process hears of it

    with pytest.raises(WorkerError, match="killed by signal: Killed"):
        use()


@pytest.mark.parametrize(
    ("error", "act"),
    [(RuntimeError, _raise_like_a_dead_worker), (ValueError, lambda: [].index(3)), (OSError, lambda: open("/absent"))],
)
def test_what_a_data_set_raises_is_not_taken_for_a_dead_worker(error, act):
    with pytest.raises(error) as caught:
        with worker_failures_in_words():
            list(WatchedLoader(_Numbers(act, 5), 1, batch_size=None))
    assert not isinstance(caught.value, WorkerError)
    assert "Caught" in str(caught.value)


def test_other_errors_of_the_loop_stay_as_they_are(caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(RuntimeError, match="The sky is grey"):
        with worker_failures_in_words():
            raise RuntimeError("The sky is grey")
