"""Parts of schedules: the remaining fraction of a transition, and shapes over that fraction.

The fraction `left` in [0, 1] is computed from the end, as (end - count) / steps, so that the last
steps of a decay to zero are accurate to rounding, also in a run of a million steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

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


def real(x: Number) -> Array:
    """Return a count or a number as an array of at least float32."""
    return jnp.asarray(x, scalar_dtype())


def fraction_left(count: Number, steps: Number, begin: Number = 0.0) -> Array:
    """Return the remaining fraction: 1 until `begin`, 0 from `begin + steps` on."""
    count, steps, begin = real(count), real(steps), real(begin)
    some = steps > 0
    share = jnp.clip((begin + steps - count) / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(count < begin, 1.0, 0.0))


def fraction_done(count: Number, steps: Number, begin: Number = 0.0) -> Array:
    """Return `1 - fraction_left(...)`, accurate to rounding at the start of the transition."""
    count, steps, begin = real(count), real(steps), real(begin)
    some = steps > 0
    share = jnp.clip((count - begin) / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(count < begin, 0.0, 1.0))


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


def one_minus_sqrt(left: Array) -> Array:
    """Return 1 - sqrt(1 - left), without cancellation."""
    return left / (1 + safe_sqrt(1 - left))


def rex(left: Array) -> Array:
    """Return left / (1/2 + left/2)."""
    return 2 * left / (1 + left)


def linear(left: Array) -> Array:
    """Return `left`."""
    return left
