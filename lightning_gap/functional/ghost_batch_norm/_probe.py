"""Find out by trial which ghost twin does for a subclass of BatchNorm what ghosts are: the layer on each slice.

The trial is on a copy, in double precision on the CPU, with random weights and input. It shows that the subclass
normalises by the batch in training, treats samples alike otherwise, and that its twin, on a batch of two ghosts,
returns what the subclass returns on the two halves, and leaves the same buffers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._subclasses import GHOST_OF, Way, overrides_forward, twin_of

_SAMPLES = 8
_TOLERANCE = 1e-4
"""Between equal results; a subclass may compute in single precision."""

_SPATIAL: dict[type, list[tuple[int, ...]]] = {
    nn.BatchNorm1d: [(), (5,)],
    nn.BatchNorm2d: [(2, 3)],
    nn.BatchNorm3d: [(2, 1, 3)],
}
"""Sizes behind the channels of the inputs that a trial is made with."""

SetClass = Callable[[nn.Module, type[nn.Module]], None]
"""Gives a layer the twin of its class, where torch may have put a class of parametrized properties between."""


def find_twin(layer: _BatchNorm, plain: type[nn.Module], set_class: SetClass) -> type[nn.Module] | str:
    """The ghost twin of a layer whose class is a subclass of BatchNorm, or the reason why there is none."""
    name = plain.__name__
    if any("sync" in parent.__name__.lower() for parent in plain.__mro__):
        return f"{name} by its name shares statistics across processes, the opposite of ghost batches"
    if plain.__call__ is not nn.Module.__call__ or plain._call_impl is not nn.Module._call_impl:
        return f"{name} overrides how a module is called, which a swap could lose"
    try:
        if not overrides_forward(plain):
            return twin_of(plain, "joined")
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _one_thread():
            return _Trial(layer, plain, set_class).twin()
    except Exception as error:
        return f"{name} overrides forward and could not be tried: {type(error).__name__}: {_first_line(error)}"


class _Trial:
    """One layer under trial."""

    def __init__(self, layer: _BatchNorm, plain: type[nn.Module], set_class: SetClass) -> None:
        self._plain, self._set_class = plain, set_class
        self._prototype = _prototype(layer)
        self._inputs = list(self._accepted())

    def twin(self) -> type[nn.Module] | str:
        name = self._plain.__name__
        if not self._inputs:
            self._run(None, next(_inputs(self._plain, self._prototype.num_features)))  # raises what it says
            return f"{name} overrides forward and does not return one tensor with the samples of its input"
        if not all(self._treats_samples_alike(x) for x in self._inputs):
            return f"{name} overrides forward and does not treat the samples of a batch alike, or draws at random"
        if not all(self._normalises_by_batch(x) for x in self._inputs):
            return f"{name} overrides forward and does not normalise by the batch in training"
        ways: tuple[Way, ...] = ("joined", "sliced")
        for way in ways:
            twin = twin_of(self._plain, way)
            if all(self._is_the_layer_on_slices(twin, x) for x in self._inputs):
                return twin
        return f"{name} overrides forward, and on ghosts its copy did not do what it does on slices of the batch"

    def _accepted(self) -> Iterator[Tensor]:
        """Of the usual shapes of input those that the layer takes."""
        for x in _inputs(self._plain, self._prototype.num_features):
            try:
                output, _ = self._run(None, x)
            except Exception:
                continue
            if isinstance(output, Tensor) and output.shape[:1] == x.shape[:1]:
                yield x

    def _run(
        self, twin: type[nn.Module] | None, *inputs: Tensor, ghost: int = 0, training: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Output, of several inputs in a row, and the buffers afterwards; of the layer itself without a twin."""
        layer = copy.deepcopy(self._prototype)
        if twin is not None:
            self._set_class(layer, twin)
            vars(layer).update(ghost_batch_size=ghost, leftover="merge", running_stats="sequential")
        layer.training = training  # not train(), which would set the layers inside, too
        outputs = [layer.forward(x.clone()) for x in inputs]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], list(layer.buffers())

    def _treats_samples_alike(self, x: Tensor) -> bool:
        order = torch.arange(_SAMPLES, device="cpu").view(2, -1).t().flatten()  # each half gets some of both
        output, buffers = self._run(None, x)
        permuted, same_buffers = self._run(None, x[order])
        if not _equal([output[order], *buffers], [permuted, *same_buffers]):
            return False
        if self._prototype.running_mean is None:
            return True
        whole, _ = self._run(None, x, training=False)
        return _equal([whole], [self._run(None, *torch.split(x, 1), training=False)[0]])

    def _normalises_by_batch(self, x: Tensor) -> bool:
        return not _equal([self._run(None, x)[0]], [self._run(None, *x.chunk(2))[0]])

    def _is_the_layer_on_slices(self, twin: type[nn.Module], x: Tensor) -> bool:
        third = _SAMPLES // 2 - 1  # two ghosts and a remainder
        trials: list[tuple[int, bool, tuple[Tensor, ...]]] = [
            (third, True, torch.split(x, third)),
            (_SAMPLES, True, (x,)),
        ]
        if self._prototype.running_mean is not None:
            trials.append((third, False, (x,)))
        for ghost, training, slices in trials:
            found, buffers = self._run(twin, x, ghost=ghost, training=training)
            wanted, expected = self._run(None, *slices, training=training)
            if not _equal([found, *buffers], [wanted, *expected]):
                return False
        return True


def _prototype(layer: _BatchNorm) -> _BatchNorm:
    """A copy of the layer without hooks, in double precision on the CPU; layers inside it in evaluation mode."""
    hooks = [value for part in layer.modules() for name, value in vars(part).items() if name.endswith("_hooks")]
    made = copy.deepcopy(layer, {id(value): type(value)() for value in hooks if value is not None})
    if any(tensor.is_meta for tensor in (*made.parameters(), *made.buffers())):
        made.to_empty(device="cpu")
    made = made.to("cpu", torch.float64)
    for part in made.modules():
        if part is not made:
            part.eval()  # dropout, which would be random
    generator = torch.Generator().manual_seed(0)
    for group in (made._parameters, made._buffers):
        for name, tensor in group.items():
            if tensor is None or name not in ("weight", "bias", "running_mean", "running_var"):
                continue
            # Weights may be all zero.
            value = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
            group[name] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value  # type: ignore[assignment]
    if made.num_batches_tracked is not None:
        made.num_batches_tracked = torch.tensor(3, device="cpu")
    return made


def _inputs(plain: type[nn.Module], channels: int) -> Iterator[Tensor]:
    """Random batches of the shapes that such a layer usually takes, the channels first or last."""
    kind = next((kind for kind in GHOST_OF if issubclass(plain, kind)), None)
    known = [_SPATIAL[kind]] if kind is not None else list(_SPATIAL.values())
    shapes = [sizes for some in known for sizes in some]
    generator = torch.Generator().manual_seed(1)
    for sizes in shapes:
        for shape in {(channels, *sizes), (*sizes, channels)}:
            x = torch.randn(_SAMPLES, *shape, generator=generator, dtype=torch.float64, device="cpu")
            yield x + torch.linspace(0, 2, _SAMPLES, dtype=torch.float64, device="cpu").view(-1, *[1] * len(shape))


def _equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    if len(found) != len(wanted):
        return False
    return all(
        one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=_TOLERANCE, atol=_TOLERANCE)
        for one, other in zip(found, wanted, strict=True)
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """To wait for other threads would take longer than these small inputs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:150]
