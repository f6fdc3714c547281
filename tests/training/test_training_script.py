"""train.py as users run it: it resumes bit for bit, and processes change nothing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import ctrl_c
import launched
import pytest
import torch
import warm_python
from accelerate.state import AcceleratorState
from training_runs import NO_DROPOUT, PATCH_SIZE, assert_equal_weights, history_of, weights_of

import train as train_script
from spider_tools import remote_code

pytestmark = pytest.mark.usefixtures("fresh_accelerator")
ROOT = remote_code.REPOSITORY_ROOT


def command(settings, data_settings, *words):
    return [sys.executable, str(ROOT / "train.py"), *flags(settings, data_settings), *words]


def run_by_launcher(command, **options):
    """As users do, with two processes."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launcher += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    python, *script = command
    return subprocess.run([python, *launcher, *script], capture_output=True, text=True, timeout=300, **options)


def flags(settings, data_settings):
    told = {
        "dataset": data_settings.dataset,
        "cache_dir": data_settings.cache_dir,
        "patch_size": PATCH_SIZE,
        "validation_fraction": data_settings.validation_fraction,
        "output_dir": settings.output_dir,
        "backbone": "random",
        "backbone_config": settings.backbone_config,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "num_workers": 0,
        "train_backbone": settings.train_backbone,
    }
    return [f"--{name}={value}" for name, value in told.items()]


def environment():
    # As many threads as here: other numbers of them add up in other orders.
    threads = str(torch.get_num_threads())
    return os.environ | {"OMP_NUM_THREADS": threads, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def run_here(settings, data_settings, *words):
    """What the script does, in this process: that takes a third of the time."""
    train_script.main(train_script.parse_args([*flags(settings, data_settings), *words]))


@pytest.mark.slow
@pytest.mark.parametrize(("train_backbone", "launcher"), [("frozen", True), ("full", False)])
def test_two_processes_give_the_weights_of_one(settings, data_settings, train_backbone, launcher):
    words = [f"--{name}=0" for name in NO_DROPOUT]
    settings = replace(settings, train_backbone=train_backbone, batch_size=13)
    run_here(settings, data_settings, *words)
    other = replace(settings, output_dir=settings.output_dir / "2")
    run_two = run_by_launcher if launcher else launched.run
    done = run_two(command(other, data_settings, *words), env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_weights(weights_of(settings.output_dir), weights_of(other.output_dir), rtol=1e-3, atol=2e-5)
    for one, two in zip(history_of(settings.output_dir), history_of(other.output_dir)):
        for name in ("train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1"):
            assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-4)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(settings, data_settings):
    """With dropout, context dropout and a backbone that learns: every random state has to come back."""
    words = ["--checkpoint_every=1", "--context_dropout=0.3", "--checkpoints_kept=3", "--flip"]
    settings = replace(settings, train_backbone="full", epochs=3)
    run_here(settings, data_settings, *words)
    killed = replace(settings, output_dir=settings.output_dir / "2")
    process = ctrl_c.start(command(killed, data_settings, *words), warm=True, **environment())
    checkpoints = killed.run_folder / "checkpoints"
    ctrl_c.wait_until(lambda: len(list(checkpoints.glob("step_*"))) >= 3, process)
    process.kill()
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, error
    assert not (killed.output_dir / "config.json").exists()
    AcceleratorState._reset_state(reset_partial_state=True)
    run_here(killed, data_settings, *words, "--resume_from_checkpoint=latest")
    assert_equal_weights(weights_of(settings.output_dir), weights_of(killed.output_dir))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_ends_a_run_on_a_checkpoint(settings, data_settings, number):
    """So does a terminal with Ctrl-C, and Slurm: workers that ended by it would end the run before its checkpoint."""
    settings = replace(settings, epochs=200, train_backbone="full")
    process = ctrl_c.start(command(settings, data_settings, "--num_workers=2"), warm=True, **environment())
    checkpoints = settings.run_folder / "checkpoints"
    ctrl_c.wait_until(lambda: list(checkpoints.glob("step_*")), process)
    code, _, error = ctrl_c.stop(process, number)
    assert code == 1
    newest = sorted(checkpoints.glob("step_*"))[-1]
    assert ctrl_c.told(error) == f"Stopped by {number.name}; --resume_from_checkpoint latest goes on from {newest}."
    assert "Traceback" not in error
    assert json.loads((newest / "progress.json").read_text())["global_step"] == int(newest.name[5:])


SMALL_FILES_ONLY = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(settings, data_settings):
    run_here(replace(settings, epochs=1), data_settings)
    checkpoints = settings.run_folder / "checkpoints"
    (good,) = checkpoints.iterdir()
    before = {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()}

    python, *script = command(settings, data_settings, "--resume_from_checkpoint=latest")
    done = warm_python.run([python, "-c", SMALL_FILES_ONLY, *script], env=environment(), cwd=ROOT)
    assert done.returncode != 0
    assert f"The last good one is {good}" in done.stderr
    assert [path.name for path in checkpoints.iterdir()] == [good.name]
    assert {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_processes_that_do_not_see_each_other_are_refused(settings, data_settings):
    if torch.cuda.is_available():
        pytest.skip("on a machine with a GPU they do see each other")
    done = launched.run(command(settings, data_settings), env=environment(), cwd=ROOT, use_cpu=False)
    assert done.returncode != 0
    assert "2 processes were launched, but they do not see each other" in done.stderr
    assert not settings.run_folder.exists()
