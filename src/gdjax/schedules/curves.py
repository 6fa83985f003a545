"""What schedules are made of: how much of the way is left, and shapes over that share.

Shares are counted from the end, `left` in [0, 1], as (end - count) / steps: the last steps of a
decay to zero are then right to rounding, also in a run of a million steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.numerics import safe_sqrt, scalar_dtype


def numbers(*values: Any) -> Iterator[Any]:
    """Turn Python and NumPy numbers into floats, since integers may not fit into 32 bits."""
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


def check_order(factory: str, early: str, low: Any, late: str, high: Any, hint: str) -> None:
    """Raise unless `low <= high`, where both are concrete."""
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{factory}({late}=...) must be >= {early}={low}, got {high}. {hint}")


def real(x: Any) -> Array:
    """Return a count or a number as an array of at least float32."""
    return jnp.asarray(x, scalar_dtype())


def way_left(count: Any, steps: Any, begin: Any = 0.0) -> Array:
    """Return the share of the way that is left: 1 until `begin`, 0 from `begin + steps` on."""
    count, steps, begin = real(count), real(steps), real(begin)
    some = steps > 0
    share = jnp.clip((begin + steps - count) / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(count < begin, 1.0, 0.0))


def way_done(count: Any, steps: Any, begin: Any = 0.0) -> Array:
    """Return `1 - way_left(...)`, right to rounding at the start of the way."""
    count, steps, begin = real(count), real(steps), real(begin)
    some = steps > 0
    share = jnp.clip((count - begin) / jnp.where(some, steps, 1.0), 0.0, 1.0)
    return jnp.where(some, share, jnp.where(count < begin, 0.0, 1.0))


def line(start: Any, end: Any, count: Any, steps: Any, begin: Any = 0.0) -> Array:
    """Return the value on the straight line from `start` to `end`, exact at both."""
    return start * way_left(count, steps, begin) + end * way_done(count, steps, begin)


def blend(start: Any, end: Any, left: Array) -> Array:
    """Return `start` where `left` is 1, `end` where it is 0, and in between what lies between."""
    return start * left + end * (1 - left)


def power(base: Array, exponent: Any) -> Array:
    """Return base**exponent for base >= 0, with finite derivatives at base 0."""
    positive = base > 0
    inside = jnp.where(positive, base, 1.0) ** exponent
    return jnp.where(positive, inside, jnp.where(real(exponent) == 0, 1.0, 0.0))


def cosine(left: Array) -> Array:
    """Return (1 + cos(pi * (1 - left))) / 2, which is a square, without its cancellation."""
    return jnp.sin(jnp.pi / 2 * left) ** 2


def one_minus_sqrt(left: Array) -> Array:
    """Return 1 - sqrt(1 - left), without its cancellation."""
    return left / (1 + safe_sqrt(1 - left))


def rex(left: Array) -> Array:
    """Return left / (1/2 + left/2)."""
    return 2 * left / (1 + left)


def linear(left: Array) -> Array:
    """Return `left`."""
    return left
