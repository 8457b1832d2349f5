"""What a regime sets on a recipe, for a module that is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback

from lightning_gap.functional._validation import refusal

from ..lookup import lookup
from ..regimes import REGIMES

_NEED_A_RECIPE = {
    "augmented": "augment in make_data, from a regime of your own that returns []",
    "goyal": "use linear-lr, and RecomputeBatchNorm() in a regime of your own",
    "noise": "write a regime of your own that returns [MultiplicativeNoise(sigma_for(large, small), outputs=...)]",
}


@dataclass
class RegimeSettings:
    """Stands in for a recipe: a regime reads these and may change them; a function of your own gets it, too.

    Attributes:
        small_batch_size: Samples per optimizer step of ``small``.
        large_batch_size: Samples per optimizer step of the others.
        epochs: Of the run; a regime may change it.
        ghost_batch_size: Samples per ghost.
        warmup_epochs: In which a linearly scaled learning rate is reached.
        sam_rho: Size of SAM's perturbation.
        conservative_strength: Of the proximal term.
        adversarial_epsilon: How far each entry of the inputs may move.
        penalty_strength: Of the squared gradient norm.
        gradient_clip: Limit of the gradient's norm that is given to the Trainer; None for none.
        batch_size: Samples per optimizer step in the first epoch, the regime's.
        learning_rate_steps: None here: your own module has its schedule.
        hparams: The limit that ``sqrt-lr`` and ``ghost-lr`` clip at, as recipes have it.
    """

    small_batch_size: int
    large_batch_size: int
    epochs: int
    ghost_batch_size: int
    warmup_epochs: float = 5.0
    sam_rho: float = 0.05
    conservative_strength: float = 1e-3
    adversarial_epsilon: float = 0.03
    penalty_strength: float = 0.1
    gradient_clip: float | None = None
    batch_size: int = 0
    learning_rate_steps: dict[int, float] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=lambda: {"gradient_clip": 5.0})


OwnRegime = Callable[[RegimeSettings], Sequence[Callback]]


def named_regimes(regimes: Sequence[str | OwnRegime], *, takes_epochs: bool) -> dict[str, OwnRegime]:
    """The regimes by name: those of ours, and functions by theirs.

    Args:
        regimes: As `compare` takes them.
        takes_epochs: Whether the module is told how many epochs it trains.

    Raises:
        ValueError: If there are none, two of one name, one that is unknown or one that needs a recipe.
    """
    if isinstance(regimes, str | bytes) or not isinstance(regimes, Sequence) or not regimes:
        rule = "must be a list of names or functions"
        raise ValueError(refusal("regimes", rule, regimes, "for instance ['small', 'large']"))
    found: dict[str, OwnRegime] = {}
    for regime in regimes:
        name = regime if isinstance(regime, str) else getattr(regime, "__name__", type(regime).__name__)
        if name in found or name.replace("_", "-") in found:
            raise ValueError(f"regimes must name each regime once, got {name!r} twice; name the function otherwise")
        if callable(regime):
            if not name.isidentifier() or name in REGIMES:
                raise ValueError(f"regimes has a function called {name!r}; give it a name of its own, by def")
            found[name] = regime
            continue
        known: Mapping[str, Any] = REGIMES
        lookup("entry of regimes", regime, known)
        if name in _NEED_A_RECIPE:
            raise ValueError(f"regimes: {name!r} changes what only a recipe has; {_NEED_A_RECIPE[name]}")
        if name == "longer" and not takes_epochs:
            raise ValueError(
                "regimes: 'longer' trains more epochs, and your schedule must stretch with them; let make_module take "
                "epochs"
            )
        found[name] = known[name]
    if "small" not in found:
        raise ValueError(f"regimes must have 'small', which all others are compared with, got {', '.join(found)}")
    return found


def apply(name: str, regime: OwnRegime, settings: RegimeSettings) -> list[Callback]:
    """Let a regime change the settings; its callbacks.

    Raises:
        ValueError: If it fails, returns anything but callbacks, or leaves sizes that no run can have.
    """
    settings.batch_size = settings.large_batch_size
    try:
        given: object = regime(settings)
    except Exception as error:  # of whatever type the user's own code fails with
        raise ValueError(f"the regime {name!r}: {type(error).__name__}: {error}") from error
    callbacks: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    wrong = [type(one).__name__ for one in callbacks if not callable(getattr(one, "on_train_batch_end", None))]
    if wrong:
        raise ValueError(f"the regime {name!r} must return a list of callbacks, got a {wrong[0]}; return [] for none")
    for attribute in ("batch_size", "epochs"):
        value = getattr(settings, attribute)
        if type(value) is not int or value < 1:
            raise ValueError(f"the regime {name!r} set {attribute}={value!r}; use a whole number of at least 1")
    clip = settings.gradient_clip
    if clip is not None and not (isinstance(clip, int | float) and 0 < clip < math.inf):
        raise ValueError(f"the regime {name!r} set gradient_clip={clip!r}; use a positive number or None")
    return callbacks
