"""Steps as long as the way so far over the gradients so far, array by array.

Ivgi, Hinder & Carmon (2023), Algorithm 1, layer-wise, https://arxiv.org/abs/2302.12022
Paper -> here: r_eps -> reps_rel * (1 + |x_0|), rbar -> max_dist, G -> grad_sum_of_squares.
`l_dog` is the same method as an optimizer with the paper's defaults; this is optax's transform.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, POSITIVE, checked
from gdjax.core.lift import NEEDS_PARAMS, leafwise
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, safe_sqrt


class Distance(NamedTuple):
    """What is remembered of one parameter."""

    max_dist: Array  # largest distance from the beginning so far, a real scalar
    grad_sum_of_squares: Array  # of all gradients so far, a real scalar
    init_params: Array  # the parameter at the beginning


def _norm(x):
    return safe_sqrt(jnp.sum(abs_sq(x)))


def _scale_by_distance_over_gradients(grad, slots, param, count, *, reps_rel, eps, global_scale):
    if param is None:
        raise ValueError(f"scale_by_distance_over_gradients needs {NEEDS_PARAMS}")
    begin = slots.init_params
    least = reps_rel * (1 + _norm(begin))  # at the first step max_dist is 0
    distance = jnp.maximum(jnp.maximum(slots.max_dist, least), _norm(param - begin))
    total = slots.grad_sum_of_squares + jnp.sum(abs_sq(grad))
    rate = global_scale * distance / safe_sqrt(total + eps)
    return rate * grad, Distance(distance, total, begin)


def _begin(param, param_dtype) -> Distance:
    dtype = compute_dtype(param) if jnp.iscomplexobj(param) else param_dtype
    zero = jnp.zeros((), real_dtype(compute_dtype(param)))
    return Distance(zero, jnp.copy(zero), jnp.array(param, dtype, copy=True))


@checked(reps_rel=POSITIVE, global_scale=FINITE)
def scale_by_distance_over_gradients(
    reps_rel: Any = 1e-6, eps: Any = 1e-8, param_dtype: Any = jnp.float32, global_scale: Any = 1.0
) -> Optimizer:
    """Multiply each gradient by the distance travelled over the root of all squared gradients.

    global_scale * max_dist / sqrt(sum |g|^2 + eps) * g, separately for each parameter array, where
    max_dist is at least reps_rel * (1 + |param_0|). The authors evaluate with an average of the
    parameters: `polynomial_average`.

    Args:
      reps_rel: first distance > 0, relative: 1e-4 with batch normalization, else 1e-6. This and
        the other numbers may be schedules or prefix trees.
      eps: added to the sum, >= 0.
      param_dtype: dtype in which the first parameters are kept.
      global_scale: factor, -1 to descend.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes per element and two
      numbers per array.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_distance_over_gradients(reps_rel=0.1, global_scale=-1.0)
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(jnp.array([0.0, 9.0]), opt.init(params), params)[0])
      [-0.  -0.6]
    """
    numbers = dict(reps_rel=reps_rel, eps=eps, global_scale=global_scale)
    slots = functools.partial(_begin, param_dtype=param_dtype)
    return leafwise(_scale_by_distance_over_gradients, slots, numbers)
