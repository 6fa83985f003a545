"""The names of `optax.experimental`."""

from gdjax.compat.optax import aggregating as aggregating
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_aggregating")
