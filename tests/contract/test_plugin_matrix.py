"""Every plugin under accumulation, precisions, processes, ghosts and clipping is the loop by hand, resumed anywhere.

Tolerances are absolute and relative at once. In float64 1e-12. In float32 1e-4: the penalty divides the rounding of a
gradient, 6e-8, by a length of 0.01 in each of six steps. Under autocast the same operations round alike, to 1e-6.
Ghosts are normalised together, not one after the other, and may round an activation to its neighbour in 16 bits, by
2^-8 of it in bfloat16, of which a step takes a tenth, the rate: 1e-3.
"""

import itertools
import pickle
import shutil
from pathlib import Path

import plugin_matrix as matrix
import plugin_oracle as oracle
import processes
import pytest
import tiny
import torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

PAIRWISE = matrix.pairwise()
FEW = [*PAIRWISE, *matrix.OTHERS]


def tolerance(cell):
    if cell.precision == "64-true":
        return 1e-12
    if cell.precision == "32-true":
        return 1e-4
    return 1e-6 if cell.norm == "batch" else 1e-3


def assert_is_by_hand(cell, found, rank=0):
    """And to the bit the same wherever it was resumed."""
    whole, *resumed = found
    for step, end in zip(cell.resumed_at, resumed, strict=True):
        assert tiny.same(end, whole), f"resumed at step {step}"
    expected = oracle.train(cell)
    scales = expected.pop("scales")
    if cell.precision == "16-mixed":  # overflowed at the first step, and again, and not at the others
        assert scales == [2.0**25, 2.0**13, 2.0**13] * 2
    expected["buffers"] = expected["buffers"][rank]
    within = tolerance(cell)
    torch.testing.assert_close(whole, expected, rtol=within, atol=within)


def of_one_process(cells):
    return [cell for cell in cells if cell.processes == 1]


def of_two(cells):
    return [cell for cell in cells if cell.processes == 2]


def on_two_processes(cells, folder):
    """What each process has found, by cell."""
    file = folder / "cells.pickle"
    file.write_bytes(pickle.dumps(cells))
    processes.run(Path(matrix.__file__), file, folder)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    shutil.rmtree(folder)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_two_processes(of_two(FEW), tmp_path_factory.mktemp("plugins"))


@pytest.mark.parametrize("cell", of_one_process(FEW), ids=str)
def test_a_fit_is_the_loop_by_hand(cell, tmp_path):
    assert_is_by_hand(cell, matrix.ends(cell, tmp_path))


@pytest.mark.parametrize("cell", of_two(FEW), ids=str)
def test_a_fit_on_two_processes_is_the_loop_by_hand(found, cell):
    for rank in range(2):
        assert_is_by_hand(cell, found[rank][str(cell)], rank)


@pytest.mark.parametrize("gradients", matrix.REFUSED)
def test_a_static_graph_is_refused_where_gradients_are_not_averaged_in_its_first_pass(found, gradients):
    for rank in range(2):
        told, same_weights = found[rank]["refused"][gradients]
        assert same_weights
        assert f"of each {gradients}" in told
        assert "static_graph=True" in told
        assert "static_graph=False" in told


@pytest.mark.slow
@pytest.mark.parametrize("cell", of_one_process(matrix.WHOLE), ids=str)
def test_the_whole_matrix_is_the_loop_by_hand(cell, tmp_path):
    assert_is_by_hand(cell, matrix.ends(cell, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("norm", matrix.FACTORS["norm"])
@pytest.mark.parametrize("accumulation", matrix.FACTORS["accumulation"])
@pytest.mark.parametrize("method", matrix.METHODS)
def test_the_whole_matrix_on_two_processes_is_the_loop_by_hand(method, accumulation, norm, tmp_path):
    chosen = (method, accumulation, norm)
    cells = [cell for cell in of_two(matrix.WHOLE) if (cell.method, cell.accumulation, cell.norm) == chosen]
    found = on_two_processes(cells, tmp_path)
    for rank, cell in itertools.product(range(2), cells):
        assert_is_by_hand(cell, found[rank][str(cell)], rank)


def test_the_few_cells_have_every_pair_of_values_and_the_whole_matrix_every_one():
    assert len(set(matrix.WHOLE)) == 5 * 2 * 4 * 2 * 2 * 2
    assert len(PAIRWISE) <= 30
    for (first, ones), (second, others) in itertools.combinations(matrix.FACTORS.items(), 2):
        there = {(getattr(cell, first), getattr(cell, second)) for cell in PAIRWISE}
        assert there == set(itertools.product(ones, others)), (first, second)


def test_the_norm_is_above_what_it_is_clipped_to_and_the_oracle_tells_the_factors_apart():
    """Else a cell would say nothing of what its name says."""
    plain = oracle.Cell("sam", 4, "64-true", 2, "batch", False)
    changes = [{"clipping": True}, {"norm": "ghosts"}, {"shared_by": "process"}, {"shared_by": "micro_batch"}]
    changes += [{"method": method} for method in matrix.METHODS]
    ends = [oracle.train(oracle.Cell(**(vars(plain) | other)))["weights"] for other in changes]
    for one, other in itertools.combinations(ends, 2):
        assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-3
