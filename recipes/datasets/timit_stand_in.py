"""Synthetic frames of the shape of TIMIT's, for those who do not have it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from lightning_gap.recipes.datasets.splits import Splits
from lightning_gap.recipes.datasets.timit import COEFFICIENTS, STATES, Speech, frame_splits

NOTE = "Synthetic stand-in of TIMIT's shape: its numbers say nothing about TIMIT."


def timit_stand_in(data_dir: Path, *, download: bool = False) -> Splits:  # noqa: ARG001 - every data set is called alike
    """Synthetic frames of TIMIT's shape, 24,000 + 4,000; their numbers say nothing about TIMIT.

    360 inputs and 1,973 classes. A class is a point in the space of the 40 coefficients; an utterance stays near one
    for some frames and moves on to the next, in a voice of its own, under noise that is smooth in time. The same
    samples on every call.

    Args:
        data_dir: Not used; the data is drawn.
        download: Not used either.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(STATES, COEFFICIENTS, generator=generator)
    train, test = (_speak(centres, utterances, generator) for utterances in (96, 16))
    return frame_splits(train, test, NOTE)


def _speak(centres: Tensor, utterances: int, generator: torch.Generator, frames: int = 250) -> Speech:
    shape = utterances, frames, COEFFICIENTS
    states = torch.stack([_walk(frames, generator) for _ in range(utterances)])  # (utterances, frames)
    voice = 0.5 * torch.randn(utterances, 1, COEFFICIENTS, generator=generator)
    noise = 1.2 * torch.randn(shape, generator=generator)
    features = _smoothed(centres[states] + noise) + voice
    return Speech(features.flatten(0, 1), states.flatten(), torch.full((utterances,), frames))


def _walk(frames: int, generator: torch.Generator) -> Tensor:
    """The class of each frame: each class that comes stays for 3 to 9 frames."""
    stays = torch.randint(3, 10, (frames // 3 + 1,), generator=generator)
    return torch.randint(STATES, stays.shape, generator=generator).repeat_interleave(stays)[:frames]


def _smoothed(tracks: Tensor) -> Tensor:
    """Mean over three neighbouring frames of (utterances, frames, D)."""
    return avg_pool1d(tracks.transpose(1, 2), 3, stride=1, padding=1, count_include_pad=False).transpose(1, 2)
