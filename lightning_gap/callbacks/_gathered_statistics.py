"""BatchNorm statistics of training batches, gathered inside a running fit without touching it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional._processes import sum_over_processes
from ..functional._sample_count import guess_samples
from ..functional.batch_statistics import recomputed_statistics
from ..trainer.processes import mean_over_processes, process_group
from ._evaluations import Evaluations, LossFunction, NoLossError, Seeded
from ._fixed_subset import Batches
from ._loader_subset import loader_subset, reading
from ._module_loss import said_of_samples
from ._run import run_of
from ._undisturbed import undisturbed

_STATISTICS = ("running_mean", "running_var")


def trained_layers(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that update running statistics now: those in evaluation mode are frozen."""
    layers = (part for part in module.modules() if isinstance(part, _BatchNorm))
    return [layer for layer in layers if layer.training and layer.running_mean is not None]


class GatheredStatistics:
    """Statistics of the same batches, for the weights of the moment.

    The processes take some of the batches each, and all end with the same statistics.

    Args:
        trainer: In a fit, which has its train loader.
        data: Batches, or None to draw them from the train loader.
        draw: What to draw, as `what_to_draw` says.
        loss_fn: Instead of `training_step`.
        seed: Seed of the draw, and of what a data set and `training_step` draw from the global generators.

    Raises:
        ValueError: If no batches can be drawn from the train loader, or there are none.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        data: Iterable[Any] | None,
        draw: Mapping[str, int],
        loss_fn: LossFunction | None,
        seed: int,
    ) -> None:
        self._loss_fn, self._seed = loss_fn, seed
        self._loader = trainer.train_dataloader
        if data is None:
            found = loader_subset(self._loader, "data", seed=seed, **draw)
            self._batches = Batches(found, found.sizes)
        else:
            given = list(data)
            self._batches = Batches(given, [guess_samples(batch) or 1 for batch in given])
        if not self._batches.sizes:
            raise ValueError("there are no batches to gather statistics on; pass data=..., a list of at least one")

    def try_out(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Raise before the first step, on all processes, if a batch cannot be evaluated, or that leaves a trace.

        A missing attribute is left to the real evaluation: the module's own hooks come after the callbacks' and may set
        it.
        """
        sizes = self._batches.sizes
        smallest = min(range(len(sizes)), key=sizes.__getitem__)
        layers = trained_layers(module)

        def attempt() -> tuple[list[float], list[Tensor]]:
            with (
                suppress(AttributeError, NoLossError),
                self._evaluating(trainer, module) as evaluations,
                recomputed_statistics(module, self._pass(evaluations, [smallest]), layers=layers),
            ):
                evaluations.check_state(self._batches, training_batch)
            return [], []

        sum_over_processes(attempt, numbers=0, process_group=process_group(trainer), device=module.device)

    def replace(
        self, trainer: Trainer, module: LightningModule, layers: list[_BatchNorm], *, also_in: Sequence[nn.Module] = ()
    ) -> None:
        """Gather the statistics of these layers of the module, and let them have them.

        Args:
            trainer: In a fit.
            module: Its module.
            layers: Some of its BatchNorm layers.
            also_in: Copies of the module whose layers get the same statistics.
        """
        found = self.gather(trainer, module, layers)
        with torch.no_grad():
            for owner in (module, *also_in):
                for name, value in found.items():
                    owner.get_buffer(name).copy_(value)

    def gather(self, trainer: Trainer, module: LightningModule, layers: list[_BatchNorm]) -> dict[str, Tensor]:
        """The statistics of these layers of the module, by the names of their buffers.

        Only mean and variance: the number of batches that a layer has seen goes on counting those of training.

        Args:
            trainer: In a fit.
            module: Its module; it stays as it is.
            layers: Some of its BatchNorm layers; nothing is evaluated for none.
        """
        if not layers:  # all are frozen
            return {}
        own = range(trainer.global_rank, len(self._batches.sizes), trainer.world_size)
        named = [(name, layer) for name, layer in module.named_modules(remove_duplicate=False) if layer in layers]
        with self._evaluating(trainer, module) as evaluations:
            run, group = self._pass(evaluations, own), process_group(trainer)
            with recomputed_statistics(module, run, layers=layers, process_group=group):
                return {f"{name}.{of}": getattr(layer, of).clone() for name, layer in named for of in _STATISTICS}

    @contextmanager
    def _evaluating(self, trainer: Trainer, module: LightningModule) -> Iterator[Evaluations]:
        """Evaluate as validation does, also in its precision, and leave the run and its data as they are."""
        with ExitStack() as stack:
            remembered = stack.enter_context(undisturbed(trainer, module, batch_norm_apart=True, weights=True))
            stack.enter_context(trainer.precision_plugin.val_step_context())
            stack.enter_context(reading(self._loader, "data"))
            yield Evaluations(trainer, module, remembered, self._loss_fn)

    def _pass(self, evaluations: Evaluations, indices: Iterable[int]) -> Callable[[], None]:
        batches, sizes = Seeded(self._batches.batches, self._seed), self._batches.sizes

        def run() -> None:
            for i in indices:
                _, stored = batches[i]
                # A step may need gradients, for a penalty, and may skip a batch.
                with said_of_samples(sizes[i]), torch.enable_grad(), suppress(NoLossError):
                    evaluations.loss(stored, i)

        return run


def what_to_draw(trainer: Trainer, batches: int | None) -> dict[str, int]:
    """How many samples to draw, in batches of which size: the one that each process trains with at this time.

    Args:
        trainer: In a fit, which has its train loader.
        batches: Batches of all processes together, as many as an epoch has by default.

    Raises:
        ValueError: If the train loader does not tell its batch size.
    """
    size = run_of(trainer).micro_batch_size(trainer)
    on_all = mean_over_processes(trainer, math.nan if size is None else size)
    if math.isnan(on_all):
        raise ValueError(
            f"cannot tell how many samples a batch of {type(trainer.train_dataloader).__name__} holds; pass data=..., "
            "a list of batches to gather statistics on"
        )
    number = trainer.num_training_batches * trainer.world_size if batches is None else batches
    chunk_size = max(1, int(on_all))
    return {"samples": int(min(number * chunk_size, 2**62)), "chunk_size": chunk_size}
