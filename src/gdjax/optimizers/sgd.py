"""Gradient descent, plain, with momentum, and with Nesterov's look ahead.

Polyak (1964), eq. 9; Nesterov (1983); in this form Sutskever et al. (2013),
https://proceedings.mlr.press/v28/sutskever13.html
Paper -> here: v -> -learning_rate * trace, mu -> momentum, epsilon -> learning_rate.
Deviations: the learning rate multiplies the trace, as in torch and optax, so a change of the rate
affects the whole trace immediately.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, checked
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import FloatDType, Hyperparam


class Trace(NamedTuple):
    """What momentum remembers of one parameter."""

    trace: Array  # decaying sum of the gradients, shaped like the parameter


class MomentumTrace(Trace):
    """A trace of gradients, which also knows its scale; see `with_prox`."""

    uniform = True  # one number for the whole array

    def diagonal(self, count: Array, **numbers: Array) -> Array:
        """Return 1 - momentum: the trace of a constant gradient is g / (1 - momentum)."""
        return 1 - (numbers["momentum"] if "momentum" in numbers else numbers["decay"])


def gradient_rule(grad, slots, param, count):
    """Return the gradient as it is."""
    return grad, slots


def momentum_rule(grad, slots, param, count, *, momentum, nesterov):
    """Return the trace, or with `nesterov` that of one step ahead, and the new slots."""
    trace = momentum * slots.trace + grad
    return (grad + momentum * trace if nesterov else trace), slots._replace(trace=trace)


def zero_trace(param: Array, accumulator_dtype: FloatDType = None) -> Trace:
    """Return a zero trace for one parameter, at least float32 unless a dtype is given."""
    return Trace(jnp.zeros_like(param, dtype=accumulator_dtype or compute_dtype(param)))


def momentum_trace(param: Array, accumulator_dtype: FloatDType = None) -> MomentumTrace:
    """Return a zero trace for `momentum_rule` of gradients."""
    return MomentumTrace(*zero_trace(param, accumulator_dtype))


@checked()
def gradient_descent(learning_rate: Hyperparam) -> Optimizer:
    r"""Descend along the negative gradient.

    Good for: convex problems, teaching, exact gradients.

    Evidence: theory. Its rates of convergence are proven (Nocedal & Wright 2006,
    https://doi.org/10.1007/978-0-387-40065-5). Without momentum it also trains language models
    stably, if batches are small (Marek et al. 2025, arXiv 2507.07101).

    .. math::

       x_t = x_{t-1} - \eta_t g_t

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree.

    Returns:
      An `Optimizer` that remembers nothing of the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.gradient_descent(0.5)
      >>> print(opt.update(jnp.array([1.0, -4.0]), opt.init(jnp.zeros(2)))[0])
      [-0.5  2. ]
    """
    return descend(gradient_rule, None, {}, learning_rate)


@checked()
def sgd(
    learning_rate: Hyperparam,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    accumulator_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend along the gradient or a decaying sum of the gradients so far.

    Good for: images, small networks, long schedules.

    Evidence: mixed. Nesterov momentum is as good as methods for large batches on ImageNet (Nado et
    al. 2021, arXiv 2102.06356); for language models it is clearly behind Adam (Zhao et al. 2024,
    arXiv 2407.07972).

    .. math::

       b_t &= \mu b_{t-1} + g_t \\
       x_t &= x_{t-1} - \eta_t b_t

    With `nesterov` the last line is

    .. math::

       x_t = x_{t-1} - \eta_t (g_t + \mu b_t)

    Differences: as in torch and optax, the learning rate multiplies the whole sum, so that a change
    of it acts at once; Sutskever et al. multiply each new gradient. torch's `dampening`, which
    multiplies the gradient by 1 - dampening from the second step on, is not offered.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree.
      momentum: :math:`\mu`, decay of the sum, in [0, 1); None is plain gradient descent.
      nesterov: whether to look one step ahead.
      accumulator_dtype: dtype of the sum; None is at least float32.

    Returns:
      An `Optimizer`.
      State: 4 bytes for each element with momentum, none without.

    Raises:
      ValueError: if a concrete number is out of range; if `nesterov` has no momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.sgd(0.1, momentum=0.9)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state)
      ...     print(updates)
      [-0.1]
      [-0.19]
    """
    if momentum is None:
        if nesterov:
            raise ValueError("sgd(nesterov=True) needs momentum, got momentum=None.")
        return gradient_descent(learning_rate)
    slots = functools.partial(momentum_trace, accumulator_dtype=accumulator_dtype)
    return descend(momentum_rule, slots, dict(momentum=momentum), learning_rate, nesterov=nesterov)


def _trace(grad, slots, param, count, *, decay, nesterov):
    return momentum_rule(grad, slots, param, count, momentum=decay, nesterov=nesterov)


@checked(decay=CLOSED_UNIT)
def trace(
    decay: Hyperparam, nesterov: bool = False, accumulator_dtype: FloatDType = None
) -> Optimizer:
    r"""Replace the gradient by the decaying sum of the gradients so far.

    .. math::

       b_t = \mu b_{t-1} + g_t

    The result is :math:`b_t` or, with `nesterov`, :math:`g_t + \mu b_t`.

    `sgd(lr, momentum)` is `chain(trace(momentum), scale_by_learning_rate(lr))`. A running mean,
    `ema`, is (1 - decay) times this sum.

    Args:
      decay: :math:`\mu`, decay of the sum, in [0, 1], where 1 is the sum of all: a number, schedule
        or prefix tree.
      nesterov: whether to look one step ahead.
      accumulator_dtype: dtype of the sum; None is at least float32.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.trace(0.5)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     total, state = opt.update(jnp.ones(1), state)
      ...     print(total)
      [1.]
      [1.5]
      [1.75]
    """
    slots = functools.partial(momentum_trace, accumulator_dtype=accumulator_dtype)
    return leafwise(_trace, slots, dict(decay=decay), nesterov=nesterov)
