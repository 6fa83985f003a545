"""Construct a loss from any convex function: Fenchel-Young losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import product
from gdjax.losses.inputs import broadcast, read


@strict()
def make_fenchel_young_loss(max_fun: Callable[..., ArrayLike]) -> Callable[..., Array]:
    r"""Return the Fenchel-Young loss of a convex function of the scores.

    .. math::

       \Omega^*(\theta) - \langle y, \theta \rangle

    with :math:`\Omega^*` the function `max_fun`, :math:`\theta` the scores and y the targets. It is
    convex in the scores, and its gradient is :math:`\nabla \Omega^*(\theta) - y`. With logsumexp
    it is the softmax cross entropy, with a perturbed maximum the loss of a perturbed optimizer.

    Args:
      max_fun: a convex function from a vector [n] to a number.

    Returns:
      A function of scores [..., n] and targets [..., n] over the last axis, which passes further
      arguments to `max_fun`.

    Raises:
      TypeError: if `max_fun` is not a function; from the loss, if `scores` is not float.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = gdjax.losses.make_fenchel_young_loss(jax.scipy.special.logsumexp)
      >>> print(loss(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])))
      0.6931472

    References:
      Blondel, Martins & Niculae (2020), https://arxiv.org/abs/1901.02324, definition 2.
    """
    if not callable(max_fun):
        kind = type(max_fun).__name__
        raise TypeError(f"make_fenchel_young_loss(max_fun=...) must be a function, got {kind}.")

    def fenchel_young_loss(
        scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any
    ) -> Array:
        s, y = read("fenchel_young_loss", {"scores": scores}, {"targets": targets})
        s, y = broadcast("fenchel_young_loss", scores=s, targets=y)
        best = jnp.vectorize(lambda row: max_fun(row, *args, **kwargs), signature="(n)->()")
        return best(s) - jnp.sum(product(y, s), axis=-1)

    return fenchel_young_loss
