import math
import shlex

import pytest
import torch

from lightning_gap.functional import GradientNoise
from lightning_gap.recipes import advice
from lightning_gap.recipes.advice import Measurement, advise, measure_noise
from lightning_gap.recipes.cli import main
from lightning_gap.recipes.comparison import Settings, make_plan

QUICK = ["--small_batch_size", "256", "--steps", "6"]


@pytest.fixture
def quick(monkeypatch):
    """Fewer samples and products, for tests of what is done with the noise and not of its size."""
    monkeypatch.setattr(advice, "SAMPLES", 200)
    monkeypatch.setattr(advice, "PROBES", 1)


def measurements(*scales, critical=100.0):
    return [
        Measurement(step, 0.5, GradientNoise(1.0, scale, gradient_curvature=1.0, curvature_variance=critical))
        for step, scale in enumerate(scales, start=1)
    ]


@pytest.mark.parametrize(
    ("scale", "samples", "batch"),
    [(900.0, 60_000, 512), (1024.0, 60_000, 1024), (1023.9, 60_000, 512), (900.0, 400, 256), (0.3, 400, 1)],
)
def test_the_batch_is_the_power_of_two_at_or_below_the_scale(scale, samples, batch):
    assert advise(measurements(scale, scale, scale), samples).batch_size == batch


def test_the_scale_is_averaged_towards_the_end_and_its_range_is_told():
    found = advise(measurements(100.0, 400.0, 800.0), 60_000)
    assert found.scale == pytest.approx((100 / 4 + 400 / 2 + 800) / (1 / 4 + 1 / 2 + 1))
    assert (found.lowest, found.highest) == (100.0, 800.0)
    assert found.critical == pytest.approx(100.0)


@pytest.mark.parametrize("batch", [32, 512, 6000])
def test_the_costs_are_those_of_the_papers_trade(batch):
    steps, samples = advise(measurements(900.0), 60_000).costs(batch)
    assert (steps - 1) * (samples - 1) == pytest.approx(1)
    assert steps * batch / samples == pytest.approx(900)  # the ratio of the least samples to the fewest steps


def test_a_gradient_lost_in_its_noise_gives_no_advice():
    lost = [Measurement(300, 0.1, GradientNoise(-1.0, 5.0, gradient_curvature=1.0, curvature_variance=1.0))]
    with pytest.raises(ValueError, match=r"cannot be told from its noise around step 300: .*pass fewer --steps"):
        advise(lost, 60_000)


def test_a_curvature_that_cannot_be_told_leaves_the_rest():
    assert math.isnan(advise(measurements(900.0, critical=-1.0), 60_000).critical)


def test_it_measures_along_the_run_of_the_small_batch_and_does_not_disturb_it(quick):
    plan = make_plan(Settings("f1", ("small",), numbers={"small_batch_size": 256}))
    found = measure_noise(plan, 12)
    assert [m.step for m in found] == [2, 4, 6, 8, 10, 12]
    assert all(m.noise.variance > 0 for m in found)
    # The same run by hand: the loss of step 12 is that of the recipe's data order, weights and optimizer.
    network, loader = plan.new_network(0), plan.data(plan.regime("small"), 0).train_dataloader()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for inputs, targets in loader:
            loss = torch.nn.functional.cross_entropy(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert [m.loss for m in found] == pytest.approx(losses[1:12:2], rel=1e-5)


def test_it_prints_batch_rate_reasons_and_commands_that_run(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["advise", "f1", *QUICK]) == 0
    printed = capsys.readouterr().out
    for text in (
        "noise scale",
        "critical batch",
        "(advised)",
        "times the fewest steps",
        "adam's rate",
        "sqrt(",
        "Next:",
    ):
        assert text in printed
    assert not list(tmp_path.iterdir())
    commands = [shlex.split(line) for line in printed.splitlines() if line.strip().startswith("lightning-gap ")]
    assert [command[1] for command in commands] in (["compare"], ["compare", "run"])
    assert main([*commands[-1][1:], "--epochs", "1", "--output", str(tmp_path / "next")]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["f1", "--steps", "5"], "steps must be at least 6, one for each measurement, got 5; the default is 300"),
        (["f3"], "unknown recipe 'f3'; did you mean 'f2' or 'f1'"),
        (["f1", "--data", "minst"], "unknown data set 'minst'; did you mean 'mnist'"),
        (["f1", "--learning_rate", "0"], "learning_rate must be positive, got 0"),
        (["f1", *QUICK, "--learning_rate", "1e20"], "the loss at params and its gradients must be finite"),
    ],
)
def test_bad_input_is_one_clear_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["advise", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
