"""How large an experiment is: seconds for a first look, hours on two cores, or as in the papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

from ..c1 import C1
from ..c2 import C2
from ..c3 import C3
from ..c4 import C4
from ..f1 import F1
from ..f2 import F2
from ..gpt import GPT
from ..lookup import lookup
from ..recipe import Recipe
from ..reports.parts import Published
from ..runner.run_store import RunSpec


@dataclass(frozen=True)
class Network:
    """A recipe at a scale.

    Attributes:
        recipe: Its class.
        data: Its data set.
        seeds: How many.
        changed: Hyperparameters that differ from those of the recipe on this data set.
        trainer: Arguments of the Trainer.
    """

    recipe: type[Recipe]
    data: str
    seeds: int
    changed: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)


# The authors' networks have no running statistics, which at a learning rate that does not fall lag behind the weights:
# on C1 they cost test accuracy, and most of the difference between two seeds.
_WITH_BATCH_NORM: dict[str, Any] = {"batch_norm": "batch"}
_TEN_THOUSAND: dict[str, Any] = {  # of CIFAR's 50,000 training images
    "epochs": 20,
    "small_batch_size": 64,
    "large_batch_size": 1000,
    "validation_size": 40_000,
    "sharpness_samples": 2000,
}
_AT_THE_END = {"check_val_every_n_epoch": 20}
_TINY_F1 = {"width": 32, "depth": 2, "epochs": 6, "sharpness_samples": 200}
_TINY = {"epochs": 4, "small_batch_size": 50, "large_batch_size": 250, "validation_size": 49_000}
_TINY |= {"sharpness_samples": 200, "evaluation_chunk": 1000, "ghost_batch_size": 50}
_TINY_GPT = {"sequences": 256, "length": 32, "width": 16, "depth": 1, "small_batch_size": 8, "large_batch_size": 32}

SCALES: dict[str, dict[str, Network]] = {
    "tiny": {
        "digits": Network(F1, "digits", 2, _TINY_F1),
        "f1": Network(F1, "digits", 2, _TINY_F1),
        "f2": Network(F2, "timit-stand-in", 2, {"width": 16, "depth": 1, "epochs": 1, "sharpness_samples": 200}),
        "c1": Network(C1, "cifar10", 2, {**_TINY, "channels": 4, "dense": (16, 8)}),
        "c2": Network(C2, "cifar10", 2, {**_TINY, "width": 4, "dense": 16}),
        "c3": Network(C3, "cifar100", 2, {**_TINY, "channels": 4, "dense": (16, 8)}),
        "c4": Network(C4, "cifar100", 2, {**_TINY, "width": 4, "dense": 16}),
        "gpt": Network(GPT, "python-library", 2, _TINY_GPT),
    },
    "small": {
        "digits": Network(F1, "digits", 10),
        "f1": Network(F1, "mnist", 5, {"epochs": 12}),  # the large batch then fits all training samples
        "f2": Network(F2, "timit-stand-in", 3),
        "c1": Network(C1, "cifar10", 5, {**_TEN_THOUSAND, "channels": 16}, _AT_THE_END),
        "c2": Network(C2, "cifar10", 3, {**_TEN_THOUSAND, "width": 16}, _AT_THE_END),
        "c3": Network(C3, "cifar100", 3, {**_TEN_THOUSAND, "channels": 16}, _AT_THE_END),
        "c4": Network(C4, "cifar100", 3, {**_TEN_THOUSAND, "width": 16}, _AT_THE_END),
        "gpt": Network(GPT, "python-library", 5, {"sequences": 8192, "large_batch_size": 64}),  # 1 MiB
    },
    "paper": {
        "digits": Network(F1, "digits", 10),
        "f1": Network(F1, "mnist", 5),
        "f2": Network(F2, "timit", 5),
        "c1": Network(C1, "cifar10", 5),
        "c2": Network(C2, "cifar10", 5),
        "c3": Network(C3, "cifar100", 5),
        "c4": Network(C4, "cifar100", 5),
        "gpt": Network(GPT, "python-library", 5, {"large_batch_size": 64}),
    },
}


@dataclass(frozen=True)
class Choice:
    """What part of an experiment is to be made, and at which scale.

    Attributes:
        scale: A key of ``SCALES``.
        networks: Keys of that scale.
        seeds: In place of those of the scale.
    """

    scale: str
    networks: tuple[str, ...]
    seeds: tuple[int, ...] | None = None

    def network(self, name: str) -> Network:
        """A network at this scale.

        Raises:
            ValueError: If the scale has none of this name.
        """
        scale = SCALES[lookup("scale", self.scale, SCALES)]
        return scale[lookup(f"network at scale {self.scale}", name, scale)]

    def seeds_of(self, network: str, most: int | None = None) -> tuple[int, ...]:
        """Of a network: those asked for, else the first ones, in the number of the scale or fewer.

        Args:
            network: Its name.
            most: Of an experiment that makes do with fewer.
        """
        return tuple(range(self.network(network).seeds))[:most] if self.seeds is None else self.seeds

    def seeds_or(self, count: int) -> tuple[int, ...]:
        """Those asked for, else the first ones in this number; two at the tiny scale."""
        return tuple(range(2 if self.scale == "tiny" else count)) if self.seeds is None else self.seeds

    def run(self, network: str, regime: str, seed: int, *, kept: tuple[int, ...] = (), **changed: Any) -> RunSpec:
        """A run of a network at this scale.

        Args:
            network: Its name.
            regime: Of its recipe.
            seed: Of initial weights and order of the samples.
            kept: Epochs after which the weights are kept, 0 for the initial ones.
            changed: Further hyperparameters that differ.
        """
        found = self.network(network)
        has_batch_norm = "batch_norm" in signature(found.recipe).parameters
        hyperparameters = {**(_WITH_BATCH_NORM if has_batch_norm else {}), **found.changed, **changed}
        return RunSpec(found.recipe, regime, found.data, seed, hyperparameters, found.trainer, kept)

    def beside(self, paper: Published, network: str) -> Published:
        """A paper's number beside this network's: not comparable at the tiny scale, nor of a stand-in for its data."""
        stands_in = self.network(network).data.endswith("stand-in")
        return replace(paper, comparable=not stands_in and self.scale != "tiny")

    def epochs(self, network: str) -> int:
        """Of a run of a network, before its regime changes them."""
        epochs: int = self.run(network, "small", 0).hyperparameters["epochs"]
        return epochs
