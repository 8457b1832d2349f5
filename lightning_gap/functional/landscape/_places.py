"""What a module holds: moved from point to point, and put back to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._uninterrupted import uninterrupted_exit
from .points import WeightPoints


@uninterrupted_exit
def same_state(module: nn.Module) -> Iterator[None]:
    """Put back at the end what a measurement may have changed, whole also after an exception or Ctrl-C.

    Values and identity of parameters and buffers, gradients, modes, and the states of torch's and Python's generators.
    """
    owners = [(part, dict(part._parameters), dict(part._buffers), part.training) for part in module.modules()]
    tensors = [*module.parameters(), *module.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [(weight, weight.grad) for weight in module.parameters()]
    numbers, plain = _random_states(tensors), random.getstate()
    try:
        yield
    finally:
        for part, parameters, buffers, training in owners:
            part.training = training
            for own, before in ((part._parameters, parameters), (part._buffers, buffers)):
                own.clear()
                own.update(before)  # type: ignore[arg-type]
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for weight, gradient in gradients:
            weight.grad = gradient
        torch.clear_autocast_cache()
        torch.set_rng_state(numbers[0])
        if len(numbers) > 1:
            torch.cuda.set_rng_state_all(numbers[1:])
        random.setstate(plain)


def _random_states(tensors: Sequence[Tensor]) -> list[Tensor]:
    on_cuda = any(tensor.is_cuda for tensor in tensors)
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if on_cuda else [])]


class Places:
    """The tensors of a module, and what each is at each of several points.

    Args:
        module: Whose parameters and buffers; a tied one counts once.
        points: With a whole state of this module first.

    Raises:
        ValueError: If the states are not those of this module.

    Attributes:
        own: The module's tensors by name.
        points: As given.
    """

    def __init__(self, module: nn.Module, points: WeightPoints) -> None:
        self.own: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.points = points
        lazy = [name for name, tensor in self.own.items() if is_lazy(tensor)]
        if lazy:
            raise ValueError(f"{lazy[0]} of module is lazy and has no value yet; run one batch through the model first")
        stored = {name for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        wrong = sorted(stored ^ points.basis[0].keys())
        wrong += [name for name, tensor in self.own.items() if name in stored and self._shape(name) != tensor.shape]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(
                f"points must be those of module; names or shapes differ in {', '.join(wrong[:5])}{more}: "
                "pass the state_dict of the same network"
            )
        first = {id(tensor): name for name, tensor in self.own.items()}
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        aliases = {name: first[id(tensor)] for name, tensor in named}
        written_to = {tensor.untyped_storage().data_ptr() for tensor in self.own.values()}
        self._basis: list[dict[str, Tensor]] = []
        self._matrices: dict[str, tuple[list[int], Tensor | None]] = {}
        for state in points.basis:
            known: dict[str, Tensor] = {}
            for name, value in state.items():  # of tied weights the first that is there
                known.setdefault(aliases.get(name, name), value)
            here = {n: value.to(self.own[n]) for n, value in known.items() if n in self.own}
            # The module's own `state_dict` holds the very tensors that are moved.
            self._basis.append(
                {n: v.clone() if v.untyped_storage().data_ptr() in written_to else v for n, v in here.items()}
            )

    def _shape(self, name: str) -> torch.Size | None:
        value = self.points.basis[0].get(name)
        return None if value is None else value.shape

    def moves(self, name: str) -> bool:
        """Whether this tensor is another one at another point."""
        if name not in self._basis[0] or not self.own[name].is_floating_point():
            return False
        first = {row[0] for row in self.points.coefficients}
        return len(first) > 1 or any(name in state for state in self._basis[1:])

    @torch.no_grad()
    def write(self, point: int, name: str, out: Tensor) -> None:
        """Write what a tensor is at a point; one that is stored nowhere is the module's own."""
        if name not in self._basis[0]:
            if out is not self.own[name]:
                out.copy_(self.own[name])
            return
        if not out.is_floating_point():
            out.copy_(self._basis[0][name])
            return
        empty = True
        for factor, state in zip(self.points.coefficients[point], self._basis, strict=True):
            if factor and name in state:  # 0 times infinity is no part of a point
                if empty:
                    torch.mul(state[name], factor, out=out)
                else:
                    out.add_(state[name], alpha=factor)
                empty = False
        if empty:
            out.zero_()

    @torch.no_grad()
    def write_all(self, points: range, name: str, out: Tensor) -> None:
        """Write what a tensor is at several points, (points, ...): in one product for all of them."""
        if name not in self._matrices:
            columns = [k for k, state in enumerate(self._basis) if name in state]
            matrix = torch.stack([self._basis[k][name].flatten() for k in columns]) if columns else None
            finite = matrix is not None and out.is_floating_point() and bool(torch.isfinite(matrix).all())
            self._matrices[name] = (columns, matrix if finite else None)
        columns, matrix = self._matrices[name]
        if matrix is None:
            for row, point in zip(out, points, strict=True):
                self.write(point, name, row)
            return
        factors = [[self.points.coefficients[point][k] for k in columns] for point in points]
        torch.mm(out.new_tensor(factors), matrix, out=out.view(len(points), -1))

    def move(self, point: int) -> None:
        """Let the module itself hold its tensors at a point."""
        for name, tensor in self.own.items():
            self.write(point, name, tensor.detach())
        torch.clear_autocast_cache()
