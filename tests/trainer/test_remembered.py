"""Whatever Python object a training step changes is put back, or raises as soon as it is used."""

import hashlib
import io
import itertools
import random
import threading
from array import array
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_gap.trainer.state import CannotBePutBackError, Remembered

Limits = namedtuple("Limits", "low high")


class Meter:
    def __init__(self):
        self.total, self.parts = 0, {"by class": [[0, 0]]}


class Slots:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


class PrivateSlots:
    __slots__ = ("__count",)
    calls = 0

    def __init__(self):
        self.__count = 0

    def step(self):
        self.__count += 1
        type(self).calls += 1

    def read(self):
        return self.__count, self.calls


class OfTheClass:
    shared = 0
    seen = []  # noqa: RUF012 - what many a class has


class Record(dict):
    """A user's own dict, whose methods are none of ours."""

    def __setitem__(self, key, value):
        raise AssertionError("not through the user's method")


def counting():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step


def optimizer_and_scheduler():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def with_gradient(optimizer):
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    return optimizer


CHANGES = {
    "an attribute": (Meter, lambda o: setattr(o, "total", 5), lambda o: o.total),
    "a new attribute": (Meter, lambda o: setattr(o, "extra", 5), lambda o: hasattr(o, "extra")),
    "a deleted attribute": (Meter, lambda o: delattr(o, "total"), lambda o: hasattr(o, "total")),
    "a list in a list in a dict": (Meter, lambda o: o.parts["by class"][0].append(1), lambda o: str(o.parts)),
    "a slot": (Slots, lambda o: setattr(o, "count", 2), lambda o: o.count),
    "a private slot and its class": (PrivateSlots, PrivateSlots.step, PrivateSlots.read),
    "a class that is held, of the class": (lambda: OfTheClass, lambda o: setattr(o, "shared", 3), lambda o: o.shared),
    "an array of objects": (
        lambda: np.array([[0], Meter()], dtype=object),
        lambda o: o[0].append(1),
        lambda o: o[0][:],
    ),
    "array.array": (lambda: array("i", [1, 2]), lambda o: o.__setitem__(0, 5), list),
    "a sparse tensor": (lambda: torch.eye(2).to_sparse(), lambda o: o.mul_(2), lambda o: o.to_dense().tolist()),
    "an optimizer's state": (
        lambda: with_gradient(torch.optim.Adam([nn.Parameter(torch.zeros(2))])),
        lambda o: o.step(),
        lambda o: str(o.state_dict()),
    ),
    "a value of the class": (OfTheClass, lambda o: setattr(OfTheClass, "shared", 2), lambda o: OfTheClass.shared),
    "a list of the class": (OfTheClass, lambda o: OfTheClass.seen.append(2), lambda o: list(OfTheClass.seen)),
    "defaultdict": (lambda: defaultdict(list), lambda o: o["loss"].append(1), dict),
    "Counter": (lambda: Counter("aab"), lambda o: o.update("c"), dict),
    "the order of an OrderedDict": (lambda: OrderedDict(a=1, b=2), lambda o: o.move_to_end("a"), list),
    "a dict with methods of its own": (
        lambda: Record(a=1),
        lambda o: dict.__setitem__(o, "a", 2),
        dict,
    ),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda o: o.append(3), list),
    "set": (lambda: {1, 2}, lambda o: o.add(3), sorted),
    "bytearray": (lambda: bytearray(b"ab"), lambda o: o.extend(b"c"), bytes),
    "inside a tuple": (lambda: Limits([0], Meter()), lambda o: o.low.append(1), lambda o: o.low[:]),
    "a tensor": (lambda: torch.zeros(3), lambda o: o.add_(1), torch.Tensor.tolist),
    "a tensor by its data": (lambda: torch.zeros(3), lambda o: o.data.add_(1), torch.Tensor.tolist),
    "a tensor's size": (lambda: torch.zeros(3), lambda o: o.resize_(5).fill_(1), torch.Tensor.tolist),
    "a tensor that was NaN": (lambda: torch.full((2,), torch.nan), lambda o: o.zero_(), lambda o: o.isnan().tolist()),
    "an array": (lambda: np.zeros((2, 2)), lambda o: np.add.at(o, (0, 1), 1), np.ndarray.tolist),
    "torch.Generator": (torch.Generator, lambda o: torch.rand(2, generator=o), lambda o: o.get_state().tolist()),
    "NumPy's Generator": (lambda: np.random.default_rng(0), lambda o: o.random(), lambda o: str(o.bit_generator.state)),
    "NumPy's RandomState": (lambda: np.random.RandomState(0), lambda o: o.rand(), lambda o: str(o.get_state())),
    "random.Random": (lambda: random.Random(0), lambda o: o.random(), random.Random.getstate),
    "a closure's variable": (counting, lambda o: o(), lambda o: o.__closure__[0].cell_contents),
    "what a partial function holds": (
        lambda: partial(print, [0]),
        lambda o: o.args[0].append(1),
        lambda o: o.args[0][:],
    ),
    "whom a bound method belongs to": (
        lambda: Meter().__init__,
        lambda o: setattr(o.__self__, "total", 1),
        lambda o: o.__self__.total,
    ),
    "a learning rate, by a scheduler": (
        optimizer_and_scheduler,
        lambda o: (o.optimizer.step(), o.step()),
        lambda o: (o.optimizer.param_groups[0]["lr"], o.last_epoch),
    ),
    "a buffer": (lambda: nn.BatchNorm1d(2), lambda o: o(torch.ones(3, 2) + 1), lambda o: o.running_mean.tolist()),
    "a frozen weight": (
        lambda: nn.Linear(1, 1).requires_grad_(False),
        lambda o: o.weight.fill_(7),
        lambda o: o.weight.tolist(),
    ),
    "whether a weight requires grad": (
        lambda: nn.Linear(1, 1),
        lambda o: o.requires_grad_(False),
        lambda o: o.weight.requires_grad,
    ),
    "a layer in another's place": (
        lambda: nn.Sequential(nn.Linear(1, 1)),
        lambda o: setattr(o, "0", nn.Identity()),
        lambda o: type(o[0]).__name__,
    ),
    "what a hook collects": (
        lambda: hooked(),
        lambda o: o(torch.ones(1, 1)),
        lambda o: len(next(iter(o._forward_hooks.values())).__closure__[0].cell_contents),
    ),
}


def hooked():
    layer, outputs = nn.Linear(1, 1), []
    layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    return layer


class Owner(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held


@pytest.mark.parametrize("kind", CHANGES)
def test_what_a_step_changes_is_put_back(kind):
    make, change, read = CHANGES[kind]
    owner = Owner(make())
    before = read(owner.held)
    remembered = Remembered({"self": owner}).hold()
    assert remembered.put_back() is None, "nothing has changed yet"
    for _ in range(2):  # as often as needed
        change(owner.held)
        assert read(owner.held) != before, "the change is none"
        assert "held" in remembered.put_back() or kind.endswith("of the class") or "closure" in kind or "hook" in kind
        assert read(owner.held) == before
    assert remembered.put_back() is None
    remembered.release()
    assert read(owner.held) == before


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (lambda: iter([1, 2]), next),
        (lambda: itertools.count(), next),
        (lambda: (i for i in range(3)), next),
        (lambda: io.StringIO("text"), lambda o: o.read(1)),
        (lambda: threading.Thread(target=print), lambda o: o.name),
        (lambda: iter(torch.utils.data.DataLoader(range(4))), next),
        (lambda: hashlib.sha256(), lambda o: o.update(b"a")),
        (lambda: CSVLogger("unused"), lambda o: o.save()),
    ],
    ids=["iterator", "count", "generator", "file", "thread", "loader's iterator", "hash", "logger"],
)
@pytest.mark.parametrize("where", ["attribute", "in a dict", "in a list", "in an object"])
def test_what_cannot_be_put_back_raises_when_it_is_used_and_stays_where_it_is(make, use, where):
    held = make()
    places = {"attribute": held, "in a dict": {"a": held}, "in a list": [held], "in an object": Meter()}
    owner = Owner(places[where])
    if where == "in an object":
        owner.held.inner = held
    read = {
        "attribute": lambda: owner.held,
        "in a dict": lambda: owner.held["a"],
        "in a list": lambda: owner.held[0],
        "in an object": lambda: owner.held.inner,
    }[where]
    remembered = Remembered({"self": owner}).hold()
    with pytest.raises(CannotBePutBackError, match=r"training_step uses self\.held.*pass loss_fn="):
        use(read())
    assert remembered.put_back() is None
    remembered.release()
    assert read() is held
    use(held)


def test_a_writer_is_not_written_to(tmp_path):
    owner = Owner(SummaryWriter(tmp_path))
    remembered = Remembered({"self": owner}).hold()
    with pytest.raises(CannotBePutBackError, match=r"self\.held, a SummaryWriter"):
        owner.held.add_scalar("loss", 1.0, 0)
    remembered.release()
    owner.held.close()


def test_data_sets_are_taken_for_data_and_layers_may_stay_apart():
    data = torch.utils.data.TensorDataset(torch.zeros(3))
    owner = nn.Sequential(nn.BatchNorm1d(2), Owner(data))
    remembered = Remembered({"self": owner}, apart=[owner[0]]).hold()
    data.tensors[0].fill_(1)
    owner[0](torch.ones(3, 2) + 1)
    moved = owner[0].running_mean.clone()
    assert remembered.put_back(apart=False) is None
    assert torch.equal(owner[0].running_mean, moved)
    assert remembered.put_back() == "self.0.running_mean"
    assert float(data.tensors[0].sum()) == 3
