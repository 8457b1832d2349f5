"""Measure inside a running fit, and leave the run bit for bit as it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from .._lightning import process_group, same_random_numbers

_INTERNALS = frozenset(vars(nn.Module())) | {"_trainer", "_fabric"}


@contextmanager
def undisturbed(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Run the block on ``module`` in evaluation mode, silenced, in full precision; then put everything back.

    Buffers, frozen parameters, gradients, the mode of every submodule, random-number generators, and the plain
    attributes of every submodule (counters, lists, torchmetrics states; containers one level deep) end as they
    began. Nothing is logged inside. Trained parameters are left to whoever perturbs them. On several processes all
    measure with the buffers of the first: BatchNorm's differ after each step.
    """
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    tensors = [*module.buffers(), *(p for p in module.parameters() if not p.requires_grad)]
    originals = [tensor.detach().clone() for tensor in tensors]
    attributes = [(vars(part), _snapshot(vars(part))) for part in module.modules()]
    slots = [(part._buffers, dict(part._buffers)) for part in module.modules()]
    loggers = trainer.loggers
    try:
        with same_random_numbers(), torch.autocast(module.device.type, enabled=False):
            module.eval()
            trainer.loggers = [DummyLogger()] if loggers else []
            vars(module).update(log=_ignore, log_dict=_ignore)
            if process_group(trainer) is not None:
                vars(module)["all_gather"] = _refuse_to_gather
                for buffer in module.buffers():
                    torch.distributed.broadcast(buffer, src=0)
            yield
    finally:
        trainer.loggers = loggers
        for part, mode in modes:
            part.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for owner, saved in attributes:
            _restore(owner, saved)
        for buffers, before in slots:  # a step may put another tensor in a buffer's place
            buffers.clear()
            buffers.update(before)
        with torch.no_grad():
            for tensor, original in zip(tensors, originals, strict=True):
                tensor.copy_(original)


def _refuse_to_gather(*_: Any, **__: Any) -> None:
    """Stand in for `all_gather`: processes measure different numbers of batches, so that some would wait forever."""
    raise ValueError(
        "training_step gathers from all processes, which measure different batches; pass loss_fn=..., a function of "
        "(module, batch) that does not"
    )


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for `log` and `log_dict`."""


def _snapshot(owner: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute with a copy of its content, where it has a content that can change in place."""
    return {name: (value, _content(value)) for name, value in owner.items() if name not in _INTERNALS}


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, list | dict | set | deque) else None


def _restore(owner: dict[str, Any], saved: dict[str, tuple[Any, Any]]) -> None:
    for name in owner.keys() - saved.keys() - _INTERNALS:
        del owner[name]
    for name, (value, content) in saved.items():
        if isinstance(value, Tensor):
            if not torch.equal(value, content):
                with torch.no_grad():
                    value.copy_(content)
        elif isinstance(value, list | deque):
            value.clear()
            value.extend(content)
        elif isinstance(value, dict | set):
            value.clear()
            value.update(content)
        owner[name] = value
