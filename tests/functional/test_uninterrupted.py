import signal
import threading
from contextlib import contextmanager, suppress

import pytest
import torch
from functional.interrupts import interrupt_at_many_instants
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    DatasetLoss,
    along_line,
    batch_statistics,
    hessian_trace,
    m_sharpness,
    recomputed_statistics,
    sharpness,
)
from lightning_gap.functional._uninterrupted import uninterrupted, uninterrupted_exit

# An interrupt that falls into a `__del__` is ignored by Python, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Stop(BaseException):
    """What the handlers of these tests raise."""


@pytest.fixture(autouse=True)
def handlers():
    """Handlers that raise, and the check that they are in place again."""

    def stop(number, frame):
        raise Stop(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield stop
    found = [signal.getsignal(number) for number in before]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert found == [stop, stop]


@uninterrupted_exit
def ending_by(end):
    """A context manager that does nothing but call ``end``, which is to run whole."""
    try:
        yield
    finally:
        end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_end_is_over(number):
    done = []

    def end():
        signal.raise_signal(number)
        with ending_by(lambda: signal.raise_signal(number)):
            pass
        done.append("whole")

    def work():
        with ending_by(end):
            pass

    with pytest.raises(Stop) as stopped:
        work()
    assert done == ["whole"]
    assert stopped.value.args == (number,)


def test_a_piece_of_work_runs_whole_and_gives_its_value_or_its_error():
    done = []

    def work():
        signal.raise_signal(signal.SIGINT)
        done.append("whole")
        return 3

    with pytest.raises(Stop):
        uninterrupted(work)
    assert done == ["whole"]
    assert uninterrupted(lambda: 4) == 4
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 / 0)


def test_both_signals_are_delivered_once_each():
    came = []

    def end():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert came == []

    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    with ending_by(end):
        pass
    assert sorted(came) == sorted(before)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_python_does_not_handle_is_left_alone(handler):
    before = signal.signal(signal.SIGTERM, handler)
    found = []
    with ending_by(lambda: found.append(signal.getsignal(signal.SIGTERM))):
        found.append(signal.getsignal(signal.SIGTERM))
    assert found == [handler, handler]
    assert signal.signal(signal.SIGTERM, before) is handler


def test_a_handler_that_the_block_sets_stays():
    def other(number, frame):
        pass

    before = signal.getsignal(signal.SIGINT)
    with uninterrupted_exit(lambda: iter([3]))():
        signal.signal(signal.SIGINT, other)
    assert signal.signal(signal.SIGINT, before) is other


def test_another_thread_is_not_in_the_way():
    found = []

    def work():
        with uninterrupted_exit(lambda: iter([3]))() as value:
            found.append((value, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(3, signal.getsignal(signal.SIGINT))]


def test_a_signal_inside_the_block_is_handled_at_once_and_what_follows_the_yield_runs_whole():
    steps = []

    @uninterrupted_exit
    def changed():
        try:
            yield 5
        finally:
            steps.append("half")
            signal.raise_signal(signal.SIGTERM)
            steps.append("whole")

    def work():
        with changed() as value:
            steps.append(value)
            signal.raise_signal(signal.SIGINT)
            steps.append("not reached")

    with pytest.raises(Stop) as stopped:
        work()
    assert steps == [5, "half", "whole"]
    assert stopped.value.args == (signal.SIGTERM,)
    assert stopped.value.__context__.args == (signal.SIGINT,)


def test_an_exception_may_be_swallowed_as_with_a_plain_context_manager():
    @uninterrupted_exit
    def forgiving():
        with suppress(ZeroDivisionError):
            yield

    with forgiving():
        raise ZeroDivisionError


def left_behind(manage, monkeypatch):
    """How often a signal leaves behind what ``manage`` changed."""
    values = [0] * 20

    @manage
    def changed():
        before = list(values)
        try:
            for k in range(20):
                values[k] = 1
            yield
        finally:
            for k, value in enumerate(before):
                values[k] = value

    def work():
        for _ in range(3):
            with changed(), changed():
                pass

    def check():
        clean = not any(values)
        values[:] = [0] * 20
        return clean

    cut, left = interrupt_at_many_instants(monkeypatch, work, check, instants=300)
    assert cut > 5
    return left, cut


@pytest.mark.promise("interrupt")
def test_no_instant_leaves_a_change_behind(monkeypatch, record_property):
    left, cut = left_behind(uninterrupted_exit, monkeypatch)
    assert left == 0
    record_property("cases", cut)


def test_with_a_plain_context_manager_some_instant_does(monkeypatch):
    assert left_behind(contextmanager, monkeypatch)[0] > 0


def measured(model, x, y):
    with recomputed_statistics(model, lambda: model(x)):
        sharpness(lambda: cross_entropy(model(x), y), model.parameters(), epsilon=0.1, max_evaluations=3)


def measured_as_a_module(model, x, y):
    loss = DatasetLoss(model, lambda m, b: cross_entropy(m(b[0]), b[1]), [(x, y)] * 2, batch_norm="recomputed")
    try:
        sharpness(loss, model.parameters(), epsilon=0.1, max_evaluations=3)
    finally:
        assert not loss._entered


def curved(model, x, y):
    with batch_statistics(model):
        hessian_trace(lambda: cross_entropy(model(x), y), model.parameters(), probes=1)


def grouped(model, x, y):
    m_sharpness([lambda: cross_entropy(model.eval()(x), y)] * 2, model.parameters())


def drawn_out(model, x, y):
    state = model.state_dict()
    along_line(model, state, {k: v + 1 for k, v in state.items()}, [0.5, 1.0], lambda: cross_entropy(model(x), y))


@pytest.mark.promise("interrupt")
@pytest.mark.parametrize(
    "measure",
    [
        measured,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (measured_as_a_module, curved, grouped, drawn_out)),
    ],
)
def test_no_instant_of_a_measurement_leaves_weights_or_buffers_moved(monkeypatch, measure):
    torch.manual_seed(0)
    layers = (part for _ in range(20) for part in (nn.Linear(4, 4), nn.BatchNorm1d(4)))
    model, x, y = nn.Sequential(*layers).eval(), torch.randn(6, 4), torch.arange(6) % 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    terms = [(part.training, getattr(part, "momentum", 0)) for part in model.modules()]

    def check():
        now = model.state_dict()
        same = all(torch.equal(before[name], value) for name, value in now.items())
        same &= torch.is_grad_enabled()
        same &= terms == [(part.training, getattr(part, "momentum", 0)) for part in model.modules()]
        model.load_state_dict(before)
        return same

    cut, failed = interrupt_at_many_instants(monkeypatch, lambda: measure(model, x, y), check, instants=30)
    assert failed == 0
    assert cut > 5
