"""Without workers the threads of one process share a batch: the same patches in the same order, and the same errors."""

import threading

import numpy as np
import pytest

from spider_tools.data.disturbances import UNDISTURBED
from spider_tools.data.disturbed_patches import DisturbedPatches
from spider_tools.data.patches import PatchSource, RegionPatches
from spider_tools.embeddings import precompute


class Numbered(PatchSource):
    """Patches of one value, that of their name; notes which threads read."""

    patch_size = 4

    def __init__(self, for_threads, timeout=20):
        self.for_threads = for_threads
        self.threads = set()
        self.together = threading.Barrier(2, timeout=timeout)

    def read(self, name):
        self.threads.add(threading.get_ident())
        if self.for_threads:
            self.together.wait()  # passes only where two read at once
        if name == "bad":
            raise ValueError("The patch 'bad' cannot be used.")
        return np.full((4, 5 if name == "wide" else 4, 3), int(name) if name.isdigit() else 0, dtype=np.uint8)


def read(source, names):
    return precompute._BatchReader(DisturbedPatches(source, UNDISTURBED, 0.5), 4)[names]


@pytest.mark.parametrize("for_threads", [True, False])
def test_patches_come_in_the_order_of_their_names(monkeypatch, for_threads):
    monkeypatch.setattr(precompute.os, "cpu_count", lambda: 2)
    source = Numbered(for_threads)
    assert read(source, [str(number) for number in range(20)])[:, 1, 2, 0].tolist() == list(range(20))
    assert (threading.get_ident() in source.threads) == (not for_threads)


@pytest.mark.parametrize(("name", "words"), [("bad", "'bad' cannot be used"), ("wide", r"\(4, 5, 3\), expected uint8")])
def test_what_one_thread_finds_wrong_is_told(monkeypatch, name, words):
    monkeypatch.setattr(precompute.os, "cpu_count", lambda: 2)
    with pytest.raises(ValueError, match=words):
        read(Numbered(True, timeout=1), ["1", name, "2", "3"])  # one thread may wait for the other in vain


def test_regions_which_are_decoded_once_for_many_patches_are_not_for_threads():
    assert not RegionPatches.for_threads
