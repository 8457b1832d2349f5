"""Batch normalisation over small slices (ghosts) of a large batch."""
