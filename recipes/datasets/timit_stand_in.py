"""Synthetic frames of the shape of TIMIT's, for those who do not have it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from .in_memory_data import InMemoryData
from .samples import Frames
from .timit import COEFFICIENTS, CONTEXT, STATES, Speech, normalised_frames


class TIMITStandIn(InMemoryData):
    """Synthetic frames of TIMIT's shape, 24,000 + 4,000; their numbers say nothing about TIMIT.

    360 inputs and 1,973 classes. A class is a point in the space of the 40 coefficients; an utterance stays near one
    for some frames and moves on to the next, in a voice of its own, under noise that is smooth in time. The same
    samples every time. Arguments and attributes are those of `ClassificationData`; ``data_dir`` is not used.
    """

    name, title = "timit-stand-in", "TIMIT's stand-in"
    num_classes, input_shape = STATES, ((2 * CONTEXT + 1) * COEFFICIENTS,)
    note = "Synthetic stand-in of TIMIT's shape: its numbers say nothing about TIMIT."

    def read(self) -> tuple[Frames, Frames]:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(STATES, COEFFICIENTS, generator=generator)
        train, test = (_speak(centres, utterances, generator) for utterances in (96, 16))
        return normalised_frames(train, test)


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
