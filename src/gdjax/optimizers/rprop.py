"""Rprop: a step size for each weight that grows while its gradient keeps its sign.

Riedmiller & Braun (1993), https://doi.org/10.1109/ICNN.1993.298623; without stepping back, as here,
iRprop- of Igel & Hüsken (2003), https://doi.org/10.1016/S0925-2312(01)00700-7
Paper -> here: Delta_ij -> step_sizes, eta+ -> eta_plus, eta- -> eta_minus, Delta_0 ->
learning_rate. Deviations: none; equal to torch. optax 0.2.8 is one step behind: its first update
is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, NONNEGATIVE, POSITIVE, checked
from gdjax.core.lift import leafwise
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import zero_moments


class Steps(NamedTuple):
    """What Rprop remembers of one parameter; the parts of complex ones are separate numbers."""

    step_sizes: Array  # Delta, the length of the next step, shaped like the parameter
    previous: Array  # the last gradient, 0 where its sign had changed, likewise


def rprop_rule(
    grad, slots, param, count, *, eta_minus, eta_plus, min_step_size, max_step_size, flip_sign
):
    """Return Rprop's step and the new slots, of which the first step sizes are not 0."""

    def parts(grad, sizes, previous):
        turn = jnp.sign(grad) * jnp.sign(previous)
        longer, same, shorter = (
            jnp.clip(eta * sizes, min_step_size, max_step_size) for eta in (eta_plus, 1, eta_minus)
        )
        sizes = jnp.where(turn > 0, longer, jnp.where(turn < 0, shorter, same))
        grad = jnp.where(turn < 0, 0, grad)
        step = sizes * jnp.sign(grad)
        return -step if flip_sign else step, sizes, grad

    if jnp.iscomplexobj(grad):
        real = parts(grad.real, *(x.real for x in slots))
        imag = parts(grad.imag, *(x.imag for x in slots))
        step, *new = map(jax.lax.complex, real, imag)
    else:
        step, *new = parts(grad, *slots)
    return step, Steps(*new)


def first_sizes(like: Array, learning_rate: ArrayLike) -> Array:
    """Return the first step sizes, of both parts of a complex number."""
    if jnp.iscomplexobj(like):
        return jax.lax.complex(*(first_sizes(x, learning_rate) for x in (like.real, like.imag)))
    return jnp.full_like(like, learning_rate)


def _rprop(
    grad,
    slots,
    param,
    count,
    *,
    learning_rate,
    eta_minus,
    eta_plus,
    min_step_size,
    max_step_size,
    flip_sign,
):
    first = first_sizes(slots.step_sizes, learning_rate)
    return rprop_rule(
        grad,
        slots._replace(step_sizes=jnp.where(count == 1, first, slots.step_sizes)),
        param,
        count,
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
        flip_sign=flip_sign,
    )


def _zero_steps(param: Array) -> Steps:
    return Steps(zero_moments(param).mu, zero_moments(param).mu)


_RANGES = dict(
    eta_minus=CLOSED_UNIT, eta_plus=POSITIVE, min_step_size=NONNEGATIVE, max_step_size=POSITIVE
)


@checked(**_RANGES)
def scale_by_rprop(
    learning_rate: Hyperparam,
    eta_minus: Hyperparam = 0.5,
    eta_plus: Hyperparam = 1.2,
    min_step_size: Hyperparam = 1e-6,
    max_step_size: Hyperparam = 50.0,
) -> Optimizer:
    """Replace the gradient by Rprop's step, uphill; arguments and equations as in `rprop`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_rprop(0.1)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 0.1 -0.1]
    """
    numbers = dict(learning_rate=learning_rate, eta_minus=eta_minus, eta_plus=eta_plus)
    numbers |= dict(min_step_size=min_step_size, max_step_size=max_step_size)
    return leafwise(_rprop, _zero_steps, numbers, flip_sign=False)


@checked(**_RANGES)
def rprop(
    learning_rate: Hyperparam,
    eta_minus: Hyperparam = 0.5,
    eta_plus: Hyperparam = 1.2,
    min_step_size: Hyperparam = 1e-6,
    max_step_size: Hyperparam = 50.0,
) -> Optimizer:
    r"""Step against the sign of the gradient, with a separate step size for each weight.

    Good for: exact gradients (full batch) of very different magnitudes.

    Evidence: authors only. It is faster than conjugate gradients and Quickprop on small networks
    with exact gradients; BFGS is better late in some runs (Igel & Huesken 2003,
    https://doi.org/10.1016/S0925-2312(01)00700-7).

    .. math::

       \Delta_t &= \operatorname{clip}\left(\Delta_{t-1} \begin{cases}
       \eta^+ & \text{if } g_t g_{t-1} > 0 \\
       \eta^- & \text{if } g_t g_{t-1} < 0 \\
       1 & \text{else} \end{cases},\; \Delta_{\min},\; \Delta_{\max} \right) \\
       g_t &\leftarrow 0 \quad \text{where } g_t g_{t-1} < 0 \\
       x_t &= x_{t-1} - \Delta_t \operatorname{sign}(g_t)

    A weight whose gradient has changed its sign does not move in that step. For full batches only:
    the signs of noisy gradients carry little information.

    Differences: as in torch. optax is one step behind, its first update is 0.

    Args:
      learning_rate: :math:`\Delta_0` >= 0, the first step size of every weight: a number or prefix
        tree; only the first update uses it.
      eta_minus: :math:`\eta^-` in [0, 1], factor after a change of sign.
      eta_plus: :math:`\eta^+` > 0, usually > 1, factor while the sign stays the same.
      min_step_size: :math:`\Delta_{\min}` >= 0, the smallest step size.
      max_step_size: :math:`\Delta_{\max}` > 0, the largest step size; it bounds the first one too.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element (the size, the gradient).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.rprop(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (3.0, 1.0, -2.0, -2.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.12]
      [-0.]
      [0.06]

    References:
      Igel & Hüsken (2003), "Empirical evaluation of the improved Rprop learning algorithms".
    """
    numbers = dict(learning_rate=learning_rate, eta_minus=eta_minus, eta_plus=eta_plus)
    numbers |= dict(min_step_size=min_step_size, max_step_size=max_step_size)
    return leafwise(_rprop, _zero_steps, numbers, flip_sign=True)
