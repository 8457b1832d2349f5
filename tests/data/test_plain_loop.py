"""The loaders in a loop without a Trainer: epochs that come by themselves, and states from anywhere in them."""

import itertools
import json

import pytest
import torch

from lightning_gap import BatchPlan, InMemoryLoader, ResumableLoader
from lightning_gap.data import RandomFlip

SAMPLES, SIZE, SEED = 14, 4, 9


def resumable(**settings):
    return ResumableLoader(range(SAMPLES), batch_size=SIZE, **({"shuffle": True, "seed": SEED} | settings))


def in_memory(**settings):
    return InMemoryLoader((torch.arange(SAMPLES),), batch_size=SIZE, **({"shuffle": True, "seed": SEED} | settings))


LOADERS = pytest.mark.parametrize("make", [resumable, in_memory])


def numbers(batch):
    return (batch[0] if isinstance(batch, list | tuple) else batch).tolist()


def one_pass(loader):
    return [numbers(batch) for batch in loader]


def planned(epoch):
    return [batch.tolist() for batch in BatchPlan(SAMPLES, SIZE, shuffle=True, seed=SEED).batches(epoch)]


EPOCHS = [planned(epoch) for epoch in range(5)]
BATCHES = len(EPOCHS[0])


@LOADERS
def test_each_pass_that_is_over_leads_on_to_the_next_epoch(make):
    loader = make()
    assert [one_pass(loader) for _ in range(4)] == EPOCHS[:4]
    assert len({str(epoch) for epoch in EPOCHS}) == len(EPOCHS)


@LOADERS
def test_one_that_ends_with_its_last_batch_and_not_with_the_loop_is_over_too(make):
    loader = make()
    for epoch in EPOCHS[:3]:
        assert [numbers(batch) for batch in itertools.islice(loader, BATCHES)] == epoch


@LOADERS
@pytest.mark.parametrize("taken", range(1, BATCHES))
def test_a_pass_that_is_broken_off_begins_again(make, taken):
    loader = make()
    one_pass(loader)
    for _ in range(2):
        assert [numbers(batch) for batch in itertools.islice(loader, taken)] == EPOCHS[1][:taken]
    assert one_pass(loader) == EPOCHS[1]
    assert one_pass(loader) == EPOCHS[2]


@LOADERS
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_after_any_batch_of_any_epoch_the_loop_goes_on_as_if_it_had_not_stopped(make, workers):
    settings = {"num_workers": workers} if make is resumable else {}
    running = make(**settings)
    for epoch in range(3):
        for position, batch in enumerate(running):
            assert numbers(batch) == EPOCHS[epoch][position]
            state = json.loads(json.dumps(running.state_dict()))
            resumed = make()
            resumed.load_state_dict(state)
            assert len(resumed) == BATCHES
            assert [one_pass(resumed) for _ in range(2)] == [EPOCHS[epoch][position + 1 :], EPOCHS[epoch + 1]]


@LOADERS
def test_a_state_from_between_two_epochs_goes_on_with_the_next(make):
    running = make()
    states = [running.state_dict()]
    for _ in range(3):
        one_pass(running)
        states.append(running.state_dict())
    running.set_epoch(2)
    states.append(running.state_dict())  # an epoch again that was over
    for state, epoch in zip(states, [0, 1, 2, 3, 2], strict=True):
        resumed = make()
        resumed.load_state_dict(state)
        assert one_pass(resumed) == EPOCHS[epoch]


@LOADERS
def test_a_state_from_after_a_pass_that_was_broken_off_goes_on_inside_it_unless_another_epoch_was_chosen(make):
    running, resumed = make(), make()
    next(iter(running))
    resumed.load_state_dict(running.state_dict())
    assert one_pass(resumed) == EPOCHS[0][1:]
    running.set_epoch(1)
    resumed.load_state_dict(running.state_dict())
    assert one_pass(resumed) == EPOCHS[1]


@LOADERS
def test_a_state_that_was_loaded_is_the_state_until_a_batch_is_handed_out_and_the_last_one_counts(make):
    running, resumed = make(), make()
    states = [running.state_dict() for _ in itertools.islice(running, 3)]
    for state in [states[2], states[0], states[0], states[1]]:
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        iter(resumed)  # as Lightning makes some that it never uses
    assert one_pass(resumed) == EPOCHS[0][2:]
    resumed.load_state_dict(states[0])
    resumed.load_state_dict(make().state_dict())  # from the very beginning
    assert one_pass(resumed) == EPOCHS[0]


@LOADERS
def test_choosing_the_epoch_of_a_loaded_state_changes_nothing_and_another_one_begins_at_its_beginning(make):
    running = make()
    one_pass(running)
    next(iter(running))
    for chosen, rest in ((1, EPOCHS[1][1:]), (0, EPOCHS[0]), (3, EPOCHS[3])):
        resumed = make()
        resumed.load_state_dict(running.state_dict())
        resumed.sampler.set_epoch(chosen)  # Lightning's way
        assert one_pass(resumed) == rest
        assert one_pass(resumed) == EPOCHS[chosen + 1]


@LOADERS
def test_two_passes_at_once_have_their_own_batches_and_random_numbers_and_the_last_to_hand_one_out_is_saved(make):
    def drawn(loader):
        for batch in loader:
            yield numbers(batch), float(torch.rand(()))

    alone = list(drawn(make(reseed=True)))
    loader = make(reseed=True)
    first, second, resumed = drawn(loader), drawn(loader), make(reseed=True)
    found = [next(first), next(first)]
    assert [next(second)] == alone[:1]
    found.append(next(first))
    resumed.load_state_dict(loader.state_dict())
    assert one_pass(resumed) == EPOCHS[0][3:]
    assert list(second) == alone[1:]
    assert found + list(first) == alone
    assert one_pass(loader) == EPOCHS[1]


def test_passes_of_two_epochs_at_once_are_not_mixed():
    loader = resumable()
    first = iter(loader)
    served = [numbers(next(first))]
    loader.set_epoch(3)
    second = iter(loader)
    assert numbers(next(second)) == EPOCHS[3][0]
    assert served + one_pass(first) == EPOCHS[0]
    assert one_pass(second) == EPOCHS[3][1:]


def test_two_passes_at_once_over_the_same_persistent_workers_are_refused():
    loader = resumable(num_workers=1, persistent_workers=True)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert numbers(next(second)) == EPOCHS[0][0]
    with pytest.raises(RuntimeError, match="persistent_workers=True serves one pass at a time"):
        next(first)
    assert one_pass(second) == EPOCHS[0][1:]


@LOADERS
def test_a_batch_size_set_between_epochs_is_that_of_the_next_pass_and_state(make):
    loader, resumed = make(), make()
    inside = itertools.islice(loader, 1)
    next(inside)
    loader.batch_size = 7
    assert loader.state_dict()["samples_per_batch"] == SIZE  # that of the batch that was handed out
    loader.set_epoch(1)
    state = loader.state_dict()
    assert (state["samples_per_batch"], state["batches"], state["position"]) == (7, 2, 0)
    resumed.load_state_dict(state)  # with other batches: it is from between two epochs
    assert one_pass(resumed) == EPOCHS[1]


OTHERS = [{"shuffle": False}, {"drop_last": True}, {"reseed": None}, {"seed": 8}, {"batch_size": 7}, {"augment": True}]


def other(make, changes):
    made = make()
    if "reseed" in changes:
        return make(reseed=not made.reseed)
    if "batch_size" in changes:
        made.batch_size = changes["batch_size"]
        return made
    return make(augment=RandomFlip()) if "augment" in changes else make(**changes)


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (make, changes)
        for make in (resumable, in_memory)
        for changes in OTHERS
        if make is in_memory or changes != OTHERS[-1]
    ],
)
def test_inside_an_epoch_a_loader_that_would_give_another_rest_is_refused_with_both_values(make, changes):
    (name,) = changes
    name = "samples_per_batch" if name == "batch_size" else name
    running = make()
    between = running.state_dict()
    next(iter(running))
    state = running.state_dict()
    resumed = other(make, changes)
    own = resumed.state_dict()[name]
    with pytest.raises(ValueError, match=rf"inside an epoch with {name}={state[name]}, this loader has {name}={own},"):
        resumed.load_state_dict(state)
    resumed.load_state_dict(between)
    earlier = {key: value for key, value in state.items() if key not in ("shuffle", "drop_last", "reseed", "augment")}
    make().load_state_dict(earlier)  # saved by a version that did not know these
    if name not in earlier:
        resumed.load_state_dict(earlier)


@LOADERS
@pytest.mark.parametrize("state", [None, 3, [], {}, {"epoch": 1}, {"epoch": 1, "position": 2, "what": 3}, {3: 4}])
def test_what_is_no_state_of_these_loaders_is_refused_in_one_line(make, state):
    with pytest.raises(ValueError, match=r"state of another loader than \w+Loader: .* were expected") as refused:
        make().load_state_dict(state)
    assert "\n" not in str(refused.value)
