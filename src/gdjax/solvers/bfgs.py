"""BFGS: Newton-like directions from an estimate of the whole inverse Hessian.

Nocedal & Wright (2006), "Numerical optimization", Algorithm 6.1, (6.17), (6.20).
Paper -> here: H -> inverse_hessian, rho -> 1 / <s, y>; s, y as there.
Deviation: a pair with <s, y> <= eps |s| |y| is rejected.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import NEEDS_PARAMS, treewise
from gdjax.core.numerics import cast
from gdjax.core.trees import derived
from gdjax.core.types import Pair, Params, Scalar
from gdjax.solvers.line_search import (
    as_tree,
    as_vector,
    is_curved,
    scale_by_zoom_linesearch,
    searched,
)


class Curvature(NamedTuple):
    """The slots of BFGS; n counts all elements, complex ones twice."""

    params: Array  # (n,) the parameters of the last update
    updates: Array  # (n,) the gradient of the last update
    inverse_hessian: Array  # H, (n, n)
    pairs: Array  # how many pairs are in H, int32


def _bfgs(grads, slots, params, count, *, raw_params):
    if params is None:
        raise ValueError(f"scale_by_bfgs needs {NEEDS_PARAMS}")
    dtype = slots.params.dtype
    x, g = cast(as_vector(raw_params), dtype), cast(as_vector(grads), dtype)
    if not x.size:
        return grads, slots
    s = jnp.where(count > 1, x - slots.params, 0)
    y = g - slots.updates
    sy, yy = jnp.vdot(s, y), jnp.vdot(y, y)
    keep = is_curved(s, y, sy, yy)
    stuck = (count > 1) & ~jnp.any(s != 0)  # the last direction made no progress: restart
    pairs = jnp.where(stuck, 0, slots.pairs)
    norm = jnp.sqrt(jnp.vdot(g, g))
    first = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))  # a first step of at most length 1
    eye = jnp.eye(x.size, dtype=dtype)
    begun = jnp.where(keep, sy / jnp.where(keep, yy, 1), first)  # (6.20)
    h = jnp.where(pairs > 0, slots.inverse_hessian, begun * eye)
    rho = 1 / jnp.where(keep, sy, 1)
    hy = h @ y
    both = jnp.outer(s, hy) + jnp.outer(hy, s)
    new = h - rho * both + rho * (rho * jnp.vdot(y, hy) + 1) * jnp.outer(s, s)  # (6.17)
    h = jnp.where(keep, new, h)
    return as_tree(h @ g, grads), Curvature(x, g, h, pairs + keep)


def _nothing_known(params: Params) -> Curvature:
    x = derived(as_vector, params)
    eye = jnp.eye(x.size, dtype=x.dtype)
    return Curvature(jnp.zeros_like(x), jnp.zeros_like(x), eye, jnp.zeros((), jnp.int32))


def scale_by_bfgs() -> Optimizer:
    """Multiply the gradient by BFGS's estimate of the inverse Hessian.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 n + 8 bytes per element, for n
      elements in all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_bfgs()
      >>> x = jnp.array([3.0, 4.0])
      >>> print(opt.update(x, opt.init(x), x)[0])  # a first step of length 1
      [0.6 0.8]
    """
    return treewise(_bfgs, _nothing_known, name="scale_by_bfgs")


DEFAULT = scale_by_zoom_linesearch(30, initial_guess_strategy="one")


@checked(learning_rate=NONNEGATIVE)
def bfgs(learning_rate: Scalar | None = None, linesearch: Pair | None = DEFAULT) -> Optimizer:
    """Minimize a smooth function by BFGS and a line search.

    Good for: exact gradients of smooth functions of up to some hundred parameters.

    Args:
      learning_rate: see `lbfgs`.
      linesearch: see `lbfgs`.

    Returns:
      An `Optimizer`; see `lbfgs`. State: 4 n + 12 bytes per element, for n elements in all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = gdjax.minimize(fun, jnp.array([-1.2, 1.0]), gdjax.bfgs())
      >>> print(result.params.round(3))
      [1. 1.]
    """
    return searched("bfgs", scale_by_bfgs(), learning_rate, linesearch)
