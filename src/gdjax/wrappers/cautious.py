"""Cautious updates: drop the elements of an update that disagree with the gradient in sign.

Liang, Chen, Liu & Liu (2024), Algorithm 1, https://arxiv.org/abs/2411.16085
Paper -> here: phi -> kept, u -> minus the wrapped optimizer's update.
Deviations: kept elements are divided by max(mean(kept), min_share), as the authors' code does now;
its first version divided by (sum(kept) + 1) / size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import SHARE, checked
from gdjax.core.lift import treewise
from gdjax.core.trees import map_leaves, product
from gdjax.core.types import OptState, Pair, Params, Scalar


class Cautious(NamedTuple):
    """What the wrapper remembers."""

    inner: OptState  # state of the optimizer


def _keep(update, grad, min_share):
    kept = (~(product(update, grad) >= 0)).astype(grad.real.dtype)  # NaN is kept
    share = jnp.sum(kept) / max(kept.size, 1)
    return update * kept / jnp.maximum(share, min_share)


def _cautious(grads, slots, params, count, *, min_share, inner, **extra):
    updates, state = inner(grads, slots.inner, params, **extra)
    return map_leaves(_keep, 1, (updates, grads), min_share)[0], Cautious(state)


@checked(min_share=SHARE)
def cautious(optimizer: Pair, min_share: Scalar = 1e-3) -> Optimizer:
    r"""Apply only the elements of an optimizer's updates whose sign is opposite to the gradient's.

    With :math:`u_t` the optimizer's update of an array and 1 the indicator of a condition:

    .. math::

       \phi_t &= 1[u_t g_t < 0] \\
       x_t &= x_{t-1} + \frac{\phi_t u_t}{\max(\operatorname{mean}(\phi_t),\; s)}

    The rest of each array is scaled up by the inverse of the share that is kept.

    Evidence: mixed. Cautious NAdamW is behind NAdamW on nine workloads (AlgoPerf, July 2026,
    unofficial, https://github.com/mlcommons/submissions_algorithms), and cautious AdamW slightly
    before AdamW, but behind NAdamW, for language models (Wen et al. 2025, arXiv 2509.02046). With a
    small vision transformer it improves LaProp
    (https://huggingface.co/rwightman/timm-optim-caution).

    Args:
      optimizer: any `(init, update)` pair.
      min_share: :math:`s` in (0, 1], smallest divisor.

    Returns:
      An `Optimizer`. It adds no state per parameter.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.cautious(gdjax.sgd(0.1, momentum=0.9))
      >>> state = opt.init(jnp.zeros(2))
      >>> _, state = opt.update(jnp.array([1.0, 1.0]), state)
      >>> print(opt.update(jnp.array([1.0, -0.5]), state)[0])
      [-0.38  0.  ]

    References:
      Liang et al. (2024), "Cautious optimizers: improving training with one line of code".
    """
    init, update = with_extra_args_support(optimizer)

    def slots(params: Params) -> Cautious:
        return Cautious(init(params))

    return treewise(_cautious, slots, dict(min_share=min_share), inner=update)
