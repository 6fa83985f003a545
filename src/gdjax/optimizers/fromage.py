"""Fromage: rotate each array of weights by an angle, at a constant norm.

Bernstein et al. (2020), Algorithm 1, https://arxiv.org/abs/2002.03432
Paper -> here: W -> param, eta -> learning_rate. Deviations: norms are at least min_norm, as in
optax, so that arrays of zeros can change.
"""

from __future__ import annotations

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise
from gdjax.core.types import Hyperparam
from gdjax.optimizers.trust_ratio import trust_ratio


def _fromage(grad, slots, param, count, *, learning_rate, min_norm):
    if param is None:
        raise ValueError(f"fromage needs {NEEDS_PARAMS}")
    shrink = (1 + learning_rate**2) ** -0.5
    step = learning_rate * trust_ratio(param, grad, min_norm) * grad
    return (shrink - 1) * param - shrink * step, slots


@checked(min_norm=NONNEGATIVE)
def fromage(learning_rate: Hyperparam, min_norm: Hyperparam = 1e-6) -> Optimizer:
    r"""Step by a fraction of the norm of each array, then restore the norm approximately.

    Good for: networks whose layers differ much in scale, with one learning rate for all.

    Evidence: authors only. Bernstein et al. 2020, arXiv 2002.03432.

    For each parameter array:

    .. math::

       x_t = \frac{1}{\sqrt{1 + \eta_t^2}}
             \Bigl(x_{t-1} - \eta_t \frac{\|x_{t-1}\|}{\|g_t\|} g_t\Bigr)

    Args:
      learning_rate: :math:`\eta_t`, the relative size of a step, >= 0, often 0.01: a number,
        schedule or prefix tree.
      min_norm: lower bound of both norms, >= 0.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: nothing per parameter.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([3.0, 4.0])
      >>> opt = gdjax.fromage(0.1)
      >>> updates, _ = opt.update(jnp.array([8.0, -6.0]), opt.init(params), params)
      >>> print(updates, jnp.linalg.norm(params + updates))
      [-0.4129  0.2787] 5.0

    References:
      Bernstein et al. (2020), "On the distance between two neural networks and the stability of
      learning", Algorithm 1.
    """
    numbers = dict(learning_rate=learning_rate, min_norm=min_norm)
    return leafwise(_fromage, None, numbers, needs_params=True)
