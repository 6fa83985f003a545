"""The names of `optax.projections`, which are those of gdjax."""

from gdjax.projections import *  # noqa: F403
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_projections")
