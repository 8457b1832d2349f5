"""Batches of 1 : 4 : 16: does the final loss stay where the betas follow the batch, not the learning rate alone?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from lightning.pytorch import Callback
from torch import nn

from lightning_gap import GhostBatchNormSwap, LearningRateScaling, OptimizerScaling

from ..c1 import C1
from ..gpt import GPT
from ..recipe import Recipe
from ..reports.parts import Numbers, Part, Remark, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .scales import Choice

SIZES = (1, 4, 16)  # times the small batch
TUNED = 4  # that of them for which the hyperparameters are taken to be tuned, where all rules are alike
ALONE = "rate-alone"


def _scaled_by(scaling: Callable[[int], Callback] | None) -> Callable[[Recipe], list[Callback]]:
    """A regime: a batch of ``large_batch_size``, BatchNorm over as many samples at all sizes, and a scaling."""

    def regime(recipe: Recipe) -> list[Callback]:
        recipe.batch_size = recipe.large_batch_size
        normalises = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in recipe.modules())
        larger = normalises and recipe.batch_size > recipe.small_batch_size
        ghosts = [GhostBatchNormSwap(recipe.small_batch_size)] if larger else []
        return [*ghosts, *([] if scaling is None else [scaling(TUNED * recipe.small_batch_size)])]

    return regime


SCALINGS: Mapping[str, Callable[[int], Callback] | None] = {
    "unscaled": None,
    ALONE: lambda base: LearningRateScaling(base, rule="sqrt", warmup_epochs=0),
    "adaptive-root": lambda base: OptimizerScaling(base, "adaptive_sqrt"),
    "root-half-life": lambda base: OptimizerScaling(base, ("sqrt", "half_life", "timescale")),
}


_REGIMES = {name: _scaled_by(scaling) for name, scaling in SCALINGS.items()}


class ScaledC1(C1):
    """C1 with these regimes; ``large_batch_size`` is the batch of the run."""

    regimes: ClassVar = {**C1.regimes, **_REGIMES}


class ScaledGPT(GPT):
    """The GPT with the same."""

    regimes: ClassVar = {**GPT.regimes, **_REGIMES}


_RECIPES: Mapping[str, type[Recipe]] = {"c1": ScaledC1, "gpt": ScaledGPT}


def run(choice: Choice, network: str, rule: str, size: int, seed: int) -> RunSpec:
    """A rule at a multiple of the small batch; at the one for which all was tuned there is nothing to scale."""
    plain = choice.run(network, "small", seed)
    changed = {**plain.changed, "large_batch_size": size * plain.hyperparameters["small_batch_size"]}
    return RunSpec(_RECIPES[network], "unscaled" if size == TUNED else rule, plain.data, seed, changed, plain.trainer)


def needs(choice: Choice) -> Iterator[RunSpec]:
    for network in choice.networks:
        for seed in choice.seeds_of(network):
            specs = (run(choice, network, rule, size, seed) for rule in SCALINGS for size in SIZES)
            yield from {spec.name: spec for spec in specs}.values()


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    for network in choice.networks:
        for split in ("train", "test"):
            losses = {
                rule: [_losses(choice, found, network, rule, seed, split) for seed in choice.seeds_of(network)]
                for rule in SCALINGS
            }
            yield _table(f"{network.upper()}: {split} loss at the end", choice, network, losses)
            yield Remark(f"{network.upper()}, {split} loss: {_verdict(losses)}")


def _losses(choice: Choice, found: Findings, network: str, rule: str, seed: int, split: str) -> list[float]:
    """Of one seed, by batch size."""
    results = (found[run(choice, network, rule, size, seed)] for size in SIZES)
    return [each.train_loss if split == "train" else each.test_loss for each in results]


def _spreads(losses: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """By seed: the largest loss less the smallest, over the batch sizes."""
    return tuple(max(own) - min(own) for own in losses)


def _less_than_alone(losses: Mapping[str, Sequence[Sequence[float]]], rule: str) -> Numbers:
    """How much larger the spread is than with the learning rate alone, paired by seed."""
    pairs = zip(_spreads(losses[rule]), _spreads(losses[ALONE]), strict=True)
    return Numbers(tuple(own - alone for own, alone in pairs), 4, differences=True)


def _table(title: str, choice: Choice, network: str, losses: Mapping[str, Sequence[Sequence[float]]]) -> Table:
    smallest = choice.run(network, "small", 0).hyperparameters["small_batch_size"]
    head = ["what follows the batch", *(f"batch {size * smallest}" for size in SIZES)]
    head += ["spread over batches", "more than the rate alone"]
    rows = list[Sequence[str | Numbers]]()
    for rule, own in losses.items():
        by_size = [Numbers(tuple(column), 4) for column in zip(*own, strict=True)]
        beyond = "-" if rule == ALONE else _less_than_alone(losses, rule)
        rows.append((rule, *by_size, Numbers(_spreads(own), 4), beyond))
    note = f"Tuned for batches of {TUNED * smallest}; equally many samples; BatchNorm over {smallest} at all sizes."
    return Table(title, head, rows, note)


def _verdict(losses: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Which rules keep the final loss better over the batch sizes than the learning rate alone, by their intervals."""
    words = {-1: "less", 0: "no difference shown", 1: "more"}
    others = [rule for rule in losses if rule != ALONE]
    told = (f"{rule}, {words[_less_than_alone(losses, rule).found.sign]}" for rule in others)
    return f"spread over the batch sizes beside that of the learning rate alone: {'; '.join(told)}."


EXPERIMENT = Experiment(
    "Hyperparameters that follow the batch, ours",
    ("c1", "gpt"),
    needs,
    show,
    {
        "rules": "rate-alone: learning rate x sqrt(k); adaptive-root: Malladi et al. (2022); root-half-life: the "
        "first, beta2 ** k (Marek et al. 2025), and AdamW's decay per sample kept; k = batch / the batch tuned for",
        "spread": "± sample standard deviation over seeds; [95 % interval] by Student's t, differences paired by seed; "
        "spread over batches: of one seed, the largest of the three losses less the smallest",
    },
)
