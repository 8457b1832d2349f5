"""`python -m lightning_gap.recipes.experiments NAME`, which is `lightning-gap experiment NAME`."""

import sys

from ..runner.cli import main

sys.exit(main(["experiment", *sys.argv[1:]]))
