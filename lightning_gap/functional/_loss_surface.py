"""The loss as a function of the weights: moved around, summed over chunks and processes, put back to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.distributed import ProcessGroup
from torch.nn.parameter import is_lazy

from ._processes import sum_over_processes
from ._uninterrupted import uninterrupted_exit
from ._validation import checked_group, function, refusal
from .errors import RandomLossError, UnusedWeightsError

LossFunction = Callable[[], Tensor | Iterable[Tensor]]
Params = Iterable[Tensor] | Mapping[str, Tensor]


class LossSurface:
    """What `loss_surface` yields: the loss and its derivatives wherever the weights are moved.

    Attributes:
        weights: The tensors that are moved.
        centre: Copies of their first values.
        came_whole: Whether the loss last came as one scalar and not in parts.
    """

    def __init__(self, loss_fn: LossFunction, weights: list[Tensor], group: ProcessGroup | None) -> None:
        self.weights = weights
        self.centre = [weight.detach().clone() for weight in weights]
        self.loss_fn = loss_fn
        self.came_whole = False
        self._group = group
        self._first_part: float | None = None
        self._used = False

    def loss(self, loss_fn: LossFunction | None = None) -> float:
        """The loss (or another one of the same weights), its parts summed in float64.

        Gradients stay on: a loss may need them for itself, as a gradient penalty does.
        """
        return self.summed(lambda: (self._sum(list(map(_number, self.parts(loss_fn))), loss_fn), []))[0]

    def loss_and_gradient(self, loss_fn: LossFunction | None = None) -> tuple[float, list[Tensor]]:
        """The loss (or another one) and its gradient, one tensor for each weight; zeros where it does not matter."""
        return self.summed(lambda: self.over_parts(self.gradient, loss_fn))

    def gradient(self, part: Tensor, *, create_graph: bool = False) -> Sequence[Tensor | None]:
        """Gradient of one part of the loss; None for the weights that it does not use."""
        if not part.requires_grad:
            raise UnusedWeightsError("the loss does not depend on params; compute it with gradients enabled")
        if not self._used:
            _refuse_reentrant_checkpoints(part)
        slopes = torch.autograd.grad(part, self.weights, create_graph=create_graph, allow_unused=True)
        self._used = self._used or any(slope is not None for slope in slopes)
        return slopes

    def check_used(self) -> None:
        """Raise if no gradient so far was one of the weights, on any process."""
        if not self.summed(lambda: (float(self._used), []))[0]:
            raise UnusedWeightsError(
                "the loss does not depend on params, it uses none of them; a module may evaluate others than it "
                "trains, averaged ones for instance: pass those that it evaluates, or another loss_fn"
            )

    def check_repeatable(self) -> None:
        """Raise if the first part of the loss is not what it was a moment ago, with the weights where they are."""

        def ask_again() -> tuple[float, list[Tensor]]:
            with closing(self.parts()) as parts:
                before, again = self._first_part, next(map(_number, parts), None)
            # Sharpness is measured against 1 + loss, and kernels may sum in another order each time.
            if before is not None and again is not None and not agree(before, again):
                raise RandomLossError(
                    f"the loss is random: {before!r} and then {again!r} at the same weights; turn dropout off, "
                    "measure on fixed samples without augmentation, draw random numbers from a seed set in loss_fn, "
                    "and keep nothing from one call to the next"
                )
            return 0.0, []

        self.summed(ask_again)

    @torch.no_grad()
    def move(self, offsets: Iterable[Tensor]) -> None:
        """Set the weights to the centre plus these offsets, which may be used up as they are made."""
        for weight, x, offset in zip(self.weights, self.centre, offsets, strict=True):
            torch.add(x, offset, out=weight)
        torch.clear_autocast_cache()  # a loss under autocast would go on with casts of the weights from before

    @torch.no_grad()
    def move_back(self) -> None:
        """Set the weights to the centre: adding and subtracting an offset would not be exact."""
        for weight, x in zip(self.weights, self.centre, strict=True):
            weight.copy_(x)
        torch.clear_autocast_cache()

    def parts(self, loss_fn: LossFunction | None = None) -> Generator[Tensor]:
        """The scalars that sum to the loss, each checked; on one of several processes its share of them."""
        parts = (loss_fn or self.loss_fn)()
        if not isinstance(parts, Iterable):  # a tensor is one
            name = "loss_fn" if loss_fn in (None, self.loss_fn) else "report_on"
            raise ValueError(f"{name} must return a scalar tensor or parts that are, got {type(parts).__name__}")
        self.came_whole = isinstance(parts, Tensor)
        with closing(parts) if isinstance(parts, Generator) else nullcontext():  # its own clean-up, now and not later
            for part in (parts,) if isinstance(parts, Tensor) else parts:
                if not isinstance(part, Tensor) or part.numel() != 1:
                    got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                    raise ValueError(f"loss_fn must return a scalar or parts that are scalars, got {got}")
                yield part
                del part  # and its graph, before the next one is made

    def over_parts(
        self, derive: Callable[[Tensor], Sequence[Tensor | None]], loss_fn: LossFunction | None = None
    ) -> tuple[float, list[Tensor]]:
        """The loss, and the sum over its parts of what ``derive`` makes of each: one tensor for each weight."""
        losses: list[float] = []
        sums: list[Tensor] = []
        ours: set[int] = set()
        for part in self.parts(loss_fn):
            losses.append(_number(part))
            new = list(derive(part))
            if not sums:  # not ours to write to: autograd may give one tensor for two weights
                sums = [_dense(n, weight) for n, weight in zip(new, self.weights, strict=True)]
            else:
                for i, n in enumerate(new):
                    if n is not None:
                        sums[i] = sums[i].add_(n) if i in ours else sums[i] + n
                        ours.add(i)
        return self._sum(losses, loss_fn), sums or [torch.zeros_like(weight) for weight in self.weights]

    def _sum(self, losses: list[float], loss_fn: LossFunction | None) -> float:
        if loss_fn is None:
            self._first_part = losses[0] if losses else None
        return math.fsum(losses)

    def summed(self, compute: Callable[[], tuple[float, list[Tensor]]]) -> tuple[float, list[Tensor]]:
        """Add up number and tensors over the processes; what fails on one of them ends on all of them."""

        def as_list() -> tuple[list[float], list[Tensor]]:
            number, tensors = compute()
            return [number], tensors

        device = self.weights[0].device
        (number,), tensors = sum_over_processes(as_list, numbers=1, process_group=self._group, device=device)
        return number, tensors


@uninterrupted_exit
def loss_surface(
    loss_fn: LossFunction, params: Params, *, process_group: ProcessGroup | None = None
) -> Iterator[LossSurface]:
    """Open the neighbourhood of ``params``; at the end, also by an exception, they hold their values again.

    The values come back bit for bit in the same storage, and whole: Ctrl-C and SIGTERM wait until they are back.
    `.grad` is never touched. A ``loss_fn`` that is a context
    manager, as `DatasetLoss` is, is entered at the first weights and left at the end.

    Args:
        loss_fn: Returns the scalar loss at the current values of ``params``, or an iterable of scalars that sum to it,
            of which only one keeps its graph at a time. It must be deterministic.
        params: Tensors to move, float32 or float64, each requiring grad; or a mapping from names to them.
        process_group: Processes that hold one share of the loss each; all must call alike. The loss is their sum.

    Raises:
        ValueError: If a tensor cannot be moved, or gradients cannot be computed here.
    """
    weights = list(checked_params(params).values())
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "there are no gradients under torch.inference_mode; measure inside `with torch.inference_mode(False):`, "
            "or give the Trainer inference_mode=False"
        )
    surface = LossSurface(function("loss_fn", loss_fn, "no arguments"), weights, checked_group(process_group))
    with entered(loss_fn):
        try:
            torch.set_grad_enabled(True)  # until the exit; a signal could come between the two halves of `enable_grad`
            yield surface
        finally:
            surface.move_back()


def entered(loss_fn: LossFunction | None) -> AbstractContextManager[object]:
    """``loss_fn`` where it is a context manager, otherwise one that does nothing."""
    return loss_fn if isinstance(loss_fn, AbstractContextManager) else nullcontext()


def checked_params(params: Params) -> dict[str, Tensor]:
    """Give ``params`` back by name, each once, or raise the error that says which one cannot be moved.

    Raises:
        ValueError: If there is none, or one is not float32 or float64, is sharded or lazy, or does not require grad.
    """
    if isinstance(params, Tensor | str | bytes) or not isinstance(params, Iterable) or getattr(params, "ndim", 1) == 0:
        raise ValueError(f"params must be several tensors or a mapping from names to them, got {type(params).__name__}")
    named = params.items() if isinstance(params, Mapping) else ((f"params[{i}]", p) for i, p in enumerate(params))
    chosen: dict[int, tuple[str, Tensor]] = {}
    for name, weight in named:  # a tied weight is one weight
        chosen.setdefault(id(weight), (name, weight))
    for name, weight in chosen.values():
        if not isinstance(weight, Tensor):
            where = f"params[{name!r}]" if isinstance(params, Mapping) else name
            raise ValueError(refusal(where, "must be a tensor", weight, "for named parameters pass a dict"))
        if not weight.is_leaf:
            raise ValueError(f"{name} is computed from other tensors; pass the parameters themselves")
        if is_lazy(weight):
            raise ValueError(f"{name} is lazy and has no value yet; run one batch through the model first")
        if hasattr(weight, "device_mesh"):
            raise ValueError(f"{name} is sharded over processes; measure where each process holds whole parameters")
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {weight.dtype}; a small step is lost in its rounding, convert to float32")
        if not weight.requires_grad:
            raise ValueError(f"{name} does not require grad; pass only parameters that are trained")
    if not sum(weight.numel() for _, weight in chosen.values()):
        raise ValueError("params is empty; pass the tensors to perturb, for instance the model's trainable parameters")
    return dict(chosen.values())


def euclidean_norm(tensors: Iterable[Tensor]) -> float:
    """Root of the sum of squares over all entries, in float64 where the device has it."""
    exact = ((t, torch.float32 if t.device.type == "mps" else torch.float64) for t in tensors)
    return math.sqrt(math.fsum(float(torch.linalg.vector_norm(t, dtype=dtype)) ** 2 for t, dtype in exact))


def _refuse_reentrant_checkpoints(loss: Tensor) -> None:
    """Raise if part of the graph is made only by ``backward()``: `torch.autograd.grad` takes its gradient for zero."""
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in graph_behind([loss])):
        raise ValueError(
            "the loss uses reentrant gradient checkpointing, which gives no gradients here; call "
            "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )


def graph_behind(tensors: Iterable[Tensor | None]) -> Iterator[Node]:
    """Every node of the graph that these tensors were computed by, once."""
    waiting, met = [tensor.grad_fn for tensor in tensors if tensor is not None], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            yield node
            waiting += [inner for inner, _ in node.next_functions]


def agree(first: float, second: float) -> bool:
    """Whether two evaluations gave one loss; one that is not finite is itself each time, however it came about."""
    if not (math.isfinite(first) and math.isfinite(second)):
        return math.isfinite(first) == math.isfinite(second)
    return math.isclose(first, second, abs_tol=1e-5 * (1 + abs(first)))


def _number(part: Tensor) -> float:
    return float(part.detach())


def _dense(gradient: Tensor | None, weight: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(weight)
    return gradient.to_dense() if gradient.layout != torch.strided else gradient
