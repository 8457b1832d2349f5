"""Curvature of the loss: Hessian products, eigenvalues, trace and spectral density."""
