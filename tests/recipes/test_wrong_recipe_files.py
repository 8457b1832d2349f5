"""A user's own file, or an option of the Trainer, that cannot work: one line before the first step, and no folder."""

import pytest
import torch
from torch import nn

from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.recipe_check import check_network
from lightning_gap.recipes.runner.cli import main

HEAD = """
import torch
from lightning.pytorch import Callback
from torch import nn
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.regimes import REGIMES

class Forward(nn.Module):
    def __init__(self, f, classes=10, features=64):
        super().__init__()
        self.linear, self.f = nn.Linear(features, classes), f

    def forward(self, x):
        return self.f(self.linear, x.flatten(1))

"""
RECIPE = """
class Mine(Recipe):
    data_sets = {"digits": {}}
    REGIMES_HERE
    def __init__(self, regime="small", *, epochs: int = 2, small_batch_size: int = 64, large_batch_size: int = 128,
                 optimizer="adam", learning_rate=1e-3CHANGED):
        super().__init__(NETWORK, regime)
"""


def own(network="Forward(lambda l, x: l(x))", *, changed="", regimes=""):
    return RECIPE.replace("NETWORK", network).replace("CHANGED", changed).replace("REGIMES_HERE", regimes)


def forward(f, **options):
    given = "".join(f", {name}={value}" for name, value in options.items())
    return own(f"Forward(lambda l, x: {f}{given})")


FILES = {
    "a width that is not the data's": (forward("l(x)", features=63), "does not take inputs of shape"),
    "convolutions in three dimensions": (
        own("nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten())"),
        "does not take inputs of shape (2, 1, 8, 8)",
    ),
    "too few classes": (forward("l(x)", classes=9), "must give scores of shape (2, 10)"),
    "too many classes": (forward("l(x)", classes=1000), "got (2, 1000)"),
    "one score a sample": (forward("l(x).mean(1)"), "got (2,)"),
    "a tuple": (forward("(l(x), x)"), "must give class scores, a tensor, got a tuple"),
    "nothing": (forward("None"), "got a NoneType"),
    "classes": (forward("torch.zeros(2, 10, dtype=torch.int64)"), "its scores must depend on"),
    "scores without a gradient": (forward("l(x).detach()"), "its scores must depend on weights"),
    "a forward pass that fails": (forward("1 / 0"), "ZeroDivisionError: division by zero"),
    "a backward pass that fails": (
        "def undo(l, x):\n    y = l(x).exp()\n    y.add(0).sum()\n    y += 1\n    return y\n" + own("Forward(undo)"),
        "its backward pass fails: RuntimeError: one of the variables needed for gradient computation has been modified",
    ),
    "no weights": (own("nn.Flatten()"), "has no weights to train"),
    "a network that is a class": (own("nn.Linear"), "network must be a torch.nn.Module, got <class"),
    "a network that cannot be built": (own("nn.Linear(64, 'ten')"), "it cannot be built: TypeError"),
    "another data set": (own().replace("digits", "digit"), "unknown data set"),
    "no data set": (own().replace('{"digits": {}}', "{}"), "has no data_sets; name at least one"),
    "no recipe": ("RECIPE = 3", "has no recipe; `lightning-gap copy f1 .` writes one"),
    "two recipes": (own() + own().replace("Mine", "Other"), "has 2 recipes, Mine and Other; leave one of them"),
    "an import that is missing": (
        "import no_such_package" + own(),
        "ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "what Python cannot read": (
        "recipe = (",
        f"mine.py', line {1 + HEAD.count(chr(10))}: SyntaxError: '(' was never closed",
    ),
    "what fails when it is run": ("1 / 0", f"mine.py', line {1 + HEAD.count(chr(10))}: ZeroDivisionError"),
    "nothing of its own": ("class Mine(Recipe):\n    data_sets = {'digits': {}}", "mine.py has no epochs; name it in"),
    "a null byte": ("RECIPE = '\0'", "null bytes"),
    "an exit": ("import sys\nsys.exit('bye')" + own(), "SystemExit: bye"),
    "an error of many lines": ("raise ValueError('one\\ntwo\\nthree')" + own(), "ValueError: one two three"),
    "steps of the rate in a list": (own(changed=", learning_rate_steps=[(1, 0.1)]"), "learning_rate_steps"),
    "a step at no time": (
        own(changed=", learning_rate_steps={float('inf'): 0.1}"),
        "learning_rate_steps must begin at whole epochs, got inf",
    ),
    "a step inside an epoch": (own(changed=", learning_rate_steps={1.5: 0.1}"), "begin at whole epochs, got 1.5"),
    "a step by a word": (own(changed=", learning_rate_steps={1: 'tenth'}"), "learning_rate_steps"),
    "no augmentation": (own(changed=", augmentation=None"), "unknown augmentation None; known: none, crop-flip"),
    "no optimizer": (own().replace('"adam"', "None"), "optimizer must be a name, for instance 'sgd', got None"),
    "several statistics": (own(changed=", batch_norm=['running']"), "unknown batch_norm ['running']; known: running"),
    "a rate that no float holds": (own().replace("1e-3", "10**400"), "learning_rate must be a number, got one with"),
    "epochs in words": (own().replace("epochs: int = 2", "epochs='ten'"), "epochs must be a whole number, got 'ten'"),
    "no epochs": (own().replace("epochs: int = 2, ", ""), "has no epochs; name it in the signature"),
    "a regime that returns a number": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: 3}"),
        "the regime 'small' must return a list of callbacks, got 3; return a list",
    ),
    "a regime that returns nothing": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: None}"),
        "the regime 'small' must return a list of callbacks, got None; return a list",
    ),
    "a regime that returns a class": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: [Callback]}"),
        "the regime 'small' must return a list of callbacks, got <class",
    ),
    "a regime that yields": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: (callback for callback in [])}"),
        "the regime 'small' must return a list of callbacks, got a generator; return a list",
    ),
    "a regime that fails": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: 1 / 0}"),
        "the regime 'small': ZeroDivisionError: division by zero",
    ),
    "a regime that refuses": (
        own(regimes="regimes = {**REGIMES, 'small': lambda recipe: [][0] if recipe.epochs < 2 else int('two')}"),
        "the regime 'small': invalid literal for int",
    ),
    "no such regime": (own(regimes="regimes = {'mine': REGIMES['small']}"), "unknown regime 'small'; known: mine"),
}
CALLBACK = "[{{class_path: {}, init_args: {{{}}}}}]"
OPTIONS = {
    "accumulate_grad_batches": [("0", "accumulate_grad_batches=0"), ("-2", "accumulate_grad_batches=-2")],
    "check_val_every_n_epoch": [("0", "check_val_every_n_epoch=0"), ("-1", "check_val_every_n_epoch=-1")],
    "limit_train_batches": [("0", "limit_train_batches=0"), ("0.0001", "limit_train_batches")],
    "max_steps": [("0", "max_steps=0")],
    "max_time": [("soon", "max_time")],
    "callbacks": [
        (CALLBACK.format("EarlyStopping", "monitor: val_loss"), "on 'val_loss', which is not logged in every epoch"),
        (
            CALLBACK.format("ModelCheckpoint", "monitor: train/los"),
            "on 'train/los', which is not logged in every epoch",
        ),
        (CALLBACK.format("EarlyStopping", "monitor: train/loss, mode: up"), "`mode` can be min, max, got up"),
        (CALLBACK.format("EarlyStopping", "moniter: a"), "Option 'moniter' is not accepted"),
        (CALLBACK.format("no.such.Callback", ""), "No module named 'no'"),
        (
            CALLBACK.format("lightning_gap.CurvatureMonitor", "samples: 0"),
            "samples must be a whole number, at least 1, got 0",
        ),
    ],
}


def refused(arguments, folder, capsys):
    try:
        status = main(["run", *arguments, "--regime", "small", "--output", str(folder)])
    except SystemExit as left:  # of the parser, where a default is not of the type that it says it is
        status = left.code
    assert status == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("lightning-gap run: error: ")
    assert not folder.exists()
    return line


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_work_is_one_line_and_leaves_no_folder(kind, tmp_path, capsys):
    text, message = FILES[kind]
    file = tmp_path / "mine.py"
    file.write_text(HEAD + text)
    line = refused([str(file)], tmp_path / "run", capsys)
    assert message in line
    assert any(named in line for named in ("mine.py", "Mine", "unknown", "must", "--learning_rate_steps"))


def test_a_length_from_the_trainer_is_none_of_a_recipe_without_epochs(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(HEAD + own().replace("epochs: int = 2, ", "").replace("data_sets", "epochs = 2\n    data_sets"))
    line = refused([str(file), "--trainer.max_epochs", "3"], tmp_path / "run", capsys)
    assert "has no epochs; name it in the signature of its __init__, with a default" in line


@pytest.mark.parametrize(("name", "value", "message"), [(n, *rest) for n, values in OPTIONS.items() for rest in values])
def test_an_argument_of_the_trainer_that_cannot_work_is_one_line_and_leaves_no_folder(
    name, value, message, tmp_path, capsys
):
    arguments = ["f1", "--width", "8", "--depth", "1", "--epochs", "2", f"--trainer.{name}", value]
    assert message in refused(arguments, tmp_path / "run", capsys)


def test_what_is_logged_in_every_epoch_may_be_waited_for(tmp_path):
    monitors = ["train/loss", "validation/accuracy", "gap/loss", "sharpness/full_eps1e-3", "weights/distance_from_init"]
    each = ", ".join(CALLBACK.format("EarlyStopping", f"monitor: {monitor}")[1:-1] for monitor in monitors)
    quick = ["--epochs", "2", "--width", "8", "--depth", "1", "--epsilon", "[1e-3]"]
    run = ["run", "f1", "--regime", "large", *quick, "--output", str(tmp_path / "run")]
    assert main([*run, "--trainer.callbacks", f"[{each}]"]) == 0


def test_a_file_may_hold_what_looks_itself_up_and_read_the_values_of_its_inputs(tmp_path):
    text = """from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Width:
    width: int = 64
"""
    file = tmp_path / "json.py"  # a name that is in use
    file.write_text(text + HEAD + forward("l(x) if float(x.mean()) >= 0 else None"))
    run = ["run", str(file), "--regime", "small", "--epochs", "1", "--epsilon", "[1e-3]"]
    assert main([*run, "--output", str(tmp_path / "run")]) == 0


def test_the_check_draws_no_random_number_and_builds_nothing_it_does_not_need():
    built = []

    class Own(Recipe):
        def __init__(self, *, epochs=1, small_batch_size=2, large_batch_size=2, optimizer="sgd", learning_rate=0.1):
            built.append(torch.empty(0).device.type)
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5)))

    before = torch.get_rng_state()
    check_network(Own, (torch.zeros(2, 2, 2), torch.tensor([0, 2])), classes=3)
    assert built == ["meta"]
    assert torch.equal(torch.get_rng_state(), before)
