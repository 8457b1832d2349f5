"""Networks, data sets and training regimes of the papers, ready to run.

Each name is imported when it is first asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .c1 import C1 as C1
    from .c2 import C2 as C2
    from .c3 import C3 as C3
    from .c4 import C4 as C4
    from .datasets import CIFAR10 as CIFAR10
    from .datasets import CIFAR100 as CIFAR100
    from .datasets import MNIST as MNIST
    from .datasets import TIMIT as TIMIT
    from .datasets import Digits as Digits
    from .datasets import ImageNet as ImageNet
    from .datasets import PythonLibrary as PythonLibrary
    from .datasets import Text as Text
    from .datasets import TIMITStandIn as TIMITStandIn
    from .f1 import F1 as F1
    from .f2 import F2 as F2
    from .gpt import GPT as GPT
    from .own_model.compare import compare as compare
    from .recipe import Recipe as Recipe
    from .regimes import REGIMES as REGIMES
    from .resnet44 import ResNet44 as ResNet44
    from .resnet50 import ResNet50 as ResNet50
    from .wrn16_4 import WRN16_4 as WRN16_4


def __getattr__(name: str) -> Any:
    """A recipe is found in the file that has its name in lower case, everything else but compare is a data set."""
    if name == "compare":
        return import_module(".own_model", __name__).compare
    if name != name.lower():
        own = (Path(__file__).parent / f"{name.lower()}.py").is_file()
        return getattr(import_module(f".{name.lower() if own else 'datasets'}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
