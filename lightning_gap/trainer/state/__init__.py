"""The state of Python objects: remembered, put back, and kept from what could not be put back."""

from .object_parts import is_of as is_of
from .random_numbers import generator_at as generator_at
from .random_numbers import random_states as random_states
from .random_numbers import same_random_numbers as same_random_numbers
from .random_numbers import set_random_states as set_random_states
from .records import same_tensor as same_tensor
from .remembered import Remembered as Remembered
from .stand_in import CannotBePutBackError as CannotBePutBackError
