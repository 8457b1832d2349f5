"""What the base of all callbacks says to a user's subclass that leaves out a call of `super()`."""

import dataclasses
import inspect

import pytest
import tiny
from lightning.pytorch import Callback

import lightning_gap
from lightning_gap.callbacks._callback import GapCallback
from lightning_gap.callbacks._monitor import Monitor
from lightning_gap.callbacks._plugin import Plugin

PUBLIC = [getattr(lightning_gap, name) for name in lightning_gap.__all__]
WITH_ARGUMENTS = [
    value
    for value in PUBLIC
    if isinstance(value, type) and issubclass(value, Callback) and inspect.signature(value).parameters
]


class Norms(Monitor):
    area, quantity, names = "norms", "the norm", ("norm",)

    def measure(self, trainer, pl_module):
        return {"norm": 1.0}


class Nothing(Plugin):
    def change_gradient(self, trainer, pl_module, again):
        pass


def fit(callback):
    trainer = tiny.trainer(callback, max_epochs=1)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    return trainer


def fails_in_fit(callback, error, match):
    """Nothing is lost: the error comes before the first step."""
    module = tiny.Validated()
    before = tiny.state_of(module)
    trainer = tiny.trainer(callback, max_epochs=1)
    with pytest.raises(error, match=match):
        trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.global_step == 0
    assert tiny.same(before, tiny.state_of(module))


@pytest.mark.parametrize("kind", [Norms, *WITH_ARGUMENTS], ids=lambda kind: kind.__name__)
def test_an_init_that_does_not_call_that_of_the_base_is_named(kind):
    class Own(kind):
        def __init__(self, own):
            self.own = own

    class Below(Own):
        def __init__(self):
            super().__init__(3)

    for callback in (Own(3), Below()):
        fails_in_fit(callback, TypeError, r"Own\.__init__ must call super\(\)\.__init__\(")


def test_an_argument_that_the_init_sets_itself_is_no_call():
    class Own(Norms):
        def __init__(self, every_n_epochs):
            self.every_n_epochs = every_n_epochs

    fails_in_fit(Own(2), TypeError, r"Own\.__init__ must call super\(\)\.__init__\(")


def test_a_post_init_that_does_not_call_that_of_the_base_is_named():
    @dataclasses.dataclass(kw_only=True, eq=False, repr=False)
    class Own(Norms):
        own: int = 3

        def __post_init__(self):
            self.own *= 2

    fails_in_fit(Own(), TypeError, r"Own\.__post_init__ must call super\(\)\.__post_init__\(\)")


def test_an_init_that_calls_it_is_taken_and_so_is_an_argument_that_is_a_property():
    class Own(Norms):
        def __init__(self, own):
            super().__init__(every_n_epochs=own)

        @property
        def at_start(self):
            return True

        @at_start.setter
        def at_start(self, value):
            pass

    assert fit(Own(1)).callback_metrics["norms/norm"] == 1.0


def test_a_base_without_arguments_needs_no_call():
    class Own(Nothing):
        def __init__(self, own):
            self.own = own

    assert fit(Own(3)).global_step == 3


@pytest.mark.parametrize("kind", [Nothing, GapCallback])
def test_a_setup_that_does_not_call_that_of_the_base_is_named(kind):
    class Own(kind):
        def setup(self, trainer, pl_module, stage):
            pass

    fails_in_fit(Own(), RuntimeError, r"Own\.setup must call super\(\)\.setup\(")


@pytest.mark.parametrize(
    "make", [lambda: lightning_gap.ExactAccumulation, lambda: Nothing, lambda: lightning_gap.LearningRateScaling]
)
def test_a_begin_fit_that_does_not_call_that_of_the_base_is_named(make):
    class Own(make()):
        def begin_fit(self, trainer, module):
            pass

    fails_in_fit(Own(), TypeError, r"Own\.begin_fit must call super\(\)\.begin_fit\(")


def test_a_post_init_is_named_by_the_class_that_defines_it():
    class Own(Norms):
        def __post_init__(self):
            pass

    class Below(Own):
        pass

    fails_in_fit(Below(), TypeError, r"^Own\.__post_init__ must call")


def test_an_argument_kept_by_a_descriptor_is_there():
    class Kept:
        def __get__(self, owner, kind):
            return self if owner is None else vars(owner)["_rule"]

        def __set__(self, owner, value):
            vars(owner)["_rule"] = value

    class Own(lightning_gap.LearningRateScaling):
        rule = Kept()

    assert fit(Own(8, warmup_epochs=0)).global_step == 3


def test_a_callback_that_is_added_after_setup_is_told_where_to_add_it():
    class Adds(Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.callbacks.append(Norms())

    fails_in_fit(Adds(), RuntimeError, r"Norms was added .*configure_callbacks")


def test_a_monitor_of_the_loss_measures_inside_fit_alone():
    monitor = lightning_gap.SharpnessMonitor(samples=16)
    trainer = fit(monitor)
    with pytest.raises(RuntimeError, match="SharpnessMonitor measures inside fit"):
        monitor.measure(trainer, trainer.lightning_module)
