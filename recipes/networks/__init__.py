"""The papers' networks as plain modules."""

from __future__ import annotations

from lightning_gap.recipes.networks.keskar import C1 as C1
from lightning_gap.recipes.networks.keskar import C2 as C2
from lightning_gap.recipes.networks.keskar import C3 as C3
from lightning_gap.recipes.networks.keskar import C4 as C4
from lightning_gap.recipes.networks.keskar import F1 as F1
from lightning_gap.recipes.networks.keskar import F2 as F2
from lightning_gap.recipes.networks.keskar import Variant as Variant
from lightning_gap.recipes.networks.residual import WRN16_4 as WRN16_4
from lightning_gap.recipes.networks.residual import ResNet44 as ResNet44
from lightning_gap.recipes.networks.residual import ResNet50 as ResNet50
from lightning_gap.recipes.networks.residual import zero_last_gammas as zero_last_gammas
