import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss

from lightning_gap.functional import DatasetLoss, FixedSubset, sharpness
from lightning_gap.functional._loss_surface import loss_surface
from lightning_gap.functional.dataset_loss import samples_in

MODES = ("running", "batch", "recomputed")


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    for _ in range(3):
        model(torch.randn(16, 3, dtype=torch.float64) + 1)
    return model


def batches(sizes=(7, 5, 2), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(n, 3, generator=generator, dtype=torch.float64),
            torch.randn(n, 1, generator=generator, dtype=torch.float64),
        )
        for n in sizes
    ]


def mean_loss(module, batch):
    return mse_loss(module(batch[0]), batch[1])


def value(loss):
    with loss, torch.no_grad():
        parts = loss()
        return float(sum(parts)) if not isinstance(parts, torch.Tensor) else float(parts)


def normalised_by(model, x, mean, variance):
    """The network in plain arithmetic, with these statistics and without dropout."""
    first, norm, _, last = model
    h = x @ first.weight.T + first.bias
    h = (h - mean(h)) / (variance(h) + norm.eps).sqrt() * norm.weight + norm.bias
    return h @ last.weight.T + last.bias


def expected(model, data, mode):
    norm = model[1]
    hidden = [x @ model[0].weight.T + model[0].bias for x, _ in data]
    if mode == "running":
        mean, variance = (lambda h: norm.running_mean), (lambda h: norm.running_var)
    elif mode == "batch":
        mean, variance = (lambda h: h.mean(0)), (lambda h: h.var(0, unbiased=False))
    else:
        means, variances = torch.stack([h.mean(0) for h in hidden]), torch.stack([h.var(0) for h in hidden])
        mean, variance = (lambda h: means.mean(0)), (lambda h: variances.mean(0))
    total = sum((normalised_by(model, x, mean, variance) - y).square().sum() for x, y in data)
    return float(total.detach()) / sum(len(x) for x, _ in data)


@pytest.mark.promise("chunks")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(14,), (7, 5, 2)])
def test_it_is_the_mean_over_samples_with_the_statistics_that_were_chosen(mode, sizes):
    model, data = network().train(), batches(sizes)
    loss = DatasetLoss(model, mean_loss, data, batch_norm=mode)
    assert value(loss) == pytest.approx(expected(model, data, mode), rel=1e-12)
    assert (loss.samples, loss.batch_norm) == (14, mode)


@pytest.mark.parametrize("mode", ["running", "batch"])
@pytest.mark.parametrize(
    ("sizes", "middle"), [((7, 5), 1), ((7, 5, 2), 1), ((3, 4, 5, 2), 2), ((2, 2, 9), 2), ((3, 9), 1)]
)
def test_its_halves_are_the_means_over_the_first_and_the_other_batches(mode, sizes, middle):
    model, data = network().train(), batches(sizes)
    loss = DatasetLoss(model, mean_loss, data, batch_norm=mode)
    with loss, torch.no_grad():
        halves = [float(sum(half())) for half in loss.halves()]
    assert halves == pytest.approx([expected(model, part, mode) for part in (data[:middle], data[middle:])], rel=1e-12)


@pytest.mark.parametrize("sizes", [(4,), (20, 2), (2, 2, 20)])
def test_a_single_batch_has_no_halves_and_neither_have_batches_of_which_one_holds_nearly_all(sizes):
    assert DatasetLoss(network(), mean_loss, batches(sizes)).halves() == ()


@pytest.mark.promise("chunks")
def test_chunking_does_not_matter_in_evaluation_mode():
    model = network()
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    whole, parts = ([(x, y)], list(zip(x.split(3), y.split(3), strict=True)))
    found = [
        sharpness(DatasetLoss(model, mean_loss, b), model.parameters(), epsilon=0.01).percent for b in (whole, parts)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def state(model):
    return (
        [(name, t.data_ptr(), t.detach().clone(), t.grad) for name, t in model.named_parameters()],
        [(name, t.data_ptr(), t.clone()) for name, t in model.named_buffers()],
        [(name, part.training) for name, part in model.named_modules()],
        model[1].momentum,
    )


def assert_untouched(model, before):
    for (name, pointer, old, grad), (_, new) in zip(before[0], model.named_parameters(), strict=True):
        assert (new.data_ptr(), new.grad is grad) == (pointer, True), name
        assert torch.equal(new, old), name
    for (name, pointer, old), (_, new) in zip(before[1], model.named_buffers(), strict=True):
        assert new.data_ptr() == pointer, name
        assert torch.equal(new, old), name
    assert [(name, part.training) for name, part in model.named_modules()] == before[2]
    assert model[1].momentum == before[3]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("mode", MODES)
def test_no_trace_is_left_whichever_evaluation_fails(mode, error):
    model = network().train()
    model[0].eval()  # modes of their own come back too
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before, random = state(model), torch.get_rng_state()
    for failing in range(1, 100):
        calls = []

        def failing_loss(module, batch, calls=calls, failing=failing):
            calls.append(1)
            if len(calls) == failing:
                raise error
            return mean_loss(module, batch)

        loss = DatasetLoss(model, failing_loss, batches(), batch_norm=mode)
        try:
            sharpness(loss, model.parameters(), epsilon=0.01, max_evaluations=4)
            finished = True
        except error:
            finished = False
        assert_untouched(model, before)
        assert torch.equal(torch.get_rng_state(), random)
        if finished:
            break
    assert finished
    assert failing == len(calls) + 1 > 7  # each evaluation failed in turn


def test_recomputed_statistics_stay_those_at_the_weights():
    """The ascent must not change what BatchNorm does at the point it goes to."""
    model, seen = network(), []

    def noted(module, batch):
        seen.append(module[1].running_mean.clone())
        return mean_loss(module, batch)

    data = batches()
    sharpness(DatasetLoss(model, noted, data, batch_norm="recomputed"), model.parameters(), epsilon=0.1)
    assert all(torch.equal(mean, seen[len(data)]) for mean in seen[len(data) :])


@pytest.mark.parametrize("mode", MODES)
def test_entering_it_twice_leaves_no_trace_either(mode):
    model = network().train()
    before = state(model)
    loss = DatasetLoss(model, mean_loss, batches(), batch_norm=mode)
    with loss, loss:
        assert not model[2].training
    assert_untouched(model, before)


def test_the_same_loss_may_be_the_one_to_report_on():
    model = network().train()
    before = state(model)
    loss = DatasetLoss(model, mean_loss, batches(), batch_norm="batch")
    found = sharpness(loss, model.parameters(), report_on=loss)
    assert_untouched(model, before)
    assert found.percent == sharpness(loss, model.parameters()).percent


def test_it_can_be_used_again_and_again():
    model = network().train()
    loss = DatasetLoss(model, mean_loss, batches(), batch_norm="recomputed")
    first, second = (sharpness(loss, model.parameters()) for _ in range(2))
    assert first.percent == second.percent
    assert first.samples == 14
    assert first.batch_norm == "recomputed"


def test_a_fixed_subset_gives_its_batches():
    model, (data,) = network(), batches((20,))
    subset = FixedSubset(torch.utils.data.TensorDataset(*data), samples=11, chunk_size=4)
    loss = DatasetLoss(model, mean_loss, subset)
    assert loss.samples == 11
    assert value(loss) == pytest.approx(expected(model, list(subset), "running"), rel=1e-12)


def test_sizes_may_be_given_for_what_is_no_batch_of_tensors():
    model, data = network(), batches()
    names = ["a", "b", "c"]
    by_name = dict(zip(names, data, strict=True))
    loss = DatasetLoss(model, lambda module, name: mean_loss(module, by_name[name]), names, sizes=[7, 5, 2])
    assert value(loss) == pytest.approx(value(DatasetLoss(model, mean_loss, data)), rel=1e-14)


def test_it_tells_the_samples_of_each_part():
    subset = FixedSubset(torch.utils.data.TensorDataset(torch.zeros(11, 3)), chunk_size=4)
    assert DatasetLoss(network(), mean_loss, batches()).sizes == [7, 5, 2]
    assert DatasetLoss(network(), mean_loss, subset).sizes == subset.sizes == [4, 4, 3]
    assert DatasetLoss(network(), mean_loss, ["a", "b"], sizes=(2, 9)).sizes == [2, 9]


@pytest.mark.parametrize(("rank", "sizes"), [(0, [7, 2]), (1, [5]), (2, [4])])
def test_of_several_processes_each_tells_the_sizes_of_the_parts_it_yields(rank, sizes, monkeypatch):
    monkeypatch.setattr("lightning_gap.functional.dataset_loss.get_rank", lambda group: rank)
    monkeypatch.setattr("lightning_gap.functional.dataset_loss.get_world_size", lambda group: 3)
    evaluated = []

    def noted(module, batch):
        evaluated.append(len(batch[0]))
        return mean_loss(module, batch)

    loss = DatasetLoss(network(), noted, batches((7, 5, 4, 2)), process_group=dist.ProcessGroup(rank, 3))
    for part in loss():
        del part
    assert loss.sizes == evaluated == sizes
    assert loss.samples == 18


def test_one_batch_is_one_scalar_and_several_come_in_parts():
    model = network()
    assert isinstance(DatasetLoss(model, mean_loss, batches((4,)))(), torch.Tensor)
    with loss_surface(DatasetLoss(model, mean_loss, batches()), model.parameters()) as surface:
        surface.loss()
        assert not surface.came_whole


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        ((torch.zeros(4), torch.zeros(4, 9)), 4),
        ({"name": "x", "weight": torch.zeros(()), "x": torch.zeros(5)}, 5),
        ([[], (), {"y": torch.zeros(2, 0)}], 2),
    ],
)
def test_a_batch_is_as_large_as_the_first_axis_that_its_tensors_agree_on(batch, size):
    assert samples_in(batch) == size


@pytest.mark.parametrize(
    "batch",
    [
        *("text", 3, [], {"a": 1}, torch.zeros(()), None),
        {"nodes": torch.zeros(9, 2), "graphs": torch.zeros(4)},
        {"images": [torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)]},
        [torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)],
    ],
)
def test_a_batch_without_tensors_needs_sizes(batch):
    with pytest.raises(ValueError, match=f"cannot tell how many samples a {type(batch).__name__} holds; pass sizes"):
        samples_in(batch)


@pytest.mark.parametrize(
    ("given", "sizes", "message"),
    [
        ([], None, "sizes and batches must pair up, at least one of each, got 0 and 0"),
        (batches(), [7, 5], "sizes and batches must pair up, at least one of each, got 2 and 3"),
        (batches(), [7, 5, 0], "sizes must be a whole number of samples, at least 1, got 0"),
        ([torch.zeros(0, 3)], None, "sizes must be a whole number of samples, at least 1, got 0"),
    ],
)
def test_data_that_make_no_mean_are_refused(given, sizes, message):
    with pytest.raises(ValueError, match=message):
        DatasetLoss(network(), mean_loss, given, sizes=sizes)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="batch_norm must be one of 'running', 'batch', 'recomputed', got 'train'"):
        DatasetLoss(network(), mean_loss, batches(), batch_norm="train")


def test_dropout_is_off_and_data_that_change_are_refused():
    model = network().train()
    assert value(DatasetLoss(model, mean_loss, batches())) == value(DatasetLoss(model, mean_loss, batches()))

    def noisy(module, batch):
        return mean_loss(module, (batch[0] + torch.randn_like(batch[0]), batch[1]))

    with pytest.raises(ValueError, match="the loss is random"):
        sharpness(DatasetLoss(model, noisy, batches()), model.parameters())
