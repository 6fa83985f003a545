"""RMSProp: divide the gradient by its running root-mean-square, or standard deviation.

Tieleman & Hinton (2012), https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
Centered and with momentum: Graves (2013), eqs. 38-41, https://arxiv.org/abs/1308.0850
Paper -> here (Graves): n -> nu, g -> mu, Delta -> trace, the decay 0.95 -> decay, 0.9 -> momentum,
1e-4 -> learning_rate and eps. Deviations: none; the variants of the libraries are options.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.numerics import bias_correction as gathered
from gdjax.optimizers.adam import zero_moments
from gdjax.optimizers.sgd import momentum_rule


class Rms(NamedTuple):
    """What RMSProp remembers of one parameter."""

    nu: Array  # n, running mean of |g|^2, real, shaped like the parameter
    mu: Array | None  # g, running mean of the gradient, if centered
    trace: Array | None  # Delta, decaying sum of the steps, with momentum


def _rms(
    grad, slots, param, count, *, decay, eps, initial_scale,
    centered, eps_in_sqrt, bias_correction,
):  # fmt: skip
    nu = jnp.where(count == 1, initial_scale, slots.nu)
    nu = decay * nu + (1 - decay) * abs_sq(grad)
    mu, weight = slots.mu, gathered(decay, count) if bias_correction else 1
    var = nu / weight
    if centered:
        mu = decay * mu + (1 - decay) * grad
        var = jnp.maximum(var - abs_sq(mu / weight), 0)  # rounding may take it below 0
    root = safe_sqrt(var + eps) if eps_in_sqrt else safe_sqrt(var) + eps
    return grad / root, Rms(nu, mu, slots.trace)


def _rmsprop(
    grad, slots, param, count, *, learning_rate, decay, eps, initial_scale, momentum=None,
    centered, eps_in_sqrt, bias_correction, nesterov,
):  # fmt: skip
    direction, new = _rms(
        grad, slots, param, count, decay=decay, eps=eps, initial_scale=initial_scale,
        centered=centered, eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction,
    )  # fmt: skip
    step = -learning_rate * direction
    if momentum is None:
        return step, new
    step, kept = momentum_rule(step, slots, param, count, momentum=momentum, nesterov=nesterov)
    return step, new._replace(trace=kept.trace)


def _zero_rms(param, centered, momentum=False) -> Rms:
    mu, nu = zero_moments(param)
    return Rms(nu, mu if centered else None, jnp.zeros_like(mu) if momentum else None)


@checked(initial_scale=NONNEGATIVE)
def scale_by_rms(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Optimizer:
    """Divide the gradient by its running root-mean-square; the arguments are those of `rmsprop`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_rms(decay=0.75)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
    return leafwise(
        _rms,
        functools.partial(_zero_rms, centered=False),
        dict(decay=decay, eps=eps, initial_scale=initial_scale),
        centered=False,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


@checked(initial_scale=NONNEGATIVE)
def scale_by_stddev(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Optimizer:
    """Divide the gradient by its running standard deviation; the arguments are `rmsprop`'s.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_stddev(decay=0.5)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
    return leafwise(
        _rms,
        functools.partial(_zero_rms, centered=True),
        dict(decay=decay, eps=eps, initial_scale=initial_scale),
        centered=True,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )


@checked(initial_scale=NONNEGATIVE)
def rmsprop(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Optimizer:
    """Descend along the gradient over its running root-mean-square.

    Good for: reinforcement learning, recurrent networks.

    nu = decay nu + (1 - decay) |g|^2;  update = -learning_rate * g / sqrt(nu + eps)

    With momentum the updates gather in `trace = momentum * trace + update`, which is then the
    update: the learning rate acts on each step as it is made, as in Graves and optax. torch lets it
    act on the whole trace, which is `chain(scale_by_rms(0.99, eps_in_sqrt=False), trace(momentum),
    scale_by_learning_rate(learning_rate))`. TensorFlow starts nu at `initial_scale=1.0`.

    Args:
      learning_rate: step size >= 0: a number, schedule or prefix tree, like all numbers below.
      decay: decay of the mean square, in [0, 1).
      eps: added under the root or, without `eps_in_sqrt`, to it, >= 0.
      initial_scale: what nu starts at, >= 0; read by the first update only.
      eps_in_sqrt: whether eps stands under the root.
      centered: whether to subtract the squared running mean of the gradient from nu, which leaves
        a variance; it is kept from falling below 0 by rounding.
      momentum: decay of the sum of the updates, in [0, 1); None keeps no sum.
      nesterov: whether the update is its own step plus momentum * trace.
      bias_correction: whether to divide the means by 1 - decay^t.

    Returns:
      An `Optimizer`. State: 4 bytes per element, 4 more if centered, 4 more with momentum.

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
