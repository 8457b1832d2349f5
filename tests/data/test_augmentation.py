import math
import pickle
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomAffine as TorchvisionAffine
from torchvision.transforms import RandomResizedCrop as TorchvisionResizedCrop
from torchvision.transforms.v2 import functional as torchvision

from lightning_gap.data import (
    Augmentation,
    Augmentations,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
)
from lightning_gap.data._resampling import positions, rectangles

BELOW_ONE = 1 - 2**-24  # the largest number that torch.rand gives
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
ALL = [
    RandomFlip(),
    RandomCrop(),
    RandomAffine(),
    RandomResizedCrop(),
    Augmentations(RandomResizedCrop(), RandomAffine(), RandomCrop(2), RandomFlip()),
]
named = pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
precise = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))


def batch(augmentation, shape, seed=0, dtype=torch.float32):
    """Images in [0, 1) and the numbers for them, about one in eight of these at an end of their range."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.rand(shape[0], augmentation.numbers_per_sample, generator=draw)
    which = torch.rand(numbers.shape, generator=draw)
    numbers = numbers.where(which > 1 / 16, 0.0).where(which < 15 / 16, BELOW_ONE)
    return torch.rand(shape, generator=draw, dtype=dtype), numbers


def uniform(count, columns, seed=0):
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))


# One sample after the other through torchvision, with parameters reckoned in Python's floats.


def flipped(image, numbers, augmentation):
    return torchvision.horizontal_flip(image) if numbers[0] < augmentation.probability else image


def cropped(image, numbers, augmentation):
    top, left = (math.floor(n * (2 * augmentation.padding + 1)) for n in numbers)
    return torchvision.crop(torchvision.pad(image, [augmentation.padding] * 4), top, left, *image.shape[1:])


def turned(image, numbers, augmentation):
    angle, right, down = (2 * n - 1 for n in numbers)
    height, width = image.shape[1:]
    return torchvision.affine(
        image,
        angle * augmentation.degrees,
        translate=[round(right * (augmentation.shift * width)), round(down * (augmentation.shift * height))],
        scale=1,
        shear=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
        fill=None,  # zeros; with fill=0 a pixel partly from outside is weighed twice
    )


def rectangle(numbers, height, width, scale, ratio):
    """Top, left, height and width, as in torchvision's `RandomResizedCrop.get_params`."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area, shape in zip(numbers[:10], numbers[10:20], strict=True):
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(numbers[20] * (height - h + 1)), math.floor(numbers[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image, numbers, augmentation):
    where = rectangle(numbers, *image.shape[1:], augmentation.scale, augmentation.ratio)
    return torchvision.resized_crop(image, *where, size=list(image.shape[1:]), antialias=False)


ORACLES = {RandomFlip: flipped, RandomCrop: cropped, RandomAffine: turned, RandomResizedCrop: resized}


def one_by_one(augmentation, images, numbers):
    oracle = ORACLES[type(augmentation)]
    pairs = zip(images, numbers.double().tolist(), strict=True)
    return torch.stack([oracle(image, row, augmentation) for image, row in pairs])


@precise
@pytest.mark.parametrize(
    "augmentation",
    [
        RandomFlip(),
        RandomFlip(0.1),
        RandomCrop(),
        RandomCrop(1),
        RandomCrop(40),
        RandomAffine(),
        RandomAffine(degrees=180, shift=1),
        RandomAffine(degrees=0, shift=0.5),
        RandomAffine(degrees=90, shift=0),
        RandomResizedCrop(),
        RandomResizedCrop(scale=(0.001, 0.01)),
        RandomResizedCrop(scale=(0.9, 1.0), ratio=(2.0, 3.0)),
        RandomResizedCrop(scale=(0.9, 1.0), ratio=(1 / 3, 1 / 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (7, 19), (20, 9)], ids=str)
def test_a_batch_is_what_torchvision_makes_of_each_sample(augmentation, size, dtype):
    images, numbers = batch(augmentation, (40, 3, *size), dtype=dtype)
    ours = augmentation(images, numbers)
    assert ours.dtype == dtype
    torch.testing.assert_close(
        ours, one_by_one(augmentation, images, numbers), rtol=0, atol=TOLERANCE[dtype], check_stride=False
    )


@given(
    shapes,
    st.integers(0, 2**31),
    st.sampled_from(list(TOLERANCE)),
    st.one_of(
        st.builds(RandomFlip, st.floats(0, 1)),
        st.builds(RandomCrop, st.integers(0, 5)),
        st.builds(RandomAffine, st.floats(0, 180), st.floats(0, 1)),
        st.builds(
            RandomResizedCrop,
            st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
            st.tuples(st.floats(0.9, 1.1), st.floats(0.9, 1.1)).map(sorted).map(tuple),
        ),
    ),
)
def test_any_images_and_any_arguments_agree_with_torchvision(shape, seed, dtype, augmentation):
    images, numbers = batch(augmentation, shape, seed, dtype)
    ours = augmentation(images, numbers)
    theirs = one_by_one(augmentation, images, numbers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[dtype], check_stride=False)


@given(shapes, st.integers(0, 2**31), st.sampled_from(ALL))
def test_shape_type_and_input_are_kept(shape, seed, augmentation):
    images, numbers = batch(augmentation, shape, seed)
    before = images.clone(), numbers.clone()
    ours = augmentation(images, numbers)
    assert (ours.shape, ours.dtype) == (images.shape, images.dtype)
    assert ours.isfinite().all()
    assert torch.equal(images, before[0])
    assert torch.equal(numbers, before[1])


@precise
@named
@pytest.mark.parametrize("samples", [2, 9, 100])
def test_a_sample_is_the_same_bits_alone_and_in_any_batch(augmentation, samples, dtype):
    images, numbers = batch(augmentation, (samples, 3, 13, 11), dtype=dtype)
    together = augmentation(images, numbers)
    alone = [augmentation(images[n : n + 1], numbers[n : n + 1]) for n in range(samples)]
    assert torch.equal(torch.cat(alone), together)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augmentation(images[order], numbers[order]), together[order])


@precise
@named
def test_a_sample_is_the_same_bits_on_any_number_of_threads(augmentation, dtype):
    images, numbers = batch(augmentation, (50, 3, 32, 32), dtype=dtype)
    threads = torch.get_num_threads()
    one = augmentation(images, numbers)
    try:
        torch.set_num_threads(2)
        assert torch.equal(augmentation(images, numbers), one)
    finally:
        torch.set_num_threads(threads)


@named
def test_the_layout_of_the_memory_does_not_matter(augmentation):
    images, numbers = batch(augmentation, (5, 3, 8, 10))
    expected = augmentation(images, numbers)
    wide = torch.rand(5, 3, 16, 20)
    wide[:, :, ::2, 1::2] = images
    rows = torch.rand(augmentation.numbers_per_sample, 5).t().copy_(numbers)
    for same in (images.contiguous(memory_format=torch.channels_last), wide[:, :, ::2, 1::2], images.clone()):
        assert torch.equal(augmentation(same, rows), expected)
    every = images[:1].expand(5, -1, -1, -1)
    assert torch.equal(augmentation(every, numbers), augmentation(every.contiguous(), numbers))


@named
def test_nothing_random_is_drawn(augmentation):
    images, numbers = batch(augmentation, (3, 1, 4, 4))
    state, python_state = torch.get_rng_state(), random.getstate()
    assert torch.equal(augmentation(images, numbers), augmentation(images, numbers))
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state


@named
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_loses_no_more_than_its_own_rounding(augmentation, dtype):
    images, numbers = batch(augmentation, (20, 3, 32, 32))
    ours = augmentation(images.to(dtype), numbers)
    assert ours.dtype == dtype
    steps = len(augmentation.parts) if isinstance(augmentation, Augmentations) else 1
    exact = augmentation(images.to(dtype).float(), numbers)
    torch.testing.assert_close(ours.float(), exact, rtol=0, atol=steps * torch.finfo(dtype).eps)


@named
def test_a_batch_without_samples_stays_one(augmentation):
    assert augmentation(*batch(augmentation, (0, 3, 8, 8))).shape == (0, 3, 8, 8)


@named
def test_every_augmentation_keeps_the_contract_and_can_be_a_key(augmentation):
    assert isinstance(augmentation, Augmentation)
    assert len({augmentation, pickle.loads(pickle.dumps(augmentation))}) == 1


# Nothing to change


@precise
@pytest.mark.parametrize(
    "augmentation",
    [RandomFlip(0), RandomFlip(0.0), RandomCrop(0), RandomAffine(0, 0), RandomResizedCrop((1, 1), (1, 1))],
    ids=str,
)
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (1, 1)], ids=str)
def test_with_nothing_to_change_the_images_stay(augmentation, size, dtype):
    images, numbers = batch(augmentation, (20, 3, *size), dtype=dtype)
    torch.testing.assert_close(augmentation(images, numbers), images, rtol=0, atol=TOLERANCE[dtype])


def test_a_chain_without_parts_needs_no_numbers_and_changes_nothing():
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(Augmentations()(images, torch.rand(2, 0)), images)


def test_flipping_always_and_again_gives_the_images_back():
    images, numbers = batch(RandomFlip(1), (20, 3, 5, 6))
    once = RandomFlip(1)(images, numbers)
    assert torch.equal(once, images.flip(3))
    assert torch.equal(RandomFlip(1)(once, numbers), images)


def test_a_chain_is_its_parts_one_after_another():
    parts = RandomResizedCrop(), RandomCrop(3), RandomFlip(), RandomAffine()
    chain = Augmentations(*parts)
    assert chain.numbers_per_sample == 22 + 2 + 1 + 3
    images, numbers = batch(chain, (6, 3, 9, 8))
    expected = images
    for part, own in zip(parts, numbers.split([22, 2, 1, 3], dim=1), strict=True):
        expected = part(expected, own)
    assert torch.equal(chain(images, numbers), expected)
    nested = Augmentations(Augmentations(*parts[:2]), Augmentations(*parts[2:]))
    assert torch.equal(nested(images, numbers), expected)


@precise
@pytest.mark.parametrize("samples", [340, 341, 342, 1000])
def test_a_batch_too_large_for_the_cache_is_changed_in_pieces_all_the_same(samples, dtype):
    chain = Augmentations(RandomAffine(), RandomCrop(), RandomFlip())
    images, numbers = batch(chain, (samples, 3, 32, 32), dtype=dtype)
    expected = images
    for part, own in zip(chain.parts, numbers.split([3, 2, 1], dim=1), strict=True):
        expected = part(expected, own)
    assert torch.equal(chain(images, numbers), expected)


def test_an_image_too_large_for_the_cache_is_a_piece_of_its_own():
    images, numbers = batch(chain := Augmentations(RandomFlip()), (2, 1, 2, 2**20))
    assert torch.equal(chain(images, numbers), RandomFlip()(images, numbers))


def test_a_chain_takes_any_function_that_says_how_many_numbers_it_needs():
    class Brighter:
        numbers_per_sample = 1

        def __call__(self, images, numbers):
            return images + numbers[:, :, None, None]

    images, numbers = batch(chain := Augmentations(Brighter(), RandomFlip()), (4, 1, 3, 3))
    assert torch.equal(chain(images, numbers), RandomFlip()(images + numbers[:, :1, None, None], numbers[:, 1:]))


# The ends of the range


@pytest.mark.parametrize(("number", "first"), [(0.0, 0), (BELOW_ONE, 8)])
def test_the_ends_of_the_range_are_the_outermost_crops(number, first):
    images = torch.rand(1, 2, 32, 32)
    ours = RandomCrop(4)(images, torch.full((1, 2), number))
    assert torch.equal(ours, torchvision.crop(torchvision.pad(images, [4] * 4), first, first, 32, 32))


@pytest.mark.parametrize("padding", [1, 3, 7, 100, 1000])
def test_the_largest_number_stays_inside_whatever_the_padding(padding):
    ours = RandomCrop(padding)(torch.ones(1, 1, 1, 1), torch.tensor([[0.5, BELOW_ONE]]))
    assert torch.equal(ours, torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 57, 1000])
def test_a_number_just_below_a_step_is_not_rounded_up_to_it(count):
    steps = torch.arange(1, count + 1)
    at = -(-steps * 2**24 // count)  # the first of the 2^24 numbers that is not below the step
    below = (at - 1).float() / 2**24
    assert torch.equal(positions(below, count), steps - 1)
    assert torch.equal(positions(at[:-1].float() / 2**24, count), steps[:-1])


@pytest.mark.parametrize(("number", "sign"), [(0.0, -1), (BELOW_ONE, 1)])
def test_the_ends_of_the_range_are_the_largest_shifts_and_angles(number, sign):
    images = torch.rand(1, 2, 10, 20)
    shifted = RandomAffine(0, 0.2)(images, torch.tensor([[0.5, number, number]]))
    torch.testing.assert_close(shifted, rolled(images, 2 * sign, 4 * sign), rtol=0, atol=1e-5)
    square = images[..., :10]
    quarter = RandomAffine(90, 0)(square, torch.tensor([[number, 0.5, 0.5]]))
    torch.testing.assert_close(quarter, square.rot90(-sign, (2, 3)), rtol=0, atol=1e-5)


def rolled(images, down, right):
    """Shifted by slices, zeros coming in."""
    height, width = images.shape[2:]
    out = torch.zeros_like(images)
    out[:, :, max(down, 0) : height + down, max(right, 0) : width + right] = images[
        :, :, max(-down, 0) : height - down, max(-right, 0) : width - right
    ]
    return out


def test_the_ends_of_the_range_are_the_smallest_and_the_whole_rectangle():
    numbers = torch.zeros(2, 22)
    numbers[1, :10] = BELOW_ONE
    numbers[:, 20:] = BELOW_ONE
    found = rectangles(numbers, 32, 32, scale=(1 / 16, 1.0), ratio=(1.0, 1.0))
    assert torch.cat(found, 1).tolist() == [[24, 24, 8, 8], [0, 0, 32, 32]]


# How often


def test_half_of_the_images_are_mirrored_and_a_tenth_if_so_asked():
    numbers = uniform(20_000, 1)
    images = torch.tensor([1.0, 0.0]).expand(20_000, 1, 1, 2)
    for probability in (0.5, 0.1):
        mirrored = int(RandomFlip(probability)(images, numbers)[..., 1].sum())
        assert stats.binomtest(mirrored, 20_000, probability).pvalue > 0.01


def test_every_crop_is_equally_likely():
    # The image holds its own positions, so that the middle pixel of a crop says where it began.
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    images = torch.stack((rows, columns)).expand(20_000, 2, 9, 9)
    top, left = RandomCrop(4)(images, uniform(20_000, 2))[:, :, 4, 4].long().unbind(1)
    counts = torch.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def affine_of(augmentation, numbers, size):
    """Angle in degrees and shift right and down, read off two images that are linear in x and in y."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    images = torch.stack((place.expand(size, size), place[:, None].expand(size, size)))
    ours = augmentation(images.expand(len(numbers), 2, size, size), numbers)
    middle = size // 2
    here = ours[:, :, middle, middle]
    beside = ours[:, :, middle, middle + 1]
    cos, sin = (beside - here)[:, 0], -(beside - here)[:, 1]
    x, y = here[:, 0], here[:, 1]
    return torch.rad2deg(torch.atan2(sin, cos)), -(cos * x - sin * y), -(sin * x + cos * y)


def test_angles_and_shifts_are_distributed_as_those_of_torchvision():
    angle, right, down = affine_of(RandomAffine(10, 0.2), uniform(4000, 3), size=33)
    assert (angle.abs() <= 10 + 1e-9).all()
    assert stats.kstest(angle.numpy(), stats.uniform(-10, 20).cdf).pvalue > 0.01
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [TorchvisionAffine.get_params([-10, 10], [0.2, 0.2], None, None, [33, 33]) for _ in range(4000)]
    theirs = torch.tensor([shift for _, shift, _, _ in drawn])
    for ours, oracle in zip((right, down), theirs.unbind(1), strict=True):
        torch.testing.assert_close(ours, ours.round(), rtol=0, atol=1e-9)
        assert sorted(set(ours.round().int().tolist())) == list(range(-7, 8))
        table = [torch.bincount(shift.long() + 7, minlength=15).tolist() for shift in (ours.round(), oracle)]
        assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (40, 100)], ids=str)
def test_areas_and_shapes_are_distributed_as_those_of_torchvision(size):
    ours = torch.cat(rectangles(uniform(4000, 22), *size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)), 1)
    image = torch.zeros(1, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [TorchvisionResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = torch.tensor(drawn, dtype=torch.float64)
    for quantity in (
        lambda r: r[:, 2] * r[:, 3],  # area
        lambda r: r[:, 3] / r[:, 2],  # width over height
        lambda r: r[:, 0] / (size[0] - r[:, 2]).clamp(min=1),  # place within what is left
        lambda r: r[:, 1] / (size[1] - r[:, 3]).clamp(min=1),
    ):
        assert stats.ks_2samp(quantity(ours).numpy(), quantity(theirs).numpy()).pvalue > 0.01


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
    st.integers(0, 2**31),
)
def test_a_rectangle_lies_within_the_image_and_has_a_pixel(height, width, scale, ratio, seed):
    _, numbers = batch(RandomResizedCrop(), (20, 1, 1, 1), seed)
    top, left, heights, widths = rectangles(numbers, height, width, scale=tuple(scale), ratio=tuple(ratio))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (heights >= 1).all()
    assert (widths >= 1).all()
    assert (top + heights <= height).all()
    assert (left + widths <= width).all()


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip(1.1), r"probability must be a number, at least 0 and at most 1, got 1\.1"),
        (lambda: RandomFlip(True), "probability must be a number, at least 0 and at most 1, got True"),
        (lambda: RandomFlip(math.nan), "probability must be a number, at least 0 and at most 1, got nan"),
        (lambda: RandomCrop(-1), "padding must be a whole number of pixels, at least 0, got -1"),
        (lambda: RandomCrop(1.0), "padding must be a whole number"),
        (lambda: RandomCrop(False), "padding must be a whole number"),
        (lambda: RandomAffine(degrees=-1), "degrees must be a number, at least 0 and at most 180, got -1"),
        (lambda: RandomAffine(degrees=(0, 5)), "degrees must be a number"),
        (lambda: RandomAffine(shift=1.5), r"shift must be a number, at least 0 and at most 1, got 1\.5"),
        (lambda: RandomResizedCrop(scale=(0, 1)), "scale must be a number, above 0 and at most 1, got 0"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.1)), r"scale must be a number, above 0 and at most 1, got 1\.1"),
        (lambda: RandomResizedCrop(scale=0.5), r"scale must be a list or tuple, got 0\.5"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), r"ratio must be .* the smaller first, got \(2, 1\)"),
        (lambda: RandomResizedCrop(ratio=(1, math.inf)), "ratio must be a positive number, got inf"),
        (lambda: RandomResizedCrop(ratio=(1, 2, 3)), r"ratio must be two numbers, .* got \(1, 2, 3\)"),
        (lambda: RandomResizedCrop(ratio=(1, "2")), "ratio must be a positive number, got '2'"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("part", [RandomFlip, [RandomFlip()], torch.nn.Identity(), None], ids=str)
def test_a_chain_takes_augmentations_only(part):
    with pytest.raises(TypeError, match="parts must be augmentations, for instance RandomFlip"):
        Augmentations(RandomCrop(), part)


@named
def test_images_of_another_shape_or_kind_are_named(augmentation):
    numbers = torch.rand(3, augmentation.numbers_per_sample)
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\), got torch.float32 of shape \(3, 8, 8\)"):
        augmentation(torch.rand(3, 8, 8), numbers)
    with pytest.raises(ValueError, match=r"got torch.uint8 of shape \(3, 1, 8, 8\)"):
        augmentation(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), numbers)


@named
def test_numbers_of_another_shape_are_named(augmentation):
    needed = augmentation.numbers_per_sample
    for shape in ((2, needed), (3, needed + 1), (3 * needed,)):
        with pytest.raises(ValueError, match=rf"numbers must have shape \(3, {needed}\).* got \({shape[0]},"):
            augmentation(torch.rand(3, 1, 8, 8), torch.rand(shape))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@named
def test_on_a_gpu_the_images_are_the_same_and_nothing_waits_for_it(augmentation):
    images, numbers = batch(augmentation, (64, 3, 32, 32))
    there = images.cuda(), numbers.cuda()
    augmentation(*there)  # the first call fills caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = augmentation(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(ours.cpu(), augmentation(images, numbers), rtol=0, atol=5e-5)
