import math
import shlex

import pytest
import torch
from torchvision.models.resnet import BasicBlock

from lightning_gap.functional import GradientNoise
from lightning_gap.recipes import F1, advice
from lightning_gap.recipes.advice import Measurement, advise
from lightning_gap.recipes.networks import ResNet44
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.runner import advising
from lightning_gap.recipes.runner.advising import measure_noise, next_commands
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.options import ask
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.settings import Settings

QUICK = ["--small_batch_size", "256", "--steps", "6"]
SGD = {"small_batch_size": 256, "optimizer": "sgd", "learning_rate": 0.01}


def plan_of(trainer=None, **changed):
    hyperparameters = dict(F1.on("digits", **{"width": 64, "depth": 2, **changed}).hparams)
    del hyperparameters["regime"]
    return make_plan(Settings("f1", ("small",), "digits", trainer=trainer or {}, hyperparameters=hyperparameters))


def measured(plan, steps):
    return measure_noise(plan, plan.recipe("small", 0), steps)


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
    plan = plan_of(small_batch_size=256, optimizer="adam", learning_rate=1e-3)
    found = measured(plan, 12)
    assert [m.step for m in found] == [2, 4, 6, 8, 10, 12]
    assert all(m.noise.variance > 0 for m in found)
    # The same run by hand: the loss of step 12 is that of the recipe's data order, weights and optimizer.
    network = plan.recipe("small", 0)
    loader = plan.data(network, 0).train_dataloader()
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


def test_a_step_of_several_micro_batches_is_measured_once_and_as_one_batch(quick):
    whole, split = (measured(plan_of(trainer, **SGD), 6) for trainer in ({}, {"accumulate_grad_batches": 2}))
    assert [m.step for m in split] == [m.step for m in whole] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(whole, split, strict=True):  # but for BatchNorm, which sees half as many samples at once
        assert two.loss == pytest.approx(one.loss, rel=0.05)


@pytest.mark.parametrize("zero", [True, False])
def test_it_measures_from_the_weights_that_the_recipe_trains(zero, quick):
    trained = []

    class Residual(Recipe):
        def __init__(self, regime="small", *, zero_last_gammas=zero, **sizes):
            super().__init__(ResNet44(blocks=1, width=2), regime)

        def on_fit_start(self):
            trained.extend(layer.bn2 for layer in self.network.modules() if isinstance(layer, BasicBlock))
            assert [bool(norm.weight.any()) for norm in trained] == [not zero] * 3
            raise RuntimeError("seen")

    plan = plan_of()
    sizes = {"epochs": 1, "small_batch_size": 32, "large_batch_size": 64, "optimizer": "sgd", "learning_rate": 0.1}
    with pytest.raises(RuntimeError, match="seen"):
        measure_noise(plan, Residual(**sizes), 6)
    assert len(trained) == 3


@pytest.mark.parametrize("devices", [{"devices": 2}, {"devices": 2, "strategy": "ddp"}])
def test_several_processes_are_refused_before_any_is_started(devices, monkeypatch, capsys):
    monkeypatch.setattr(advising, "make_trainer", None)
    given = [word for name, value in devices.items() for word in (f"--trainer.{name}", str(value))]
    assert main(["advise", "f1", "--trainer.accelerator", "cpu", *given]) == 2
    told = f"got 2 by trainer={ {'accelerator': 'cpu', **devices} }; use one device"
    assert f"error: advise measures on one process, {told}\n" in capsys.readouterr().err


def asked(command):
    return ask(command[0], "", command[1:])


CHOSEN = [
    *(
        "--optimizer",
        "sgd",
        "--momentum",
        "0.9",
        "--learning_rate",
        "0.1",
        "--learning_rate_steps",
        "{20: 0.1, 25: 1e-5}",
    ),
    *("--weight_decay", "1e-05", "--decay_all", "false", "--seed", "3", "--num_workers", "2"),
    *("--width", "16", "--depth", "2", "--trainer.precision", "bf16-mixed"),
    *("--trainer.gradient_clip_val", "1e-3", "--trainer.max_time", "00:01:00:00", "--trainer.max_epochs", "7"),
    *("--trainer.callbacks", "[{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:02:00:00'}}]"),
]


@pytest.mark.parametrize(("scale", "commands"), [(50.0, ["compare"]), (20.0, ["compare", "run"]), (900.0, None)])
@pytest.mark.parametrize("chosen", [[], ["--large_batch_size", "64"], CHOSEN], ids=["nothing", "a batch", "much"])
def test_the_commands_train_what_was_measured(scale, commands, chosen, tmp_path):
    options = ["--data_dir", str(tmp_path / "my data"), "--steps", "60", *chosen]
    given, changed, own = asked(["advise", "f1", *options])
    assert own == {"steps": 60}
    recipe = make_plan(given).recipe("small", 0)
    printed = list(next_commands(recipe, "f1", changed, advise(measurements(scale), 1280)))
    assert [command[1] for command in printed] == (commands or ["compare", "run"])
    for _, *command in printed:
        again = asked(command).settings
        sizes = {"small_batch_size": 0, "large_batch_size": 0}
        sizes |= {"learning_rate": 1} if command[0] == "run" else {}
        assert {**again.hyperparameters, **sizes} == {**given.hyperparameters, **sizes}
        for name in ("data", "data_dir", "seed", "num_workers", "trainer"):
            assert getattr(again, name) == getattr(given, name), name
    if chosen == []:
        assert not {"--seed", "--num_workers", "--epochs", "--optimizer"} & {word for line in printed for word in line}


def test_the_commands_of_a_file_of_options_hold_what_it_changes_and_no_steps(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "recipe: f1\nsteps: 60\nwidth: 16\nlearning_rate_steps: {20: 1e-5}\ntrainer: {max_time: 00:01:00:00}\n"
    )
    given, changed, own = asked(["advise", "--config", str(file)])
    assert own == {"steps": 60}
    recipe = make_plan(given).recipe("small", 0)
    for command in next_commands(recipe, "f1", changed, advise(measurements(900.0), 1280)):
        again = asked(command[1:]).settings
        assert (again.trainer, again.hyperparameters["width"]) == ({"max_time": "00:01:00:00"}, 16)
        assert again.hyperparameters["learning_rate_steps"] == {20: 1e-5}


def test_the_batches_of_the_commands_are_the_given_and_the_advised():
    given, changed, _ = asked(["advise", "f1", "--small_batch_size", "64", "--large_batch_size", "160"])
    plan = make_plan(given)
    for scale, pairs in ((900.0, [(64, 512), (512, 160)]), (40.0, [(32, 64), (32, 160)]), (100.0, [(64, 160)])):
        commands = next_commands(plan.recipe("small", 0), "f1", changed, advise(measurements(scale), 1280))
        numbers = [asked(command[1:]).settings.hyperparameters for command in commands]
        assert [(n["small_batch_size"], n["large_batch_size"]) for n in numbers] == pairs


def test_it_prints_batch_rate_reasons_and_commands_that_run(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")  # a command is one line all the same, and no markup of rich's
    folder = ["--data_dir", "my [bold] :smile: data"]
    assert main(["advise", "f1", *QUICK, *folder, "--optimizer", "sgd", "--width", "16"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "noise scale",
        "critical batch",
        "(advised)",
        "times the fewest steps",
        "sgd's rate",
        "the rule is linear",
        "--width 16",
        "Next:",
    ):
        assert text in " ".join(printed.split())
    assert not list(tmp_path.iterdir())
    commands = [shlex.split(line) for line in printed.splitlines() if line.strip().startswith("lightning-gap ")]
    assert [command[1] for command in commands] in (["compare"], ["compare", "run"])
    assert all("my [bold] :smile: data" in command for command in commands)
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
