"""Nonlinear conjugate gradients: each direction is conjugate to the last; few arrays of state.

Nocedal & Wright (2006), "Numerical optimization", section 5.2; Hager & Zhang (2006), "A survey of
nonlinear conjugate gradient methods"; "hager_zhang": https://doi.org/10.1137/030601880, (1.6).
Paper -> here: p or d -> d, f' or g -> g, y = g - g_previous, beta there.
Restarts, from -g: where d leads uphill, every n updates, and after an update that failed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import check_choice, strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast, safe_sqrt
from gdjax.core.trees import derived
from gdjax.core.types import Pair, Params
from gdjax.core.vectors import as_tree, as_vector
from gdjax.solvers.line_search import scale_by_zoom_linesearch, searched

METHODS = ("polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan", "hager_zhang")


class Conjugate(NamedTuple):
    """The slots of conjugate gradients; n counts all elements, complex ones twice."""

    params: Array  # (n,) the parameters of the last update
    updates: Array  # (n,) the gradient of the last update
    direction: Array  # (n,) d of the last update
    age: Array  # updates since the last restart, int32


def beta_of(method: str, g: Array, last: Array, d: Array) -> Array:
    """Return beta; `last` is the previous gradient, d the previous direction."""

    def over(top, bottom):
        return jnp.where(bottom != 0, top / jnp.where(bottom != 0, bottom, 1), 0)

    y = g - last
    if method == "polak_ribiere":
        return jnp.maximum(over(jnp.vdot(g, y), jnp.vdot(last, last)), 0)  # PR+, N&W (5.45)
    if method == "fletcher_reeves":
        return over(jnp.vdot(g, g), jnp.vdot(last, last))
    dy = jnp.vdot(d, y)
    if method == "hestenes_stiefel":
        return over(jnp.vdot(g, y), dy)
    if method == "dai_yuan":
        return over(jnp.vdot(g, g), dy)
    beta = over(jnp.vdot(y - 2 * over(jnp.vdot(y, y), dy) * d, g), dy)
    size = safe_sqrt(jnp.vdot(d, d)) * jnp.minimum(0.01, safe_sqrt(jnp.vdot(last, last)))
    return jnp.maximum(beta, -over(jnp.ones_like(size), size))


def _nonlinear_cg(grads, slots, params, count, *, method, raw_params):
    if params is None:
        raise ValueError(f"scale_by_nonlinear_cg needs {NEEDS_PARAMS}")
    dtype = slots.params.dtype
    x, g = cast(as_vector(raw_params), dtype), cast(as_vector(grads), dtype)
    if not x.size:
        return grads, slots
    s = jnp.where(count > 1, x - slots.params, 0)
    d = beta_of(method, g, slots.updates, slots.direction) * slots.direction - g
    downhill = jnp.isfinite(d).all() & (jnp.vdot(g, d) < 0)
    again = (slots.age >= x.size) | ~downhill | ~jnp.any(s != 0)
    d = jnp.where(again, -g, d)
    age = jnp.where(again, 1, slots.age + 1)
    slope, before = jnp.vdot(g, d), jnp.vdot(slots.updates, s)
    norm = safe_sqrt(jnp.vdot(g, g))
    first = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))
    guess = before / jnp.where(slope < 0, slope, 1)  # the same decrease again, N&W (3.60)
    guess = jnp.where((before < 0) & (slope < 0) & jnp.isfinite(guess), guess, first)
    return as_tree(-guess * d, grads), Conjugate(x, g, d, age)


def _no_direction(params: Params) -> Conjugate:
    zeros = jnp.zeros_like(derived(as_vector, params))
    return Conjugate(zeros, jnp.copy(zeros), jnp.copy(zeros), jnp.zeros((), jnp.int32))


@strict()
def scale_by_nonlinear_cg(method: str = "polak_ribiere") -> Optimizer:
    """Replace the gradient by a conjugate direction, scaled to a first guess of the step.

    Args:
      method: see `nonlinear_cg`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 12 bytes per element.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_nonlinear_cg()
      >>> x = jnp.array([3.0, 4.0])
      >>> print(opt.update(x, opt.init(x), x)[0])  # a first step of length 1
      [0.6 0.8]
    """
    check_choice("scale_by_nonlinear_cg(method=...)", method, METHODS)
    return treewise(_nonlinear_cg, _no_direction, name="scale_by_nonlinear_cg", method=method)


DEFAULT = scale_by_zoom_linesearch(30, curv_rtol=0.1, initial_guess_strategy="one")


@strict()
def nonlinear_cg(method: str = "polak_ribiere", linesearch: Pair | None = DEFAULT) -> Optimizer:
    r"""Minimize a smooth function by nonlinear conjugate gradients and a line search.

    .. math::

       d_t = -g_t + \beta_t d_{t-1}, \qquad x_{t+1} = x_t + t\, d_t

    with :math:`y = g_t - g_{t-1}` and :math:`\beta_t` by method:

    - "polak_ribiere": :math:`\max(0,\; \langle g_t, y \rangle / \lVert g_{t-1} \rVert^2)`
    - "fletcher_reeves": :math:`\lVert g_t \rVert^2 / \lVert g_{t-1} \rVert^2`
    - "hestenes_stiefel": :math:`\langle g_t, y \rangle / \langle d_{t-1}, y \rangle`
    - "dai_yuan": :math:`\lVert g_t \rVert^2 / \langle d_{t-1}, y \rangle`
    - "hager_zhang": :math:`\langle y - 2 d_{t-1} \lVert y \rVert^2 / \langle d_{t-1}, y \rangle,
      g_t \rangle / \langle d_{t-1}, y \rangle`, but not below
      :math:`-1 / (\lVert d_{t-1} \rVert \min(0.01, \lVert g_{t-1} \rVert))`

    Good for: exact gradients where even ten pairs of L-BFGS do not fit into memory.

    Evidence: theory. With its line search and restarts it converges to stationary points of smooth
    functions (Nocedal & Wright 2006, https://doi.org/10.1007/978-0-387-40065-5, section 5.2).

    Args:
      method: which :math:`\beta_t`.
      linesearch: see `lbfgs`, with curv_rtol = 0.1 or less, since directions stay conjugate only
        after accurate searches: `scale_by_hager_zhang_linesearch(curv_rtol=0.1)`.

    Returns:
      An `Optimizer`; see `lbfgs`.
      State: 16 bytes per element.

    Raises:
      ValueError: for an unknown method.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> opt = gdjax.nonlinear_cg("hager_zhang")
      >>> print(gdjax.minimize(fun, jnp.array([-1.2, 1.0]), opt).params.round(2))
      [1. 1.]
    """
    check_choice("nonlinear_cg(method=...)", method, METHODS)
    return searched("nonlinear_cg", scale_by_nonlinear_cg(method), None, linesearch)
