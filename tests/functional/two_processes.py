"""Run a script on two processes; it is told a folder for its results and its rank."""

import os
import subprocess
import sys
from pathlib import Path


def run(script, folder):
    """Wait for both; one that fails fails the test with what it said."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, Path(script), folder]
    started = [
        subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True, env=environment) for rank in (0, 1)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
