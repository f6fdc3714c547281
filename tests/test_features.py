"""Embedding each patch once, against a loop over single patches; with kills, rivals, damage and several processes.

The file is also the program that tests start in other processes: `python test_features.py MODEL STORES LOG DELAY`.
"""

import copy
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from spider_tools import remote_code
from spider_tools.embeddings.identity import backbone_fingerprint, store_content, store_key
from spider_tools.embeddings.precompute import embed_patches_once
from spider_tools.embeddings.settings import EmbeddingSettings
from spider_tools.embeddings.shared_work import SharedWork
from spider_tools.embeddings.store import EmbeddingStore
from spider_tools.embeddings.store_index import StoreIndex, prepare_store

SIDE = 28
HIDDEN = 32
NAMES = [f"slide-{i % 3}_{i:04d}.png" for i in range(50)]
FILE = Path(__file__).resolve()


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


@pytest.fixture
def source(tmp_path):
    return LoggingSource(tmp_path / "reads.log")


@pytest.fixture
def settings(tmp_path):
    """Shards of at most 12 patches, in whole batches of 4; no workers."""
    return EmbeddingSettings(tmp_path / "stores", batch_size=4, num_workers=0, shard_size=14)


@pytest.fixture
def embed(model, processor, source, settings):
    """`embed(names, **what to replace)`: `embed_patches_once` with the tiny model."""

    def embed(names, **changes):
        used = {"source": source, "model": model, "image_processor": processor.image_processor, "settings": settings}
        used |= changes
        return embed_patches_once(names, accelerator=Accelerator(cpu=True), **used)

    return embed


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_equal_those_of_single_patches(embed, model, settings, num_workers):
    store = embed(NAMES, settings=replace(settings, num_workers=num_workers))
    assert [shard.rows for shard in store.index.shards] == [12, 12, 12, 12, 2]
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    read = store[store.rows(shuffled)]
    expected = one_by_one(model, shuffled)
    assert expected.std(dim=0).min() > 0.1  # patches differ
    torch.testing.assert_close(read.float(), expected, atol=2e-3, rtol=1e-3)


def test_each_unique_patch_is_read_once(embed, source):
    names = [*NAMES[10:30], *NAMES[:20]]
    store = embed(names)
    assert source.names_read() == sorted(NAMES[:30])
    assert len(store) == 30


def test_a_store_grows_by_what_is_missing(embed, source):
    first = embed(NAMES[5:15])
    source.names_read()
    embed(pa.array(NAMES[5:15]))
    assert source.names_read() == []

    grown = embed(NAMES[:20])

    assert source.names_read() == sorted(NAMES[:5] + NAMES[15:20])
    assert len(grown) == 20
    assert grown.folder == first.folder
    assert torch.equal(grown[grown.rows(NAMES[5:15])], first[first.rows(NAMES[5:15])])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_come_close_and_have_their_own_store(embed, settings, dtype):
    exact, rounded = embed(NAMES), embed(NAMES, settings=replace(settings, dtype=dtype))
    assert exact.folder != rounded.folder
    left, right = exact[exact.rows(NAMES)].float(), rounded[rounded.rows(NAMES)].float()
    assert 0 < (left - right).norm() < 0.05 * left.norm()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) on this machine")
def test_a_compiled_backbone_goes_on_in_the_store_of_one_that_is_not(embed, model, settings, source):
    plain = embed(NAMES[:10])
    source.names_read()
    both = embed(NAMES, settings=replace(settings, compile=True))
    assert both.folder == plain.folder
    assert source.names_read() == sorted(NAMES[10:])
    torch.testing.assert_close(both[both.rows(NAMES)].float(), one_by_one(model, NAMES), atol=2e-3, rtol=1e-3)


def test_the_model_is_left_as_it_was(embed, settings, make_model):
    model = make_model(freeze_backbone=False, backbone_config={**_backbone(), "hidden_dropout_prob": 0.5}).train()
    before = copy.deepcopy(model.state_dict())
    store = embed(NAMES, model=model)
    assert model.backbone.training
    assert all(parameter.grad is None for parameter in model.parameters())
    embed(NAMES, model=model, settings=replace(settings, dtype="bfloat16"))
    assert model.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # Dropout of the training mode had no part in it.
    expected = one_by_one(model.eval(), NAMES)
    torch.testing.assert_close(store[store.rows(NAMES)].float(), expected, atol=2e-3, rtol=1e-3)


def _backbone():
    from conftest import BACKBONE

    return BACKBONE


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_numbers_go_on_as_if_nothing_had_been_embedded(embed, settings, num_workers):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    embed(NAMES[:9], settings=replace(settings, num_workers=num_workers))
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected


# ---- what the key depends on


def _key(model, image_processor, dtype="float32", fingerprint="made up"):
    source = LoggingSource(Path("unused"), fingerprint=fingerprint)
    return store_key(store_content(source, model, image_processor, dtype))


def _change_weight(model):
    with torch.no_grad():
        model.backbone.encoder.layer[1].norm2.bias[3] += 1e-6


def _change_epsilon(model):
    model.config.backbone_config.layer_norm_eps = 1e-3


def _change_head(model):
    with torch.no_grad():
        model.classifier.weight += 1


def _change_mask_token(model):
    with torch.no_grad():
        model.backbone.embeddings.mask_token += 1


@pytest.mark.parametrize(
    ("change", "same"),
    [(_change_weight, False), (_change_epsilon, False), (_change_head, True), (_change_mask_token, True)],
)
def test_the_key_follows_what_the_backbone_computes(model, processor, change, same):
    before = _key(model, processor.image_processor)
    change(model)
    assert (_key(model, processor.image_processor) == before) == same


@pytest.mark.parametrize(
    ("fields", "same"),
    [({"image_std": [0.2, 0.2, 0.3]}, False), ({"do_normalize": False}, False), ({"context_size": 3}, True)],
)
def test_the_key_follows_the_preprocessing_of_a_patch(model, make_processor, fields, same):
    keys = {_key(model, make_processor(**changes).image_processor) for changes in ({}, fields)}
    assert (len(keys) == 1) == same


def test_the_key_follows_dtype_and_source(model, processor):
    image_processor = processor.image_processor
    keys = [
        _key(model, image_processor),
        _key(model, image_processor, dtype="float16"),
        _key(model, image_processor, fingerprint="another"),
        _key(model, image_processor, fingerprint=None),
    ]
    assert len(set(keys)) == 4


def test_the_key_does_not_follow_the_dtype_that_weights_are_loaded_in(model, processor):
    model.half()
    before = _key(model, processor.image_processor)
    assert _key(model.float(), processor.image_processor) == before


def test_the_fingerprint_is_the_same_in_all_versions_of_transformers(model):
    """Weights with the names of Transformers 4, which the model takes in all versions, and a hash seen in both."""
    width, inner = HIDDEN, 48
    layer = {"attention.output.dense": (width, width), "mlp.weights_in": (2 * inner, width)}
    layer |= {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    layer |= {"mlp.weights_out": (width, inner)}
    weights = model.backbone.state_dict()
    state = {name: tensor for name, tensor in weights.items() if ".attention." not in name and ".mlp." not in name}
    for i in range(2):
        for part, (rows, columns) in layer.items():
            state[f"encoder.layer.{i}.{part}.weight"] = torch.empty(rows, columns)
            state[f"encoder.layer.{i}.{part}.bias"] = torch.empty(rows)
    for name, tensor in state.items():
        seed = zlib.crc32(name.encode()) % 1000
        state[name] = ((torch.arange(tensor.numel()) * 7 + seed) % 512 / 256 - 1).view(tensor.shape)
    model.backbone.load_state_dict(dict(state))
    assert backbone_fingerprint(model.backbone) == "2717cf4aeebd01b8c9307c4b6a94bbf7a51657b559feb46f93d0aa41107041f4"


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dtype": "float8"}, "must be one of .*'float32'.* got 'float8'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"shard_size": -3}, "`shard_size` must be at least 1, got -3"),
        ({"num_workers": -1}, "`num_workers` must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, fields, match):
    with pytest.raises(ValueError, match=match):
        EmbeddingSettings(tmp_path, **fields)


@pytest.mark.parametrize(
    ("names", "match"), [([], "got 0"), (["a", None], "got 2, of which 1 are None"), ([3], "Expected the names")]
)
def test_names_that_cannot_be_embedded_are_refused(embed, settings, names, match):
    with pytest.raises(ValueError, match=match):
        embed(names)
    assert not settings.folder.exists()


def test_an_image_processor_of_another_patch_size_is_refused(embed, make_processor):
    with pytest.raises(ValueError, match="makes patches of 14 px, the model takes 28 px"):
        embed(NAMES, image_processor=make_processor(patch_size=14).image_processor)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_patch_is_named_and_what_was_finished_is_kept(embed, source, settings, num_workers):
    settings = replace(settings, num_workers=num_workers)
    names = sorted(NAMES)
    with pytest.raises(ValueError, match=f"The patch {names[29]} cannot be used: it is torn"):
        embed(names, source=replace(source, bad=names[29]), settings=settings)
    source.names_read()
    store = embed(names, settings=settings)
    # Two shards of 12 were finished. Workers of the first run may have read ahead in the others until they were gone.
    assert sorted(set(source.names_read())) == names[24:]
    assert len(store) == 50


@dataclass(frozen=True)
class _OddSource:
    patch: np.ndarray

    def read(self, name):
        return self.patch


@pytest.mark.parametrize(
    ("patch", "match"),
    [
        (np.zeros((28, 27, 3), np.uint8), r"a\.png is uint8 \(28, 27, 3\), expected uint8 \(28, 28, 3\)"),
        (np.zeros((28, 28, 3), np.float32), r"a\.png is float32"),
        (np.zeros((28, 28), np.uint8), r"a\.png is uint8 \(28, 28\)"),
    ],
)
def test_patches_of_another_shape_or_dtype_are_refused(embed, patch, match):
    with pytest.raises(ValueError, match=match):
        embed(["a.png"], source=_OddSource(patch))


@pytest.mark.parametrize("factor", [1e9, float("nan")])
def test_embeddings_that_float16_cannot_hold_are_not_stored(embed, model, settings, factor):
    with torch.no_grad():
        model.backbone.layernorm.weight[5] *= factor
    with pytest.raises(FloatingPointError, match=r"of 12 of 12 patches .* first is that of slide-0_0000\.png"):
        embed(NAMES)
    (folder,) = settings.folder.iterdir()
    assert len(EmbeddingStore.open(folder, verify=True)) == 0


# ---- damage, full disks, kills and other processes


def test_a_damaged_shard_alone_is_embedded_again(embed, source):
    whole = embed(NAMES)
    expected = whole[whole.rows(NAMES)]
    shard = whole.folder / whole.index.shards[1].file
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    source.names_read()

    mended = embed(NAMES)

    assert source.names_read() == sorted(NAMES)[12:24]
    assert torch.equal(mended[mended.rows(NAMES)], expected)
    assert len(EmbeddingStore.open(mended.folder, verify=True)) == 50


def test_a_full_disk_keeps_what_was_finished(embed):
    source = _OddSource(np.zeros((SIDE, SIDE, 3), np.uint8))
    names = [*sorted(NAMES)[:24], *(f"z{i:3000d}" for i in range(6))]  # long names make the third shard too large
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, limits[1]))
    try:
        with pytest.raises(OSError, match="make room and start again"):
            embed(names, source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = embed(names[:24], source=_OddSource(np.zeros(0)))  # reads nothing
    assert [shard.rows for shard in kept.index.shards] == [12, 12]
    assert [shard.rows for shard in embed(names, source=source).index.shards] == [12, 12, 6]


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
    """The environment of a program that finds spider_tools where it is not installed."""
    return {**os.environ, "PYTHONPATH": str(FILE.parent.parent), **more}


def _start(*arguments):
    return subprocess.Popen([sys.executable, *_program(*arguments)], env=_environment())


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
def test_a_killed_run_resumes_with_its_current_shard_lost(embed, source, settings, model, model_folder, tmp_path):
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
def test_of_two_runs_at_once_the_second_waits_and_reads_nothing(embed, source, settings, model_folder, caplog):
    with _start(model_folder, settings.folder, source.log, 0.05) as process:
        _wait_for_shards(settings.folder, 1, process)
        store = embed(NAMES)
        assert process.wait(timeout=60) == 0
    assert source.names_read() == sorted(NAMES)
    assert "another run writes the store" in caplog.text
    assert len(EmbeddingStore.open(store.folder, verify=True)) == 50


@pytest.mark.slow
def test_two_launched_processes_share_the_shards_and_give_the_same_digits(embed, source, settings, model_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With --cpu the launcher starts one process only, whatever --num_processes says.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    command = [sys.executable, *launch, *_program(model_folder, settings.folder / "two", source.log, 0.05)]
    environment = _environment(ACCELERATE_USE_CPU="true")
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
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


def main(model_folder, stores, log, delay):
    """Embed all patches, in as many processes as were launched; several are first tried with different backbones."""
    torch.set_num_threads(1)
    model = remote_code.model_class().from_pretrained(model_folder)
    image_processor = remote_code.image_processor_class().from_pretrained(model_folder)
    accelerator = Accelerator(cpu=True)
    settings = EmbeddingSettings(Path(stores), batch_size=4, num_workers=1, shard_size=14)
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
