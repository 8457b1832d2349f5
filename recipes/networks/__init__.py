"""The papers' networks as plain modules."""

from __future__ import annotations

from .gpt import GPT as GPT
from .keskar import C1 as C1
from .keskar import C2 as C2
from .keskar import C3 as C3
from .keskar import C4 as C4
from .keskar import F1 as F1
from .keskar import F2 as F2
from .keskar import Variant as Variant
from .residual import WRN16_4 as WRN16_4
from .residual import ResNet44 as ResNet44
from .residual import ResNet50 as ResNet50
from .residual import zero_last_gammas as zero_last_gammas
