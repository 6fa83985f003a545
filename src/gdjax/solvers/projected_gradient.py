"""Gradient descent on a set: proximal gradient steps, with a projection as the operator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gdjax.core.base import Optimizer
from gdjax.solvers.proximal_gradient import fista, proximal_gradient


def projected_gradient(
    projection: Callable,
    learning_rate: Any = None,
    numbers: Any = None,
    *,
    accelerated: bool = False,
) -> Optimizer:
    """Minimize f over a set by gradient steps, each followed by the projection onto the set.

    new = projection(params - learning_rate * grad f, *numbers)

    Args:
      projection: a function of a tree, as in `gdjax.projections`: a function of a module.
      learning_rate: see `proximal_gradient`.
      numbers: what the projection takes besides: a number or prefix tree, a tuple of those, or
        None. They are hyperparameters, `reg`, or `reg_0`, `reg_1`, ...
      accelerated: whether to use the momentum of `fista`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.projected_gradient(gdjax.projections.projection_simplex, 0.5)
      >>> params = jnp.array([0.2, 0.8])
      >>> updates, state = opt.update(jnp.array([1.0, 0.0]), opt.init(params), params)
      >>> print(params + updates)
      [0. 1.]
    """
    method = fista if accelerated else proximal_gradient
    return method(_as_prox(projection), learning_rate, numbers)


@functools.lru_cache(maxsize=1024)
def _as_prox(projection: Callable) -> Callable:
    def prox(x, numbers, scaling):
        if numbers is None:
            return projection(x)
        return projection(x, *numbers) if isinstance(numbers, tuple) else projection(x, numbers)

    return prox
