"""The names of `optax.assignment`, which are those of gdjax."""

from gdjax.assignment import *  # noqa: F403
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_hungarian_algorithm")
