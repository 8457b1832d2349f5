"""What all recipes do alike: take their hyperparameters, train with cross-entropy, log the means of each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_gap.functional import BatchNormMode

from .epoch_means import EpochMeans
from .hyperparameters import check_hyperparameters, steps_by_epoch
from .lookup import lookup
from .networks import zero_last_gammas
from .optimizers import make_optimizer
from .regimes import REGIMES, Regime

Batch = tuple[Tensor, Tensor]
R = TypeVar("R", bound="Recipe")


class Recipe(LightningModule):
    """A network, all that it is trained with, and the regimes that it can be trained under.

    A recipe is a subclass in a file of its own: the signature of its ``__init__`` states every hyperparameter, and its
    last line is ``super().__init__(network, regime)``. What the signature does not name has the value below.

    Logs ``train/`` and ``validation/`` ``loss`` and ``accuracy`` once an epoch, with the epoch and not the step as x:
    runs with different batch sizes then share an axis.

    Args:
        network: Gives class scores (N, C) for inputs (N, ...); of sequences (N, C, T), for targets (N, T).
        regime: A name of ``regimes``. It is called once, here: it may change the attributes and returns callbacks.

    Raises:
        ValueError: If a hyperparameter is missing or out of range, or the regime is unknown, cannot work with them or
            returns anything but callbacks.

    Attributes:
        epochs: Epochs of every regime but longer, which trains more in proportion to the batch sizes.
        small_batch_size: Samples per optimizer step of the small-batch regime, over all processes.
        large_batch_size: Samples per optimizer step of every other regime, at the end of those that change the batch.
        ghost_batch_size: Samples per ghost of the ghost regimes.
        warmup_epochs: Epochs in which a linearly scaled learning rate is reached.
        optimizer: As `lightning-gap list` names it.
        learning_rate: The small batch's learning rate at the start, before any scaling.
        learning_rate_steps: Factors of the learning rate by the epoch in which they begin, e.g. {81: 0.1, 122: 0.01}.
        momentum: Momentum; refused for optimizers without it.
        weight_decay: Of every weight, added to its gradient; of adamw, to its update.
        decay_all: Whether BatchNorm's weights and all biases decay too.
        gradient_clip: Gradient norm limit in sqrt-lr, ghost-lr and noise; Hoffer et al. use 5. As an attribute the
            limit in force, None for no clipping; the Trainer's own limit overrides it.
        sam_rho: Size of the perturbation in sam and sam-late, in units of the weights.
        conservative_strength: Lambda of the proximal term in conservative.
        adversarial_epsilon: How far each entry of the inputs may move in adversarial, in their units.
        penalty_strength: Factor of half the squared gradient norm in penalty.
        augmentation: Of the training images, as `lightning-gap list` names it.
        standardise: Whether each channel has mean 0 and standard deviation 1 over the training images.
        validation_size: Samples held out of the training split.
        zero_last_gammas: Whether the last BatchNorm of each residual block starts with weight 0.
        batch_norm: Statistics that the final accuracies are evaluated with: running, batch (of each evaluation chunk)
            or recomputed (over the training samples).
        evaluation_chunk: Samples evaluated at once, and so part of what batch statistics mean.
        sharpness_samples: Most samples that sharpness, and each split of the figure, are measured on.
        channels_last: Whether weights and images lie in memory pixel by pixel, all channels of each together: faster
            convolutions. Only where the channels of every convolution are a multiple of 16.
        batch_size: Samples per optimizer step in the first epoch, over all processes and micro-batches; the regime's.
    """

    regimes: ClassVar[Mapping[str, Regime]] = REGIMES
    data_sets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # what differs on each; the first is the default

    epochs: int
    small_batch_size: int
    large_batch_size: int
    optimizer: str
    learning_rate: float
    ghost_batch_size: int = 128
    warmup_epochs: float = 5.0
    learning_rate_steps: dict[int, float]
    momentum: float | None = None
    weight_decay: float = 0.0
    decay_all: bool = True
    gradient_clip: float | None = 5.0
    sam_rho: float = 0.05
    conservative_strength: float = 1e-3
    adversarial_epsilon: float = 0.03
    penalty_strength: float = 0.1
    augmentation: str = "none"
    standardise: bool = False
    validation_size: int = 0
    zero_last_gammas: bool = False
    batch_norm: BatchNormMode = "running"
    evaluation_chunk: int = 5000
    sharpness_samples: int = 10_000
    channels_last: bool = False

    def __init__(self, network: nn.Module, regime: str = "small") -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ValueError(f"network must be a torch.nn.Module, got {network!r}")
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        check_hyperparameters(type(self).__name__, self.hparams)
        for name in Recipe.__annotations__.keys() & self.hparams.keys():
            setattr(self, name, self.hparams[name])
        self.learning_rate_steps = steps_by_epoch(self.hparams.get("learning_rate_steps"))
        self.gradient_clip = None
        self.batch_size: int = self.large_batch_size
        self.regime = lookup("regime", regime, self.regimes)
        self._callbacks = _callbacks_of(regime, self.regimes[regime], self)
        if self.zero_last_gammas:
            self.zero_last_gammas = zero_last_gammas(network) > 0
        # Narrow layers gain nothing, and end torch 2.15's backward pass in a crash on the CPU.
        convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        self.channels_last = self.channels_last and not any(layer.out_channels % 16 for layer in convolutions)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        self.train_means, self.validation_means = EpochMeans(), EpochMeans()

    @classmethod
    def on(cls: type[R], data: str, regime: str = "small", **changed: Any) -> R:
        """The recipe with the hyperparameters for one of its data sets.

        Args:
            data: A key of ``data_sets``.
            regime: A key of ``regimes``.
            changed: Overrides of the recipe's hyperparameters.

        Raises:
            ValueError: If it has none for this data set.
        """
        differs = cls.data_sets[lookup(f"data set for {cls.__name__}", data, cls.data_sets)]
        make: Any = cls  # a subclass takes no network
        recipe: R = make(regime, **{**differs, **changed})
        return recipe

    def learning_rate_factor(self, epoch: int) -> float:
        """What ``learning_rate_steps`` multiplies the learning rate by in an epoch, from 0."""
        passed = [step for step in self.learning_rate_steps if step <= epoch]
        return self.learning_rate_steps[max(passed)] if passed else 1.0

    def configure_callbacks(self) -> list[Callback]:
        """The regime's."""
        return list(self._callbacks)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer by its name, its learning rate multiplied at the steps."""
        optimizer = self.new_optimizer()
        if not self.learning_rate_steps:
            return optimizer
        return [optimizer], [LambdaLR(optimizer, self.learning_rate_factor)]

    def new_optimizer(self) -> Optimizer:
        """The optimizer by its name, over all parameters of the network."""
        return make_optimizer(
            self.optimizer,
            self.network,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_all=self.decay_all,
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer says, else as the regime does."""
        limit = self.gradient_clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, C), of sequences (N, C, T)."""
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        scores: Tensor = self.network(inputs)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(batch, self.train_means)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, self.validation_means)

    def on_train_epoch_end(self) -> None:
        self._log_means("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        self._log_means("validation", self.validation_means)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of all processes: resumed inside an epoch, the means are those of the whole."""
        sums = self.train_means.sums.detach().clone()
        checkpoint["train_means"] = self.trainer.strategy.reduce(sums, reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "train_means" in checkpoint and self.global_rank == 0:  # which then has it for all
            self.train_means.sums.copy_(checkpoint["train_means"])

    def _loss(self, batch: Batch, means: EpochMeans) -> Tensor:
        inputs, targets = batch
        scores = self(inputs)
        loss = cross_entropy(scores, targets)
        means.update(loss, scores, targets)
        return loss

    def _log_means(self, split: str, means: EpochMeans) -> None:
        loss, accuracy = means.compute()
        means.reset()
        self.log_dict({f"{split}/loss": loss, f"{split}/accuracy": accuracy})
        self.log("step", float(self.current_epoch + 1))  # Lightning takes a value of this name as the x of its call


def _callbacks_of(name: str, regime: Regime, recipe: Recipe) -> tuple[Callback, ...]:
    """What a regime returns; what it fails with is told with its name."""
    try:
        found: object = regime(recipe)
    except Exception as error:  # of whatever type the user's own code fails with
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"the regime {name!r}: {kind}{error}") from error
    given: list[Any] = list(found) if isinstance(found, list | tuple) else [found]
    wrong = [callback for callback in given if not isinstance(callback, Callback)]
    if wrong:
        told = f"a {type(wrong[0]).__name__}" if " at 0x" in repr(wrong[0]) else repr(wrong[0])
        raise ValueError(f"the regime {name!r} must return a list of callbacks, got {told}; return a list, [] for none")
    return tuple(given)
