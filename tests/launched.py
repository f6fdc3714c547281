"""A program as several processes of one run: what `accelerate launch` does, without the seconds that it takes."""

import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import warm_python

_GRACE_S = 30  # for the others, once one process has failed


def start(command, processes=2, env=None, use_cpu=True, **options):
    """As many processes of `warm_python.start`, each told its rank, where the others are, and if it uses the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    count = str(processes)
    common = {**(os.environ if env is None else env), "ACCELERATE_USE_CPU": str(use_cpu).lower()}
    common |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = (str(rank) for rank in range(processes))
    return [warm_python.start(command, env={**common, "RANK": r, "LOCAL_RANK": r}, **options) for r in ranks]


def run(command, processes=2, timeout=300, **options):
    """What `subprocess.run` gives of all of them: the worst exit code, and what they said, one after the other."""
    started = start(command, processes, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + timeout
    with ThreadPoolExecutor(processes) as pool:
        said = [pool.submit(process.communicate) for process in started]
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started):
                deadline = min(deadline, time.monotonic() + _GRACE_S)
            if time.monotonic() > deadline:
                for process in started:
                    process.kill()
            time.sleep(0.05)
        output, errors = zip(*(one.result() for one in said))
    code = next((process.returncode for process in started if process.returncode), 0)
    return subprocess.CompletedProcess(command, code, "".join(output), "".join(errors))
