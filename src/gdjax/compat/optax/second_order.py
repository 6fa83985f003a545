"""The names of `optax.second_order`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.second_order import fisher_diag as fisher_diag
from gdjax.second_order import hessian_diag as hessian_diag
from gdjax.second_order import hvp as hvp

add_private_modules(__name__, "_deprecated")
