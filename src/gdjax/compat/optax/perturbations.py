"""The names of `optax.perturbations`, which are those of gdjax."""

from gdjax.perturbations import *  # noqa: F403
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_make_pert")
