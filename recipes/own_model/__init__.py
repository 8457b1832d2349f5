"""Compare regimes on a LightningModule of the user's own: no recipe needed."""

from .advise import advise as advise
from .compare import compare as compare
