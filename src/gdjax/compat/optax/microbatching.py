"""The names of `optax.microbatching`, which are those of gdjax."""

from gdjax.microbatching import *  # noqa: F403
from gdjax.compat.optax.private import add_private_modules

add_private_modules(__name__, "_microbatching")
