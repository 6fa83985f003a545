"""Bound each unit's gradient by the norm of its weights.

Brock, De, Smith & Simonyan (2021), section 4, https://arxiv.org/abs/2102.06171
Paper -> here: lambda -> clipping, epsilon -> eps. A unit is what feeds one output: all axes of a
kernel but the last one or, for three axes (heads), the last two. Deviations: none.
"""

from __future__ import annotations

from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked, strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, cast, compute_dtype, safe_sqrt
from gdjax.core.types import Hyperparam, Number

Axes: TypeAlias = int | tuple[int, ...] | None


def _unit_axes(shape: tuple[int, ...], axis: Axes) -> Axes:
    if axis is not None:
        axes = [a % len(shape) for a in np.atleast_1d(axis) if -len(shape) <= a < len(shape)]
        if len(set(axes)) < np.size(axis):
            raise ValueError(
                f"unitwise_norm(axis=...) must be distinct axes of the array, of shape "
                f"{list(shape)}, got {axis}. To treat parameters differently, use gdjax.groups."
            )
        return axis
    if sum(n != 1 for n in shape) <= 1:
        return None
    if len(shape) > 5:
        raise ValueError(
            f"unitwise_norm needs axis=(...) for arrays of more than 5 axes, got shape "
            f"{list(shape)}. Pass the axes that lead into one unit."
        )
    return 0 if len(shape) == 3 else tuple(range(len(shape) - 1))


@strict()
def unitwise_norm(x: ArrayLike, axis: Axes = None) -> Array:
    """Return for each element the Euclidean norm of the unit that it belongs to.

    Args:
      x: an array; its norms are taken in at least float32.
      axis: the axes that one unit spans. None depends on the number of axes: a scalar or vector
        (also one with further axes of length 1) is one unit; of 2 or 3 axes the first one is
        spanned (input features); of 4 or 5, all but the last (kernels of convolutions).

    Returns:
      An array shaped like `x`, real, at least float32.

    Raises:
      ValueError: for more than 5 axes without `axis`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unitwise_norm(jnp.array([[3.0, 0.0], [4.0, 2.0]])))
      [[5. 2.]
       [5. 2.]]
    """
    x = jnp.asarray(x)
    x = cast(x, compute_dtype(x))
    total = jnp.sum(abs_sq(x), _unit_axes(x.shape, axis), keepdims=True)
    return jnp.broadcast_to(safe_sqrt(total), x.shape)


@strict()
def unitwise_clip(g_norm: Array, max_norm: Array, grad: Array, div_eps: Number = 1e-6) -> Array:
    """Scale the gradient down where its norm reaches a bound.

    Args:
      g_norm: norm of each element's unit, shaped like `grad`; see `unitwise_norm`.
      max_norm: the largest norm of each element's unit, shaped like `grad`.
      grad: the gradient.
      div_eps: lower bound > 0 of the divisor.

    Example:
      >>> import jax.numpy as jnp
      >>> grad = jnp.array([3.0, 4.0])
      >>> print(unitwise_clip(unitwise_norm(grad), jnp.ones(2), grad))
      [0.6 0.8]
    """
    if not jnp.shape(g_norm) == jnp.shape(max_norm) == jnp.shape(grad):
        raise ValueError(
            "unitwise_clip needs g_norm, max_norm and grad of one shape, got "
            f"{jnp.shape(g_norm)}, {jnp.shape(max_norm)} and {jnp.shape(grad)}."
        )
    return jnp.where(g_norm < max_norm, grad, grad * (max_norm / jnp.maximum(g_norm, div_eps)))


def _adaptive_grad_clip(grad, slots, param, count, *, clipping, eps, axis):
    if param is None:
        raise ValueError(f"adaptive_grad_clip needs {NEEDS_PARAMS}")
    bound = clipping * jnp.maximum(unitwise_norm(param, axis), eps)
    return unitwise_clip(unitwise_norm(grad, axis), bound, grad), slots


@checked(clipping=NONNEGATIVE)
def adaptive_grad_clip(
    clipping: Hyperparam, eps: Hyperparam = 1e-3, axis: Axes = None
) -> Optimizer:
    r"""Scale each unit's gradient down to at most `clipping` times the norm of its weights.

    For each unit, such as the weights into one neuron:

    .. math::

       g \leftarrow g\, \min\left( 1,\;
       \frac{c\, \max(\lVert x \rVert, \epsilon)}{\lVert g \rVert} \right)

    The paper excludes the last layer.

    Args:
      clipping: :math:`c` >= 0, the largest ratio of a gradient to its weights, in the paper 0.01 to
        0.16 for large batches: a number, schedule or prefix tree.
      eps: :math:`\epsilon` >= 0, lower bound of the norm of the weights, so that weights at zero
        can move.
      axis: the axes that one unit spans; see `unitwise_norm`.

    Returns:
      An `Optimizer` without slots; its `update` needs the parameters.

    Raises:
      ValueError: if a concrete number is out of range; for parameters of more than 5 axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adaptive_grad_clip(0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(jnp.array([8.0, 6.0]), opt.init(params), params)[0])
      [0.4 0.3]
    """
    axis = tuple(axis) if isinstance(axis, list) else axis
    return leafwise(_adaptive_grad_clip, None, dict(clipping=clipping, eps=eps), axis=axis)
