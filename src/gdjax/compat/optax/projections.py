"""The names of `optax.projections`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.projections import *  # noqa: F403

add_private_modules(__name__, "_projections")
