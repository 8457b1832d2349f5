"""Numbers of Keskar et al. (2017): mean and standard deviation of five trials, batch 256 against a tenth of the data.

Tables 2 to 4 as the ICLR version has them; 6 and 7 are read in a summary of an earlier version.
"""

from __future__ import annotations

from typing import NamedTuple

from ..reports.parts import Published


class Row(NamedTuple):
    """A small and a large batch."""

    small: Published
    large: Published


def _row(small: float, small_sd: float, large: float, large_sd: float) -> Row:
    return Row(Published(small, small_sd), Published(large, large_sd))


TRAIN_ACCURACY = {  # Table 2, percent
    "f1": _row(99.66, 0.05, 99.92, 0.01),
    "f2": _row(99.99, 0.03, 98.35, 2.08),
    "c1": _row(99.89, 0.02, 99.66, 0.2),
    "c2": _row(99.99, 0.04, 99.99, 0.01),
    "c3": _row(99.56, 0.44, 99.88, 0.30),
    "c4": _row(99.10, 1.23, 99.57, 1.84),
}
TEST_ACCURACY = {  # Table 2, percent
    "f1": _row(98.03, 0.07, 97.81, 0.07),
    "f2": _row(64.02, 0.2, 59.45, 1.05),
    "c1": _row(80.04, 0.12, 77.26, 0.42),
    "c2": _row(89.24, 0.12, 87.26, 0.07),
    "c3": _row(49.58, 0.39, 46.45, 0.43),
    "c4": _row(63.08, 0.5, 57.81, 0.17),
}
SHARPNESS = {  # Table 3, percent, the full space, by epsilon
    1e-3: {
        "f1": _row(1.23, 0.83, 205.14, 69.52),
        "f2": _row(1.39, 0.02, 310.64, 38.46),
        "c1": _row(28.58, 3.13, 707.23, 43.04),
        "c2": _row(8.68, 1.32, 925.32, 38.29),
        "c3": _row(29.85, 5.98, 258.75, 8.96),
        "c4": _row(12.83, 3.84, 421.84, 36.97),
    },
    5e-4: {
        "f1": _row(0.61, 0.27, 42.90, 17.14),
        "f2": _row(0.90, 0.05, 93.15, 6.81),
        "c1": _row(7.08, 0.88, 227.31, 23.23),
        "c2": _row(2.07, 0.86, 175.31, 18.28),
        "c3": _row(8.56, 0.99, 105.11, 13.22),
        "c4": _row(4.07, 0.87, 109.35, 16.57),
    },
}
SUBSPACE_SHARPNESS = {  # Table 4, percent, a random subspace of 100 dimensions, by epsilon
    1e-3: {
        "f1": _row(0.11, 0.00, 9.22, 0.56),
        "f2": _row(0.29, 0.02, 23.63, 0.54),
        "c1": _row(2.18, 0.23, 137.25, 21.60),
        "c2": _row(0.95, 0.34, 25.09, 2.61),
        "c3": _row(17.02, 2.20, 236.03, 31.26),
        "c4": _row(6.05, 1.13, 72.99, 10.96),
    },
    5e-4: {
        "f1": _row(0.05, 0.00, 9.17, 0.14),
        "f2": _row(0.05, 0.00, 6.28, 0.19),
        "c1": _row(0.71, 0.15, 29.50, 7.48),
        "c2": _row(0.31, 0.08, 5.82, 0.52),
        "c3": _row(4.03, 1.45, 86.96, 27.39),
        "c4": _row(1.89, 0.33, 19.85, 4.12),
    },
}


class Remedy(NamedTuple):
    """A remedy under the large batch, beside the small batch."""

    small: Published
    accuracy: Published
    sharpness: dict[float, Published]


def _remedy(small: tuple[float, float], accuracy: tuple[float, float], *sharpness: tuple[float, float]) -> Remedy:
    by_epsilon = dict(zip((1e-3, 5e-4), (Published(*pair) for pair in sharpness), strict=True))
    return Remedy(Published(*small), Published(*accuracy), by_epsilon)


AUGMENTED = {  # Table 6; the small batch is augmented too
    "c1": _remedy((83.63, 0.14), (82.50, 0.67), (231.77, 30.50), (45.89, 3.83)),
    "c2": _remedy((89.82, 0.12), (90.26, 1.15), (468.65, 47.86), (105.22, 19.57)),
    "c3": _remedy((54.55, 0.44), (53.03, 0.33), (103.68, 11.93), (37.67, 3.46)),
    "c4": _remedy((63.05, 0.5), (65.88, 0.13), (271.06, 29.69), (45.31, 5.93)),
}
CONSERVATIVE = {  # Table 7
    "f1": _remedy((98.03, 0.07), (98.12, 0.01), (232.25, 63.81), (46.02, 12.58)),
    "f2": _remedy((64.02, 0.2), (61.94, 1.10), (928.40, 51.63), (190.77, 25.33)),
    "c1": _remedy((80.04, 0.12), (78.41, 0.22), (520.34, 34.91), (171.19, 15.13)),
    "c2": _remedy((89.24, 0.05), (88.495, 0.63), (632.01, 208.01), (108.88, 47.36)),
    "c3": _remedy((49.58, 0.39), (45.98, 0.54), (337.92, 33.09), (110.69, 3.88)),
    "c4": _remedy((63.08, 0.10), (62.51, 0.67), (354.94, 20.23), (68.76, 16.29)),
}
