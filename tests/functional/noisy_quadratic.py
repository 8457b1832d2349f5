"""A quadratic loss whose gradient noise is known on paper: shared by the tests of the noise and of its scale."""

import torch

# Samples x ~ N(mean, S) with the losses (w - x) A (w - x) / 2: gradient A (w - mean), covariance A S A, Hessian A.
A = torch.diag(torch.tensor([2.0, 1.5, 1.0, 1.0, 1.0, 0.5], dtype=torch.float64))
A[0, 1] = A[1, 0] = 0.5
ROOT = torch.eye(6, dtype=torch.float64) + torch.tril(torch.full((6, 6), 0.2, dtype=torch.float64))  # S = ROOT ROOT^T
MEAN = torch.tensor([0.2, 0.0, -0.3, 0.5, 0.4, -0.6], dtype=torch.float64)
G = -A @ MEAN  # at w = 0
SIGMA = A @ ROOT @ ROOT.T @ A


def draw(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    return MEAN + torch.randn(samples, 6, generator=generator, dtype=torch.float64) @ ROOT.T
