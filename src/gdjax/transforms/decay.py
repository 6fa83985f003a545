"""Weight decay as a transform, and masks that say which leaves decay."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, checked, strict
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.types import Hyperparam, Mask, Params, PyTree


def _add_decayed_weights(grad, slots, param, count, *, weight_decay):
    if weight_decay is None:
        return grad, slots
    return grad + weight_decay * param, slots


@checked(weight_decay=FINITE)
def add_decayed_weights(weight_decay: Hyperparam | None = 0.0, mask: Mask = None) -> Optimizer:
    r"""Add the parameters times a number: before an optimizer this is L2 regularization.

    .. math::

       g \leftarrow g + \lambda x

    Args:
      weight_decay: :math:`\lambda` >= 0: a number, schedule or prefix tree; None for no decay.
      mask: which leaves decay: a prefix tree of booleans, or a function of the parameters that
        gives one, such as `mask_by_ndim()`. None decays all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.add_decayed_weights(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> print(opt.update(jnp.zeros(2), opt.init(params), params)[0])
      [ 0.1 -0.2]
    """
    numbers, decays = dict(weight_decay=weight_decay), weight_decay is not None
    return mask_decay(leafwise(_add_decayed_weights, None, numbers, needs_params=decays), mask)


@strict()
def mask_by_ndim(at_least: int = 2) -> Callable[[Params], PyTree]:
    """Return a mask that is true for leaves of at least that many axes: matrices, not biases.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.mask_by_ndim()({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
      {'bias': False, 'kernel': True}
    """
    return lambda params: jax.tree.map(lambda x: jnp.ndim(x) >= at_least, params)
