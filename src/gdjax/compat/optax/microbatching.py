"""The names of `optax.microbatching`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.microbatching import *  # noqa: F403

add_private_modules(__name__, "_microbatching")
