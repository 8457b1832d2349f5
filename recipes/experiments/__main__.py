"""`python -m lightning_gap.recipes.experiments NAME`, which is `lightning-gap experiment NAME`."""

import sys

from .command import main

sys.exit(main())
