"""The names of `optax.perturbations`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.perturbations import *  # noqa: F403

add_private_modules(__name__, "_make_pert")
