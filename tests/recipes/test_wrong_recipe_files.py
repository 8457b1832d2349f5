"""A user's own file, or an option of the Trainer, that cannot work: one line before the first step, and no folder."""

import pytest
import torch
from torch import nn

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.network_check import check_network

HEAD = """
import dataclasses
import torch
from torch import nn
from lightning_gap.recipes.recipe import Numbers, Recipe

NUMBERS = Numbers(2, 64, 128)

class Forward(nn.Module):
    def __init__(self, f, classes=10, features=64):
        super().__init__()
        self.linear, self.f = nn.Linear(features, classes), f

    def forward(self, x):
        return self.f(self.linear, x.flatten(1))

def recipe(f, **options):
    return Recipe("mine", lambda shape, classes: Forward(f, **options), {"digits": NUMBERS})

def one(**changed):
    return Recipe("mine", nn.Linear, {"digits": dataclasses.replace(NUMBERS, **changed)})

"""
FILES = {
    "a width that is not the data's": (
        "RECIPE = recipe(lambda l, x: l(x), features=63)",
        "does not take inputs of shape",
    ),
    "convolutions in three dimensions": (
        "RECIPE = Recipe('x', lambda s, c: nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten()), {'digits': NUMBERS})",
        "does not take inputs of shape (2, 1, 8, 8)",
    ),
    "too few classes": ("RECIPE = recipe(lambda l, x: l(x), classes=9)", "must give scores of shape (2, 10)"),
    "too many classes": ("RECIPE = recipe(lambda l, x: l(x), classes=1000)", "got (2, 1000)"),
    "one score a sample": ("RECIPE = recipe(lambda l, x: l(x).mean(1))", "got (2,)"),
    "a tuple": ("RECIPE = recipe(lambda l, x: (l(x), x))", "must give class scores, a tensor, got a tuple"),
    "nothing": ("RECIPE = recipe(lambda l, x: None)", "got a NoneType"),
    "classes": ("RECIPE = recipe(lambda l, x: torch.zeros(2, 10, dtype=torch.int64))", "its scores must depend on"),
    "scores without a gradient": ("RECIPE = recipe(lambda l, x: l(x).detach())", "its scores must depend on weights"),
    "a forward pass that fails": ("RECIPE = recipe(lambda l, x: 1 / 0)", "ZeroDivisionError: division by zero"),
    "a backward pass that fails": (
        "def undo(l, x):\n    y = l(x).exp()\n    y.add(0).sum()\n    y += 1\n    return y\nRECIPE = recipe(undo)",
        "its backward pass fails: RuntimeError: one of the variables needed for gradient computation has been modified",
    ),
    "no weights": ("RECIPE = Recipe('x', lambda s, c: nn.Flatten(), {'digits': NUMBERS})", "has no weights to train"),
    "a network that is a class": (
        "RECIPE = Recipe('x', lambda s, c: nn.Linear, {'digits': NUMBERS})",
        "nn.Module, got",
    ),
    "a network that is none": ("RECIPE = Recipe('x', nn.Linear(64, 10), {'digits': 5})", "numbers['digits'] must be"),
    "a network of one argument": (
        "RECIPE = Recipe('x', lambda s: None, {'digits': NUMBERS})",
        "cannot be built: TypeError",
    ),
    "a network that cannot be called": ("RECIPE = Recipe('x', 'resnet', {'digits': NUMBERS})", "must be a function of"),
    "numbers in a list": ("RECIPE = Recipe('x', nn.Linear, [NUMBERS])", "numbers must be a dict with Numbers"),
    "no numbers": ("RECIPE = Recipe('x', nn.Linear, None)", "numbers must be a dict with Numbers"),
    "another data set": ("RECIPE = Recipe('x', nn.Linear, {'digit': NUMBERS})", "did you mean 'digits'"),
    "a dict": ("RECIPE = {'network': nn.Linear}", "RECIPE must be a Recipe, got a dict"),
    "a recipe under another name": ("Recipe_ = 3", "defines no RECIPE"),
    "an import that is missing": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "what Python cannot read": ("RECIPE = recipe(lambda l, x l(x))", "SyntaxError"),
    "a null byte": ("RECIPE = '\0'", "null bytes"),
    "an exit": ("import sys\nsys.exit('bye')", "SystemExit: bye"),
    "an error of many lines": ("raise ValueError('one\\ntwo\\nthree')", "ValueError: one two three"),
    "steps of the rate in a list": (
        "RECIPE = one(learning_rate_steps=[(1, 0.1)])",
        "mine.py': learning_rate_steps must be factors by epoch, for instance {81: 0.1}, got [(1, 0.1)]",
    ),
    "no steps of the rate": ("RECIPE = one(learning_rate_steps=None)", "factors by epoch, for instance {81: 0.1}, got"),
    "a step at no time": (
        "RECIPE = one(learning_rate_steps={float('inf'): 0.1})",
        "learning_rate_steps must begin at whole epochs, got inf",
    ),
    "a step inside an epoch": ("RECIPE = one(learning_rate_steps={1.5: 0.1})", "must begin at whole epochs, got 1.5"),
    "a step at a word": ("RECIPE = one(learning_rate_steps={'end': 0.1})", "must begin at whole epochs, got 'end'"),
    "a step by a word": (
        "RECIPE = one(learning_rate_steps={1: 'tenth'})",
        "from 1, for instance {81: 0.1}, got {1: 't",
    ),
    "no augmentation": ("RECIPE = one(augmentation=None)", "mine.py': unknown augmentation None; known: none, crop-f"),
    "no optimizer": ("RECIPE = one(optimizer=None)", "mine.py': unknown optimizer None; known: adam, sgd"),
    "an optimizer that is a class": (
        "RECIPE = one(optimizer=torch.optim.SGD)",
        "unknown optimizer <class 'torch.optim",
    ),
    "several statistics": ("RECIPE = one(batch_norm=['running'])", "unknown batch_norm ['running']; known: running"),
    "a rate that no float holds": (
        "RECIPE = one(learning_rate=10**400)",
        "learning_rate must be a number, got one with",
    ),
    "epochs in words": ("RECIPE = one(epochs='ten')", "mine.py': epochs must be a whole number, got 'ten'"),
    "a numbered data set": (
        "RECIPE = Recipe('x', nn.Linear, {0: NUMBERS})",
        "mine.py': numbers must go by names of data sets, got 0",
    ),
    "numbers that are missing": ("RECIPE = Recipe('x', nn.Linear, {'digits': Numbers(2)})", "TypeError"),
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
    assert main(["run", *arguments, "--regime", "small", "--output", str(folder)]) == 2
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
    assert "mine.py" in line or "digit" in line


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
def network(shape, classes):
    return Forward(lambda l, x: l(x) if float(x.mean()) >= 0 else None)
RECIPE = Recipe("mine", network, {"digits": NUMBERS})
"""
    file = tmp_path / "json.py"  # a name that is in use
    file.write_text(text.partition("\n")[0] + HEAD + text.partition("\n")[2])
    run = ["run", str(file), "--regime", "small", "--epochs", "1", "--epsilon", "[1e-3]"]
    assert main([*run, "--output", str(tmp_path / "run")]) == 0


def test_the_check_draws_no_random_number_and_builds_nothing_it_does_not_need():
    built = []

    def build():
        built.append(torch.empty(0).device.type)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))

    before = torch.get_rng_state()
    network = check_network(build, (torch.zeros(2, 2, 2), torch.tensor([0, 2])), classes=3)
    assert built == ["meta"]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in network.parameters())
