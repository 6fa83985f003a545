"""Distances between real-valued predictions and targets."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, checked, strict
from gdjax.core.numerics import product, with_value
from gdjax.core.types import Number
from gdjax.losses.inputs import (
    Axis,
    broadcast,
    check_same_shape,
    constant_scale,
    masked,
    number,
    read,
    read_axes,
    read_mask,
)


@strict()
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return the squared error, element by element.

    .. math::

       e^2, \qquad e = \text{prediction} - \text{target}

    Args:
      predictions: float array of any shape.
      targets: real array of the same shape; None means zeros.

    Returns:
      The squares, shaped like `predictions`. Their mean is `mean_squared_error`.

    Raises:
      TypeError: if `predictions` is not float.
      ValueError: if the shapes differ. Nothing is broadcast, since [n, 1] against [n] is a common
        mistake.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.squared_error(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.5])))
      [4.   0.25]
    """
    return _error("squared_error", predictions, targets, strict=True) ** 2


@strict()
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return half of `squared_error`, whose gradient is the error itself.

    .. math::

       \tfrac12 e^2

    Args:
      predictions: float array of any shape.
      targets: real array of the same shape; None means zeros.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.l2_loss(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.5])))
      [2.    0.125]
    """
    return 0.5 * _error("l2_loss", predictions, targets, strict=True) ** 2


@strict()
def mean_squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return the mean of `squared_error` over all elements: one number, without a factor 1/2.

    .. math::

       \frac 1 n \sum_{i=1}^n e_i^2

    This is what most regressions minimize and report; the elementwise losses leave the mean to the
    caller. The mean of half-precision predictions is computed in float32.

    Args:
      predictions: float array of any shape, not empty.
      targets: real array of the same shape; None means zeros.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.5])))
      2.125
    """
    return jnp.mean(_error("mean_squared_error", predictions, targets, strict=True) ** 2)


@checked(delta=NONNEGATIVE)
def huber_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: Number = 1.0
) -> Array:
    r"""Return a loss that is quadratic for errors up to `delta` and linear for larger ones.

    .. math::

       \begin{cases} \tfrac12 e^2 & |e| \le \delta \\
       \delta\, (|e| - \tfrac12 \delta) & \text{else} \end{cases}

    Its gradient is the error clipped to [-delta, delta].

    Args:
      predictions: float array of any shape.
      targets: real array that broadcasts with `predictions`; None means zeros.
      delta: :math:`\delta` >= 0, the bound on the magnitude of the gradient.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.huber_loss(jnp.array([0.5, -3.0])))
      [0.125 2.5  ]

    References:
      Huber (1964), "Robust estimation of a location parameter".
    """
    errors = _error("huber_loss", predictions, targets)
    delta = number(delta, errors)
    excess = jnp.maximum(jnp.abs(errors) - delta, 0)
    return 0.5 * jnp.clip(errors, -delta, delta) ** 2 + product(delta, excess)


@strict()
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    r"""Return the logarithm of the hyperbolic cosine of the error, a smooth loss.

    .. math::

       \log \cosh e

    It is about :math:`e^2 / 2` near 0 and :math:`|e| - \log 2` for large errors. It is accurate for
    small errors (optax's form returns 0 for a float32 error of 1e-4).

    Args:
      predictions: float array of any shape.
      targets: real array that broadcasts with `predictions`; None means zeros.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.log_cosh(jnp.array([0.0, 1.0, -1e4])))
      [   0.        0.4338 9999.307 ]

    References:
      Chen et al. (2019), https://openreview.net/pdf?id=rkglvsC9Ym
    """
    errors = _error("log_cosh", predictions, targets)
    small = jnp.abs(errors) < 1
    near = jnp.log1p(2 * jnp.sinh(jnp.where(small, errors, 0) / 2) ** 2)
    size = jnp.abs(jnp.where(small, 1, errors))
    return jnp.where(small, near, size + jnp.log1p(jnp.exp(-2 * size)) - math.log(2))


@checked(epsilon=NONNEGATIVE)
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: Number = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return the cosine of the angle between vectors.

    .. math::

       \frac{a^\top b}{\sqrt{\max(\lVert a \rVert^2, \epsilon)}
       \sqrt{\max(\lVert b \rVert^2, \epsilon)}}

    A vector of norm zero has similarity 0 with every vector, and gradient 0 (optax: NaN). Vectors
    may have any finite length; one with an infinite component has no direction: NaN.

    Args:
      predictions: float array [..., dim].
      targets: float array [..., dim].
      epsilon: :math:`\epsilon` >= 0, lower bound on the *squared* norms, as in optax's code (its
        documentation says "norm").
      axis: axis or axes of the vectors; None means all.
      where: boolean mask that broadcasts to the arrays: the components to include.

    Returns:
      Values in [-1, 1], with the shape of the arrays without `axis`.

    Raises:
      TypeError: if an array is not float, or `where` not boolean.
      ValueError: if shapes do not fit or `axis` is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> a, b = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[1.0, 1.0], [1.0, 1.0]])
      >>> print(gdjax.cosine_similarity(a, b))
      [0.7071 0.    ]
    """
    (a, _), (b, _), axes = _units("cosine_similarity", predictions, targets, epsilon, axis, where)
    cosine = jnp.sum(a * b, axis=axes)
    return with_value(cosine, jnp.clip(cosine, -1, 1))


@checked(epsilon=NONNEGATIVE)
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: Number = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return 1 - `cosine_similarity`, in [0, 2].

    Args:
      predictions: see `cosine_similarity`, also for the other arguments.
      targets: see `cosine_similarity`.
      epsilon: see `cosine_similarity`.
      axis: see `cosine_similarity`.
      where: see `cosine_similarity`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.cosine_distance(jnp.array([1.0, 0.0]), jnp.array([-2.0, 0.0])))
      2.0
    """
    (a, less), (b, short), axes = _units(
        "cosine_distance", predictions, targets, epsilon, axis, where
    )
    # 1 - a b = (|a - b|^2 + (1 - |a|^2) + (1 - |b|^2)) / 2: no digits are lost for small angles
    distance = 0.5 * (jnp.sum((a - b) ** 2, axis=axes) + less + short)
    return with_value(distance, jnp.clip(distance, 0, 2))


def _error(call, predictions, targets, strict=False):
    if targets is None:
        return read(call, {"predictions": predictions})[0]
    predictions, targets = read(call, {"predictions": predictions}, {"targets": targets})
    if strict:
        check_same_shape(call, predictions=predictions, targets=targets)
    else:
        predictions, targets = broadcast(call, predictions=predictions, targets=targets)
    return predictions - targets


def _units(call, predictions, targets, epsilon, axis, where):
    """Return both arrays as `_unit`, and the axes of the vectors."""
    a, b = read(call, {"predictions": predictions, "targets": targets})
    a, b = broadcast(call, predictions=a, targets=b)
    axes = read_axes(call, axis, a.ndim)
    mask = read_mask(call, where, a.shape)
    a, b = (_unit(masked(x, mask), axes, number(epsilon, x)) for x in (a, b))
    return a, b, axes


def _unit(x, axes, epsilon):
    """Return vectors divided by their norms, and 1 - |these|^2, which is 0 above `epsilon`.

    They are divided by a constant first, so that no square overflows or underflows.
    """
    least = jnp.sqrt(epsilon)
    scale = constant_scale(jnp.abs(x), axes, least)
    y = x / scale
    norm_sq, least_sq = jnp.sum(y * y, axis=axes, keepdims=True), (least / scale) ** 2
    short = norm_sq <= least_sq
    divisor = jnp.where(short, least_sq, norm_sq)
    zero = divisor == 0  # a vector of norm 0 and no lower bound
    divisor = jnp.where(zero, 1, divisor)
    less = jnp.where(short, 1 - jnp.where(zero, 0, norm_sq) / divisor, 0)
    return jnp.where(zero, 0, y / jnp.sqrt(divisor)), jnp.squeeze(less, axes)
