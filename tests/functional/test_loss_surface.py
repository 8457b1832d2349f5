import math
import struct
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_gap.functional._loss_surface import checked_params, euclidean_norm, loss_surface


def weights(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def gradient_of(loss_fn, params):
    with loss_surface(loss_fn, params) as surface:
        return surface.loss_and_gradient()


def test_the_gradient_of_parts_is_the_sum_over_them():
    a, b = weights(3, (2, 2))
    parts = [lambda: (a**2).sum(), lambda: (b**3).sum() + a.sum(), lambda: (a[0] * b).sum()]
    loss, gradient = gradient_of(lambda: (part() for part in parts), [a, b])
    whole = sum(part() for part in parts)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-14)
    torch.testing.assert_close(gradient, list(torch.autograd.grad(whole, [a, b])), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("order", ["ssso", "sos", "oss", "sso", "soss"])
def test_one_gradient_tensor_for_two_weights_is_not_added_to_twice(order):
    """Autograd gives one and the same tensor for both terms of ``a + b``; a part may use other weights only."""
    a, b, c = weights(4, 4, 4)
    made = {"s": lambda: ((a + b) ** 2).sum(), "o": lambda: (c**2).sum()}
    loss_fn = lambda: (made[kind]() for kind in order)  # noqa: E731
    expected = torch.autograd.grad(sum(loss_fn()), [a, b, c])
    torch.testing.assert_close(gradient_of(loss_fn, [a, b, c])[1], list(expected), rtol=1e-13, atol=1e-13)


def test_a_gradient_that_is_one_number_in_memory_is_added_to_where_a_part_between_uses_other_weights():
    a, c = weights(3, 3)
    loss_fn = lambda: iter([a.sum(), c.sum(), a.sum()])  # noqa: E731
    assert [g.tolist() for g in gradient_of(loss_fn, [a, c])[1]] == [[2.0] * 3, [1.0] * 3]


def test_sparse_gradients_are_made_dense_and_added():
    table = nn.Embedding(7, 3, sparse=True).double()
    rows = [torch.tensor([0, 2, 2]), torch.tensor([5]), torch.tensor([2, 6])]
    loss_fn = lambda: ((table(r) ** 2).sum() for r in rows)  # noqa: E731
    _, (gradient,) = gradient_of(loss_fn, [table.weight])
    count = torch.zeros(7, dtype=torch.float64).index_add_(0, torch.cat(rows), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(gradient, 2 * table.weight.detach() * count[:, None])
    assert table.weight.grad is None


def test_weights_that_a_loss_does_not_use_have_gradient_zero():
    a, b = weights(2, 3)
    assert torch.equal(gradient_of(lambda: a.sum(), [a, b])[1][1], torch.zeros(3, dtype=torch.float64))


def test_parts_are_summed_in_float64():
    (a,) = weights(1, dtype=torch.float32)
    with loss_surface(lambda: [0 * a.sum() + value for value in (2.0**24, 1.0, 1.0, 1.0)], [a]) as surface:
        assert surface.loss() == 2**24 + 3
        assert surface.loss_and_gradient()[0] == 2**24 + 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "loss_fn must return a scalar"),
        (1.5, "loss_fn must return a scalar"),
        ({"loss": torch.ones(())}, "loss_fn must return a scalar or parts that are scalars, got str"),
        (torch.ones(3), r"loss_fn must return a scalar or parts that are scalars, got shape \(3,\)"),
        ([torch.ones((), requires_grad=True), torch.ones(2)], r"got shape \(2,\)"),
        ([torch.ones((), requires_grad=True), 1.0], "got float"),
        (torch.ones(()), "the loss does not depend on params"),
        ([torch.ones(())], "the loss does not depend on params"),
    ],
)
def test_what_is_no_loss_is_refused(returned, message):
    with (
        pytest.raises(ValueError, match=message),
        loss_surface(lambda: returned, weights(2)) as surface,
    ):
        surface.loss_and_gradient()


@pytest.mark.parametrize("given_as", [iter, list, tuple])
def test_parts_may_come_in_any_iterable(given_as):
    a, b = weights(2, 2)
    loss, _ = gradient_of(lambda: given_as([a.sum(), b.sum()]), [a, b])
    assert loss == pytest.approx(float((a.sum() + b.sum()).detach()))


class Counted:
    """A loss in parts that says how often it was begun and cleaned up."""

    def __init__(self, weight, fails=False):
        self.weight, self.fails, self.begun, self.closed = weight, fails, 0, 0

    def __call__(self):
        self.begun += 1
        try:
            yield self.weight.sum()
            if self.fails:
                yield "not a loss"
            yield self.weight.sum()
        finally:
            self.closed += 1


@pytest.mark.parametrize("ask", ["loss", "loss_and_gradient"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_generator_is_closed_whatever_happens(ask, fails):
    (a,) = weights(2)
    counted = Counted(a, fails)
    with loss_surface(counted, [a]) as surface:
        if fails:
            with pytest.raises(ValueError, match="got str") as raised:
                getattr(surface, ask)()
            assert raised.value.__traceback__ is not None  # which holds the frames; the generator is closed yet
        else:
            getattr(surface, ask)()
        assert counted.begun == counted.closed == 1


def test_the_generator_of_the_repeat_check_is_closed_after_its_first_part():
    (a,) = weights(2)
    counted = Counted(a)
    with loss_surface(counted, [a]) as surface:
        surface.loss_and_gradient()
        surface.check_repeatable()
        assert counted.begun == counted.closed == 2


@pytest.mark.parametrize("ask", ["loss", "loss_and_gradient"])
def test_one_part_keeps_its_graph_at_a_time(ask):
    (a,) = weights(5)
    saved, alive = [], []

    class Held:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        held = Held(tensor)
        saved.append(weakref.ref(held))
        return held

    def parts():
        for _ in range(4):
            alive.append(sum(held() is not None for held in saved))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
                doubled = 2 * a
                part = (doubled * doubled).sum()
            del doubled
            yield part
            del part

    with loss_surface(parts, [a]) as surface:
        getattr(surface, ask)()
    assert len(saved) >= 4
    assert alive == [0, 0, 0, 0]


def random_from_call(weight, call):
    """A loss that is a fixed number until that call, and another one in each from then on."""
    calls = []

    def loss_fn():
        calls.append(1)
        return (weight**2).sum() + (len(calls) if len(calls) >= call else 0)

    return loss_fn


@pytest.mark.parametrize("call", [1, 2])
def test_a_loss_that_changes_between_its_first_calls_is_refused(call):
    (a,) = weights(3)
    with loss_surface(random_from_call(a, call), [a]) as surface:
        surface.loss_and_gradient()
        with pytest.raises(
            ValueError, match=r"the loss is random: \d.* and then \d.* at the same weights; turn dropout"
        ):
            surface.check_repeatable()


@pytest.mark.bad_input(47)
def test_shuffled_parts_are_refused():
    (a,) = weights(3)
    x = torch.randn(40, 3, dtype=torch.float64)

    def shuffled():
        for rows in torch.randperm(40).split(10):
            yield ((x[rows] @ a) ** 2).sum() / 40

    with loss_surface(shuffled, [a]) as surface:
        surface.loss_and_gradient()
        with pytest.raises(ValueError, match="the loss is random"):
            surface.check_repeatable()


def test_a_fixed_loss_and_one_of_no_parts_pass_the_repeat_check():
    (a,) = weights(3)
    for loss_fn in (lambda: (a**2).sum(), lambda: 0 * a.sum(), list):
        with loss_surface(loss_fn, [a]) as surface:
            surface.loss_and_gradient()
            surface.check_repeatable()


special = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e-308, 1.7e308])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats() | special, st.floats() | special), min_size=1, max_size=8))
def test_weights_come_back_bit_for_bit(pairs):
    values, offsets = (list(column) for column in zip(*pairs, strict=True))
    weight = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    pointer, grad = weight.data_ptr(), torch.ones_like(weight)
    weight.grad = grad
    with loss_surface(lambda: weight.sum(), [weight]) as surface:
        surface.move([torch.tensor(offsets, dtype=torch.float64)])
    assert weight.data_ptr() == pointer
    assert weight.grad is grad
    assert struct.pack(f"{len(values)}d", *weight.tolist()) == struct.pack(f"{len(values)}d", *values)


def test_weights_of_any_memory_layout_are_moved_and_come_back():
    transposed = torch.arange(6.0).view(2, 3).t().detach().requires_grad_()
    channels_last = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    before = [transposed.detach().clone(), channels_last.detach().clone()]
    steps = [torch.randn(3, 2), torch.randn(2, 3, 4, 4)]
    with loss_surface(lambda: transposed.sum(), [transposed, channels_last]) as surface:
        surface.move(iter(steps))
        assert torch.equal(transposed, before[0] + steps[0])
        assert torch.equal(channels_last, before[1] + steps[1])
    assert torch.equal(transposed, before[0])
    assert torch.equal(channels_last, before[1])
    assert transposed.stride() == (1, 3)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, GeneratorExit])
def test_weights_come_back_and_the_loss_is_left_by_any_exception(error):
    (a,) = weights(3)
    before, seen = a.detach().clone(), []

    class Entered:
        def __call__(self):
            return a.sum()

        def __enter__(self):
            assert torch.equal(a, before)
            seen.append("in")

        def __exit__(self, kind, *_):
            seen.append(kind)

    def fails():
        with loss_surface(Entered(), [a]) as surface:
            surface.move([torch.ones(3, dtype=torch.float64)])
            raise error

    with pytest.raises(error):
        fails()
    assert seen == ["in", error]
    assert torch.equal(a, before)


@pytest.mark.bad_input(53)
def test_gradients_are_computed_under_no_grad_and_refused_in_inference_mode():
    (a,) = weights(2)
    with torch.no_grad():
        _, gradient = gradient_of(lambda: (a**2).sum(), [a])
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(gradient[0], 2 * a.detach())
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"no gradients under torch.inference_mode.*inference_mode=False"),
        loss_surface(lambda: a.sum(), [a]),
    ):
        pass


@pytest.mark.bad_input(50)
def test_a_tied_weight_is_one_weight():
    (a,) = weights(2)
    assert list(checked_params({"encoder": a, "decoder": a})) == ["encoder"]
    assert len(gradient_of(lambda: (a * a).sum(), [a, a])[1]) == 1


def test_an_empty_tensor_beside_others_does_no_harm():
    a, b = weights(2, (0, 3))
    loss, gradient = gradient_of(lambda: (a**2).sum() + b.sum(), [a, b])
    assert math.isfinite(loss)
    assert gradient[1].shape == (0, 3)


def sharded():
    weight = torch.ones(2, requires_grad=True)
    weight.device_mesh = object()
    return weight


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "params is empty"),
        ({}, "params is empty"),
        ([torch.zeros(0, requires_grad=True)], "params is empty"),
        ({"head": torch.ones(1)}, "head does not require grad; pass only parameters that are trained"),
        ({"head": torch.ones(1, dtype=torch.int64)}, "head is torch.int64"),
        ({"head": torch.ones(1, dtype=torch.complex64, requires_grad=True)}, "head is torch.complex64"),
        ({"head": torch.ones(1, dtype=torch.float16, requires_grad=True)}, "head is torch.float16"),
        ([torch.ones(1, dtype=torch.bfloat16, requires_grad=True)], r"params\[0\] is torch.bfloat16.*float32"),
        ({"head": nn.parameter.UninitializedParameter()}, "head is lazy and has no value yet; run one batch"),
        ({"head": sharded()}, "head is sharded over processes"),
    ],
)
@pytest.mark.bad_input(50)
def test_tensors_that_cannot_be_moved_are_refused_by_name(params, message):
    with pytest.raises(ValueError, match=message):
        checked_params(params)


def test_a_tensor_that_is_computed_from_another_is_refused():
    """A row of a weight, for instance where one tensor was given for a list of them: its gradient is not seen."""
    weight = torch.ones(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="params"):
        checked_params(weight)


def test_the_norm_is_that_of_all_entries_in_float64():
    assert euclidean_norm([torch.full((3,), 1e30), torch.tensor([[4e30]])]) == pytest.approx(math.sqrt(19) * 1e30)
    assert euclidean_norm([]) == 0.0
    assert euclidean_norm([torch.zeros(0), torch.tensor(-2.0)]) == 2.0
