"""Run a script on several real processes, as `torchrun` does, without the seconds that each would take to import torch.

One server per test process imports what scripts need, once, and every process of every script is forked from it. The
variables of the environment, and `sys.argv`, are those that a script started by itself would find.
"""

import contextlib
import gc
import os
import runpy
import socket
import sys
import tempfile
import time
import traceback
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["lightning_gap.callbacks", "lightning_gap.functional", "scipy.optimize"])
SECONDS = 200


def run(script, *arguments, ranks=2, folder="."):
    """Run it in a folder, and wait; a process that fails or hangs fails the test with what each of them printed."""
    with tempfile.TemporaryDirectory() as printed:
        port = free_port()
        together = SERVER.Barrier(ranks)
        heard = [Path(printed, f"{rank}.txt") for rank in range(ranks)]
        argv = [str(script), *map(str, arguments)]
        started = []
        for rank, file in enumerate(heard):
            file.touch()
            variables = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": ranks, "NODE_RANK": 0}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            started.append(SERVER.Process(target=_one, args=(argv, folder, variables, file, together)))
            started[-1].start()
        end = time.monotonic() + SECONDS
        try:
            for process in started:
                process.join(max(0.0, end - time.monotonic()))
            codes = [process.exitcode for process in started]
            assert codes == [0] * ranks, "\n".join(f"[{rank}] {file.read_text()}" for rank, file in enumerate(heard))
        finally:
            for process in started:
                process.kill()
                process.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _one(argv, folder, variables, file, together):
    gc.freeze()  # what the server imported is no garbage
    os.environ.update({name: str(value) for name, value in variables.items()})
    with file.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.argv = argv
    os.chdir(folder)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        together.abort()
        os._exit(1)
    with contextlib.suppress(BrokenBarrierError):
        together.wait(SECONDS)  # a process that leaves while another still talks to it may end that one
