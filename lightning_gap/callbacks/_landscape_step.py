"""A LightningModule's own training_step, evaluated at other weights and outside of a fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional._loss_surface import agree
from ..functional._uninterrupted import uninterrupted_exit
from ..functional.dataset_loss import BatchNormMode
from ..functional.errors import RandomLossError
from ..functional.landscape._places import same_state
from ..functional.landscape.evaluate import evaluate_points
from ..functional.landscape.points import WeightPoints
from ..trainer.state import Remembered, is_of, same_random_numbers, same_tensor
from ._accuracy import proven_accuracy
from ._evaluations import LossFunction, Seeded, _checked_loss, _training_step_loss
from ._fixed_subset import Batches
from ._module_loss import said_of_samples
from ._undisturbed import silenced
from .generalization_gap import AccuracyFunction, _checked_accuracy


class Step:
    """One evaluation of a module on a batch, each from the same state of what the step keeps.

    Attributes:
        module: As given.
        has_accuracy_fn: Whether the user says what an accuracy is.
        knows_accuracy: Whether it is proven what an accuracy is of; at a point where the loss is not finite it is not.
    """

    def __init__(
        self,
        module: LightningModule,
        remembered: Remembered,
        loss_fn: LossFunction | None,
        accuracy_fn: AccuracyFunction | None,
    ) -> None:
        self.module: LightningModule = module
        self._remembered = remembered
        self._loss_fn, self._accuracy_fn = loss_fn, accuracy_fn
        self.knows_accuracy = True
        self.has_accuracy_fn = accuracy_fn is not None

    def measure(self, _: nn.Module, item: tuple[int, tuple[int, Any]]) -> dict[str, Tensor | float]:
        """Mean loss and accuracy of a batch where the weights are."""
        index, stored = item[0], item[1][1]
        self._remembered.put_back(apart=False)
        batch = self._on_device(stored)
        with torch.enable_grad():  # a step may need them, for a gradient penalty
            loss = self._loss(batch, index).detach()
        found: dict[str, Tensor | float] = {"loss": loss}
        if self.knows_accuracy:
            found["accuracy"] = self._accuracy(batch, float(loss))
        return found

    def _loss(self, batch: Any, index: int) -> Tensor:
        if self._loss_fn is not None:
            return _checked_loss(self._loss_fn(self.module, batch))
        return _training_step_loss(self.module, batch, index)

    def _accuracy(self, batch: Any, loss: float) -> float:
        if self._accuracy_fn is not None:
            return _checked_accuracy(self._accuracy_fn(self.module, batch))
        accuracy = proven_accuracy(self.module, batch, loss)
        return float("nan") if accuracy is None else accuracy

    def _on_device(self, stored: Any) -> Any:
        batch = self.module.on_before_batch_transfer(copy.deepcopy(stored), 0)
        batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
        return self.module.on_after_batch_transfer(batch, 0)

    def changed(self) -> str | None:
        """Put back what an evaluation has changed; the name of what cannot be put back."""
        self._remembered.put_back(apart=False)
        return self._remembered.put_back(apart=False)


def try_out(
    step: Step, points: WeightPoints, drawn: Mapping[str, Batches], batch_norm: BatchNormMode, seed: int
) -> None:
    """Raise if the loss at the first checkpoint, of the smallest batch of each split, cannot be measured."""

    def twice(module: nn.Module, item: tuple[int, tuple[int, Any]]) -> dict[str, Tensor | float]:
        before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
        random_numbers = torch.get_rng_state()
        first = step.measure(module, item)
        torch.set_rng_state(random_numbers)
        again = step.measure(module, item)
        if not agree(float(first["loss"]), float(again["loss"])):
            raise RandomLossError(
                f"the loss is random: {float(first['loss'])!r} and then {float(again['loss'])!r} at the same weights; "
                "pass loss_fn=..., a function of (module, batch) that is not"
            )
        written = [n for n, weight in module.named_parameters() if not same_tensor(weight.detach(), before[n])]
        kept = [f"{name}, a weight" for name in written] or [name for name in [step.changed()] if name]
        if kept:
            raise ValueError(
                f"training_step changes {kept[0]}, so that there is no loss of given weights; pass loss_fn=..., a "
                "function of (module, batch) that leaves it alone"
            )
        return first

    for name, given in drawn.items():
        smallest = given.sizes.index(min(given.sizes))
        one = Batches([given.batches[smallest]], [given.sizes[smallest]])
        first = WeightPoints(points.basis, [(1.0, 0.0)])
        with said_of_samples(one.sizes[0]):
            found = evaluate_points(
                step.module,
                first,
                twice,
                {name: numbered(one, seed)},
                batch_norm="running" if batch_norm == "running" else "batch",
                count=size_of,
                points_at_once=1,
                evaluation_mode=leave_modes,
            )
        [accuracy] = found.values[name].get("accuracy", [float("nan")])
        step.knows_accuracy = step.has_accuracy_fn or accuracy == accuracy


@uninterrupted_exit
def evaluating(module: LightningModule) -> Iterator[Remembered]:
    """As the module is evaluated, silenced and in full precision; then put everything back."""
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        stack.enter_context(same_state(module))
        if is_of(module.on_validation_model_eval, ("lightning", "pytorch_lightning")):
            module.eval()
        else:
            module.on_validation_model_eval()
        stack.enter_context(silenced(module))
        for parameter in module.parameters():
            parameter.grad = None
        apart = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        remembered = Remembered({"self": module}, apart=apart, left=[*module.parameters(), *module.buffers()])
        stack.callback(remembered.release)
        remembered.hold()
        stack.enter_context(torch.autocast(module.device.type, enabled=False))
        yield remembered


def numbered(given: Batches, seed: int) -> Seeded:
    """Batches with their number and size; the global generators are seeded anew before each is read."""
    return Seeded(list(zip(given.sizes, given.batches, strict=True)), seed)


def size_of(item: tuple[int, tuple[int, Any]]) -> int:
    return item[1][0]


def leave_modes(module: nn.Module) -> None:
    """Leave the modes as they are: the module's own hook has been asked."""
