"""SM3: Adagrad with one accumulator for each row, column, ... in place of one for each element.

Anil et al. (2019), Algorithm SM3-II, https://arxiv.org/abs/1901.11150
Paper -> here: mu(r) -> accumulators, nu -> the local `nu`, eta -> learning_rate.
Deviations: a running mean of the direction and eps under the root, as in optax. Scalars and vectors
keep one number per element.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, checked
from gdjax.core.lift import descend
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import zero_moments


class Covers(NamedTuple):
    """What SM3 remembers of one parameter."""

    mu: Array  # running mean of the direction, shaped like the parameter
    accumulators: tuple[Array, ...]  # for each axis, real, of length 1 along all other axes


def sm3_rule(grad, slots, param, count, *, b1, b2, eps):
    """Return SM3's direction, uphill, and the new accumulators."""
    nu = slots.accumulators[0]
    for other in slots.accumulators[1:]:
        nu = jnp.minimum(nu, other)
    nu = b2 * nu + jnp.where(1 - b2 == 0, 1, 1 - b2) * abs_sq(grad)
    seen = nu != 0  # NaN is kept
    direction = jnp.where(seen, grad / jnp.where(seen, safe_sqrt(nu + eps), 1), 0)
    mu = b1 * slots.mu + (1 - b1) * direction
    axes = _other_axes(grad.ndim)
    return mu, Covers(mu, tuple(jnp.max(nu, axis, keepdims=True, initial=0) for axis in axes))


def _other_axes(ndim: int) -> list[tuple[int, ...]]:
    """Return, for each accumulator, the axes along which it has length 1."""
    if ndim < 2:
        return [()]
    return [tuple(j for j in range(ndim) if j != i) for i in range(ndim)]


def zero_covers(param: Array) -> Covers:
    """Return zeros for one parameter."""
    mu, nu = zero_moments(param)
    return Covers(mu, tuple(jnp.sum(nu, axis, keepdims=True) for axis in _other_axes(nu.ndim)))


@checked(b2=CLOSED_UNIT)
def scale_by_sm3(b1: Hyperparam = 0.9, b2: Hyperparam = 1.0, eps: Hyperparam = 1e-8) -> Optimizer:
    """Replace the gradient by SM3's direction; equations as in `sm3`, whose `momentum` is b1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_sm3(b1=0.0)
      >>> grad = jnp.array([[3.0, 0.0], [0.0, 4.0]])
      >>> _, state = opt.update(grad, opt.init(grad))
      >>> print(opt.update(grad, state)[0])
      [[0.7071 0.    ]
       [0.     0.7071]]
    """
    return descend(sm3_rule, zero_covers, dict(b1=b1, b2=b2, eps=eps), None, name="scale_by_sm3")


@checked(b2=CLOSED_UNIT)
def sm3(
    learning_rate: Hyperparam,
    momentum: Hyperparam = 0.9,
    *,
    b2: Hyperparam = 1.0,
    eps: Hyperparam = 1e-8,
) -> Optimizer:
    r"""Descend like Adagrad, with memory for rows and columns only.

    Good for: large embeddings and sparse gradients with little memory.

    Evidence: authors only. Anil et al. 2019, arXiv 1901.11150.

    For a matrix with elements ij:

    .. math::

       v_{ij} &= \min(r_i, c_j) + |g_{ij}|^2 \\
       r_i &= \max_j v_{ij}, \qquad c_j = \max_i v_{ij} \\
       m_t &= \mu m_{t-1} + (1 - \mu) \frac{g_t}{\sqrt{v_t + \epsilon}} \\
       x_t &= x_{t-1} - \eta_t m_t

    An array of more axes has an accumulator for each axis. For :math:`\beta_2 < 1` the first line
    is :math:`v_{ij} = \beta_2 \min(r_i, c_j) + (1 - \beta_2) |g_{ij}|^2`.

    Differences: the paper has no :math:`\epsilon`, optax has it under the root as here.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      momentum: :math:`\mu`, decay of the mean of the direction, in [0, 1).
      b2: :math:`\beta_2`, decay of the accumulators, in [0, 1]; at 1 they are sums, below running
        means.
      eps: :math:`\epsilon` >= 0, added under the root.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element for mu, and 4 for each row, column, ... of an array; of a vector, 8
      per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> state = gdjax.sm3(0.1).init(jnp.ones((1000, 300)))
      >>> [a.shape for a in state.slots.accumulators]
      [(1000, 1), (1, 300)]

    References:
      Anil et al. (2019), "Memory efficient adaptive optimization".
    """
    return descend(sm3_rule, zero_covers, dict(b1=momentum, b2=b2, eps=eps), learning_rate)
