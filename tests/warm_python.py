"""Python that has imported what takes seconds, and forks for every program that a test starts.

A process that imports torch and Transformers' models uses 8 s of a core before it does anything. `start` and `run` are
`subprocess.Popen` and `subprocess.run` without that, for tests of what a program does and not of how it starts or what
it imports: Ctrl-C, kills, rivals. One such process serves all tests of a session, or of an xdist worker. It has
imported libraries only, nothing of this project and no remote code, and holds no threads.

A program sees its own arguments, folder, environment, streams, paths of modules and `__main__`; what it leaves is the
end of the forked process, so exit codes, tracebacks and signals are Python's own. What libraries read when they are
imported would come too late: a program with another environment than that of the tests is refused.

The file is also the program of the process that forks.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

# Read when a program runs, and not by what is imported before it.
MAY_DIFFER = {"PYTEST_CURRENT_TEST", "PYTHONPATH", "TOKENIZERS_PARALLELISM"}
MAY_DIFFER |= {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
MAY_DIFFER_FROM = ("ACCELERATE_", "SLURM_", "SPIDER_", "_TORCHINDUCTOR_")
IMPORTED = (
    "torch.utils.data",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers",
    "transformers.image_processing_utils",
    "transformers.processing_utils",
    "transformers.trainer",
    "accelerate",
    "datasets",
    "matplotlib.figure",
    "pyarrow.parquet",
    "scipy.optimize",
    "sklearn.metrics",
)


_SLICE_S = 0.05  # for which a thread waits before it lets others look


# --- In the tests


def start(
    command: Sequence[Any],
    cwd: Any = None,
    env: Optional[Mapping[str, str]] = None,
    stdout: Optional[int] = None,
    stderr: Optional[int] = None,
    start_new_session: bool = False,
) -> Any:
    """What `subprocess.Popen(..., text=True)` gives, of a Python program.

    Where libraries start threads when they are imported, which `make test` has them not do, and on systems other than
    Linux, it is a plain start.

    Args:
        command: `[sys.executable, script or "-m", module or "-c", code, *arguments]`.
        cwd: Folder to run in.
        env: Its environment.
        stdout: `subprocess.PIPE`, `subprocess.DEVNULL`, or None for that of the tests.
        stderr: Likewise.
        start_new_session: Whether it leads a session, and a group of processes, of its own.

    Raises:
        ValueError: It is not this Python, or its environment differs in what libraries read when they are imported.
    """
    words, env = [str(word) for word in command], dict(os.environ if env is None else env)
    if words[0] != sys.executable:
        raise ValueError(f"Expected a program of {sys.executable}, got {words[0]}.")
    if sys.platform != "linux" or os.environ.get("OMP_NUM_THREADS") != "1":
        return subprocess.Popen(
            words, cwd=cwd, env=env, stdout=stdout, stderr=stderr, text=True, start_new_session=start_new_session
        )
    other = sorted(_read_by_imports(env).items() ^ _read_by_imports(os.environ).items())
    if other:
        names = ", ".join(sorted({name for name, _ in other}))
        raise ValueError(f"Libraries were imported with another {names}: start this program plainly.")
    request = {"argv": words[1:], "cwd": str(cwd or Path.cwd()), "env": env, "new_session": start_new_session}
    return _WarmProgram(_process.serving(env), request, stdout, stderr)


def run(command: Sequence[Any], timeout: float = 300, **options: Any) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run(..., capture_output=True, text=True)` gives; see `start`."""
    with start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as program:
        try:
            output, error = program.communicate(timeout=timeout)
        except BaseException:
            program.kill()
            raise
        return subprocess.CompletedProcess(command, program.returncode, output, error)


class _WarmProgram:
    """The part of `subprocess.Popen` that tests use."""

    def __init__(
        self, control: socket.socket, request: dict[str, Any], stdout: Optional[int], stderr: Optional[int]
    ) -> None:
        self.args = [sys.executable, *request["argv"]]
        self.returncode: Optional[int] = None
        self._ending = threading.Lock()
        self._answers, theirs = socket.socketpair()
        with contextlib.ExitStack() as opened:
            opened.enter_context(theirs)
            nothing = opened.enter_context(open(os.devnull, "r+b"))
            self.stdout, out = _stream(stdout, 1, nothing, opened)
            self.stderr, error = _stream(stderr, 2, nothing, opened)
            socket.send_fds(control, [b"r"], [theirs.fileno(), nothing.fileno(), out, error])
        self._answers.sendall(json.dumps(request).encode() + b"\n")
        self._told = self._answers.makefile("r")
        line = self._told.readline()
        if not line:
            raise RuntimeError("the process that forks has ended")
        self.pid = int(line)

    def __enter__(self) -> "_WarmProgram":
        return self

    def __exit__(self, *error: object) -> None:
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()
        self.wait()

    def poll(self) -> Optional[int]:
        """The exit code, negative for a signal, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """The exit code, once it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._has_ended(
            _SLICE_S if deadline is None else min(_SLICE_S, max(0.0, deadline - time.monotonic()))
        ):
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.001)  # the turn of other threads that wait
        assert self.returncode is not None
        return self.returncode

    def _has_ended(self, timeout: float) -> bool:
        with self._ending:  # of several threads one reads, and closes what the others would wait for in vain
            if self.returncode is None:
                with selectors.DefaultSelector() as ready:
                    ready.register(self._answers, selectors.EVENT_READ)
                    if not ready.select(timeout):
                        return False
                self.returncode = int(self._told.readline())
                self._told.close()
                self._answers.close()
            return True

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: Optional[float] = None) -> tuple[Optional[str], Optional[str]]:
        """All that is still to be read of both streams, once nobody writes to them and it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said: dict[Any, list[bytes]] = {stream: [] for stream in (self.stdout, self.stderr) if stream is not None}

        def left() -> Optional[float]:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        with selectors.DefaultSelector() as ready:
            for stream in said:
                ready.register(stream, selectors.EVENT_READ)
            while ready.get_map():
                events = ready.select(left())
                if not events:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _ in events:
                    read = os.read(key.fd, 1 << 16)
                    said[key.fileobj].append(read)
                    if not read:
                        ready.unregister(key.fileobj)
        self.wait(left())
        return tuple(stream and _text(b"".join(said[stream])) for stream in (self.stdout, self.stderr))  # type: ignore


def _text(said: bytes) -> str:
    return said.decode().replace("\r\n", "\n").replace("\r", "\n")


def _stream(wanted: Optional[int], own: int, nothing: Any, opened: contextlib.ExitStack) -> tuple[Any, int]:
    """The end of a stream that is read, or None, and the one to write to."""
    if wanted is None:
        return None, own
    if wanted == subprocess.DEVNULL:
        return None, nothing.fileno()
    reader, writer = os.pipe()
    opened.callback(os.close, writer)
    return open(reader, encoding="utf-8"), writer


def _read_by_imports(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in MAY_DIFFER and not name.startswith(MAY_DIFFER_FROM)
    }


class _WarmProcess:
    """The process that forks: begun when it is first needed, and ended with this one.

    Libraries, and fixtures, change the environment of the tests. If it is no longer that of the imports, a process
    with the new one takes over.

    Args:
        imported: Modules that it imports.
    """

    def __init__(self, imported: Sequence[str]) -> None:
        self._imported = imported
        self._control: Optional[socket.socket] = None
        atexit.register(self.end)

    def serving(self, environment: Mapping[str, str]) -> socket.socket:
        """Where to ask for programs with this environment."""
        wanted = _read_by_imports(environment)
        if self._control is not None:
            names = wanted.keys() | self._before.keys()
            # Some libraries set variables when they are imported: there as in the tests.
            if any(wanted.get(name) not in (self._before.get(name), self._after.get(name)) for name in names):
                self.end()
        if self._control is None:
            self._begin(wanted)
        assert self._control is not None
        return self._control

    def _begin(self, environment: dict[str, str]) -> None:
        self._before = environment
        self._control, theirs = socket.socketpair()
        with theirs, self._control.makefile("r") as told:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *self._imported],
                # Arrow's allocator has a thread otherwise.
                env=environment | {"JE_ARROW_MALLOC_CONF": "background_thread:false"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
            self._after = json.loads(told.readline())

    def end(self) -> None:
        """End it, but not what it has started."""
        if self._control is not None:
            self._control.close()
            self._control = None
            self._process.wait()


_process = _WarmProcess(IMPORTED)


# --- In the process that forks


def _serve(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for every request; returns in the forks only, with what is wanted and the three streams."""
    answers: dict[int, socket.socket] = {}
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        ready.register(wake, selectors.EVENT_READ)
        while True:
            came = {key.fileobj for key, _ in ready.select()}
            if wake in came:
                os.read(wake, 1 << 10)
                _tell_ends(answers)
            if control not in came:
                continue
            _, ends, _, _ = socket.recv_fds(control, 1, 4)
            if not ends:
                os._exit(0)
            answer = socket.socket(fileno=ends[0])
            with answer.makefile("r") as told:
                request = json.loads(told.readline())
            threads = os.listdir("/proc/self/task")
            assert len(threads) == 1, f"a fork would lose {len(threads) - 1} threads"
            pid = os.fork()
            if pid == 0:
                break
            answers[pid] = answer
            answer.sendall(f"{pid}\n".encode())
            for end in ends[1:]:
                os.close(end)
    signal.set_wakeup_fd(-1)
    for end in (wake, woken):
        os.close(end)
    for connection in (control, answer, *answers.values()):
        connection.close()
    return request, ends[1:]


def _tell_ends(answers: dict[int, socket.socket]) -> None:
    while answers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with answers.pop(pid) as answer, contextlib.suppress(OSError):  # whoever asked may be gone
            answer.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: dict[str, Any], streams: list[int], paths: list[str]) -> None:
    """Make this process what a fresh one would be, and run the program."""
    if request["new_session"]:
        os.setsid()
    else:
        os.setpgid(0, 0)  # so that no signal to its group ends the process that forks
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)  # which knows of the file that was there before whether it has an end
        unbuffered = old.write_through and number > 0
        raw = open(number, "wb" if number else "rb", 0 if unbuffered else -1, closefd=False)
        how = {"line_buffering": old.line_buffering, "write_through": old.write_through}
        new = io.TextIOWrapper(raw, old.encoding, old.errors, **how)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    for name in os.environ.keys() - request["env"].keys():
        del os.environ[name]
    os.environ.update(request["env"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    kind, *rest = request["argv"]
    first = {"-c": "", "-m": os.getcwd()}.get(kind) if kind in ("-c", "-m") else os.path.dirname(os.path.realpath(kind))
    more = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [first, *more, *paths]
    importlib.invalidate_caches()
    sys.orig_argv = [sys.executable, *request["argv"]]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    if kind == "-m":
        sys.argv = ["-m", *rest[1:]]
        importlib.import_module("runpy")._run_module_as_main(rest[0])  # what python -m runs
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [kind, *rest]
        main.__file__ = os.path.abspath(kind)
        exec(compile(Path(kind).read_bytes(), main.__file__, "exec"), main.__dict__)


def _main() -> None:
    paths = sys.path[1:]  # what is beside this file is not for programs
    sys.path[:] = paths
    for name in sys.argv[2:]:
        importlib.import_module(name)
    del os.environ["JE_ARROW_MALLOC_CONF"]
    gc.collect()
    gc.freeze()  # or the end of every fork would look through all of it
    control = socket.socket(fileno=int(sys.argv[1]))
    control.sendall(json.dumps(dict(os.environ)).encode() + b"\n")
    _become(*_serve(control), paths)


if __name__ == "__main__":
    _main()
