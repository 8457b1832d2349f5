import signal
import threading
from contextlib import contextmanager, suppress

import pytest

from lightning_gap.functional import _uninterrupted
from lightning_gap.functional._uninterrupted import uninterrupted, uninterrupted_exit


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(number):
    done = []

    def work():
        with uninterrupted():
            signal.raise_signal(number)
            with uninterrupted():
                signal.raise_signal(number)
            done.append("whole")

    with pytest.raises(Stop) as stopped:
        work()
    assert done == ["whole"]
    assert stopped.value.args == (number,)


def test_both_signals_are_delivered_once_each():
    came = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    with uninterrupted():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert came == []
    assert sorted(came) == sorted(before)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_python_does_not_handle_is_left_alone(handler):
    before = signal.signal(signal.SIGTERM, handler)
    with uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.signal(signal.SIGTERM, before) is handler


def test_a_handler_that_the_block_sets_stays():
    def other(number, frame):
        pass

    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        signal.signal(signal.SIGINT, other)
    assert signal.signal(signal.SIGINT, before) is other


def test_another_thread_is_not_in_the_way():
    found = []

    def work():
        with uninterrupted(), uninterrupted_exit(lambda: iter([3]))() as value:
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


def interrupted(manage, monkeypatch):
    """How often a timer's signal, sent at many instants in turn, leaves behind what ``manage`` changed."""
    monkeypatch.setattr(_uninterrupted, "_SIGNALS", (signal.SIGALRM,))

    def stop(number, frame):
        raise Stop

    @manage
    def changed(values):
        before = list(values)
        try:
            for k in range(20):
                values[k] = 1
            yield
        finally:
            for k, value in enumerate(before):
                values[k] = value

    left = stopped = 0
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for instant in range(1, 400):
            values = [0] * 20
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + instant * 1e-7)
                for _ in range(8):
                    with changed(values), changed(values):
                        pass
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                stopped += 1
            left += any(values)
            assert signal.getsignal(signal.SIGALRM) is stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped > 20
    return left


def test_no_instant_leaves_a_change_behind(monkeypatch):
    assert interrupted(uninterrupted_exit, monkeypatch) == 0


def test_with_a_plain_context_manager_some_instant_does(monkeypatch):
    assert interrupted(contextmanager, monkeypatch) > 0
