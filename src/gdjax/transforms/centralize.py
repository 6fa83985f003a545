"""Gradient centralization: subtract the mean over all axes but the first from each gradient.

Yong, Huang, Hua & Zhang (2020), equation 1, https://arxiv.org/abs/2004.01461
Deviations: none. With JAX's layout (inputs first) the mean is over the outputs, as in optax.
"""

from __future__ import annotations

from gdjax.core.base import Optimizer
from gdjax.core.lift import leafwise
from gdjax.core.numerics import mean_to


def _centralize(grad, slots, param, count):
    if grad.ndim < 2:
        return grad, slots
    return grad - mean_to(grad, (grad.shape[0], *(1,) * (grad.ndim - 1))), slots


def centralize() -> Optimizer:
    r"""Subtract from each row of a matrix, or slice along the first axis, its mean.

    .. math::

       g_i \leftarrow g_i - \operatorname{mean}(g_i)

    Scalars and vectors do not change.

    Returns:
      An `Optimizer` without slots.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.centralize()
      >>> grads = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
      >>> print(opt.update(grads, opt.init(grads))[0])
      [[-1.  0.  1.]
       [-2. -1.  3.]]
    """
    return leafwise(_centralize)
