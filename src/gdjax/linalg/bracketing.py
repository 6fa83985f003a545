"""Roots in brackets by Chandrupatla's method, for arrays of independent equations.

Chandrupatla (1997), https://doi.org/10.1016/S0965-9978(96)00051-8: inverse quadratic interpolation
where the last three points say that it can be trusted, bisection elsewhere.
Paper -> here: x1 -> new, x2 -> across, x3 -> last, t -> share.
Deviations, for roots at 0 or many orders of magnitude below the ends: 0 is tried as soon as one end
is negligible next to the other; after as many steps as the dtype has bits, the bracket is halved by
the number of floating-point numbers in it, which ends after as many steps again, not a thousand.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.tree.arithmetic import where


class Outcome(enum.IntEnum):
    """How the search for one root ended."""

    RUNNING = -1
    FOUND = 0
    NONFINITE = 1  # an end is not finite, or the function is NaN or infinite at the best point
    SAME_SIGN = 2  # the function has the same sign at both ends


class Point(NamedTuple):
    """A number, and the function there."""

    x: Array
    f: Array


class Carry(NamedTuple):
    """What the loop carries from step to step, for each equation."""

    new: Point  # the last evaluated
    across: Point  # the other end of the bracket
    last: Point  # the one before
    steps: Array  # int32
    outcome: Array  # an `Outcome`, int32


def best(c: Carry) -> Point:
    """Return the end of each bracket where the function is smaller in magnitude."""
    worse = jnp.isnan(c.new.f) | (jnp.abs(c.across.f) < jnp.abs(c.new.f))
    return where(worse, c.across, c.new)


def _near(c: Carry, tol: Array) -> Array:
    """Return the distance that counts as none, half the width of a bracket that is narrow."""
    x, info = best(c).x, jnp.finfo(tol.dtype)
    return 0.5 * tol + info.eps * jnp.abs(x) + info.tiny


def _share(c: Carry) -> Array:
    """Return where an inverse parabola through three points is 0, from `new`, 0, to `across`, 1."""
    (x1, f1), (x2, f2), (x3, f3) = c.new, c.across, c.last
    xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
    slopes = f1 / (f2 - f1) * f3 / (f2 - f3)
    share = slopes + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
    trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & jnp.isfinite(share)
    return jnp.where(trusted, share, 0.5).astype(x1.dtype)


def _middle(a: Array, b: Array) -> Array:
    """Return a number between a and b with as many floating-point numbers on either side."""
    signed = np.dtype(f"int{8 * a.dtype.itemsize}")
    most = np.iinfo(signed).max

    def turned(i):  # from bits to ranks and back: those of negative numbers run the other way
        return jnp.where(i < 0, i ^ most, i)

    i, j = (turned(jax.lax.bitcast_convert_type(x, signed)) for x in (a, b))
    return jax.lax.bitcast_convert_type(turned((i & j) + ((i ^ j) >> 1)), a.dtype)


def _next(c: Carry, tol: Array) -> Array:
    """Return the next number to try."""
    a, b, info = c.new.x, c.across.x, jnp.finfo(tol.dtype)
    near, share = _near(c, tol), _share(c)
    x = (1 - share) * a + share * b
    x = jnp.clip(x, jnp.minimum(a, b) + near, jnp.maximum(a, b) - near)
    x = jnp.where(c.steps < info.bits, x, _middle(a, b))
    small, large = jnp.minimum(jnp.abs(a), jnp.abs(b)), jnp.maximum(jnp.abs(a), jnp.abs(b))
    zero = (jnp.sign(a) == -jnp.sign(b)) & (small < info.eps * large)  # to be found, or ruled out
    return jnp.where(c.outcome < 0, jnp.where(zero, 0, x), a)


def _outcome(c: Carry, tol: Array) -> Array:
    end, width = best(c), jnp.abs(c.across.x - c.new.x)
    narrow = 0.5 * width <= _near(c, tol)
    outcome = jnp.where(narrow, Outcome.FOUND, Outcome.RUNNING)
    outcome = jnp.where(narrow & jnp.isinf(end.f), Outcome.NONFINITE, outcome)
    return jnp.where(end.f == 0, Outcome.FOUND, outcome).astype(jnp.int32)


def _outcome_at_start(c: Carry, tol: Array) -> Array:
    same = jnp.sign(c.new.f) == jnp.sign(c.across.f)
    outcome = jnp.where(same & (best(c).f != 0), Outcome.SAME_SIGN, _outcome(c, tol))
    known = ~jnp.isnan(c.new.f) & ~jnp.isnan(c.across.f)
    known &= jnp.isfinite(c.new.x) & jnp.isfinite(c.across.x)
    return jnp.where(known, outcome, Outcome.NONFINITE).astype(jnp.int32)


def bracketed_root(fun: Callable[[Array], Array], lower: Array, upper: Array, tol: Array) -> Carry:
    """Return the last brackets of fun(x) = 0, where each element of `fun` is one equation.

    Args:
      fun: a function of an array, elementwise, to one of the same shape and float dtype.
      lower: one end of each bracket.
      upper: the other end, of the same shape and dtype.
      tol: the largest distance to the root >= 0, of the same shape and dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = jnp.array([2.0, 9.0])
      >>> lower, upper = jnp.zeros(2), jnp.full(2, 9.0)
      >>> print(best(bracketed_root(lambda x: x**2 - squares, lower, upper, jnp.zeros(2))).x)
      [1.4142 3.    ]
    """

    def step(c: Carry) -> Carry:
        x = _next(c, tol)
        new = Point(x, fun(x))
        beyond = jnp.sign(new.f) != jnp.sign(c.new.f)  # the root lies between the last two
        across, last = where(beyond, (c.new, c.across), (c.across, c.new))
        moved = Carry(new, across, last, c.steps + 1, c.outcome)
        moved = moved._replace(outcome=_outcome(moved, tol))
        lost = c._replace(steps=moved.steps, outcome=jnp.full_like(c.outcome, Outcome.NONFINITE))
        return where(c.outcome < 0, where(jnp.isnan(new.f), lost, moved), c)

    new, across = Point(lower, fun(lower)), Point(upper, fun(upper))
    zero = jnp.zeros(lower.shape, jnp.int32)
    start = Carry(new, across, across, zero, zero)
    start = start._replace(outcome=_outcome_at_start(start, tol))
    return jax.lax.while_loop(lambda c: jnp.any(c.outcome < 0), step, start)
