import copy
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lightning_gap.functional import GhostBatchNorm1d, restore_batch_norm, swap_batch_norm
from lightning_gap.functional.ghost_batch_norm._copies import mark, marked, new_swap, take_back, without_ghosts


def swapped(swap, former=None):
    layer = nn.BatchNorm1d(3)
    swap_batch_norm(layer, 4)
    mark(layer, swap, former)
    return layer


def test_a_mark_goes_along_with_every_copy_and_no_further():
    first, second = new_swap(), new_swap()
    layer, other, own = swapped(first), swapped(second), GhostBatchNorm1d(3, ghost_batch_size=4)
    copies = [copy.deepcopy(layer), {"kept": [copy.deepcopy(layer)]}["kept"][0], copy.copy(layer)]
    assert {id(found) for found in marked(first)} == {id(kept) for kept in (layer, *copies)}
    assert {id(found) for found in marked(second)} == {id(other)}
    assert not [found for found in (*marked(first), *marked(second)) if found is own]


def test_what_was_batch_norm_is_batch_norm_again_and_what_was_a_ghost_has_its_settings_back():
    swap = new_swap()
    layer = swapped(swap)
    own = swapped(swap, {"ghost_batch_size": 8, "leftover": "balance", "running_stats": "mean"})
    for one in (layer, own):
        assert take_back(one)
        assert take_back(one)  # a second time changes nothing
    assert type(layer) is nn.BatchNorm1d
    assert vars(layer).keys() == vars(nn.BatchNorm1d(3)).keys()
    assert (own.ghost_batch_size, own.leftover, own.running_stats) == (8, "balance", "mean")
    assert vars(own).keys() == vars(GhostBatchNorm1d(3, ghost_batch_size=4)).keys()


def test_restoring_by_hand_takes_the_mark_away():
    layer = swapped(new_swap())
    assert restore_batch_norm(layer) == ("",)
    assert vars(layer).keys() == vars(nn.BatchNorm1d(3)).keys()


def test_a_layer_marked_by_a_swap_that_never_ended_is_what_it_was_before_that_one():
    layer = swapped(new_swap())
    second = new_swap()
    mark(layer, second, {"ghost_batch_size": 4, "leftover": "merge", "running_stats": "sequential"})
    assert [found is layer for found in marked(second)] == [True]
    take_back(layer)
    assert type(layer) is nn.BatchNorm1d


def test_what_goes_into_a_file_holds_copies_without_marked_layers_and_with_the_same_tensors():
    layer, own = swapped(new_swap()), GhostBatchNorm1d(3, ghost_batch_size=4)
    pair, itself = namedtuple("pair", "net name"), []
    itself.append(itself)
    thing = OrderedDict(a=[pair(nn.Sequential(layer), "x")], b=({"layer": layer},), own=[own], itself=itself)
    made = without_ghosts(thing)
    copied = made["a"][0].net[0]
    assert type(copied) is nn.BatchNorm1d
    assert (copied.weight is layer.weight, copied.running_var is layer.running_var) == (True, True)
    assert made["b"][0]["layer"] is copied
    assert [type(made), type(made["a"][0])] == [OrderedDict, pair]
    assert (made["own"] is thing["own"], made["itself"] is itself) == (True, True)
    assert type(layer) is type(thing["b"][0]["layer"]) is GhostBatchNorm1d
    assert without_ghosts(made) is made


def test_copies_of_parametrized_layers_are_found():
    swap = new_swap()
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    swap_batch_norm(layer, 4)
    mark(layer, swap, None)
    other = copy.deepcopy(layer)
    for found in marked(swap):
        assert take_back(found)
    assert not isinstance(other, GhostBatchNorm1d)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_name_for_a_swap_asks_no_generator_of_the_run(seed):
    torch.manual_seed(seed)
    state = torch.random.get_rng_state()
    assert new_swap() != new_swap()
    assert torch.equal(state, torch.random.get_rng_state())
