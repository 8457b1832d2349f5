"""The loss of a LightningModule on the path between two checkpoints: no callback, and no Trainer is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..functional._validation import one_of, refusal, seed_number, whole_number
from ..functional.dataset_loss import BatchNormMode
from ..functional.landscape.barrier import Barrier, loss_barrier
from ..functional.landscape.evaluate import evaluate_points
from ..functional.landscape.points import Path, check_same_network, line_points
from ..logging.figures import parametric_figure
from ..trainer.checkpoint_file import check_values, read_checkpoint, weights_in
from ._arguments import optional_function
from ._evaluations import LossFunction
from ._fixed_subset import Count, fixed_subsets
from ._landscape_step import Step, evaluating, leave_modes, numbered, size_of, try_out
from ._module_loss import check_measurable
from .generalization_gap import AccuracyFunction

Checkpoint = str | os.PathLike[str] | Mapping[str, Any]

_ALPHAS = tuple(k / 8 for k in range(-8, 17))


@dataclass(frozen=True)
class Landscape:
    """What `landscape` found.

    Attributes:
        alphas: Positions on the path; 0 and 1 are the two checkpoints.
        values: By split, "loss" and, where it is known what it is of, "accuracy" (a fraction) at each of them; NaN
            where the loss is not finite.
        terms: How it was measured.
    """

    alphas: tuple[float, ...]
    values: Mapping[str, Mapping[str, list[float]]]
    terms: Mapping[str, str]

    def barrier(self, split: str) -> Barrier:
        """How much higher the loss is between the two than on the line between their losses; see `loss_barrier`."""
        return loss_barrier(self.alphas, self.values[split]["loss"])

    def figure(self, *, ends: tuple[str, str] = ("a", "b"), title: str | None = None) -> Any:
        """Loss and accuracy along the path, a figure of matplotlib's; see `parametric_figure`."""
        told = ", ".join(f"{name} {value}" for name, value in self.terms.items())
        loss = {split: values["loss"] for split, values in self.values.items()}
        accuracy = {split: values["accuracy"] for split, values in self.values.items() if "accuracy" in values}
        return parametric_figure(self.alphas, loss, accuracy, ends=ends, title=told if title is None else title)


def landscape(
    module: LightningModule,
    checkpoint_a: Checkpoint,
    checkpoint_b: Checkpoint,
    dataloaders: Any,
    *,
    alphas: Sequence[float] = _ALPHAS,
    path: Path = "linear",
    batch_norm: BatchNormMode = "recomputed",
    samples: int = 1000,
    chunk_size: int = 250,
    seed: int = 0,
    loss_fn: LossFunction | None = None,
    accuracy_fn: AccuracyFunction | None = None,
    count: Count | None = None,
) -> Landscape:
    """Loss and accuracy of a LightningModule on the path between two checkpoints.

    The loss comes from the module's own `training_step`, silenced and in evaluation mode, on fixed samples drawn
    through the loaders; ``loss_fn`` overrides it. The module is as before on return, also after an exception or Ctrl-C:
    weights, buffers, modes, gradients, random numbers, and what the step keeps. No Trainer is needed.

    Args:
        module: The network, on the device to measure on; which weights it has does not matter.
        checkpoint_a: A checkpoint of Lightning's or a file that holds a `state_dict`, or the dictionary itself.
        checkpoint_b: Another one of the same network.
        dataloaders: A loader, a list of batches, or several by name: ``{"train": ..., "test": ...}``.
        alphas: Positions: checkpoint_a is at 0, checkpoint_b at 1. By default the paper's 25 from -1 to 2.
        path: "linear", or the paper's "curved"; see `line_points`.
        batch_norm: "recomputed" gathers BatchNorm statistics afresh at each point, on the first split; "running"
            interpolates those of the checkpoints, "batch" takes those of each chunk, as Keskar et al. did.
        samples: Samples of each split; of a smaller split all, and then as many of the others.
        chunk_size: Most samples in memory at a time.
        seed: Seed of the subset.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        accuracy_fn: Mean accuracy of one batch, a function of (module, batch). By default accuracy is there where it is
            proven what it is of, as in `GeneralizationGapMonitor`.
        count: What the mean loss of a batch is taken over, a function of the batch; its samples by default.

    Returns:
        The values, which can be drawn.

    Raises:
        ValueError: If a checkpoint cannot be read or is of another network than the other or ``module``, an argument is
            out of range, or the loss is random or cannot be measured.
        FileNotFoundError: If there is no such checkpoint.

    Reference:
        Keskar et al. (2017), section 2.2.1, Figures 3 and 7.

    Example:
        >>> import torch
        >>> class Line(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.zeros(1))
        ...     def training_step(self, batch):
        ...         return (self.weight * batch).square().mean()
        >>> a, b = {"weight": torch.tensor([-1.0])}, {"weight": torch.tensor([1.0])}
        >>> found = landscape(Line(), a, b, [torch.ones(4, 1)], alphas=[0.0, 0.5, 1.0])
        >>> found.values, found.barrier("train").height
        ({'train': {'loss': [1.0, 0.0, 1.0]}}, 0.0)
    """
    if not (isinstance(module, nn.Module) and hasattr(module, "training_step")):
        raise ValueError(refusal("module", "must be a LightningModule", module))
    loss_fn, accuracy_fn = optional_function("loss_fn", loss_fn), optional_function("accuracy_fn", accuracy_fn)
    samples, chunk_size = whole_number("samples", samples), whole_number("chunk_size", chunk_size)
    seed, count = seed_number("seed", seed), optional_function("count", count, "the batch")
    batch_norm = one_of("batch_norm", batch_norm, get_args(BatchNormMode))
    check_measurable(module, loss_fn)
    start, end = (_weights(n, c, module) for n, c in (("checkpoint_a", checkpoint_a), ("checkpoint_b", checkpoint_b)))
    check_same_network(checkpoint_a=start, checkpoint_b=end)
    check_same_network(checkpoint_a=start, module=module.state_dict())
    points = line_points(start, end, alphas, path=path)
    by_name = dataloaders if isinstance(dataloaders, Mapping) else {"train": dataloaders}
    if not by_name:
        raise ValueError(refusal("dataloaders", "must not be empty", dataloaders, '{"train": loader}'))
    lists = {name: isinstance(data, list) for name, data in by_name.items()}
    told = {name: f"dataloaders[{name!r}]" for name in by_name}
    sources = {told[name]: (data, None) if lists[name] else (None, data) for name, data in by_name.items()}
    with evaluating(module) as remembered:
        found_in = fixed_subsets(sources, samples=samples, chunk_size=chunk_size, seed=seed, count=count)
        drawn = {name: found_in[told[name]] for name in by_name}
        step = Step(module, remembered, loss_fn, accuracy_fn)
        try_out(step, points, drawn, batch_norm, seed)
        found = evaluate_points(
            module,
            points,
            step.measure,
            {name: numbered(given, seed) for name, given in drawn.items()},
            batch_norm=batch_norm,
            count=size_of,
            points_at_once=1,  # a step may do in Python whatever it likes
            evaluation_mode=leave_modes,
        )
    sizes = "/".join(str(sum(given.sizes)) for given in drawn.values())
    terms = {"path": path, "BatchNorm": batch_norm, "samples": sizes, "seed": str(seed)}
    return Landscape(tuple(float(alpha) for alpha in alphas), found.values, terms)


def _weights(argument: str, given: Any, module: nn.Module) -> dict[str, Tensor]:
    """The tensors by name that a checkpoint holds, each finite and of the module's kind."""
    if not isinstance(given, str | os.PathLike | Mapping):
        raise ValueError(refusal(argument, "must be a path or a state_dict", given))
    where = argument if isinstance(given, Mapping) else f"{argument}={os.fspath(given)!r}"
    try:
        weights = weights_in(given if isinstance(given, Mapping) else read_checkpoint(given), bare=True)
        no_tensor = [name for name, value in weights.items() if not _is_weight(name, value)]
        if no_tensor:
            raise ValueError(f"its {no_tensor[0]} is a {type(weights[no_tensor[0]]).__name__}, not a tensor")
        check_values(weights, module)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where} does not exist; pass the path of a checkpoint, or a state_dict") from error
    except ValueError as error:
        raise ValueError(
            f"{where} cannot be measured: {error}; pass a checkpoint of Lightning's, or a state_dict"
        ) from error
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def _is_weight(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or name.endswith("_extra_state")
