"""RMSProp: divide the gradient by its running root-mean-square or standard deviation.

Tieleman & Hinton (2012), https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
Centered and with momentum: Graves (2013), eqs. 38-41, https://arxiv.org/abs/1308.0850
Paper -> here (Graves): n -> nu, g -> mu, Delta -> trace, the decay 0.95 -> decay, 0.9 -> momentum,
1e-4 -> learning_rate and eps. Deviations: none; the variants of the libraries are options.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, safe_divide, safe_sqrt
from gdjax.core.numerics import bias_correction as correction
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import zero_moments
from gdjax.optimizers.sgd import momentum_rule


class Rms(NamedTuple):
    """What RMSProp remembers of one parameter."""

    nu: Array  # n, running mean of |g|^2, real, shaped like the parameter
    mu: Array | None  # g, running mean of the gradient, if centered
    trace: Array | None  # Delta, decaying sum of the steps, with momentum


def _rms(
    grad, slots, param, count, *, decay, eps, initial_scale, centered, eps_in_sqrt, bias_correction
):
    slots = slots._replace(nu=jnp.where(count == 1, initial_scale, slots.nu))
    static = dict(centered=centered, eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction)
    return rms_rule(grad, slots, param, count, decay=decay, eps=eps, **static)


def rms_rule(grad, slots, param, count, *, decay, eps, centered, eps_in_sqrt, bias_correction):
    """Return the gradient over its running root-mean-square, and the new means."""
    nu = decay * slots.nu + (1 - decay) * abs_sq(grad)
    mu, weight = slots.mu, correction(decay, count) if bias_correction else 1
    var = nu / weight
    if centered:
        mu = decay * mu + (1 - decay) * grad
        var = jnp.maximum(var - abs_sq(mu / weight), 0)  # < 0 by rounding
    root = safe_sqrt(var + eps) if eps_in_sqrt else safe_sqrt(var) + eps
    return safe_divide(grad, root), Rms(nu, mu, slots.trace)


def _rmsprop(
    grad,
    slots,
    param,
    count,
    *,
    learning_rate,
    decay,
    eps,
    initial_scale,
    momentum=None,
    centered,
    eps_in_sqrt,
    bias_correction,
    nesterov,
):
    numbers = dict(decay=decay, eps=eps, initial_scale=initial_scale)
    static = dict(centered=centered, eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction)
    direction, new = _rms(grad, slots, param, count, **numbers, **static)
    step = -learning_rate * direction
    if momentum is None:
        return step, new
    step, kept = momentum_rule(step, slots, param, count, momentum=momentum, nesterov=nesterov)
    return step, new._replace(trace=kept.trace)


def _zero_rms(param: Array, centered: bool, momentum: bool) -> Rms:
    mu, nu = zero_moments(param)
    return Rms(nu, mu if centered else None, jnp.zeros_like(mu) if momentum else None)


def _scale_by(
    centered: bool, eps_in_sqrt: bool, bias_correction: bool, **numbers: Hyperparam
) -> Optimizer:
    return leafwise(
        _rms,
        functools.partial(_zero_rms, centered=centered, momentum=False),
        numbers,
        centered=centered,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


@checked(initial_scale=NONNEGATIVE)
def scale_by_rms(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Hyperparam = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Optimizer:
    """Divide the gradient by its root-mean-square; arguments and equations as in `rmsprop`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_rms(decay=0.75)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
    numbers = dict(decay=decay, eps=eps, initial_scale=initial_scale)
    return _scale_by(False, eps_in_sqrt, bias_correction, **numbers)


@checked(initial_scale=NONNEGATIVE)
def scale_by_stddev(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Hyperparam = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Optimizer:
    """Divide the gradient by its standard deviation; arguments and equations as in `rmsprop`.

    The direction is that of `rmsprop(centered=True)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_stddev(decay=0.5)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
    numbers = dict(decay=decay, eps=eps, initial_scale=initial_scale)
    return _scale_by(True, eps_in_sqrt, bias_correction, **numbers)


@checked(initial_scale=NONNEGATIVE)
def rmsprop(
    learning_rate: Hyperparam,
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Hyperparam = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Optimizer:
    r"""Descend along the gradient over its running root-mean-square.

    Good for: reinforcement learning, recurrent networks.

    Evidence: mixed. It is one of fifteen tuned optimizers, of which none was consistently better
    than Adam (Schmidt et al. 2021, arXiv 2007.01547); for language models it is clearly behind Adam
    (Orvieto & Gower 2025, arXiv 2505.21829).

    .. math::

       v_t &= \rho v_{t-1} + (1 - \rho)\, |g_t|^2 \\
       x_t &= x_{t-1} - \eta_t \frac{g_t}{\sqrt{v_t + \epsilon}}

    If centered, the root is that of the variance :math:`v_t - |m_t|^2 + \epsilon`, with
    :math:`m_t = \rho m_{t-1} + (1 - \rho)\, g_t`. With momentum :math:`\mu`, and with `nesterov`
    in the third line in place of the second:

    .. math::

       b_t &= \mu b_{t-1} - \eta_t \frac{g_t}{\sqrt{v_t + \epsilon}} \\
       x_t &= x_{t-1} + b_t \\
       x_t &= x_{t-1} + \mu b_t - \eta_t \frac{g_t}{\sqrt{v_t + \epsilon}}

    Differences: the learning rate multiplies each new term of :math:`b_t`, as in Graves and optax.
    torch multiplies the whole sum and adds eps outside of the root, with a decay of 0.99:
    `chain(scale_by_rms(0.99, eps_in_sqrt=False), trace(momentum),
    scale_by_learning_rate(learning_rate))`. TensorFlow starts v at `initial_scale=1.0`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      decay: :math:`\rho`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon` >= 0, added under the root or, without `eps_in_sqrt`, to it.
      initial_scale: :math:`v_0` >= 0; only the first update uses it.
      eps_in_sqrt: whether eps is added under the root.
      centered: whether to divide by the standard deviation; where rounding makes the variance
        negative, it is replaced by 0.
      momentum: :math:`\mu`, decay of the sum of the steps, in [0, 1); None is no sum.
      nesterov: whether to look one step ahead.
      bias_correction: whether to divide :math:`v_t` and :math:`m_t` by :math:`1 - \rho^t`.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element, 4 more if centered, 4 more with momentum.

    Raises:
      ValueError: if a concrete number is out of range; if `nesterov` has no momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.rmsprop(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (4.0, 1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.3162]
      [-0.0806]
    """
    if nesterov and momentum is None:
        raise ValueError("rmsprop(nesterov=True) needs momentum, got momentum=None.")
    numbers = dict(decay=decay, eps=eps, initial_scale=initial_scale, learning_rate=learning_rate)
    if momentum is not None:
        numbers["momentum"] = momentum
    return leafwise(
        _rmsprop,
        functools.partial(_zero_rms, centered=centered, momentum=momentum is not None),
        numbers,
        centered=centered,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
        nesterov=nesterov,
    )
