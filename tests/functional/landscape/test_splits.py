import pytest
import torch
from functional.landscape.landscape_cases import (
    at,
    bowl,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap.functional import FixedSubset, evaluate_points, line_points


def test_batches_count_by_their_samples_or_as_the_user_says():
    module, point = nn.Identity(), line_points({}, {}, [0.0])
    data = [torch.ones(3, 1), 5 * torch.ones(1, 1)]

    def mean(given, **kwargs):
        return evaluate_points(module, point, lambda m, b: m(b).mean(), {"a": given}, **kwargs).values["a"]["loss"]

    assert mean(data) == [2.0]
    assert mean(data, count=lambda batch: 1) == [3.0]
    subset = FixedSubset(TensorDataset(torch.arange(8.0)), chunk_size=3)
    assert evaluate_points(module, point, lambda m, b: m(b[0]).mean(), {"a": subset}).values["a"]["loss"] == [3.5]


def test_a_quantity_that_some_batches_or_points_lack_is_refused():
    """Its mean would be one over other samples than the rest."""
    points = line_points(at(1.0, 2.0), at(-1.0, -2.0), [0.0, 1.0])

    def by_batch(module, batch):
        return {"loss": module.weight.sum(), **({"large": batch.sum()} if len(batch) > 1 else {})}

    def by_point(module, batch):
        total = module.weight.sum()
        return {"loss": total, **({"positive": total} if total > 0 else {})}

    data = {"data": [torch.ones(2), torch.ones(1)]}
    for measure in (by_batch, by_point):
        with pytest.raises(ValueError, match="measure must return the same names"):
            evaluate_points(bowl(), points, measure, data)


def test_a_loader_is_read_once_for_all_points():
    reads = []

    class Data(TensorDataset):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Data(torch.ones(6, 2).double()), batch_size=2)
    points = line_points(at(1.0, 1.0), at(2.0, 2.0), [0.0, 0.5, 1.0])
    found = evaluate_points(bowl(), points, lambda m, b: m(b[0]).mean(), {"a": loader}, points_at_once=2)
    assert found.values["a"]["loss"] == [2.0, 3.0, 4.0]
    assert len(reads) == 6
