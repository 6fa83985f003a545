"""The method of Barzilai and Borwein: gradient steps whose lengths satisfy a secant equation.

Barzilai & Borwein (1988), https://doi.org/10.1093/imanum/8.1.141; globalized by Raydan (1997),
https://doi.org/10.1137/S1052623494266365; which of two lengths: Zhou, Gao & Dai (2006),
https://doi.org/10.1007/s10589-006-6446-0.
Paper -> here: alpha -> rate, M -> the length of `recent`, gamma -> slope_rtol; s, y as there.
Deviation: where the curvature is not positive the rate grows tenfold; kept, progress could stall.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import OPEN_UNIT, WHOLE, check_choice, check_integer, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_sqrt
from gdjax.core.trees import derived
from gdjax.core.types import Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.solvers.line_search import fresh, is_finite, line, pick, remember, rounding

KINDS = ("adaptive", "alternate", "long", "short")
SHORTEST, LONGEST = 1e-30, 1e30  # of a rate; Raydan's 1e-10 and 1e10 depend on the units


class Secant(NamedTuple):
    """The slots of the method."""

    params: Array  # (n,) the parameters of the last update, complex elements as two
    updates: Array  # (n,) the gradient of the last update
    rate: Array  # the last secant rate
    recent: Array  # the last values of the objective, -inf where there is none yet
    learning_rate: Array  # the last step size, times the secant rate
    value: Array  # the objective at the new parameters, inf before the first update
    grad: Any  # its gradient there, shaped like the parameters
    evals: Array  # evaluations of value and gradient in the last update, int32
    failed: Array  # whether the last update found no better point; it was then 0
    nonfinite: Array  # whether a value was not finite in the last update


def secant_rate(s: Array, y: Array, last: Array, count: Array, kind: str) -> Array:
    """Return the rate that fits the last step; ten times the last where curvature is <= 0."""
    ss, sy, yy = jnp.vdot(s, s), jnp.vdot(s, y), jnp.vdot(y, y)
    curved = (sy > 0) & (yy > 0)
    long = ss / jnp.where(curved, sy, 1)
    short = sy / jnp.where(curved, yy, 1)
    if kind == "alternate":
        rate = jnp.where(count % 2 == 0, long, short)
    elif kind == "adaptive":
        rate = jnp.where(short < 0.5 * long, short, long)
    else:
        rate = long if kind == "long" else short
    return jnp.clip(jnp.where(curved, rate, 10 * last), SHORTEST, LONGEST)


def _barzilai_borwein(
    grads, slots, params, count, *, slope_rtol, decrease_factor, max_linesearch_steps, kind,
    raw_params, **extra,
):  # fmt: skip
    if params is None:
        raise ValueError(f"barzilai_borwein needs {NEEDS_PARAMS}")
    g = as_vector(grads)
    if not g.size:
        return grads, slots
    x, old = as_vector(raw_params), slots.params
    y = g - slots.updates
    norm = safe_sqrt(jnp.vdot(g, g))
    first = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))
    fitting = secant_rate(x - old, y, slots.rate.astype(g.dtype), count, kind)
    stuck = ~jnp.any(x != old)
    rate = jnp.where((count > 1) & ~stuck, fitting, first)
    found = line("barzilai_borwein", as_tree(-rate * g, grads), raw_params, extra)
    dtype, start = found.direction.dtype, found.start
    recent = jnp.roll(slots.recent, 1).at[0].set(start.value.astype(slots.recent.dtype))
    slack = 10 * jnp.finfo(dtype).eps * jnp.abs(start.value)
    ceiling = jnp.max(recent).astype(dtype) + rounding(found, jnp.ones((), dtype), slack)

    c1 = slope_rtol.astype(dtype)

    def attempt(carry):
        t, tries, end, _, nonfinite = carry
        new = found.at(t)
        enough = is_finite(new) & (new.value <= ceiling + c1 * t * start.slope)
        end = pick(enough, new, end)
        return (
            t * decrease_factor.astype(dtype),
            tries + 1,
            end,
            enough,
            nonfinite | ~is_finite(new),
        )

    def unfinished(carry):
        return ~carry[3] & (carry[1] < max_linesearch_steps)

    no = jnp.zeros((), bool)
    begin = jnp.ones((), dtype), jnp.zeros((), jnp.int32), start, ~found.descends, no
    _, tries, end, enough, nonfinite = jax.lax.while_loop(unfinished, attempt, begin)
    failed = ~enough | ~found.descends
    step, memory = remember(slots, found, end, tries, failed, nonfinite)
    return as_tree(step, grads), Secant(x, g, rate, recent, *memory)


def _unknown(history_size: int, params: Params) -> Secant:
    nothing = fresh(params)
    recent = jnp.full(history_size, -jnp.inf, nothing.value.dtype)
    zeros = jnp.zeros_like(derived(as_vector, params))
    rate = jnp.ones_like(nothing.learning_rate)
    return Secant(zeros, jnp.copy(zeros), rate, recent, *nothing)


@checked(slope_rtol=OPEN_UNIT, decrease_factor=OPEN_UNIT, max_linesearch_steps=WHOLE)
def barzilai_borwein(
    kind: str = "adaptive",
    history_size: int = 10,
    *,
    slope_rtol: Scalar = 1e-4,
    decrease_factor: Scalar = 0.25,
    max_linesearch_steps: Scalar = 30,
) -> Optimizer:
    r"""Minimize a smooth function by gradient steps of Barzilai and Borwein's length.

    .. math::

       \eta_{\text{long}} &= \frac{\langle s, s \rangle}{\langle s, y \rangle} \\
       \eta_{\text{short}} &= \frac{\langle s, y \rangle}{\langle y, y \rangle}

    with s and y the last step and the last change of the gradient; "alternate" takes them in turn,
    "adaptive" the short one where it is less than half of the long one. The objective may rise: a
    step is shortened only where it exceeds the largest of the last `history_size` values.

    Good for: exact gradients, with little more memory than gradient descent.

    Evidence: theory. With the nonmonotone search it converges to stationary points of smooth
    functions (Raydan 1997, https://doi.org/10.1137/S1052623494266365).

    Args:
      kind: which length.
      history_size: how many values to compare with, >= 1; 1 is monotone.
      slope_rtol: the share, in (0, 1), of the decrease predicted by the slope that is enough.
      decrease_factor: what a step that is too long is multiplied with, in (0, 1).
      max_linesearch_steps: most evaluations in one update, >= 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters, `value=`, `grad=` and `value_fn=`; see
      `lbfgs`. State: 12 bytes per element.

    Raises:
      ValueError: if a number is out of range, or the kind unknown.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(jnp.array([1.0, 10.0, 100.0]) * (x - 1) ** 2)
      >>> result = gdjax.minimize(fun, jnp.zeros(3), gdjax.barzilai_borwein(), tol=1e-3)
      >>> print(result.params.round(3), bool(result.steps < 30))
      [1. 1. 1.] True
    """
    check_choice("barzilai_borwein(kind=...)", kind, KINDS)
    size = check_integer("barzilai_borwein(history_size=...)", history_size)
    numbers: dict[str, Scalar] = dict(
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        max_linesearch_steps=max_linesearch_steps,
    )
    slots = functools.partial(_unknown, size)
    return treewise(_barzilai_borwein, slots, numbers, name="barzilai_borwein", kind=kind)
