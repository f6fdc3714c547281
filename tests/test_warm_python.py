"""Programs in forks of a process that has imported libraries: what they see and how they end is Python's own."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import warm_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.environ.get("OMP_NUM_THREADS") != "1", reason="programs are started plainly here"
    ),
]


@pytest.fixture
def bare(monkeypatch):
    """Forks of a process that has imported nothing: how they come about is the same, and they end in no time."""
    monkeypatch.setattr(warm_python, "_process", process := warm_python._WarmProcess(()))
    yield process
    process.end()


SEES = """
import json, os, signal, sys
handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
print(json.dumps([
    [sys.argv, sys.orig_argv, sys.path[:3], os.getcwd(), sorted(os.environ.items())],
    [__name__, globals().get("__file__"), sys.modules["__main__"].__dict__ is globals()],
    [sys.stdin.read(), sys.stdout is sys.__stdout__, sorted(os.listdir("/proc/self/fd"))],
    [[s.encoding, s.errors, s.line_buffering, s.write_through] for s in (sys.stdin, sys.stdout, sys.stderr)],
    [handlers, list(signal.pthread_sigmask(0, [])), len(os.listdir("/proc/self/task"))],
]))
"""


def run_both(command, **options):
    """The same program in a fresh process and in a fork."""
    env = {**os.environ, "PYTHONPATH": "beside", **options.pop("env", {})}
    # Shells have what runs in the background ignore Ctrl-C, and programs inherit that; a warm one does not.
    heeding = signal.signal(signal.SIGINT, signal.SIG_DFL)
    cold = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, timeout=60, **options
    )
    signal.signal(signal.SIGINT, heeding)
    return cold, warm_python.run(command, env=env, **options)


@pytest.mark.parametrize("way", ["script", "module", "code"])
def test_a_program_sees_what_a_fresh_process_would_see(bare, tmp_path, way):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "program.py").write_text(SEES)
    words = {"script": ["folder/program.py"], "module": ["-m", "folder.program"], "code": ["-c", SEES]}[way]
    cold, warm = run_both([sys.executable, *words, "--flag", "x y"], cwd=tmp_path, env={"RANK": "1"})
    assert (cold.returncode, warm.returncode) == (0, 0), warm.stderr
    assert json.loads(warm.stdout) == json.loads(cold.stdout)
    assert json.loads(warm.stdout)[0][0][1:] == ["--flag", "x y"]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("print('said')", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; print('out'); sys.exit('in words')", 1),
        ("raise ValueError('not caught')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os, time; os.kill(os.getpid(), 2); time.sleep(9)", -signal.SIGINT),
        ("import atexit; atexit.register(print, 'at exit')", 0),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()", 0),
        ("import os; os.fork() or os._exit(0); print(os.waitstatus_to_exitcode(os.wait()[1]))", 0),
    ],
)
def test_a_program_ends_as_a_fresh_process_does(bare, program, code):
    cold, warm = run_both([sys.executable, "-c", program])
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.returncode == code
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_libraries_are_there_and_nothing_of_this_project():
    program = "import sys; print({name.split('.')[0] for name in sys.modules})"
    names = eval(warm_python.run([sys.executable, "-c", program]).stdout)
    assert {"torch", "transformers", "datasets", "accelerate"} <= names
    assert not names & {"spider_tools", "evaluate", "transformers_modules", "tiny_spider", "pytest"}


def test_programs_draw_numbers_of_their_own_and_count_as_others_do():
    program = "import numpy, random, torch; print(numpy.random.random(), random.random(), torch.initial_seed())"
    said = [warm_python.run([sys.executable, "-c", program]).stdout.split() for _ in range(2)]
    for one, two in list(zip(*said))[:2]:
        assert one != two
    program = "import torch; torch.manual_seed(0); a = torch.randn(300, 300); print((a @ a).double().sum().item())"
    values = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    assert float(warm_python.run([sys.executable, "-c", program]).stdout) == (values @ values).double().sum().item()


def test_a_program_is_watched_and_stopped(bare):
    program = "import time; print('begun', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program]
    with warm_python.start(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == "begun\n"
        assert process.poll() is None
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid != os.getsid(0)
        assert Path(f"/proc/{process.pid}/exe").resolve() == Path(sys.executable).resolve()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.05)
        other = warm_python.start(command, stdout=subprocess.DEVNULL)
        assert other.pid != process.pid
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=10) == ("", None)
        assert process.returncode == process.poll() == -signal.SIGTERM
        assert other.poll() is None
        other.kill()
        assert other.wait(timeout=10) == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # of what has ended, to nobody


def test_much_that_is_said_on_both_streams_arrives(bare):
    program = "import sys\nfor _ in range(20000): print('o' * 20); print('e' * 20, file=sys.stderr)"
    done = warm_python.run([sys.executable, "-c", program])
    assert done.stdout == 20000 * ("o" * 20 + "\n")
    assert done.stderr == 20000 * ("e" * 20 + "\n")


@pytest.mark.parametrize("name", ["HF_HOME", "OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY", "PYTHONUTF8", "HOME"])
def test_an_environment_that_libraries_have_read_otherwise_is_refused(name):
    with pytest.raises(ValueError, match=f"imported with another {name}: start this program plainly"):
        warm_python.start([sys.executable, "-c", "pass"], env={**os.environ, name: "other"})


def test_another_python_is_refused():
    with pytest.raises(ValueError, match=r"Expected a program of .*, got /usr/bin/other"):
        warm_python.start(["/usr/bin/other", "-c", "pass"])


def test_where_the_tests_environment_changes_another_process_takes_over(bare, monkeypatch):
    program = "import os; print(os.getppid(), os.environ.get('HF_SOMETHING'), os.environ.get('SPIDER_SOMETHING'))"

    def ask():
        return warm_python.run([sys.executable, "-c", program]).stdout.split()

    first, nothing, _ = ask()
    monkeypatch.setenv("SPIDER_SOMETHING", "ours")
    assert ask() == [first, nothing, "ours"]
    monkeypatch.setenv("HF_SOMETHING", "1")
    second, *values = ask()
    assert values == ["1", "ours"]
    assert second != first
    assert not Path(f"/proc/{first}").exists()
    assert ask() == [second, "1", "ours"]


def test_variables_that_its_imports_set_are_not_taken_for_another_environment(monkeypatch):
    """As scikit-learn's KMP_INIT_AT_FORK, in the tests as there."""
    monkeypatch.delenv("KMP_INIT_AT_FORK", raising=False)
    monkeypatch.setattr(warm_python, "_process", process := warm_python._WarmProcess(("sklearn",)))
    program = "import os; print(os.getppid(), os.environ.get('KMP_INIT_AT_FORK'))"
    first = warm_python.run([sys.executable, "-c", program]).stdout.split()
    assert first[1] == "None"
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
    assert warm_python.run([sys.executable, "-c", program]).stdout.split() == [first[0], "FALSE"]
    process.end()


def test_several_threads_may_wait_for_one_program():
    program = warm_python.start([sys.executable, "-c", "import time; time.sleep(0.3); raise SystemExit(3)"])
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(program.wait, 60) for _ in range(8)]
        while program.poll() is None:
            time.sleep(0.001)
        assert [one.result(10) for one in waiting] == [3] * 8
