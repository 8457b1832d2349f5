"""Training against sharp minima: perturbed weights and inputs, proximal steps, penalised gradients, noisy losses."""
