"""The losses of `gdjax.losses`, and optax's second name of one."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.losses import *  # noqa: F403
from gdjax.losses import generalized_kl_divergence

convex_kl_divergence = generalized_kl_divergence

add_private_modules(
    __name__,
    "_classification _fenchel_young _ranking _regression _segmentation _self_supervised _smoothing",
)
