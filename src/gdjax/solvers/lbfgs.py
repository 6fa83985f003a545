"""L-BFGS: Newton-like directions from the last steps and gradient changes.

Liu & Nocedal (1989), https://doi.org/10.1007/BF01589116; Nocedal & Wright (2006), Algorithm 7.4.
Paper -> here: m -> memory_size, s -> steps, y -> changes, H_0 -> gamma, q and r as there.
Deviations: a pair with <s, y> <= eps |s| |y| is rejected, so that the direction always leads
downhill, whatever the units are; the loops over the pairs are products with the inverse of R, the
upper triangle of <s_i, y_j>: the loop from the newest pair is R alpha = S g, the one back R' c =
.... A new pair gives R one more column, and so its inverse (Byrd, Nocedal & Schnabel, 1994,
https://doi.org/10.1007/BF01582063).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, called, check_integer, checked, strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast, safe_sqrt
from gdjax.core.trees import derived
from gdjax.core.types import Pair, Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.linalg.axes import matmul
from gdjax.solvers.line_search import is_curved, scale_by_zoom_linesearch, searched


class History(NamedTuple):
    """The slots of L-BFGS. Rows are a ring buffer; n counts all elements, complex ones twice."""

    params: Array  # (n,) the parameters of the last update
    updates: Array  # (n,) the gradient of the last update
    diff_params_memory: Array  # S, (m, n), steps
    diff_updates_memory: Array  # Y, (m, n), changes of the gradient
    inverse: Array  # (m, m), R^-1; rows and columns without a pair are 0
    newest: Array  # the row of the newest pair, int32
    gamma: Array  # <s, y> / <y, y> of the newest pair


def two_loops(g: Array, h: History, gamma: Array) -> Array:
    """Return H g for the inverse Hessian H that the pairs give."""
    rho = jnp.diag(h.inverse)
    curvature = jnp.where(rho > 0, 1 / jnp.where(rho > 0, rho, 1), 0)  # <s_i, y_i>
    alpha = matmul(h.inverse, matmul(h.diff_params_memory, g))
    q = g - matmul(alpha, h.diff_updates_memory)
    c = matmul(curvature * alpha - gamma * matmul(h.diff_updates_memory, q), h.inverse)
    return gamma * q + matmul(c, h.diff_params_memory)


def with_pair(h: History, s: Array, y: Array) -> History:
    """Return the history with one more pair, or as it was if the pair has no positive curvature."""
    m = h.inverse.shape[0]
    sy, yy = jnp.vdot(s, y), jnp.vdot(y, y)
    keep = is_curved(s, y, sy, yy)
    row = jnp.where(keep, (h.newest + 1) % m, h.newest)

    def put(rows, new):  # written in place; a rejected pair writes what is there
        old = jax.lax.dynamic_index_in_dim(rows, row, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(rows, jnp.where(keep, new, old), row, 0)

    steps, changes = put(h.diff_params_memory, s), put(h.diff_updates_memory, y)
    new = jnp.arange(m) == row
    rho = 1 / jnp.where(keep, sy, 1)
    others = jnp.where(new[:, None] | new[None], 0, h.inverse)  # without the oldest pair
    column = jnp.where(new, rho, -rho * matmul(others, matmul(steps, y)))
    inverse = jnp.where(keep, jnp.where(new[None], column[:, None], others), h.inverse)
    gamma = jnp.where(keep, sy / jnp.where(keep, yy, 1), h.gamma)
    return h._replace(
        diff_params_memory=steps, diff_updates_memory=changes, inverse=inverse, newest=row,
        gamma=gamma,
    )  # fmt: skip


def _lbfgs(grads, slots, params, count, *, scale_init_precond, raw_params):
    if params is None:
        raise ValueError(f"scale_by_lbfgs needs {NEEDS_PARAMS}")
    dtype = slots.params.dtype
    x, g = cast(as_vector(raw_params), dtype), cast(as_vector(grads), dtype)
    if not x.size:
        return grads, slots
    s = x - slots.params
    stuck = (count > 1) & ~jnp.any(s != 0)  # the last direction made no progress: drop the pairs
    h = with_pair(slots, jnp.where(count > 1, s, 0), g - slots.updates)
    h = h._replace(inverse=jnp.where(stuck, 0, h.inverse))
    norm = safe_sqrt(jnp.vdot(g, g))
    first = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))  # a first step of length 1 at most
    rest = h.gamma if scale_init_precond else jnp.ones_like(h.gamma)
    gamma = jnp.where(jnp.any(h.inverse > 0), rest, first if scale_init_precond else 1)
    direction = two_loops(g, h, gamma)
    return as_tree(direction, grads), h._replace(params=x, updates=g)


def _empty(memory_size: int, params: Params) -> History:
    x = derived(as_vector, params)
    dtype = x.dtype
    rows = jnp.zeros((memory_size, x.size), dtype)
    return History(
        jnp.zeros_like(x), jnp.zeros_like(x), rows, jnp.zeros_like(rows),
        jnp.zeros((memory_size, memory_size), dtype), jnp.full((), memory_size - 1, jnp.int32),
        jnp.ones((), dtype),
    )  # fmt: skip


@strict()
def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> Optimizer:
    r"""Multiply the gradient by L-BFGS's estimate of the inverse Hessian.

    .. math::

       H_{t+1} &= (I - \rho s y^\top) H_t (I - \rho y s^\top) + \rho s s^\top \\
       \rho &= 1 / y^\top s

    for the last pairs of steps s and changes y of the gradient, without forming H. Pairs without
    positive curvature are rejected. After an update that did not change the parameters, all pairs
    are dropped.

    Differences: optax keeps a pair unless :math:`y^\top s` is exactly 0.

    Args:
      memory_size: how many pairs of steps and gradient changes to keep, >= 1.
      scale_init_precond: whether the estimate starts from :math:`(y^\top s / y^\top y)\, I` of the
        newest pair, at first from :math:`\min(1, 1 / \lVert g \rVert)\, I`; or else from I.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 (2 memory_size + 2) bytes per element.

    Raises:
      ValueError: if `memory_size` is not an integer >= 1.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return x[0] ** 2 + 50 * x[1] ** 2
      >>> opt = gdjax.chain(gdjax.scale_by_lbfgs(), gdjax.scale(-1.0))
      >>> x = jnp.array([1.0, 1.0])
      >>> state = opt.init(x)
      >>> for _ in range(12):
      ...     updates, state = opt.update(jax.grad(fun)(x), state, x)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(bool(fun(x) < 1e-3))
      True
    """
    size = check_integer(f"{called('scale_by_lbfgs')}(memory_size=...)", memory_size)
    slots = functools.partial(_empty, size)
    return treewise(_lbfgs, slots, name="scale_by_lbfgs", scale_init_precond=scale_init_precond)


DEFAULT = scale_by_zoom_linesearch(30, initial_guess_strategy="one")


@checked(learning_rate=NONNEGATIVE)
def lbfgs(
    learning_rate: Scalar | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Pair | None = DEFAULT,
) -> Optimizer:
    r"""Minimize a smooth function by limited-memory BFGS and a line search.

    .. math::

       x_{t+1} = x_t - t\, H_t\, \nabla f(x_t)

    with the H of `scale_by_lbfgs` and the step size t of the line search.

    Good for: exact gradients of smooth functions, tens to millions of parameters.

    Evidence: theory. It converges linearly for uniformly convex functions (Liu & Nocedal 1989,
    https://doi.org/10.1007/BF01589116).

    Args:
      learning_rate: a fixed factor of the direction, a number or schedule; None is 1, for the line
        search to scale.
      memory_size: how many pairs of steps and gradient changes to keep, >= 1.
      scale_init_precond: see `scale_by_lbfgs`.
      linesearch: the end of the chain: `scale_by_zoom_linesearch(...)` or another line search, or
        None for steps of the given learning rate.

    Returns:
      An `Optimizer`; with a line search `update` needs the parameters, `value=`, `grad=` and
      `value_fn=`. `gdjax.minimize` runs it to convergence; for your own loop see
      `value_and_grad_from_state`. State: 4 (2 memory_size + 3) bytes per element.

    Raises:
      ValueError: if `memory_size` is not an integer >= 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = gdjax.minimize(fun, jnp.array([-1.2, 1.0]), gdjax.lbfgs())
      >>> print(result.params.round(3))
      [1. 1.]
    """
    direction = scale_by_lbfgs(memory_size, scale_init_precond)
    return searched("lbfgs", direction, learning_rate, linesearch)
