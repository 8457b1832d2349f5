"""Sharpness: how high the loss climbs close to the weights, and its relatives."""
