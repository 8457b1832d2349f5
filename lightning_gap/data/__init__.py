"""Loaders whose order is a pure function of seed and epoch."""

from .in_memory import InMemoryLoader as InMemoryLoader
