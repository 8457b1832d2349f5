"""Which batch size the gradient noise of a module of the user's own asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_gap.functional._validation import function, seed_number, whole_number

from .. import advice
from .training import check_module_maker, lightning_of, trainer_options


def advise(
    make_module: Callable[[], Any],
    make_data: Callable[[int], Any],
    *,
    batch_size: int,
    loss_fn: Callable[[Any, Any], torch.Tensor],
    steps: int = 300,
    seed: int = 0,
    trainer: Mapping[str, Any] | None = None,
) -> advice.Advice:
    """Train a module for some steps, measure its gradient noise six times, and advise a batch size.

    Args:
        make_module: Gives a fresh LightningModule; called after the seed is set.
        make_data: Gives loaders, the one for training first, for a number of samples in a batch; its data set is
            measured on.
        batch_size: Samples per optimizer step while measuring: that of a run that trains well.
        loss_fn: Mean loss of a batch, a function of (module, batch), as your ``training_step`` has it.
        steps: Optimizer steps, at least 6. A longer run bears a larger batch.
        seed: Of the initial weights and the order of the samples.
        trainer: Arguments of the Trainer.

    Returns:
        Noise scale, critical batch and the power of two at or below the scale, in samples.

    Raises:
        TypeError: If the functions return anything but a module and loaders.
        ValueError: If there are too few steps, or the gradient cannot be told from its noise.
    """
    batch_size, seed = whole_number("batch_size", batch_size), seed_number("seed", seed)
    steps = whole_number("steps", steps, 6)
    check_module_maker(make_module, "nothing")
    function("make_data", make_data, "the batch size")
    function("loss_fn", loss_fn, "(module, batch)")
    options = trainer_options(trainer)
    with isolate_rng():
        torch.manual_seed(seed)
        module = make_module()
        if lightning_of(module) != "lightning.pytorch":
            raise TypeError(
                f"make_module must return a lightning.pytorch LightningModule, got a {type(module).__name__}"
            )
        torch.manual_seed(seed)
        loaders = make_data(batch_size)
        if not isinstance(loaders, tuple | list) or not hasattr(loaders[0], "dataset"):
            raise TypeError(f"make_data must return loaders, that for training first, got a {type(loaders).__name__}")
        measuring = advice.NoiseAlongTheWay(loaders[0].dataset, steps, loss_fn)
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "devices": 1}
        callbacks = [*(options.pop("callbacks", None) or []), measuring]
        lightning = import_module(lightning_of(module))
        made = lightning.Trainer(**{**quiet, **options}, max_steps=steps, max_epochs=-1, callbacks=callbacks)
        made.fit(module, *loaders[:2])
    return advice.advise(measuring.found, len(loaders[0].dataset))
