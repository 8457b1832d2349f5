"""Compare regimes on a LightningModule of the user's own: no recipe needed."""

from .compare import compare as compare
