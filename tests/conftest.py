import gc
import logging
import os

import bad_inputs
import promises
import torch
from hypothesis import settings

# Two workers share two cores. The variable is for the processes that tests start, and for Lightning's DDP strategy,
# which else raises the number of threads of the process that asks for it: sums would then differ from test to test.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# How long an example takes says how busy the machine is. A test that hangs is ended by pytest-timeout.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

gc.disable()  # a fifth of the time of the imports to come


def pytest_collection_modifyitems(items):
    """A test tells in its report what it shows and which bad input it tries: the process that started it knows then."""
    for item in items:
        for mark in item.iter_markers("promise"):
            for key in mark.args:
                assert key in promises.PROMISES, f"{item.nodeid}: no promise {key!r} in tests/promises.py"
                item.user_properties.append(("promise", key))
        for mark in item.iter_markers("bad_input"):
            for number in mark.args:
                assert number in bad_inputs.ALL, f"{item.nodeid}: no group {number!r} in tests/bad_inputs.py"
                item.user_properties.append(("bad input", number))


def pytest_terminal_summary(terminalreporter):
    ended = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    called = [report for report in ended if report.when == "call" or report.failed]
    if any(name == "promise" for report in called for name, _ in report.user_properties):
        terminalreporter.section("Promises, and how many cases kept them")
        for line in promises.table(called):
            terminalreporter.write_line(line)
    for line in bad_inputs.table(called):
        terminalreporter.write_line(line)


def pytest_collection_finish(session):
    """Take what the imports made, half a million objects, out of every later search for garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    gc.unfreeze()  # else what is still alive at the end would be reported as leaked
