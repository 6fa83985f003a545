"""Piecewise schedules: constants, or lines or cosines between given values."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, check_choice, check_range, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Later,
    Leaf,
    WholeCounts,
    blend,
    cosine,
    fraction_left,
    line,
    numbers,
    real,
    since,
)


@schedule
class PiecewiseConstant(WholeCounts):
    """A value with jumps; see `piecewise_constant_schedule`.

    Attributes:
      init_value: the first value.
      boundaries: a tuple of counts, in order.
      scales: a tuple of factors, one for each boundary.
    """

    lengths: ClassVar[tuple[str, ...]] = ("boundaries",)
    init_value: Leaf
    boundaries: tuple[Any, ...]
    scales: tuple[Any, ...]

    def __call__(self, count: Number | Later) -> Array:
        """Return the value at `count`."""
        value = real(self.init_value) * jnp.ones_like(real(count))
        for begin, scale in zip(self.boundaries, self.scales, strict=True):
            value = value * jnp.where(since(count, begin) >= 0, scale, 1.0)
        return value


@schedule
class PiecewiseInterpolate(WholeCounts):
    """Values with transitions between them; see `piecewise_interpolate_schedule`.

    The attributes are those of `PiecewiseConstant`, and the shape.
    """

    lengths: ClassVar[tuple[str, ...]] = ("boundaries",)
    init_value: Leaf
    boundaries: tuple[Any, ...]
    scales: tuple[Any, ...]
    interpolate_type: str = dataclasses.field(metadata={"static": True})

    def __call__(self, count: Number | Later) -> Array:
        """Return the value at `count`."""
        values = itertools.accumulate((self.init_value, *self.scales), _product)
        return interpolate(tuple(values), self.boundaries, SHAPES[self.interpolate_type], count)


def _product(a: Leaf, b: Leaf) -> Leaf:
    return a * b  # outside a state these are floats, in double precision


def interpolate(
    values: Sequence, boundaries: Sequence, shape: Callable, count: Number | Later
) -> Array:
    """Return the value at `count` of a curve through `values` at 0 and at each boundary."""
    value = real(values[0]) * jnp.ones_like(real(count))
    begin = real(0.0)
    for i, end in enumerate(map(real, boundaries)):
        here = shape(values[i], values[i + 1], count, end - begin, begin)
        value = jnp.where(since(count, begin) >= 0, here, value)
        begin = end
    return value


def wave(start: Leaf, end: Leaf, count: Number, steps: Number, begin: Number) -> Array:
    """Return the value on half a cosine wave from `start` to `end`."""
    return blend(start, end, cosine(fraction_left(count, steps, begin)))


SHAPES = {"linear": line, "cosine": wave}


@checked(init_value=FINITE, boundaries=NONNEGATIVE, scales=NONNEGATIVE)
def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, Number] | None = None
) -> Schedule:
    r"""Multiply by a factor at given steps, and stay constant in between.

    .. math::

       s(t) = s_0 \prod_{i:\, b_i \le t} f_i

    Args:
      init_value: :math:`s_0`, the first value, finite.
      boundaries_and_scales: :math:`b_i \to f_i`, count >= 0 -> factor >= 0 by which the value is
        multiplied from that count on; factors accumulate. None is a constant.

    Returns:
      A `Schedule` with the leaves `init_value`, `boundaries` and `scales`.

    Raises:
      ValueError: if a concrete number is out of range.
      TypeError: if `boundaries_and_scales` is not a mapping.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.piecewise_constant_schedule(1.0, {2: 0.5, 4: 0.1})(jnp.arange(6)))
      [1.   1.   0.5  0.5  0.05 0.05]
    """
    boundaries, scales = _points("piecewise_constant_schedule", boundaries_and_scales)
    (first,) = numbers(init_value)
    return PiecewiseConstant(first, boundaries, scales)


@checked(init_value=FINITE, boundaries=NONNEGATIVE, scales=NONNEGATIVE)
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Number,
    boundaries_and_scales: Mapping[int, Number] | None = None,
) -> Schedule:
    r"""Interpolate between values that are reached at given steps.

    Straight lines or half cosine waves connect

    .. math::

       s(0) = s_0, \qquad s(b_i) = s_0 \prod_{j \le i} f_j

    After the last boundary the value is constant.

    Args:
      interpolate_type: how to interpolate: "linear" or "cosine".
      init_value: :math:`s_0`, value at count 0, finite.
      boundaries_and_scales: :math:`b_i \to f_i`, count >= 0 -> factor >= 0. The value at a boundary
        is the one at the previous boundary times its factor. None is a constant.

    Returns:
      A `Schedule` with the leaves `init_value`, `boundaries` and `scales`.

    Raises:
      ValueError: if a concrete number is out of range or the shape is unknown.
      TypeError: if `boundaries_and_scales` is not a mapping.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> rise_and_fall = {2: 5.0, 4: 0.1}
      >>> print(gdjax.piecewise_interpolate_schedule("linear", 1.0, rise_and_fall)(jnp.arange(6)))
      [1.   3.   5.   2.75 0.5  0.5 ]
    """
    name = "piecewise_interpolate_schedule"
    check_choice(f"{name}(interpolate_type=...)", interpolate_type, SHAPES)
    boundaries, scales = _points(name, boundaries_and_scales)
    (first,) = numbers(init_value)
    return PiecewiseInterpolate(first, boundaries, scales, interpolate_type)


def _points(factory: str, points: Mapping[int, Number] | None) -> tuple[tuple, tuple]:
    """Return boundaries and scales, checked and in order."""
    what = f"{factory}(boundaries_and_scales=...)"
    if points is not None and not isinstance(points, Mapping):
        raise TypeError(f"{what} must be a mapping of counts to factors, got {points!r}.")
    points = dict(sorted((points or {}).items()))
    for boundary, scale in points.items():
        check_range(f"{what}: the boundary {boundary!r}", boundary, NONNEGATIVE)
        check_range(f"{what}: the scale at {boundary!r}", scale, NONNEGATIVE)
    return tuple(numbers(*points)), tuple(numbers(*points.values()))
