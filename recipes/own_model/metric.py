"""Which of two values of a metric is better: known or stated, never guessed."""

from __future__ import annotations

import re

from lightning_gap.functional._validation import flag, refusal

_HIGHER = {"acc", "accuracy", "auc", "auroc", "f1", "precision", "recall", "r2", "iou", "map", "bleu", "dice"}
_LOWER = {"loss", "error", "err", "mse", "rmse", "mae", "perplexity", "ppl", "wer", "cer", "nll", "fid"}


def is_higher_better(metric: str, stated: bool | None) -> bool:
    """Whether larger values of a metric are better, by the words of its name where that is not stated.

    Args:
        metric: As the module logs it.
        stated: What the user said; None to go by the name.

    Raises:
        ValueError: If the name does not tell, or tells both.

    Example:
        >>> is_higher_better("test/accuracy", None), is_higher_better("val_loss", None)
        (True, False)
    """
    if not isinstance(metric, str) or not metric:
        raise ValueError(refusal("metric", "must be a name that your module logs", metric))
    if stated is not None:
        return flag("higher_is_better", stated)
    words = set(re.split(r"[\W_]+", metric.lower()))
    higher, lower = bool(words & _HIGHER), bool(words & _LOWER)
    if higher == lower:
        raise ValueError(
            f"metric={metric!r} does not tell whether higher is better; pass higher_is_better=True or False"
        )
    return higher
