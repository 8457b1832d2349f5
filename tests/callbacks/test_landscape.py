"""`lightning_gap.landscape` on modules that know nothing of us."""

import math

import pytest
import tiny
import torch
from functional.interrupts import interrupt_at_many_instants
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lightning_gap
from lightning_gap.functional import RandomLossError

ALPHAS = [-0.5, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two files that Lightning has saved, after one epoch and after two."""
    folder = tmp_path_factory.mktemp("checkpoints")
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    tiny.trainer(saver, enable_checkpointing=True).fit(tiny.TinyClassifier(), tiny.loader())
    return folder / "epoch=0.ckpt", folder / "epoch=1.ckpt"


def state_in(path):
    return torch.load(path, weights_only=True)["state_dict"]


def shifted(module, by):
    return {k: v + by if v.is_floating_point() else v for k, v in tiny.state_of(module).items()}


def by_hand(start, end, alpha, data, mode):
    module = tiny.TinyClassifier()
    module.load_state_dict(
        {k: (1 - alpha) * v + alpha * end[k] if v.is_floating_point() else v for k, v in start.items()}
    )
    module.eval()
    x, y = data.tensors
    if mode == "recomputed":
        torch.optim.swa_utils.update_bn([x], module)
        module.eval()
    if mode == "batch":
        module.net[1].train()
    with torch.no_grad():
        scores = module(x)
    return float(cross_entropy(scores, y)), float((scores.argmax(dim=1) == y).float().mean())


@pytest.mark.parametrize("mode", ["running", "batch", "recomputed"])
def test_values_are_those_of_the_networks_in_between(checkpoints, mode):
    module, data = tiny.TinyClassifier(seed=3), tiny.dataset(48)
    found = lightning_gap.landscape(
        module, *checkpoints, DataLoader(data, batch_size=5, shuffle=True), alphas=ALPHAS, batch_norm=mode
    )
    start, end = map(state_in, checkpoints)
    wanted = [by_hand(start, end, alpha, data, mode) for alpha in ALPHAS]
    assert found.values["train"]["loss"] == pytest.approx([loss for loss, _ in wanted], rel=1e-5)
    assert found.values["train"]["accuracy"] == pytest.approx([accuracy for _, accuracy in wanted])
    line = [wanted[1][0], (wanted[1][0] + wanted[3][0]) / 2, wanted[3][0]]
    height = max(loss - base for (loss, _), base in zip(wanted[1:], line, strict=True))
    assert found.barrier("train").height == pytest.approx(height, abs=1e-6)


def test_points_far_outside_may_be_not_finite_and_the_others_keep_their_accuracy(checkpoints):
    found = lightning_gap.landscape(
        tiny.TinyClassifier(), *checkpoints, tiny.loader(), alphas=[-1e3, 0.0, 1e3], batch_norm="running"
    ).values["train"]
    assert sum(math.isfinite(loss) for loss in found["loss"]) < 3  # a variance below 0 on one side
    assert math.isfinite(found["loss"][1])
    assert 0 <= found["accuracy"][1] <= 1


def test_files_states_and_splits_come_in_any_form(checkpoints, tmp_path):
    bare = tmp_path / "weights.pt"
    torch.save(state_in(checkpoints[1]), bare)
    module, loader = tiny.TinyClassifier(), tiny.loader()
    test = tiny.dataset(6).tensors
    ways = [
        (*checkpoints, {"train": loader, "test": [test]}),
        (str(checkpoints[0]), bare, {"train": loader, "test": [list(test)]}),
        (
            state_in(checkpoints[0]),
            torch.load(checkpoints[1], weights_only=True),
            {"train": loader, "test": [test]},
        ),
    ]
    first, *others = (lightning_gap.landscape(module, *way, alphas=ALPHAS) for way in ways)
    assert list(first.values) == ["train", "test"]
    assert all(other.values == first.values for other in others)


class Odd(tiny.TinyClassifier):
    """Keeps state in Python and tensors, draws random numbers, logs, and needs gradients."""

    def __init__(self):
        super().__init__()
        self.steps, self.seen = 0, []
        self.register_buffer("memory", torch.zeros(3))

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.seen.append(batch[0].sum())
        self.memory += 1
        torch.rand(3)
        loss = cross_entropy(self(batch[0]), batch[1])
        (slope,) = torch.autograd.grad(loss, [self.net[0].weight], create_graph=True)
        self.log("loss", loss)
        return {"loss": loss + 0.1 * slope.square().sum()}


def test_a_step_that_keeps_state_and_needs_gradients_is_measured_and_left_as_it_was():
    module = Odd()
    module.net[1].eval()
    module.net(tiny.dataset(4).tensors[0]).sum().backward()
    states = [shifted(module, by) for by in (0.0, 0.1)]
    before, random = tiny.state_of(module), torch.get_rng_state()
    gradients = [weight.grad for weight in module.parameters()]
    modes = [part.training for part in module.modules()]
    found = lightning_gap.landscape(module, *states, tiny.loader(shuffle=True), alphas=ALPHAS)
    assert all(math.isfinite(loss) for loss in found.values["train"]["loss"])
    assert list(found.values["train"]) == ["loss"]  # no cross-entropy of what forward gives
    assert (module.steps, module.seen) == (0, [])
    assert tiny.same(tiny.state_of(module), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [part.training for part in module.modules()]
    assert all(weight.grad is gradient for weight, gradient in zip(module.parameters(), gradients, strict=True))
    assert "log" not in vars(module)


def test_nothing_is_left_when_it_is_cut_off_anywhere(monkeypatch):
    module = tiny.TinyClassifier()
    states = [shifted(module, by) for by in (0.0, 0.1)]
    before, data = tiny.state_of(module), [tiny.dataset(8).tensors]
    cut, failed = interrupt_at_many_instants(
        monkeypatch,
        lambda: lightning_gap.landscape(module, *states, data, alphas=[0.0, 1.0]),
        lambda: tiny.same(tiny.state_of(module), before) and module.training and "log" not in vars(module),
        instants=30,
    )
    assert cut > 10
    assert failed == 0


def test_it_is_drawn(checkpoints):
    pytest.importorskip("matplotlib")
    found = lightning_gap.landscape(tiny.TinyClassifier(), *checkpoints, tiny.loader(), alphas=ALPHAS, samples=20)
    left, right = found.figure(ends=("small", "large")).axes
    assert left.lines[0].get_ydata() == pytest.approx(found.values["train"]["loss"])
    assert right.lines[0].get_ydata() == pytest.approx([100 * a for a in found.values["train"]["accuracy"]])
    assert "samples 20" in left.get_title()


def test_an_accuracy_of_the_users_own_and_a_loss_of_the_users_own(checkpoints):
    found = lightning_gap.landscape(
        tiny.TinyClassifier(),
        *checkpoints,
        [tiny.dataset(8).tensors, tiny.dataset(4).tensors],
        alphas=[0.0],
        loss_fn=lambda module, batch: batch[0].sum() * 0 + len(batch[0]),
        accuracy_fn=lambda module, batch: 1 / len(batch[0]),
    )
    assert found.values["train"]["loss"][0] == pytest.approx((8 * 8 + 4 * 4) / 12)
    assert found.values["train"]["accuracy"][0] == pytest.approx(2 / 12)


class Random(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * next(NUMBERS)


NUMBERS = iter(range(1, 1000))


class Writes(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.net[0].bias += 1
        return cross_entropy(self(batch[0]), batch[1])


class NeedsTrainer(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.trainer.max_epochs


class Manual(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "error", "named"),
    [
        (Random, RandomLossError, "loss is random.*loss_fn"),
        (Writes, ValueError, r"net\.0\.bias.*loss_fn"),
        (NeedsTrainer, ValueError, "Trainer.*loss_fn"),
        (Manual, ValueError, "manually.*loss_fn"),
        (lambda: nn.Linear(2, 2), ValueError, "module.*LightningModule"),
    ],
)
def test_a_step_that_gives_no_loss_of_the_weights_is_refused(module, error, named):
    module = module()
    state = tiny.state_of(module)
    with pytest.raises(error, match=named):
        lightning_gap.landscape(module, state, state, tiny.loader())
    assert tiny.same(tiny.state_of(module), state)


def test_checkpoints_that_are_none_are_refused_with_their_path(checkpoints, tmp_path):
    folder, text, other = tmp_path, tmp_path / "notes.ckpt", tmp_path / "other.ckpt"
    text.write_text("no weights")
    torch.save({"epoch": 3}, other)
    module, good = tiny.TinyClassifier(), checkpoints[0]
    for wrong, named in (
        (folder, "folder"),
        (text, "damaged"),
        (other, "epoch"),
        (3, "path or a state_dict"),
    ):
        for order in ((wrong, good), (good, wrong)):
            argument = "checkpoint_a" if order[0] is wrong else "checkpoint_b"
            with pytest.raises(ValueError, match=f"{argument}.*{wrong}.*{named}|{argument}.*{named}.*{wrong}"):
                lightning_gap.landscape(module, *order, tiny.loader())
    with pytest.raises(FileNotFoundError, match=r"checkpoint_b.*gone\.ckpt"):
        lightning_gap.landscape(module, good, tmp_path / "gone.ckpt", tiny.loader())


@pytest.mark.bad_input(57)
def test_checkpoints_of_different_networks_are_refused_by_what_differs(checkpoints):
    class Other(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    wider = {k: torch.zeros(4, 8) if k == "net.0.weight" else v for k, v in state_in(checkpoints[0]).items()}
    module = tiny.TinyClassifier()
    with pytest.raises(ValueError, match=r"checkpoint_a and checkpoint_b.*net\.0\.weight is \(16, 8\) and \(4, 8\)"):
        lightning_gap.landscape(module, checkpoints[0], wider, tiny.loader())
    with pytest.raises(ValueError, match=r"checkpoint_a and module.*net\.1\.bias is in one alone"):
        lightning_gap.landscape(Other(), *checkpoints, tiny.loader())
    diverged = {k: v * math.nan if k == "net.0.weight" else v for k, v in state_in(checkpoints[0]).items()}
    with pytest.raises(ValueError, match=r"checkpoint_b.*net\.0\.weight.*not finite"):
        lightning_gap.landscape(module, checkpoints[0], diverged, tiny.loader())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("alphas", []),
        ("samples", 0),
        ("chunk_size", -1),
        ("seed", -1),
        ("batch_norm", "eval"),
        ("path", "arc"),
        ("loss_fn", 3),
    ],
)
@pytest.mark.bad_input(58)
def test_arguments_out_of_range_are_refused_by_name(argument, value):
    module = tiny.TinyClassifier()
    state = module.state_dict()
    with pytest.raises(ValueError, match=argument):
        lightning_gap.landscape(module, state, state, tiny.loader(), **{argument: value})
    with pytest.raises(ValueError, match="dataloaders"):
        lightning_gap.landscape(module, state, state, {})


def test_a_module_under_lightnings_other_name_is_measured():
    pl = pytest.importorskip("pytorch_lightning")

    class Theirs(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def training_step(self, batch):
            self.log("loss", 0.0)
            return (self.weight * batch[0]).square().mean()

    states = [{"weight": torch.tensor([x])} for x in (1.0, 3.0)]
    loader = DataLoader(TensorDataset(torch.ones(4)))
    found = lightning_gap.landscape(Theirs(), *states, loader, alphas=[0.0, 0.5, 1.0], path="linear")
    assert found.values == {"train": {"loss": [1.0, 4.0, 9.0]}}
