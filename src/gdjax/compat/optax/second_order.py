"""The names of `optax.second_order`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.second_order import *  # noqa: F403

add_private_modules(__name__, "_deprecated")
