"""The names of `optax.assignment`, which are those of gdjax."""

from gdjax.assignment import base_hungarian_algorithm as base_hungarian_algorithm
from gdjax.assignment import hungarian_algorithm as hungarian_algorithm
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_hungarian_algorithm")
