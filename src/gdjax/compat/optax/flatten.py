"""All parameters as one vector."""

from __future__ import annotations

from jax.flatten_util import ravel_pytree

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    with_extra_args_support,
)


def flatten(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Apply a transformation to all parameters as one vector, of the widest of their dtypes.

    `gdjax.flatten` can also stack arrays of equal shape.

    Args:
      inner: the transformation; the state is its own.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.flatten(optax.scale_by_adam())
      >>> print(tx.init({"a": jnp.ones((2, 2)), "b": jnp.ones(3)})[1].shape)
      (7,)
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> OptState:
        return inner.init(ravel_pytree(params)[0])

    def update(updates, state, params=None, **extra_args):
        flat, unravel = ravel_pytree(updates)
        params = None if params is None else ravel_pytree(params)[0]
        new, state = inner.update(flat, state, params, **extra_args)
        return unravel(new.astype(flat.dtype)), state

    return GradientTransformationExtraArgs(init, update)
