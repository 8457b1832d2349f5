"""The sharpness of a loss of which each process holds some batches; run by test_sharpness.py."""

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    DatasetLoss,
    RandomSubspace,
    average_sharpness,
    layer_sharpness,
    sharp_share,
    sharpness,
    sharpness_profile,
    subspace_sharpness,
)

WORLDS = (2, 4)
SIZES = (9, 4, 7)  # unequal, and one of four processes gets none of them


class Turned(nn.Module):
    """A layer whose gradient lies transposed in memory, but not the zeros of a process without a batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 5))

    def forward(self, x):
        return x @ self.weight.t().contiguous().t()


def network(norm=True):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6) if norm else nn.Identity(), nn.Tanh(), Turned()).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(sum(SIZES), 4, generator=generator, dtype=torch.float64)
    model(x)  # running statistics
    return model.train(), list(zip(x.split(SIZES), (torch.arange(len(x)) % 5).split(SIZES), strict=True))


class InHalves:
    """A loss with these halves."""

    def __init__(self, *halves):
        self.halves = lambda: halves

    def __call__(self):
        return self.halves()[0]()


def mean_loss(module, batch):
    return cross_entropy(module(batch[0]), batch[1])


def numbers(*found):
    return torch.tensor([[s.percent, s.loss, s.highest_loss, s.gradient_norm] for s in found], dtype=torch.float64)


def measure(group=None):
    """Everything there is, the batches dealt out between the processes of the group."""
    model, batches = network()
    params, named = list(model.parameters()), dict(model.named_parameters())
    terms = {"epsilon": 0.05, "process_group": group}

    def loss(mode="running", first=0):
        return DatasetLoss(model, mean_loss, batches[first:], batch_norm=mode, process_group=group)

    subspace = RandomSubspace(6)
    found = {mode: numbers(sharpness(loss(mode), params, **terms)) for mode in ("running", "batch", "recomputed")}
    found["subspace"] = numbers(sharpness(loss(), params, subspace=subspace, restarts=1, **terms))
    found["few evaluations"] = numbers(sharpness(loss(), params, max_evaluations=5, **terms))
    found["report_on"] = numbers(sharpness(loss(first=1), params, report_on=loss(), **terms))
    found["ball"] = numbers(sharpness(loss(), params, norm="l2", restarts=1, **terms))
    found["relative"] = numbers(sharpness(loss(), params, relative=True, **terms))
    found["lbfgsb"] = numbers(sharpness(loss(), params, method="lbfgsb", subspace=subspace, **terms))
    found["best"] = numbers(sharpness(loss(), params, method="best", subspace=subspace, **terms))
    found["apgd"] = numbers(sharpness(loss(), params, method="apgd", norm="l2", **terms))
    found["profile"] = numbers(*sharpness_profile(loss(), params, (0.1, 0.01), process_group=group))
    found["layers"] = numbers(*layer_sharpness(loss(), named, **terms).values())
    found["draws"] = numbers(*subspace_sharpness(loss(), params, subspace=subspace, draws=2, **terms).draws)
    found["only one has halves"] = numbers(sharpness(unlike(model.eval(), batches, group), params, **terms))
    model.train()
    average = average_sharpness(loss(), params, directions=3, **terms)
    found["average"] = torch.tensor([average.rise, average.standard_error, average.loss], dtype=torch.float64)
    share = sharp_share(loss(), params, radius=0.1, directions=3, process_group=group)
    found["share"] = torch.tensor([share.share, share.average_rise, share.worst_rise], dtype=torch.float64)
    return found


def unlike(model, batches, group):
    """The sum of a loss that has halves and of one that has none, each on a process of its own."""
    losses = DatasetLoss(model, mean_loss, batches[:2]), DatasetLoss(model, mean_loss, batches[2:])
    if group:
        return losses[dist.get_rank(group)] if dist.get_rank(group) < 2 else tuple
    return lambda: [*losses[0](), losses[1]()]


def untouched(group):
    model, batches = network()
    before = [t.clone() for t in model.state_dict().values()]
    loss = DatasetLoss(model, mean_loss, batches, batch_norm="recomputed", process_group=group)
    sharpness(loss, model.parameters(), process_group=group)
    same = all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True))
    return same and all(part.training for part in model.modules())


def failures(rank, group):
    """What each process raises when something fails on process 1 only."""
    calls = []
    model, batches = network(norm=False)
    params = list(model.parameters())

    def loss_fn():
        yield mean_loss(model, batches[0])

    no_data = OSError("no more data")

    def failing(at, error=no_data):
        def fails():
            calls.append(1)
            if rank == 1 and len(calls) == at:
                raise error
            yield mean_loss(model, batches[0])

        return fails

    def ended(loss, **terms):
        calls.clear()
        try:
            sharpness(loss, params, process_group=group, **terms)
        except (OSError, RuntimeError, KeyboardInterrupt) as error:
            return f"{type(error).__name__}: {error}"

    found = {
        "loss": ended(failing(3)),  # the second is the check that the loss is not random
        "interrupt": ended(failing(1, KeyboardInterrupt())),
        "half": ended(InHalves(loss_fn, failing(2))),
        "report_on": ended(loss_fn, report_on=failing(2)),
    }

    def no_batch(module, batch):
        if rank == 1:
            raise no_data
        return mean_loss(module, batch)

    model, _ = network()
    params = list(model.parameters())
    # The last one: where the processes fall apart here, nothing can be asked of them any more.
    found["recomputed"] = ended(DatasetLoss(model, no_batch, batches, batch_norm="recomputed", process_group=group))
    return found


def main():
    warnings.simplefilter("ignore", UserWarning)
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    rank, group = dist.get_rank(), dist.group.WORLD
    result = {"found": measure(group), "untouched": untouched(group), "failures": failures(rank, group)}
    torch.save(result, Path(sys.argv[1]) / f"{dist.get_world_size()}-{rank}.pt")


if __name__ == "__main__":
    main()
