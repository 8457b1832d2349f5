"""What ghosts are: the processes, or the micro-batches, that a batch would be spread over. All in float64."""

import copy

import ghosts_and_processes as training
import processes
import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_gap import GhostBatchNormSwap
from lightning_gap.functional import swap_batch_norm


def fit(file, number, mode):
    processes.run(training.__file__, file, number, mode, ranks=number)
    return torch.load(file)


def fit_alone(mode):
    module, _ = training.train(1, mode)
    return module.state_dict()


def assert_same(state, other, *, statistics):
    for name, value in state.items():
        if statistics or not any(buffer in name for buffer in ("running", "batches")):
            assert float((other[name] - value).abs().max()) <= 1e-12, name


@pytest.mark.promise("ghosts processes")
@pytest.mark.parametrize(("number", "mode"), [pytest.param(4, "plain", marks=pytest.mark.slow), (2, "ghosts")])
def test_one_process_with_ghosts_trains_as_many_processes_do(tmp_path, number, mode):
    many = fit(tmp_path / "many.pt", number, mode)
    one = fit_alone("ghosts")
    start = training.Small().double().state_dict()
    assert not torch.allclose(one["head.weight"], start["head.weight"], atol=1e-2)  # it did train
    assert_same(one, many, statistics=False)  # each process keeps running statistics of its own samples


@pytest.mark.slow
def test_without_ghosts_it_does_not(tmp_path):
    one, many = fit_alone("plain"), fit(tmp_path / "many.pt", 2, "plain")
    assert not torch.allclose(one["head.weight"], many["head.weight"], atol=1e-3)


@pytest.mark.promise("ghosts processes")
def test_ghosts_train_as_accumulation_over_micro_batches_does_running_statistics_included():
    states = []
    for callbacks, batch_size, accumulate in ([GhostBatchNormSwap(8)], 32, 1), ([], 8, 4):
        module = training.Small()
        trainer = tiny.trainer(*callbacks, precision="64-true", accumulate_grad_batches=accumulate, max_epochs=5)
        trainer.fit(module, DataLoader(training.data(320), batch_size=batch_size))
        assert trainer.global_step == 50
        states.append(module.state_dict())
    assert_same(*states, statistics=True)


@pytest.mark.parametrize(
    ("tail", "leftover", "sizes"),
    [
        (20, "merge", [8, 8, 4]),
        (25, "merge", [8, 8, 9]),
        (28, "balance", [7, 7, 7, 7]),
        (27, "balance", [9, 9, 9]),
    ],
)
def test_a_tail_trains_as_micro_batches_of_the_sizes_that_the_policy_gives(tail, leftover, sizes):
    ghosts = training.Small().net.double()[4:]  # without convolution, where a ghost of one sample has several values
    slices = copy.deepcopy(ghosts)
    swap_batch_norm(ghosts, 8, leftover=leftover)
    inputs = torch.randn(32 + tail, 36, dtype=torch.float64)
    classes = torch.arange(32 + tail) % 8
    for model in (ghosts, slices):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(25):
            for batch, parts in ((slice(0, 32), [8] * 4), (slice(32, None), sizes)):
                optimizer.zero_grad()
                micro_batches = zip(inputs[batch].split(parts), classes[batch].split(parts), strict=True)
                for x, y in [(inputs[batch], classes[batch])] if model is ghosts else micro_batches:
                    # the mean over the batch: each micro-batch weighs as many samples as it has
                    (cross_entropy(model(x), y) * len(x) / len(inputs[batch])).backward()
                optimizer.step()
    assert_same(ghosts.state_dict(), slices.state_dict(), statistics=True)
