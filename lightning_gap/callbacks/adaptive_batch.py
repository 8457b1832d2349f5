"""Let the noise of the gradient set the batch size while training."""

from __future__ import annotations

import math
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import flag, one_of, real_number, whole_number
from ..functional.batch_size.adaptive import BatchSizeTest, TestName, next_batch_size
from ..functional.batch_size.schedule import MicroBatching
from ..trainer.batches import leaves_one_sample, samples_per_process
from ..trainer.processes import broadcast
from ..trainer.progress import ends_accumulation
from ..trainer.saved_progress import epoch_of
from ._arguments import optional_whole_number
from ._batch_size import BatchSizeCallback
from ._batch_size_checks import check_largest, check_plain_sgd
from ._measured_noise import MeasuredNoise
from ._run import global_batch_size, run_of
from ._sample_counter import Count


class AdaptiveBatchSize(BatchSizeCallback):
    """Grow the batch when the noise of its gradient calls for it, and not before.

    Each batch is split into micro-batches. From the differences between their gradients, on all processes, one of five
    tests estimates how large a batch should be. Its averages over the steps decide the size of the next epoch, or with
    ``decide_every_n_steps`` inside epochs too, where only the number of micro-batches changes. Logs ``batch/size``,
    ``batch/accumulate``, ``batch/wanted`` (samples that the test asks for) and ``batch/test`` (those over the batch
    size: at most 1 where the test passes).

    Args:
        batch_size: Samples per optimizer step to begin with, over all processes.
        max_batch_size: Most samples per step.
        test: ``"norm"`` (Byrd et al.), ``"inner_product"`` or ``"augmented"`` (Bollapragada et al.), ``"cabs"``
            (Balles et al.; SGD without momentum, one learning rate), or ``"noise_scale"`` (McCandlish et al.).
        theta: Noise allowed by the first three, relative to the gradient norm. Bollapragada et al. use 0.9.
        nu: Noise allowed orthogonal to the gradient by ``"augmented"``. The paper's value.
        smoothing: Weight of the average against a new measurement, from 0 to below 1. Balles et al. use 0.95.
        measure_every_n_steps: Steps from one measurement to the next; each costs about a copy of the gradient for
            every micro-batch, in time and memory.
        decide_every_n_steps: Decide inside epochs too, every n steps; ``None`` decides at their ends.
        monotone: Never shrink.
        max_growth: Most growth in one decision, a factor.
        micro_batches: Least micro-batches of a step on each process; two can be compared, more tell more.
        max_micro_batch: Most samples in one of them, for lack of memory.
        batch_arg_name: As in `BatchSizeScheduler`.
        count: As in `ExactAccumulation`: what the mean of your loss is taken over, if not the samples.

    Raises:
        ValueError: If an argument is out of range. Before the first step as in `BatchSizeScheduler`, or if the
            optimizer is not one that ``"cabs"`` is defined for.

    Reference:
        Byrd, Chin, Nocedal and Wu (2012); Bollapragada, Byrd and Nocedal (2018); Balles, Romero and Hennig (2017);
        McCandlish, Kaplan and Amodei (2018), appendix A.1.
    """

    decides_training = (
        *("batch_size", "test", "theta", "nu", "smoothing", "measure_every_n_steps"),
        *("decide_every_n_steps", "monotone", "max_growth", "count"),
    )
    may_change = (*BatchSizeCallback.may_change, "max_batch_size", "micro_batches")

    def __init__(
        self,
        batch_size: int,
        max_batch_size: int,
        *,
        test: TestName = "norm",
        theta: float = 0.9,
        nu: float = 5.84,
        smoothing: float = 0.95,
        measure_every_n_steps: int = 10,
        decide_every_n_steps: int | None = None,
        monotone: bool = True,
        max_growth: float = 2.0,
        micro_batches: int = 4,
        max_micro_batch: int | None = None,
        batch_arg_name: str = "batch_size",
        count: Count | None = None,
    ) -> None:
        super().__init__(max_micro_batch=max_micro_batch, batch_arg_name=batch_arg_name, count=count)
        self.batch_size = whole_number("batch_size", batch_size)
        self.max_batch_size = whole_number("max_batch_size", max_batch_size)
        if self.max_batch_size < self.batch_size:
            raise ValueError(
                f"max_batch_size={max_batch_size} is below batch_size={batch_size}, which is to grow; exchange them"
            )
        self.test: TestName = one_of("test", test, get_args(TestName))
        self.theta = real_number("theta", theta, above=0)
        self.nu = real_number("nu", nu, above=0)
        self.smoothing = real_number("smoothing", smoothing, at_least=0, below=1)
        self.measure_every_n_steps = whole_number("measure_every_n_steps", measure_every_n_steps)
        self.decide_every_n_steps = optional_whole_number("decide_every_n_steps", decide_every_n_steps)
        self.monotone = flag("monotone", monotone)
        self.max_growth = real_number("max_growth", max_growth, above=1, hint="a factor, for instance 2")
        self.micro_batches = whole_number("micro_batches", micro_batches, 2, hint="gradients are compared")
        self._noise = MeasuredNoise()
        self._test = self._new_test()
        self._split_now: MicroBatching | None = None
        self._epoch = 0  # that `_split_now` was decided for

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return (*super().keys, "batch/wanted", "batch/test")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:  # not a second fit of one Trainer
            self._test, self._split_now, self._epoch = self._new_test(), None, trainer.current_epoch
        super().begin_fit(trainer, module)
        run = run_of(trainer)
        run.decides_batch_size, run.largest_batch_size = self.max_batch_size > self.batch_size, self.max_batch_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._noise.start()
        check_largest(trainer, self.max_batch_size, f"max_batch_size={self.max_batch_size}")
        if self.test == "cabs":
            check_plain_sgd(trainer.optimizers[0])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._noise.begin_batch(trainer, batch_idx, every_n_steps=self.measure_every_n_steps)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._noise.see_loss(trainer, loss)
        super().on_before_backward(trainer, pl_module, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_after_backward(trainer, pl_module)
        statistics = self._noise.see_gradient(trainer, pl_module)
        if statistics is not None:
            terms = {}
            if self.test == "cabs":
                optimizer = trainer.optimizers[0]
                rates = run_of(trainer).used_rates(optimizer) or [float(optimizer.param_groups[0]["lr"])]
                terms = {"learning_rate": rates[0], "loss": self._noise.mean_loss(trainer)}
            self._test.update(statistics, batch_size=self._size(trainer), **terms)
            self._noise.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        n = self.decide_every_n_steps
        if n is not None and trainer.global_step % n == 0 and ends_accumulation(trainer):
            self._change_accumulation(trainer, batch_idx + 1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["AdaptiveBatchSize"] = {
            "test": self._test.state_dict(),
            "epoch": self._epoch,
            "batch_size": self._size(trainer),
            "accumulate": self._its_split.accumulate,
        }

    def recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("AdaptiveBatchSize")
        if saved is None:
            self._epoch = epoch_of(checkpoint)
            return
        self._test.load_state_dict(saved["test"])
        self._epoch = saved["epoch"]
        size, accumulate = min(saved["batch_size"], self.max_batch_size), saved["accumulate"]
        if size % (trainer.world_size * accumulate) == 0:
            self._split_now = MicroBatching(size // (trainer.world_size * accumulate), accumulate)
        else:  # on other processes, or with another limit
            unit = trainer.world_size * self._least_accumulation
            self._split_now = self._split(trainer, size // unit * unit)

    def _new_test(self) -> BatchSizeTest:
        return BatchSizeTest(self.test, theta=self.theta, nu=self.nu, smoothing=self.smoothing)

    def planned(self, trainer: Trainer, epoch: int) -> MicroBatching:
        return self._split_now or self._split(trainer, self.batch_size)

    def decided(self, trainer: Trainer, epoch: int) -> MicroBatching:
        if self._split_now is None:
            self._split_now = self.planned(trainer, epoch)
        elif epoch > self._epoch:
            self._split_now = self._nearest_to_test(trainer)
        self._epoch = max(epoch, self._epoch)
        return self._split_now

    def _epochs_to_come(self, trainer: Trainer) -> list[int]:
        return [trainer.current_epoch]  # those after it are decided when they come

    def _plan_to_prove(self, trainer: Trainer) -> list[MicroBatching]:
        """The sizes to come are not known; the largest that there may be stands for them."""
        parts, samples = trainer.world_size * self._least_accumulation, samples_per_process(trainer)
        limits = [limit for limit in (self._limit, samples) if limit is not None]
        largest = max(1, min([self.max_batch_size // parts, *limits]))
        return [MicroBatching(largest, 1)] if self.max_batch_size > self.batch_size else []

    @property
    def _least_accumulation(self) -> int:
        return max(self.micro_batches, self._users_accumulation)

    def _nearest_to_test(self, trainer: Trainer) -> MicroBatching:
        """Between epochs: the size that comes nearest, in micro-batches that are equal on all processes."""
        accumulate = self._least_accumulation
        size = self._next_size(trainer, trainer.world_size * accumulate)
        if self._limit is not None:
            accumulate = max(accumulate, math.ceil(size / (trainer.world_size * self._limit)))
            size = self._next_size(trainer, trainer.world_size * accumulate)
        if size == self._size(trainer):
            return self._its_split
        split, larger = self._split(trainer, size), size + trainer.world_size * accumulate
        if self._limit is None and leaves_one_sample(trainer, split.micro_batch_size):
            smaller = max(2 * size - larger, self._size(trainer))
            split = self._split(trainer, larger if larger <= self.max_batch_size else smaller)
        return split

    @property
    def _its_split(self) -> MicroBatching:
        if self._split_now is None:
            raise RuntimeError("AdaptiveBatchSize has not been set up")
        return self._split_now

    def _size(self, trainer: Trainer) -> int:
        return global_batch_size(trainer, self._its_split)

    def _next_size(self, trainer: Trainer, multiple_of: int) -> int:
        size = next_batch_size(
            self._test.batch_size,
            self._size(trainer),
            smallest=self.batch_size,
            largest=self.max_batch_size,
            multiple_of=multiple_of,
            max_growth=self.max_growth,
            monotone=self.monotone,
        )
        return broadcast(trainer, size)  # one decision for all, whatever their rounding

    def _change_accumulation(self, trainer: Trainer, next_batch: int) -> None:
        """Between steps: so many micro-batches of the present size as come nearest."""
        split = self._its_split
        size = self._next_size(trainer, split.micro_batch_size * trainer.world_size)
        accumulate = size // (split.micro_batch_size * trainer.world_size)
        if next_batch % math.lcm(split.accumulate, accumulate) == 0:  # where Lightning begins a step with either
            self._split_now = run_of(trainer).split = MicroBatching(split.micro_batch_size, accumulate)
            trainer.accumulate_grad_batches = accumulate

    def values(self, trainer: Trainer) -> dict[str, float]:
        wanted = self._test.batch_size
        values = super().values(trainer)
        if math.isfinite(wanted):
            values |= {"batch/wanted": wanted, "batch/test": wanted / self._size(trainer)}
        return values
