"""What each logged key means, in a line with its unit."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MEANINGS = {  # regular expressions for the beginning of a key; the first that matches counts
    r"sharpness/\w*eps[\w.-]*_final": "sharpness to publish, in percent: best of three searches, loss on all samples",
    r"sharpness/\w*eps": "rise of the training loss within a small box around the weights, in percent; low is flat",
    r"sharpness/loss": "loss at the weights, on the samples that sharpness is measured on",
    r"sharpness/gradient_norm": "norm of the gradient of that loss",
    r"sharpness/weight_p(\d+)": "quantile of the sizes of the weights",
    r"curvature/lambda_max_residual": "an eigenvalue lies this close to lambda_max",
    r"curvature/lambda_max": "largest eigenvalue of the Hessian of the training loss",
    r"curvature/lambda_min": "smallest eigenvalue of the Hessian",
    r"curvature/trace_standard_error": "standard error of the trace",
    r"curvature/trace": "trace of the Hessian",
    r"curvature/two_over_lr": "2 / learning rate: the eigenvalue at which gradient descent turns unstable",
    r"curvature/edge": "lambda_max * learning rate / 2; 1 is the edge of stability",
    r"curvature/loss": "loss at the weights, on the samples that curvature is measured on",
    r"curvature/gradient_norm": "norm of the gradient of that loss",
    r"curvature/preconditioned_lambda_max_residual": "an eigenvalue lies this close to preconditioned_lambda_max",
    r"curvature/preconditioned_lambda_max": "largest eigenvalue as the optimizer sees it",
    r"curvature/preconditioned_threshold": "the one at which the optimizer turns unstable",
    r"curvature/preconditioned_edge": "preconditioned_lambda_max / preconditioned_threshold; 1 is the edge",
    r"curvature/critical_sharpness": "2 / critical learning rate",
    r"curvature/critical_learning_rate": "largest learning rate at which the step would not have raised its loss",
    r"curvature/critical_multiple": "critical learning rate / learning rate; below 1 the step raised its loss",
    r"curvature/critical_evaluations": "forward passes used for that",
    r"noise/simple_scale_now": "simple noise scale of this measurement alone, in samples",
    r"noise/simple_scale": "simple noise scale, in samples: far beyond it larger batches only cost more; running mean",
    r"noise/critical_batch_now": "critical batch of this measurement alone, in samples",
    r"noise/critical_batch": "noise scale weighted by curvature, in samples; running mean",
    r"noise/gradient_norm_squared": "squared norm of the gradient, without noise",
    r"noise/variance": "trace of the covariance of the gradients of single samples",
    r"weights/distance_from_init": "Euclidean distance of the weights from where they started",
    r"weights/log_slope": "slope of that distance against the logarithm of the step",
    r"weights/log_r2": "R squared of that line",
    r"weights/distance_ratio": "distance from the start / that of the other run at its end",
    r"weights/layers/": "distance of one layer from where it started",
    r"gap/loss": "training loss minus validation loss, measured alike; negative where the model overfits",
    r"gap/accuracy": "training accuracy minus validation accuracy, measured alike, as a fraction",
    r"lr/effective": "learning rate of the last update, as scaled",
    r"lr/scale": "factor on your own learning rate",
    r"batch/(size|effective)": "samples per optimizer step, over all processes and micro-batches",
    r"batch/accumulate": "micro-batches per optimizer step",
    r"batch/lr_factor": "factor on the learning rate in place of a larger batch",
    r"batch/wanted": "batch size that the test asks for, in samples",
    r"batch/test": "that / the present batch size; above 1 the batch grows",
    r"optimizer/(\w+?)(_\d+)?$": "hyperparameter of the last update, as scaled",
    r"piggyback/switched": "1 once the large batch has begun",
    r"ghost/layers": "BatchNorm layers that normalise ghost batches",
    r"sam/rise": "rise of the loss to the perturbed weights",
    r"adversarial/rise": "rise of the loss to the adversarial inputs",
    r"stability/divergence": "divergence of the predictions on noisy inputs from those on clean ones",
    r"final/train": "on all training samples, of the final weights",
    r"final/test": "on all test samples, of the final weights",
    r"final/sharpness": "sharpness of the final weights, in percent",
    r"final/distance": "Euclidean distance of the final weights from the initial ones",
}


def meaning(key: str) -> str:
    """What a key means; an empty text for a key that is none of ours.

    Example:
        >>> meaning("lr/scale")
        'factor on your own learning rate'
    """
    return next((text for pattern, text in _MEANINGS.items() if re.match(pattern, key)), "")


def table_of_meanings(keys: Iterable[str]) -> str:
    """A Markdown table of keys and what they mean, keys of others left out."""
    known = [f"| {key} | {text} |" for key in keys if (text := meaning(key))]
    return "\n".join(["| curve | what it is |", "|---|---|", *known])
