import gc
import logging
import os

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


def pytest_collection_finish(session):
    """Take what the imports made, half a million objects, out of every later search for garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    gc.unfreeze()  # else what is still alive at the end would be reported as leaked
