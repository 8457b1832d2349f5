"""Try before the first step whether a micro-batch fits into memory, and leave no trace of it."""

from __future__ import annotations

import gc
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from ..trainer.measuring import to_device
from ..trainer.optimizers import weights_of
from ..trainer.processes import sum_over_processes
from ..trainer.resizing import as_before, description
from ..trainer.state import same_random_numbers
from ..trainer.stated_batches import batch_sampler_of, samplers_of
from ._evaluations import _training_step_loss
from ._module_loss import is_out_of_memory
from ._undisturbed import undisturbed

_STATES_OF_ADAM = 2  # tensors as large as the weights that an optimizer without a state may yet make


def fits(trainer: Trainer, samples: int) -> bool:
    """Whether all processes can take a step with micro-batches of so many samples.

    Forward and backward pass of the module's own `training_step`, in training mode and the Trainer's precision, while
    memory is held for the state that the optimizer has not made yet. Weights, buffers, gradients, random generators,
    logged values and the loader's position end as they began.
    """
    batch = first_samples(trainer.train_dataloader, samples)
    return sum_over_processes(trainer, float(not _fits_here(trainer, batch))) == 0


def first_samples(loader: Any, samples: int) -> Any:
    """A batch of the first samples of the data set, as the loader would put it together."""
    if isinstance(loader, PlannedLoader | ResumableStream):
        return loader.first_samples(samples)
    by_index = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if not by_index or batch_sampler_of(loader) is None:
        raise ValueError(
            f"max_micro_batch='auto' tries batches of any size, and {description(loader)} gives its own; use a "
            "DataLoader over samples by index, a lightning_gap.ResumableLoader or ResumableStream, or pass a number"
        )
    with same_random_numbers(), as_before(loader, loader.dataset, *samplers_of(loader)):
        return loader.collate_fn([loader.dataset[i % len(loader.dataset)] for i in range(samples)])


def _fits_here(trainer: Trainer, batch: Any) -> bool:
    module = trainer.lightning_module
    parts = [part for part in (*module.modules(), trainer.strategy.model) if part is not None]
    modes = [(part, part.training) for part in parts]
    weights = [weight for weight in weights_of(*trainer.optimizers).values() if weight.requires_grad]
    fitted = False
    with undisturbed(trainer, module, weights=True):
        trainer.training = True
        for part, mode in modes:
            part.training = mode
        try:
            held = _memory_of_the_optimizer(trainer, weights)
            with trainer.precision_plugin.train_step_context():
                loss = _training_step_loss(module, to_device(trainer, batch), 0)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)  # no hook of DDP's runs: none waits
            fitted = True
            del held, loss, gradients
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    gc.collect()  # tensors in the frames of the error
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return fitted


def _memory_of_the_optimizer(trainer: Trainer, weights: list[Tensor]) -> list[Tensor]:
    if any(optimizer.state for optimizer in trainer.optimizers):  # resumed: it is there
        return []
    return [torch.empty_like(weight) for weight in weights for _ in range(_STATES_OF_ADAM)]
