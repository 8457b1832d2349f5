"""Memory that a process keeps is not asked of the system again."""

import subprocess
import sys

import pytest

from lightning_gap.recipes.runner import memory

COUNT = """
import platform, resource, runpy, sys

one = b"1"
if sys.argv[1] == "kept":
    runpy.run_path(sys.argv[2])["keep_freed_memory"]()
one * 64_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    one * 64_000_000
pages = 64_000_000 / resource.getpagesize()
print(platform.libc_ver()[0], (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_kept_memory_is_used_again_without_new_pages():
    found = {}
    for how in ("kept", "plain"):
        command = [sys.executable, "-c", COUNT, how, memory.__file__]
        library, faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found[how] = float(faults)
    if library == "glibc":
        assert found["plain"] > 15  # of twenty; or there is nothing to be gained, and the code can go
        assert found["kept"] < 10
