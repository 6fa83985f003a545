"""Multiply the updates of each array by the size of its parameters."""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, root_mean_sq, safe_sqrt
from gdjax.core.types import Hyperparam


def _scale_by_param_block_norm(grad, slots, param, count, *, min_scale):
    if param is None:
        raise ValueError(f"scale_by_param_block_norm needs {NEEDS_PARAMS}")
    return jnp.maximum(safe_sqrt(jnp.sum(abs_sq(param))), min_scale) * grad, slots


@checked(min_scale=NONNEGATIVE)
def scale_by_param_block_norm(min_scale: Hyperparam = 1e-3) -> Optimizer:
    r"""Multiply each array of updates by the norm of its parameters.

    .. math::

       u \leftarrow \max(\lVert x \rVert,\; s)\, u

    Args:
      min_scale: :math:`s`, the smallest factor, >= 0: a number, schedule or prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_param_block_norm()
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(jnp.array([1.0, 0.1]), opt.init(params), params)[0])
      [5.  0.5]
    """
    return leafwise(_scale_by_param_block_norm, None, dict(min_scale=min_scale))


def _scale_by_param_block_rms(grad, slots, param, count, *, min_scale):
    if param is None:
        raise ValueError(f"scale_by_param_block_rms needs {NEEDS_PARAMS}")
    return jnp.maximum(root_mean_sq(param), min_scale) * grad, slots


@checked(min_scale=NONNEGATIVE)
def scale_by_param_block_rms(min_scale: Hyperparam = 1e-3) -> Optimizer:
    r"""Multiply each array of updates by the root-mean-square of its parameters.

    .. math::

       u \leftarrow \max(\operatorname{rms}(x),\; s)\, u

    Args:
      min_scale: :math:`s`, the smallest factor, >= 0: a number, schedule or prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_param_block_rms()
      >>> params = jnp.array([2.0, -2.0])
      >>> print(opt.update(jnp.array([1.0, 0.1]), opt.init(params), params)[0])
      [2.  0.2]
    """
    return leafwise(_scale_by_param_block_rms, None, dict(min_scale=min_scale))
