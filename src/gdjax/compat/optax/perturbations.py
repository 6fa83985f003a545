"""The names of `optax.perturbations`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.perturbations import Gumbel as Gumbel
from gdjax.perturbations import Normal as Normal
from gdjax.perturbations import make_perturbed_fun as make_perturbed_fun

add_private_modules(__name__, "_make_pert")
