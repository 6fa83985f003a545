"""MARS: give an optimizer gradients whose variance is reduced by the previous gradient.

Yuan, Liu, Wu, Zhou & Gu (2024), Algorithm 1, https://arxiv.org/abs/2411.10438
Paper -> here: c -> corrected, gamma -> gamma, beta_1 -> b1, x -> the parameters.
Deviations: the approximate form: the previous gradient is that of the previous batch, which costs
no second gradient; it is 0 at the first step, as in the authors' code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import treewise
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.trees import map_leaves, zeros_like
from gdjax.core.types import OptState, Pair, Params, Scalar, Updates
from gdjax.wrappers.shared.skipping import at_steps


class Mars(NamedTuple):
    """What MARS remembers."""

    previous: Updates  # the gradient of the previous step, shaped like the parameters
    inner: OptState  # state of the optimizer


def _correct(grad, previous, gamma, b1):
    corrected = grad + gamma * b1 / (1 - b1) * (grad - previous)
    return corrected / jnp.maximum(safe_sqrt(jnp.sum(abs_sq(corrected))), 1), grad


def _mars(grads, slots, params, count, *, gamma, b1, inner, **extra):
    corrected, previous = map_leaves(_correct, 2, (grads, slots.previous), gamma, b1)
    updates, state = inner(corrected, slots.inner, params, **extra)
    left = updates, slots._replace(inner=state)  # a rejected gradient is not the previous one
    return at_steps(state, lambda: (updates, Mars(previous, state)), left)


@checked(gamma=NONNEGATIVE)
def mars(optimizer: Pair, gamma: Scalar = 0.025, b1: Scalar = 0.95) -> Optimizer:
    r"""Run an optimizer on variance-reduced gradients, each leaf clipped to norm 1.

    .. math::

       c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}) \\
       \tilde c_t &= c_t / \max(1,\; \lVert c_t \rVert)

    The optimizer sees :math:`\tilde c_t` in place of the gradient; :math:`g_0 = 0`.

    The paper's MARS-AdamW is `mars(adamw(3e-3, b1=0.95, b2=0.99))`, MARS-Lion `mars(lion(...))`.

    Evidence: independent. MARS-AdamW has a lower loss than AdamW and NAdamW for language models of
    up to 0.5 B parameters (Wen et al. 2025, arXiv 2509.02046) and of 720 M; for a mixture of
    experts its loss is above AdamW's (Semenov et al. 2025, arXiv 2509.01440).

    Args:
      optimizer: any `(init, update)` pair.
      gamma: :math:`\gamma` >= 0, strength of the correction; 0 leaves only the clipping.
      b1: :math:`\beta_1` in [0, 1), the optimizer's decay of its mean; larger ones correct more.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element in addition to the optimizer's.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.mars(gdjax.sgd(1.0), gamma=0.1, b1=0.5)
      >>> state = opt.init(jnp.zeros(1))
      >>> _, state = opt.update(jnp.array([0.5]), state)
      >>> print(opt.update(jnp.array([0.7]), state)[0])
      [-0.72]

    References:
      Yuan et al. (2024), "MARS: unleashing the power of variance reduction".
    """
    init, update = with_extra_args_support(optimizer)

    def slots(params: Params) -> Mars:
        return Mars(zeros_like(params), init(params))

    return treewise(_mars, slots, dict(gamma=gamma, b1=b1), inner=update)
