"""Parts of schedules: the remaining fraction of a transition, and shapes over that fraction.

The fraction `left` in [0, 1] is computed from the end, as (end - count) / steps, so that the last
steps of a decay to zero are accurate to rounding, also in a run of a million steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.hyper import Schedule
from gdjax.core.numerics import safe_sqrt, scalar_dtype
from gdjax.core.types import Number

Leaf: TypeAlias = Array  # a number of a schedule: an array, or a float before it is in a state


def numbers(*values: Any) -> Iterator[Any]:
    """Convert Python and NumPy numbers to floats, since integers may not fit into 32 bits."""
    for x in values:
        if callable(x):
            raise TypeError(
                f"the numbers of a schedule must be numbers or arrays, got {x!r}. To run one "
                "schedule after the other use join_schedules."
            )
        if x is None or isinstance(x, jax.Array):
            yield x
        else:
            yield np.asarray(x, np.float64) if np.ndim(x) else float(x)


def check_order(factory: str, early: str, low: Number, late: str, high: Number, hint: str) -> None:
    """Raise unless `low <= high`, where both are concrete."""
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{factory}({late}=...) must be >= {early}={low}, got {high}. {hint}")


def real(x: Number | Later) -> Array:
    """Return a count or a number as an array of at least float32."""
    if isinstance(x, Later):
        return since(x)
    return jnp.asarray(x, scalar_dtype())


LARGEST = 2**31 - 128  # the largest int32 that float32 has


class WholeCounts(Schedule):
    """Base of the schedules that compare or divide counts; they take `Later` as well."""


class Later(NamedTuple):
    """The count of a schedule that begins at `begin`, not subtracted yet, which would round it."""

    count: Array  # an integer
    begin: Array


def since(count: Number | Later, begin: Number = 0.0) -> Array:
    """Return count - begin, rounded once: in integers if the count is one, at any size.

    So a count past 2**24, which float32 has not, is on the right side of `begin`.
    """
    if isinstance(count, Later):
        count, begin = count.count, count.begin + begin
    begin = real(begin)
    n = as_integer(count)
    if n is None:
        return real(count) - begin
    whole = jax.lax.stop_gradient(jnp.clip(jnp.floor(begin), 0, LARGEST))
    return real(n - whole.astype(n.dtype)) - (begin - whole)


def laps(count: Number | Later, period: Number, begin: Number = 0.0) -> tuple[Array, Array]:
    """Return how often the period > 0 fits into count - begin, and the rest, for count >= begin.

    In integers, without rounding, if they are whole and the count is an integer.
    """
    if isinstance(count, Later):
        count, begin = count.count, count.begin + begin
    period, begin = real(period), real(begin)
    n = as_integer(count)
    turns, rest = jnp.divmod(since(count, begin), period)
    if n is None:
        return turns, rest
    length, first = (jax.lax.stop_gradient(jnp.round(x)) for x in (period, begin))
    whole = (length == period) & (first == begin) & (length >= 1)
    m = n - jnp.clip(first, 0, LARGEST).astype(n.dtype)
    k, r = jnp.divmod(m, jnp.clip(length, 1, LARGEST).astype(n.dtype))
    moved = real(k) * (period - length) + (begin - first)  # 0, with the right derivative
    return jnp.where(whole, real(k), turns), jnp.where(whole, real(r) - moved, rest)


def as_integer(count: Number) -> Array | None:
    """Return an integer count as one of at least 32 bits; None for any other."""
    if isinstance(count, int) and not -(2**31) <= count < 2**31:
        return None
    n = jnp.asarray(count)
    if not jnp.issubdtype(n.dtype, jnp.integer):
        return None
    return n if n.dtype == jnp.int64 else n.astype(jnp.int32)


def fraction_left(count: Number, steps: Number, begin: Number = 0.0) -> Array:
    """Return the remaining fraction: 1 until `begin`, 0 from `begin + steps` on."""
    steps, begin = real(steps), real(begin)
    some = steps > 0
    share = jnp.clip(-since(count, begin + steps) / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(since(count, begin) < 0, 1.0, 0.0))


def fraction_done(count: Number, steps: Number, begin: Number = 0.0) -> Array:
    """Return `1 - fraction_left(...)`, accurate to rounding at the start of the transition."""
    steps, after = real(steps), since(count, begin)
    some = steps > 0
    share = jnp.clip(after / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(after < 0, 0.0, 1.0))


def line(start: Leaf, end: Leaf, count: Number, steps: Number, begin: Number = 0.0) -> Array:
    """Return the value on the straight line from `start` to `end`, exact at both."""
    return start * fraction_left(count, steps, begin) + end * fraction_done(count, steps, begin)


def blend(start: Leaf | float, end: Leaf | float, left: Array) -> Array:
    """Interpolate linearly between `start`, where `left` is 1, and `end`, where it is 0."""
    return start * left + end * (1 - left)


def power(base: Array, exponent: Leaf) -> Array:
    """Return base**exponent for base >= 0, with finite derivatives at base 0."""
    positive = base > 0
    inside = jnp.where(positive, base, 1.0) ** exponent
    return jnp.where(positive, inside, jnp.where(real(exponent) == 0, 1.0, 0.0))


def cosine(left: Array) -> Array:
    """Return (1 + cos(pi * (1 - left))) / 2, as a square, which avoids cancellation."""
    return jnp.sin(jnp.pi / 2 * left) ** 2


def one_minus_sqrt(left: Array, done: Array) -> Array:
    """Return 1 - sqrt(done), without cancellation; left = 1 - done."""
    return left / (1 + safe_sqrt(done))


def rex(left: Array) -> Array:
    """Return left / (1/2 + left/2)."""
    return 2 * left / (1 + left)
