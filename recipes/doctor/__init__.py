"""Which known causes of a generalization gap apply to a run, told from its logs and configuration."""

from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import diagnose as diagnose
from .facts import Facts as Facts
from .facts import Reading as Reading
