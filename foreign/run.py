"""Run every script of this folder, and write the tables of docs/foreign.md from what is kept in docs/results/foreign.

A run that is kept is not made again, so one that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from table import HERE, RESULTS, SCRIPTS, write_page

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", default=SCRIPTS, metavar="script", help="all by default")
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = []
    for script in parser.parse_args().scripts:
        print(script, flush=True)
        words = [sys.executable, f"{script}.py", "--compare", str(RESULTS / f"{script}.jsonl")]
        if subprocess.run(words, cwd=HERE).returncode:
            failed.append(script)
    write_page()
    sys.exit(f"these failed: {failed}" if failed else 0)
