import warnings
import weakref

import pytest
import torch
from functional import curvature_on_two_processes as script
from functional.small_networks import dense_hessian, flat, network, whole_and_parts
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from lightning_gap.functional import hessian_eigenvalues, hessian_trace, hessian_vector_product


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", [0, 1], ids=["whole", "parts"])
def test_a_product_is_that_of_the_dense_hessian(seed, form):
    model, x, y = network(seed)
    vector = [torch.randn_like(p) for p in model.parameters()]
    product = hessian_vector_product(whole_and_parts(model, x, y)[form], model.parameters(), vector)
    torch.testing.assert_close(flat(product), dense_hessian(model, x, y) @ flat(vector), rtol=1e-10, atol=1e-12)
    assert [p.shape for p in product] == [p.shape for p in model.parameters()]
    assert not any(p.requires_grad for p in product)


def test_unused_weights_and_linear_parts_add_nothing():
    used, unused, linear = (torch.ones(2, requires_grad=True) for _ in range(3))

    def loss_fn():
        yield (used**3).sum()
        yield linear.sum()
        yield (linear * used).sum()

    product = hessian_vector_product(loss_fn, [used, unused, linear], [torch.full((2,), v) for v in (1.0, 2.0, 3.0)])
    assert [p.tolist() for p in product] == [[9.0, 9.0], [0.0, 0.0], [1.0, 1.0]]


def test_weights_of_two_precisions_and_by_name():
    single, double = torch.ones(2, requires_grad=True), torch.ones(1, dtype=torch.float64, requires_grad=True)
    product = hessian_vector_product(
        lambda: (single.double() ** 2).sum() * double.sum(),
        {"single": single, "double": double},
        [torch.tensor([1.0, 2.0]), torch.tensor([3.0])],
    )
    assert [p.tolist() for p in product] == [[8.0, 10.0], [6.0]]
    assert [p.dtype for p in product] == [torch.float32, torch.float64]


def test_sparse_gradients_are_taken():
    table = nn.Embedding(4, 2, sparse=True)
    torch.nn.init.ones_(table.weight)
    rows = torch.tensor([1, 2, 2])
    for loss_fn in (lambda: table(rows).pow(3).sum(), lambda: iter([table(rows).pow(3).sum()])):
        found = hessian_eigenvalues(loss_fn, table.parameters())
        assert (found.largest, found.smallest, found.exact) == (pytest.approx(12), pytest.approx(0, abs=1e-5), True)


def test_only_one_part_has_a_graph_at_a_time():
    weight, alive, most = torch.ones(3, requires_grad=True), weakref.WeakSet(), []

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # no circle from a saved output to its own graph
            alive.add(self)

    def loss_fn():
        for _ in range(4):
            most.append(len(alive))
            with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
                part = (weight.sin() * weight.cos()).exp().sum()
            yield part

    hessian_trace(loss_fn, [weight], probes=2)
    assert len(most) == 4 + 1 + 4  # two products, and one part to see that the loss is not random
    assert max(most) == 0


def test_the_graph_of_a_loss_in_one_piece_is_built_once():
    model, x, y = network()
    calls = []

    def loss_fn():
        calls.append(1)
        return cross_entropy(model(x), y)

    hessian_trace(loss_fn, model.parameters(), probes=10)
    assert len(calls) == 2  # the second sees that the loss is not random


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-3), (torch.float64, 1e-7)])
def test_where_double_backward_is_missing_differences_come_close(dtype, allowed):
    model, x, y = network(dtype=dtype)
    params = list(model.parameters())

    def loss_fn(cube):
        return cross_entropy(model(x), y) + cube(params[0]).square().mean()

    exact = hessian_eigenvalues(lambda: loss_fn(lambda w: w**3), params, tolerance=1e-6)
    vector = [torch.randn_like(p) for p in params]
    product = flat(hessian_vector_product(lambda: loss_fn(lambda w: w**3), params, vector))
    with pytest.warns(UserWarning, match=r"no double backward \(.*once_differentiable.*finite differences"):
        near = hessian_eigenvalues(lambda: loss_fn(script.Cube.apply), params, tolerance=1e-3)
    with pytest.warns(UserWarning, match="no double backward"):
        by_differences = flat(hessian_vector_product(lambda: iter([loss_fn(script.Cube.apply)]), params, vector))
    assert (exact.exact, near.exact, near.converged) == (True, False, True)
    assert near.largest == pytest.approx(exact.largest, rel=allowed)
    assert near.smallest == pytest.approx(exact.smallest, abs=max(allowed, 1e-4) * exact.largest)
    assert float((by_differences - product).norm()) <= allowed * exact.largest * float(flat(vector).norm())
    assert near.loss == pytest.approx(exact.loss, rel=1e-6)
    assert near.gradient_norm == pytest.approx(exact.gradient_norm, rel=1e-3)


def test_a_zero_vector_gives_zero_by_differences_too():
    x = torch.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="no double backward"):
        (product,) = hessian_vector_product(lambda: script.Cube.apply(x).square().sum(), [x], [torch.zeros(2)])
    assert product.tolist() == [0.0, 0.0]


def test_fused_attention_is_measured_all_the_same():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def by_hand():
        return (torch.softmax(query @ key.transpose(-1, -2) / 2, -1) @ value).square().sum()

    with warnings.catch_warnings(record=True):  # a later torch may have the double backward
        warnings.simplefilter("always")
        found = hessian_eigenvalues(
            lambda: scaled_dot_product_attention(query, key, value).square().sum(), [query, key, value]
        )
    expected = hessian_eigenvalues(by_hand, [query, key, value])
    assert found.largest == pytest.approx(expected.largest, rel=1e-6)
    assert found.smallest == pytest.approx(expected.smallest, rel=1e-3)


def test_a_compiled_loss_is_measured_all_the_same():
    x = torch.linspace(0.1, 1, 4, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(lambda x: (x**4).sum(), backend="aot_eager")
    with pytest.warns(UserWarning, match="no double backward"):
        found = hessian_trace(lambda: compiled(x), [x])
    assert found.trace == pytest.approx(float((12 * x.detach() ** 2).sum()), rel=1e-6)
    assert not found.exact


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_error_in_the_gradient_itself_is_the_one_that_is_raised(in_parts):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("broken backward")

    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="broken backward"):
        hessian_trace(lambda: iter([Broken.apply(x)]) if in_parts else Broken.apply(x), [x])


def test_running_out_of_memory_is_no_missing_double_backward():
    class Large(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, gradient):
            raise torch.OutOfMemoryError("too large")

    x = torch.ones(2, requires_grad=True)
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        hessian_trace(lambda: Large.apply(x), [x])


@pytest.mark.parametrize(
    "vector", [[], [torch.ones(2)], [torch.ones(2), torch.ones(2)], [torch.ones(2), torch.ones(3), torch.ones(1)]]
)
def test_a_vector_of_other_shapes_is_refused(vector):
    x, w = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    with pytest.raises(
        ValueError, match=r"vector must hold one tensor in the shape of each of params, \[\(2,\), \(3,\)"
    ):
        hessian_vector_product(lambda: (x**2).sum(), [x, w], vector)
