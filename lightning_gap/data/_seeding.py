"""Seed the generators of random numbers that are in use, which costs a step nothing that counts."""

from __future__ import annotations

import random
import sys

import torch


def seed_cpu(seed: int) -> None:
    """Seed torch's generator of the CPU, Python's and, where it is in use, NumPy's."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def seed_all(seed: int) -> None:
    """Seed the CPU's generators and those of the devices that are in use.

    `torch.manual_seed` would note the call down, with a stack trace, for each kind of device that is not.
    """
    seed_cpu(seed)
    for kind in (torch.cuda, torch.xpu):
        if kind.is_initialized():
            kind.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
