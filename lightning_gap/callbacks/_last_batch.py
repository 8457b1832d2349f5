"""What the first batch shows about the batches to come: a last one of one sample is refused before any step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..functional.batch_size.schedule import MicroBatching
from ..trainer.batches import last_micro_batch_size, micro_batch_size
from ..trainer.loader import collected_train_loaders
from ..trainer.stated_batches import stated_batches


def smallest_batches(trainer: Trainer, planned_sizes: set[int]) -> dict[int, int]:
    """Samples of an epoch's smallest batch on one process, mostly the last, for each batch size where it is known."""
    size, stated = micro_batch_size(trainer), stated_batches(trainer.train_dataloader)
    sizes = planned_sizes | ({size} if size is not None else set())
    whole = trainer.max_steps == -1 and trainer.limit_train_batches == 1.0  # or epochs may end before
    found = {planned: stated.last_if(planned) if whole and stated is not None else None for planned in sizes}
    if size is not None and (found[size] is None or stated is None or stated.plan is None):
        found[size] = last_micro_batch_size(trainer)  # which knows of limits, too
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    if isinstance(batches, list | tuple) and batches:  # written out: any of them may be the smallest
        met = batches[: int(min(len(batches), trainer.num_training_batches))]
        found[len(batches[0])] = min(map(len, met))
    return {size: last for size, last in found.items() if last is not None}


def batches_of_each_loader(trainer: Trainer) -> list[tuple[int, int | None]]:
    """Samples of a full and of the last batch of each loader in a dict or list of train loaders that state them.

    ``None`` where a whole epoch does not reach the loader's last batch, or the loader does not know. Empty for a loader
    by itself. ``batch_size=1`` may be a loader of ready batches, and says nothing here.
    """
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    whole = trainer.limit_train_batches == 1.0 and (trainer.max_steps == -1 or steps >= trainer.num_training_batches)
    found: list[tuple[int, int | None]] = []
    for loader in collected_train_loaders(trainer):
        stated = stated_batches(loader)
        if stated is None or stated.size == 1:
            continue
        reached = whole and stated.batches is not None and stated.batches <= trainer.num_training_batches
        found.append((stated.at(0) or stated.size, stated.last_if(stated.size) if reached else None))
    return found


def first_size_that_leaves_one(trainer: Trainer, planned: Sequence[MicroBatching]) -> int | None:
    """The first micro-batch size of a plan whose epoch ends with one sample, within the steps that the run takes."""
    stated, steps = stated_batches(trainer.train_dataloader), 0
    if stated is None or stated.samples is None or trainer.limit_train_batches != 1.0:
        return None
    for split in planned:
        size = split.micro_batch_size
        steps += math.ceil(math.ceil(stated.samples / size) / split.accumulate)
        within = trainer.max_steps == -1 or steps <= trainer.max_steps
        if size > 1 and within and stated.last_if(size) == 1:
            return size
    return None


def batch_norm_layers(module: nn.Module) -> dict[nn.Module, str]:
    """The layers that cannot normalise a single value, each with its name."""
    layers = {layer: name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    return {layer: name for layer, name in layers.items() if not isinstance(layer, nn.SyncBatchNorm)}


def watch_for_single_values(
    layers: Mapping[nn.Module, str], *, samples: int, sizes_that_leave_one: list[int]
) -> list[RemovableHandle]:
    """Let each layer raise at its first input if a batch of one sample will give it one value per channel.

    That depends on the layer's input, not on its class: BatchNorm1d takes (N, C) and (N, C, L), a BatchNorm2d may
    follow global pooling, and an input with more rows than the ``samples`` of the present batch will have more rows
    then, too. Returns what to remove after the first batch.
    """

    def check(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        shape = _shape_of_input(args, named)
        if layer.training and len(shape) > 1 and shape[0] == samples and math.prod(shape[2:]) == 1:
            sizes = " and ".join(map(str, sizes_that_leave_one))
            raise ValueError(
                f"an epoch in batches of {sizes} samples has a batch of one, which {layers[layer]} could not "
                f"normalise: its input of shape {tuple(shape)} would hold one value per channel; use drop_last=True "
                "in the loader or another batch_size, also where your step skips such a batch"
            )

    return [layer.register_forward_pre_hook(check, with_kwargs=True) for layer in layers]


def watch_inputs(layers: Mapping[nn.Module, str], seen: set[tuple[int, int]]) -> list[RemovableHandle]:
    """Add to ``seen`` the first size of each training input, and the product of those behind the channels."""

    def note(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        shape = _shape_of_input(args, named)
        if layer.training and len(shape) > 1:
            seen.add((int(shape[0]), math.prod(shape[2:])))

    return [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]


def _shape_of_input(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...]:
    """Sizes of the first tensor; empty without one."""
    for value in (*args, *named.values()):  # no generator: torch 2.8 cannot compile one here
        if isinstance(value, Tensor):
            return tuple(value.shape)
    return ()
