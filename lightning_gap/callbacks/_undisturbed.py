"""Measure inside a running fit, and leave the run bit for bit as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional._uninterrupted import uninterrupted_exit
from ..trainer.callbacks import callbacks_of
from ..trainer.measuring import attributes_of_run
from ..trainer.optimizers import trained_weights
from ..trainer.processes import process_group
from ..trainer.state import Remembered, is_of, same_random_numbers


@uninterrupted_exit
def undisturbed(
    trainer: Trainer, module: LightningModule, *, batch_norm_apart: bool = False, weights: bool = False
) -> Iterator[Remembered]:
    """Run the block as Lightning runs validation, silenced and in full precision; then put everything back.

    Evaluation mode is what the module's `on_validation_model_eval` says, and the Trainer's stage is that of validation,
    so that what trains only, augmentation for instance, is off. Nothing is logged inside. Modes, gradients, buffers,
    frozen parameters, random generators and what a `training_step` keeps in Python objects end as they began; see
    `Remembered`, which the block gets to put that state back between evaluations. On several processes all measure
    with the buffers of the first: BatchNorm's differ after each step.

    ``batch_norm_apart`` leaves BatchNorm layers alone between evaluations, because something else sets them; with
    ``weights`` the trained weights are put back too, otherwise what moves them does so.
    """
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        _put_back_at_the_end(stack, trainer, module)
        if _changes_more_than_modes(module):
            # Before evaluation mode, which nothing is sure to undo.
            before = _remember(trainer, module, weights=True)
            stack.callback(before.release)
            before.hold()
        trainer.validating = True
        trainer.loggers = [DummyLogger()] if trainer.loggers else []
        module.on_validation_model_eval()
        stack.enter_context(silenced(module, all_gather=trainer.world_size == 1))
        for parameter in module.parameters():
            parameter.grad = None  # a step that writes to gradients finds others
        if process_group(trainer) is not None:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, src=0)
        apart = [part for part in module.modules() if isinstance(part, _BatchNorm)] if batch_norm_apart else []
        remembered = _remember(trainer, module, apart=apart, weights=weights)
        stack.callback(remembered.release)
        remembered.hold()
        stack.enter_context(trainer.precision_plugin.tensor_init_context())  # new tensors are as in training
        stack.enter_context(torch.autocast(module.device.type, enabled=False))
        yield remembered


def _put_back_at_the_end(stack: ExitStack, trainer: Trainer, module: LightningModule) -> None:
    """What is set for the measurement: modes, stage, loggers, gradients, the buffers of the first process."""
    wrapper = trainer.strategy.model  # DistributedDataParallel has a mode of its own
    modes = [(part, part.training) for part in (*module.modules(), wrapper) if part is not None]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in module.parameters()]
    buffers = list(module.buffers()) if process_group(trainer) is not None else []
    own = [buffer.clone() for buffer in buffers]
    loggers, stage = trainer.loggers, trainer.state.stage

    def put_back() -> None:
        trainer.loggers, trainer.state.stage = loggers, stage
        for part, mode in modes:
            part.training = mode
        for parameter, gradient, requires_grad in gradients:
            parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in zip(buffers, own, strict=True):
                buffer.copy_(value)

    stack.callback(put_back)


def _remember(
    trainer: Trainer, module: LightningModule, *, apart: Iterable[nn.Module] = (), weights: bool = False
) -> Remembered:
    """Everything a step of this module may change, but for its trained weights unless asked for."""
    callbacks = tuple(each for each in callbacks_of(trainer) if not is_of(type(each), ("lightning_gap",)))
    of_run = attributes_of_run(trainer)
    return Remembered(
        {
            "self": module,
            "self.trainer.callbacks": callbacks,
            "self.trainer.datamodule": trainer.datamodule,  # type: ignore[attr-defined]
            "self.trainer.optimizers": tuple(optimizer.param_groups for optimizer in trainer.optimizers),
            "self.lr_schedulers()": tuple(config.scheduler for config in trainer.lr_scheduler_configs),
            **of_run,
        },
        apart=apart,
        # The optimizers' state is as large as the weights, and no step of the Trainer's optimizers is taken.
        left=[*trainer.optimizers, *([] if weights else trained_weights(trainer, module).values())],
        as_data=["self.trainer.callbacks", "self.trainer.datamodule"],
        shallow=of_run,
    )


def _changes_more_than_modes(module: LightningModule) -> bool:
    """Whether going into evaluation mode runs code of the user's: its hook, or ``train`` and ``eval`` of a part."""
    if not is_of(module.on_validation_model_eval, ("lightning", "pytorch_lightning")):
        return True
    plain = (nn.Module.train, nn.Module.eval)
    return any((type(part).train, type(part).eval) != plain or "train" in vars(part) for part in module.modules())


def _refuse_to_gather(*_: Any, **__: Any) -> None:
    """Stand in for `all_gather`: processes measure different numbers of batches, so that some would wait forever."""
    raise ValueError(
        "training_step gathers from all processes, which measure different batches; pass loss_fn=..., a function of "
        "(module, batch) that does not"
    )


@contextmanager
def silenced(module: LightningModule, *, all_gather: bool = True) -> Iterator[None]:
    """Let the module log nothing inside the block, nor gather from all processes where it may not."""
    stand_ins = {"log": _ignore, "log_dict": _ignore, **({} if all_gather else {"all_gather": _refuse_to_gather})}
    own = {name: vars(module)[name] for name in stand_ins if name in vars(module)}  # mostly its class alone has them
    try:
        vars(module).update(stand_ins)
        yield
    finally:
        for name in stand_ins:
            vars(module).pop(name, None)
        vars(module).update(own)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for `log` and `log_dict`."""
