"""Memory that a process keeps is not asked of the system again."""

import subprocess
import sys

import pytest

COUNT = """
import platform, resource, sys
import torch
from lightning_gap.recipes.runner.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
torch.ones(16_000_000)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
pages = 64_000_000 / resource.getpagesize()
print(platform.libc_ver()[0], (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_kept_memory_is_used_again_without_new_pages():
    found = {}
    for how in ("kept", "plain"):
        command = [sys.executable, "-W", "ignore", "-c", COUNT, how]
        library, faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found[how] = float(faults)
    if library == "glibc":
        assert found["plain"] > 15  # of twenty; or there is nothing to be gained, and the code can go
        assert found["kept"] < 10
