"""Large batches in Lightning without the generalization gap: close it, and see why it opens.

The public names are those of ``_public``, imported when one of them is first asked for: the command line then starts
without torch and Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = vars(import_module("._public", __name__)) | globals()  # which now has the packages that it imported
    if name not in public:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public[name]


def __dir__() -> list[str]:
    return [name for name in dir(import_module("._public", __name__)) if not name.startswith("_")] + ["__version__"]
