"""What cannot work together is refused before the first step: one error that names the callback and the fix."""

from __future__ import annotations

from itertools import chain

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from .callbacks import callbacks_of, is_lightnings
from .processes import shares_batch_statistics


def refuse_other_batch_sizes(trainer: Trainer, callback: Callback) -> None:
    """Raise if the batch size is also set by one of Lightning's callbacks, by its strategy, or by hand."""
    name = type(callback).__name__
    for other in callbacks_of(trainer):
        if is_lightnings(other, "GradientAccumulationScheduler"):
            raise ValueError(f"{name} and GradientAccumulationScheduler both set accumulate_grad_batches; keep one")
        if is_lightnings(other, "BatchSizeFinder"):
            raise ValueError(
                f"{name} and BatchSizeFinder both set the batch size; find the largest that fits first, with "
                "Tuner.scale_batch_size, and pass it as max_micro_batch"
            )
    refuse_manual_optimization(trainer, callback)


def refuse_manual_optimization(trainer: Trainer, callback: Callback) -> None:
    """Raise if it is not Lightning's loop that accumulates gradients and steps."""
    name = type(callback).__name__
    if trainer.strategy.handles_gradient_accumulation:
        raise ValueError(
            f"{name} works where Lightning accumulates gradients, and {type(trainer.strategy).__name__} does it "
            "itself; use strategy='auto' or 'ddp'"
        )
    if not trainer.lightning_module.automatic_optimization:
        raise ValueError(
            f"{name} works where Lightning accumulates gradients and steps; with automatic_optimization=False the "
            "module does both itself; where it does so for several optimizers, use one with several parameter groups"
        )


def refuse_sync_batch_norm(trainer: Trainer, argument: str) -> None:
    """Raise if BatchNorm would gather its statistics from all processes, which measure different batches."""
    if shares_batch_statistics(trainer):
        raise ValueError(
            f"{argument} cannot be measured under sync_batchnorm=True, or with SyncBatchNorm layers, where each batch "
            "has the statistics of all processes; use batch_norm='running'"
        )


def refuse_lazy_layers(module: LightningModule, callback: Callback) -> None:
    """Raise if a weight or buffer has no value before the first batch."""
    named = chain(module.named_parameters(), module.named_buffers())
    waiting = [name for name, tensor in named if is_lazy(tensor)]
    if waiting:
        raise ValueError(
            f"{type(callback).__name__} needs the shapes of all layers before the first step, and {waiting[0]} of "
            f"{type(module).__name__} is lazy and has none; run one batch through the model before fit"
        )


def refuse_sharded_weights(trainer: Trainer, callback: Callback) -> None:
    """Raise if the strategy splits each parameter over processes: what we would measure there is wrong."""
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(
            f"{type(callback).__name__} needs whole parameters on every process, and {strategy} shards them; "
            "use strategy='auto' or 'ddp'"
        )


def refuse_static_graph(trainer: Trainer, callback: Callback, gradients: str) -> None:
    """Raise if DDP learns its order from the first pass, whose gradients it must average, and these are not to be."""
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and model.static_graph:
        raise ValueError(
            f"{type(callback).__name__} changes the gradients of each {gradients}, and with static_graph=True "
            "DistributedDataParallel must average those of its first pass over all processes; use "
            "DDPStrategy(static_graph=False), or change the gradient of the whole step by leaving m out"
        )
