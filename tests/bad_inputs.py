"""The groups of bad input that are tried, and which tests try them: `@pytest.mark.bad_input(2)`.

What is refused is one error that names the argument, its value and the fix, before the first step; what works all the
same is compared with what it should give. A run of the tests prints how many groups and cases were tried.
"""

from __future__ import annotations

from collections import Counter

GROUPS = {
    "Ghost batch norm": {
        1: "a size of 0, below 0, 2.5, True, '32', NaN",
        2: "a size of 1, without a variance",
        3: "a size above the batch",
        4: "a size that does not divide the batch",
        5: "a last batch that leaves a ghost of one sample",
        6: "an evaluation batch below the ghost",
        7: "no BatchNorm in the model",
        8: "layers made in configure_model, lazy layers",
        9: "SyncBatchNorm",
        10: "momentum=None, track_running_stats=False",
        11: "swapped twice",
        12: "a layer with two parents",
        13: "a layer that the user froze",
        14: "a batch of one process below the ghost",
        15: "compiled, scripted and sharded models",
        16: "an empty batch, channels-last, half precision",
    },
    "Learning rate and warmup": {
        17: "a base batch of 0, below 0, of another kind",
        18: "an unknown rule",
        19: "a warmup below 0 or longer than the run",
        20: "two callbacks that scale",
        21: "a scheduler that warms up too",
        22: "torch's schedulers, and none",
        23: "several optimizers, manual optimization",
        24: "several groups, a learning rate that is a tensor or 0",
        25: "an optimizer without a learning rate, or without momentum to correct",
        26: "a loader that knows no batch size",
    },
    "Schedules": {
        27: "empty, not from 0, unsorted, twice, negative epochs",
        28: "a size of 0, or above the data set",
        29: "a milestone after the run, a run without an end",
        30: "smaller where growth was promised",
        31: "streams, data sets of 0 or 1 samples, drop_last beyond the data",
        32: "reload_dataloaders_every_n_epochs",
        33: "several train loaders",
        34: "weighted samplers and own batch samplers",
        35: "limit_train_batches, overfit_batches, max_steps inside an epoch",
        36: "Lightning's accumulation scheduler beside",
        37: "a batch that the processes cannot share",
        38: "persistent workers that have fetched ahead",
        39: "a ghost that a later batch cannot hold",
    },
    "Warm start": {
        40: "a switch in epoch 0 or after the end",
        41: "a checkpoint of another network, or none",
        42: "an epoch that was not stored",
        43: "a large batch that is not larger",
        44: "what becomes of the optimizer's state not said",
    },
    "Sharpness and landscapes": {
        45: "epsilon of 0, below 0, NaN, twice the same",
        46: "a subspace of 0, above the weights, without a seed",
        47: "no data, data or losses that change between calls",
        48: "a loss that is no scalar, NaN, without a graph; a training step that returns none",
        49: "a loss of -1, where the denominator is 0",
        50: "no weights to move; frozen, integer, tied, sparse, sharded ones",
        51: "a training step that logs, counts or draws",
        52: "dropout and BatchNorm in training mode",
        53: "validate and test, inference mode",
        54: "manual optimization",
        55: "half precision",
        56: "every_n_epochs=0",
        57: "end points of other shapes or kinds",
        58: "positions: none, reversed, one",
        59: "more samples than there are",
    },
    "General": {
        60: "the same callback twice",
        61: "read-only folders, names in any letters, long paths",
        62: "unknown names and keys, a text for a number",
        63: "fast_dev_run, barebones, num_sanity_val_steps=-1, max_epochs=0",
        64: "a device that is not there",
        65: "seeds below 0, too large, twice the same",
        66: "a results folder with half a run",
        67: "a second fit, deep copies, pickles",
    },
}
ALL = {number: what for groups in GROUPS.values() for number, what in groups.items()}


def table(reports) -> list[str]:
    """A line of Markdown for each part, and one of all: groups and cases that were tried, and passed.

    Args:
        reports: Of the calls of tests, as pytest has them.
    """
    tried, kept = Counter[int](), Counter[int]()
    for report in reports:
        for name, value in report.user_properties:
            if name == "bad input":
                tried[int(str(value))] += 1
                kept[int(str(value))] += report.passed
    if not tried:
        return []
    lines = ["", "| bad input | groups | cases |", "|---|---|---|"]
    for part, groups in (*GROUPS.items(), ("all", ALL)):
        found = [number for number in groups if tried[number]]
        cases = f"{sum(kept[n] for n in groups):,} of {sum(tried[n] for n in groups):,}"
        lines.append(f"| {part} | {len(found)} of {len(groups)} | {cases} |")
    return lines
