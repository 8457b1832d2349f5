"""What the help of each command ends with: commands to copy, and what they do."""

from __future__ import annotations

EXAMPLES = {
    "": (
        ("lightning-gap list", "recipes, data sets, regimes"),
        ("lightning-gap compare f1 small large", "digits: offline, about a minute"),
        ("lightning-gap compare --help", "the options of a command, with examples"),
    ),
    "list": (
        ("lightning-gap list", "all names"),
        ("lightning-gap list c1", "hyperparameters and regimes of a recipe"),
    ),
    "run": (
        ("lightning-gap run f1 --regime small", "digits: offline"),
        ("lightning-gap run f1 --regime ghost-lr --epochs 10 --learning_rate 0.1", "hyperparameters are options"),
        ("lightning-gap run c1 --regime large --data cifar10 --data_dir data", "another data set"),
        ("lightning-gap run f1 --regime small --output results/a --resume", "what was stopped"),
        ("lightning-gap run f1 --help", "the hyperparameters of a recipe too"),
    ),
    "compare": (
        ("lightning-gap compare f1 small large", "one trial of two regimes"),
        ("lightning-gap compare f1 small large ghost-lr --trials 3 --workers 2", "with intervals, two runs at a time"),
        ("lightning-gap compare f1 small large --output results/a --resume", "what was stopped"),
        ("lightning-gap compare f1 --help", "the hyperparameters of a recipe too"),
    ),
    "advise": (
        ("lightning-gap advise f1", "which batch size does the noise ask for?"),
        ("lightning-gap advise c1 --data cifar10 --steps 1000", "later in the run"),
    ),
    "critical-batch": (
        ("lightning-gap critical-batch f1", "branches after a tenth and a half of the run"),
        ("lightning-gap critical-batch f1 --at '[0.2]' --factors '[1,4,16]'", "fewer branches"),
    ),
    "copy": (("lightning-gap copy f1 .", "then edit f1.py, and: python f1.py run --regime ghost"),),
    "report": (
        ("lightning-gap report results/a", "one page of a comparison"),
        ("lightning-gap report results/a results/b --output report", "of two, where you want it"),
    ),
    "reproduce": (
        ("lightning-gap reproduce keskar-table-2 --dry_run", "what would be made, and what it costs"),
        ("lightning-gap reproduce keskar-table-2 --scale tiny", "seconds: does it work here?"),
        ("lightning-gap reproduce keskar-table-2 --workers 2", "hours; the same command continues"),
    ),
    "doctor": (
        ("lightning-gap doctor lightning_logs/version_0", "a run of your own"),
        ("lightning-gap doctor results/a", "of a comparison each regime"),
    ),
}


def shown_examples(command: str) -> str:
    """The lines, ready to be printed: no command is broken, so that each can be copied.

    Args:
        command: Whose; an empty text for the program's own.
    """
    lines = [f"  # {told}\n  {typed}" for typed, told in EXAMPLES[command]]
    return "\n".join(["", "examples:", *lines, ""])
