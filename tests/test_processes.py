"""Processes that others start: deaf to Ctrl-C, or ended by it without a word, and told in words when they die."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest
import warm_python
from tiny_spider import ROOT

from spider_tools.processes import WorkerError, deaf_to_interrupts, ending, lost_process, process_pool, serve_quietly

SLEEP = "import sys, time; print('up', flush=True); time.sleep(0.5); print('done', flush=True)"


@pytest.fixture(autouse=True)
def _hear_interrupts():
    """Shells have what runs in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_myself():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)


def test_an_interrupt_in_the_block_is_heard_at_its_end():
    steps = []

    def start_something():
        with deaf_to_interrupts():
            interrupt_myself()
            steps.append("the block was done")

    with pytest.raises(KeyboardInterrupt):
        start_something()
    assert steps == ["the block was done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt):
        interrupt_myself()


def test_an_error_in_the_block_stays_what_it_is():
    with pytest.raises(ValueError, match="mine"):
        with deaf_to_interrupts():
            raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_nobody_wants_to_hear_is_not_heard_at_the_end():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deaf_to_interrupts():
        interrupt_myself()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_may_start_processes_too():
    ended = []

    def run():
        with deaf_to_interrupts():
            ended.append(subprocess.run([sys.executable, "-c", "pass"]).returncode)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [0]


def test_programs_that_are_started_in_the_block_are_deaf():
    with deaf_to_interrupts():
        process = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "done\n"


def test_processes_that_are_forked_in_the_block_are_deaf():
    with deaf_to_interrupts():
        process = multiprocessing.get_context("fork").Process(target=interrupt_myself)
        process.start()
    process.join(60)
    assert process.exitcode == 0


# ---- workers


def serve(connection):
    serve_quietly()
    connection.send("up")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system has no way to ask who sends a signal")
def test_only_its_owner_ends_a_worker():
    """Slurm sends SIGTERM to all processes of a run, whose checkpoint needs the workers a moment longer."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
    process.start()
    assert mine.recv() == "up"
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)
    process.join(0.5)
    assert process.is_alive()
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


def fail_in_a_thread(error):
    serve_quietly()
    sys.excepthook(type(error), error, None)


@pytest.mark.parametrize(
    ("error", "is_told"), [(EOFError(), False), (ConnectionResetError(104, "reset"), False), (KeyError("x"), True)]
)
def test_a_worker_whose_owner_has_ended_says_nothing_of_it(capfd, error, is_told):
    process = multiprocessing.get_context("fork").Process(target=fail_in_a_thread, args=(error,))
    process.start()
    process.join(30)
    assert ("KeyError" in capfd.readouterr().err) == is_told


# ---- pools


def _double(number):
    return 2 * number


def _die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(number):
    raise ValueError(f"{number} is odd")


def _note(folder, number):
    (folder / str(number)).touch()
    time.sleep(0.3)
    if number == 0:
        raise ValueError("the first")


@pytest.mark.parametrize("context", [None, "spawn"])
def test_a_pool_gives_results_in_order(context):
    with process_pool(2, mp_context=context and multiprocessing.get_context(context)) as pool:
        assert list(pool.map(_double, range(20))) == list(range(0, 40, 2))


def test_a_killed_process_of_a_pool_is_told_with_the_usual_cause_and_the_remedy():
    with pytest.raises(WorkerError, match=r"Memory is the usual cause: .* more or pass a lower --num_workers,"):
        with process_pool(2, " or pass a lower --num_workers") as pool:
            list(pool.map(_die, range(3)))


def test_what_a_pool_was_asked_to_do_keeps_its_errors_and_ends_what_has_not_begun(tmp_path):
    with pytest.raises(ValueError, match="3 is odd"):
        with process_pool(2) as pool:
            list(pool.map(_refuse, [3]))
    with pytest.raises(ValueError, match="the first"):
        with process_pool(1) as pool:
            list(pool.map(_note, [tmp_path] * 20, range(20)))
    assert len(list(tmp_path.iterdir())) < 10


def test_only_the_thread_of_a_pool_cancels_what_has_not_begun(monkeypatch):
    """Else it may find cancelled, and say so with a traceback, what it is about to give up as broken."""
    cancelled_by, cancel = set(), Future.cancel
    monkeypatch.setattr(Future, "cancel", lambda self: cancelled_by.add(threading.current_thread()) or cancel(self))
    with pytest.raises(ValueError, match="non-negative"), process_pool(1) as pool:
        list(pool.map(time.sleep, [-1, *[0.1] * 20]))
    assert cancelled_by
    assert threading.main_thread() not in cancelled_by


# ---- how processes ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "ended with exit code 2"),
        (-11, "was ended by SIGSEGV"),
        (-9, "was ended by SIGKILL. Memory is the usual cause: the system kills what takes too much of it"),
        (-99, "was ended by signal 99"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(code, words):
    assert ending(code) == words


@pytest.mark.parametrize("text", ["", "Connection reset by peer", "The peer group 'gloo' is unknown.", "CUDA error"])
def test_other_errors_are_not_taken_for_a_lost_process(text):
    assert lost_process(RuntimeError(text)) is None


PEERS = """
import os, signal
from spider_tools.scripts import run_script
def main(argv):
    import torch
    from spider_tools.launching import make_accelerator
    accelerator = make_accelerator(cpu=True)
    accelerator.wait_for_everyone()
    if accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(100):
        accelerator.reduce(torch.zeros(2)) if argv == ["reduce"] else accelerator.wait_for_everyone()
run_script(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reduce", "wait"])
def test_a_run_that_has_lost_a_process_to_the_system_says_so_in_one_sentence(how, tmp_path):
    """As with launchers that do not end those that are left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        warm_python.start(
            [sys.executable, "-c", PEERS, how],
            env={**common, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, -9]
    assert "error: Another process of this run ended before it was done." in errors[0]
    assert "memory is the usual cause (SIGKILL, exit code -9): start fewer processes, or pass a lower" in errors[0]
    assert "Traceback" not in errors[0]
