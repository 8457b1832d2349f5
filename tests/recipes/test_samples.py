import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from lightning_gap.recipes.datasets import Frames, Images

PIXELS = torch.randint(0, 256, (20, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
CLASSES = torch.arange(20) % 7
LENGTHS = torch.tensor([3, 1, 7, 2, 12])
FEATURES = torch.randn(25, 6, generator=torch.Generator().manual_seed(1))
STATES = torch.arange(25) % 11


def images(**options):
    return Images(PIXELS, CLASSES, **options)


def frames(context=2):
    return Frames(FEATURES, STATES, lengths=LENGTHS, context=context)


@pytest.mark.parametrize("make", [images, frames])
def test_a_batch_is_its_samples_collated(make):
    samples = make()
    indices = torch.tensor([5, 0, 19, 5])
    inputs, targets = samples[indices]
    singles = default_collate([samples[int(i)] for i in indices])
    assert torch.equal(inputs, singles[0])
    assert torch.equal(targets, singles[1])
    assert inputs.dtype == torch.float32
    assert samples.input_shape == tuple(inputs.shape[1:])


@pytest.mark.parametrize("make", [images, frames])
def test_a_choice_of_a_choice_is_read_from_the_same_memory(make):
    samples = make()
    chosen = samples.subset(torch.tensor([9, 3, 7, 1])).subset(torch.tensor([2, 0]))
    assert len(chosen) == 2
    for ours, theirs in zip(chosen[torch.arange(2)], samples[torch.tensor([7, 9])], strict=True):
        assert torch.equal(ours, theirs)
    assert chosen.targets.tolist() == samples.targets[[7, 9]].tolist()
    assert chosen._stored.data_ptr() == samples._stored.data_ptr()


@pytest.mark.parametrize("make", [images, frames])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_chunks_are_all_samples_in_order(make, size):
    samples = make().subset(torch.arange(18).flip(0))
    chunks = list(samples.chunks(size))
    assert [len(targets) for _, targets in chunks] == [size] * (18 // size) + ([18 % size] if 18 % size else [])
    assert torch.equal(torch.cat([inputs for inputs, _ in chunks]), samples[torch.arange(18)][0])
    assert torch.equal(torch.cat([targets for _, targets in chunks]), samples.targets)


def test_pixels_are_divided_and_standardised_by_channel():
    mean, deviation = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    everything = torch.arange(20)
    plain = PIXELS.numpy() / 51
    expected = (plain - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))
    np.testing.assert_allclose(images(highest=51)[everything][0].numpy(), plain, rtol=1e-6)
    for samples in (
        images(highest=51, mean=mean, std=deviation),
        images(highest=51).standardised(mean, deviation),
    ):
        np.testing.assert_allclose(samples[everything][0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_batch_may_be_changed_without_changing_what_is_held():
    samples = images()
    before = PIXELS.clone()
    samples[torch.arange(20)][0].zero_()
    assert torch.equal(samples[3][0], before[3] / 255)


def test_standardising_leaves_the_images_it_is_asked_of_as_they_were():
    samples = images()
    samples.standardised([0.5] * 3, [0.5] * 3)
    assert torch.equal(samples[0][0], PIXELS[0] / 255)


def test_channel_statistics_are_those_of_the_chosen_pixels():
    samples = images(highest=200).subset(torch.tensor([1, 4, 6]))
    pixels = PIXELS[[1, 4, 6]].numpy().astype(np.float64) / 200
    means, deviations = samples.channel_statistics()
    np.testing.assert_allclose(means, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviations, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    inputs = samples.standardised(means, deviations)[torch.arange(3)][0].double()
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("context", [0, 1, 4, 20])
def test_frames_are_spliced_as_a_loop_over_utterances_does_it(context):
    utterances = np.split(FEATURES.numpy(), LENGTHS.cumsum(0)[:-1].tolist())
    expected = []
    for utterance in utterances:
        for t in range(len(utterance)):
            around = [utterance[min(max(t + o, 0), len(utterance) - 1)] for o in range(-context, context + 1)]
            expected.append(np.concatenate(around))
    inputs, targets = frames(context)[torch.arange(25)]
    np.testing.assert_array_equal(inputs.numpy(), np.stack(expected))
    assert torch.equal(targets, STATES)


@pytest.mark.parametrize("size", [1, 5, 10, 24])
def test_frames_are_held_out_by_whole_utterances(size):
    kept, held_out = frames().split_off(size)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(25))
    assert len(held_out) >= size
    utterance = torch.arange(5).repeat_interleave(LENGTHS)
    assert not set(utterance[kept].tolist()) & set(utterance[held_out].tolist())
    longest = LENGTHS[utterance[held_out].unique()].max()
    assert len(held_out) - longest < size  # without one of them they would not be enough


def test_nothing_is_held_out_where_nothing_is_asked_for():
    for samples in (images(), frames()):
        kept, held_out = samples.split_off(0)
        assert kept.tolist() == list(range(len(samples)))
        assert len(held_out) == 0


def test_the_held_out_samples_are_the_same_whatever_the_global_seed():
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append((images().split_off(6), frames().split_off(6)))
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_samples_stay_as_they_are_on_the_device_that_they_are_on():
    samples = images()
    assert samples.to(torch.device("cpu")) is samples


def test_everything_that_is_held_goes_to_the_device():
    for samples in (images().standardised([0.5] * 3, [0.5] * 3), frames()):
        moved = samples.subset(torch.tensor([3, 1])).to(torch.device("meta"))
        tensors = {name: value.device.type for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
        assert set(tensors.values()) == {"meta"}
        assert "_indices" in tensors
        assert samples._stored.device.type == "cpu"
