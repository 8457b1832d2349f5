import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import noise_weights, sigma_for, weighted_mean_loss


def gradients_of_samples(count=12, n=3, seed=0):
    """One row for each sample; their mean is far from zero."""
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def test_the_covariance_of_the_mean_gradient_is_that_of_the_formula():
    """Over random batches and noise, to five standard errors of a covariance from that many draws."""
    population, batch, sigma, draws = gradients_of_samples(), 4, 1.5, 200_000
    generator = torch.Generator().manual_seed(1)
    rows = population[torch.randint(12, (draws, batch), generator=generator)]
    z = noise_weights(draws * batch, sigma, generator=generator, dtype=torch.float64).view(draws, batch, 1)
    means = (z * rows).mean(1)
    mean = population.mean(0)
    second = population.T @ population / 12
    wanted = ((1 + sigma**2) * second - torch.outer(mean, mean)) / batch
    centred = means - mean
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / draws**0.5
    assert bool(((products.mean(0) - wanted).abs() < 5 * error).all())
    assert float((5 * error).max()) < 0.02 * float(wanted.max())  # the test can tell


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4096), st.integers(1, 64))
def test_the_noise_of_a_large_batch_is_that_of_the_small_one_where_the_mean_gradient_is_small(small, factor):
    rows = gradients_of_samples()
    rows = rows - rows.mean(0)
    second = rows.T @ rows / len(rows)
    sigma = sigma_for(small * factor, small)
    torch.testing.assert_close((1 + sigma**2) * second / (small * factor), second / small)


def test_the_gradient_of_the_weighted_loss_is_the_weighted_mean_of_gradients_divided_by_the_samples():
    rows, z = gradients_of_samples(), noise_weights(12, 2.0, dtype=torch.float64)
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(weighted_mean_loss(rows @ w, z), w)
    torch.testing.assert_close(found, sum(z[i] * rows[i] for i in range(12)) / 12)


def test_samples_with_several_losses_have_one_weight_each():
    losses, z = torch.rand(4, 5, 2), torch.tensor([0.0, 2.0, -1.0, 3.0])
    wanted = sum(z[i] * losses[i].mean() for i in range(4)) / 4
    torch.testing.assert_close(weighted_mean_loss(losses, z), wanted)


def test_without_noise_it_is_the_plain_mean_bit_for_bit():
    losses = torch.rand(100)
    z = noise_weights(100, 0.0)
    assert torch.equal(z, torch.ones(100))
    assert torch.equal(weighted_mean_loss(losses, z), losses.mean())
    assert sigma_for(256, 256) == 0


def test_the_draw_is_that_of_the_generator_in_the_type_that_is_wanted():
    first, again = (
        noise_weights(50, 1.0, generator=torch.Generator().manual_seed(4), dtype=torch.float64) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert first.dtype is torch.float64
    assert not torch.equal(first, noise_weights(50, 1.0, dtype=torch.float64))
    assert noise_weights(3, 1.0, generator=torch.Generator(), device="meta").device.type == "meta"


def test_a_batch_larger_than_the_one_at_hand_cannot_be_imitated():
    with pytest.raises(ValueError, match="imitated must be at most batch_size, 64, got 128"):
        sigma_for(64, 128)


def test_losses_and_weights_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match=r'losses must hold one number for each sample.*reduction="none"'):
        weighted_mean_loss(torch.tensor(1.0), torch.ones(1))
    with pytest.raises(ValueError, match=r"z must hold one number for each sample of losses, 3, got shape \(2,\)"):
        weighted_mean_loss(torch.ones(3), torch.ones(2))
