"""The private modules of optax that public code imports from: `optax._src.base` and the like."""

from gdjax.compat.optax.private import add_private_modules

add_private_modules(
    __name__,
    "alias base combine constrain factorized linear_algebra linesearch lookahead numerics schedule"
    " transform update utils wrappers",
)
