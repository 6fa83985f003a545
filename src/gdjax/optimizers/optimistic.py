"""Optimistic descent: add to each step the change of the gradient since the last one; for games.

Daskalakis et al. (2017), Algorithm 1 is the one with Adam, https://arxiv.org/abs/1711.00141
Mokhtari et al. (2019) with two step sizes, https://arxiv.org/abs/1901.08511
Paper -> here: eta -> learning_rate, the gradient of the last step -> previous; Mokhtari's alpha,
beta -> alpha, beta. Deviations: none, except Nesterov's form in Adam by default, as in optax.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import descend, direction_of, leafwise
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import FloatDType, Hyperparam
from gdjax.optimizers.adam import adam_rule, zero_moments


class Previous(NamedTuple):
    """What optimistic descent remembers of one parameter."""

    previous: Array  # the gradient of the last step, shaped like the parameter


class OptimisticMoments(NamedTuple):
    """What optimistic Adam remembers of one parameter."""

    mu: Array  # Adam's mean
    nu: Array  # Adam's mean square
    previous: Array  # Adam's direction of the last step, shaped like the parameter


def _correct(x, previous, count, alpha, beta):
    """Return alpha x + beta (x - previous), without a change in the first step."""
    return (alpha + beta) * x - beta * jnp.where(count == 1, x, previous)


def _optimistic(grad, slots, param, count, *, alpha, beta):
    return _correct(grad, slots.previous, count, alpha, beta), Previous(grad)


def _optimistic_adam(
    grad,
    slots,
    param,
    count,
    *,
    learning_rate,
    optimism=None,
    alpha=1,
    beta=1,
    b1,
    b2,
    eps,
    eps_root,
    nesterov,
):
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    x, new = adam_rule(grad, slots, param, count, nesterov=nesterov, **numbers)
    if optimism is None:
        step = learning_rate * _correct(x, slots.previous, count, alpha, beta)
    else:
        step = _correct(x, slots.previous, count, learning_rate, optimism)
    return -step, new._replace(previous=x)


def _zero_previous(param: Array) -> Previous:
    return Previous(jnp.zeros_like(param, dtype=compute_dtype(param)))


def _zero_moments(param: Array, mu_dtype: FloatDType) -> OptimisticMoments:
    return OptimisticMoments(*zero_moments(param, mu_dtype), _zero_previous(param).previous)


_RANGES = dict(alpha=NONNEGATIVE, beta=NONNEGATIVE, optimism=NONNEGATIVE)


@checked(**_RANGES)
def optimistic_gradient_descent(
    learning_rate: Hyperparam, alpha: Hyperparam = 1.0, beta: Hyperparam = 1.0
) -> Optimizer:
    r"""Descend along the gradient plus its change since the last step.

    Good for: two-player games and saddle points.

    Evidence: theory. It converges linearly for bilinear, and for strongly convex and strongly
    concave, saddle points (Mokhtari et al. 2019, arXiv 1901.08511).

    .. math::

       x_t &= x_{t-1} - \eta_t \left( \alpha g_t + \beta (g_t - g_{t-1}) \right) \\
       g_0 &= g_1

    In games in which gradient descent circles around the solution, this method converges.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree.
      alpha: weight of the gradient, >= 0.
      beta: weight of its change, >= 0.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element (the last gradient).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def distance(opt):  # x descends and y ascends x * y
      ...     params = jnp.array([1.0, 1.0])
      ...     state = opt.init(params)
      ...     for _ in range(100):
      ...         grads = jnp.array([params[1], -params[0]])
      ...         updates, state = opt.update(grads, state)
      ...         params = gdjax.apply_updates(params, updates)
      ...     return round(float(jnp.linalg.norm(params)), 2)
      >>> print(distance(gdjax.sgd(0.3)), distance(gdjax.optimistic_gradient_descent(0.3)))
      105.16 0.01

    References:
      Mokhtari et al. (2019), "A unified analysis of extra-gradient and optimistic gradient methods
      for saddle point problems".
    """
    return descend(_optimistic, _zero_previous, dict(alpha=alpha, beta=beta), learning_rate)


@direction_of(optimistic_gradient_descent)
def scale_by_optimistic_gradient() -> None:
    """Replace the gradient by the optimistic one.

    Arguments and equations as in `optimistic_gradient_descent`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_optimistic_gradient()
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 3.0):
      ...     direction, state = opt.update(jnp.full(1, grad), state)
      ...     print(direction)
      [1.]
      [5.]
    """


@checked(**_RANGES)
def optimistic_adam(
    learning_rate: Hyperparam,
    optimism: Hyperparam | None = None,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    *,
    nesterov: bool = True,
) -> Optimizer:
    r"""Run Adam plus `optimism` times the change of Adam's direction.

    Good for: games and GANs.

    Evidence: authors only. Daskalakis et al. 2017, arXiv 1711.00141.

    .. math::

       x_t &= x_{t-1} - \eta_t d_t - o_t (d_t - d_{t-1}) \\
       d_0 &= d_1

    with :math:`d_t` the direction of `nadam`, or of `adam` without `nesterov`. The same as
    `optimistic_adam_v2` with alpha = 1 and beta = optimism / learning_rate.

    Differences: the paper has Adam; Nesterov's form is the default as in optax, whose
    `optimistic_adam` takes no schedules.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      optimism: :math:`o_t` >= 0, step size of the correction; None is the learning rate.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: see `adam`.
      nesterov: whether :math:`d_t` is NAdam's direction.

    Returns:
      An `Optimizer`.
      State: 12 bytes per element, :math:`m_t` (`mu`), :math:`v_t` (`nu`) and :math:`d_t`
      (`previous`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.optimistic_adam(0.1, optimism=0.2, nesterov=False)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 4.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0653]
    """
    numbers = dict(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    if optimism is not None:
        numbers["optimism"] = optimism
    slots = functools.partial(_zero_moments, mu_dtype=mu_dtype)
    return leafwise(_optimistic_adam, slots, numbers, nesterov=nesterov)


@checked(**_RANGES)
def optimistic_adam_v2(
    learning_rate: Hyperparam,
    *,
    alpha: Hyperparam = 1.0,
    beta: Hyperparam = 1.0,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    nesterov: bool = True,
) -> Optimizer:
    r"""Run Adam plus the change of Adam's direction, all times the learning rate.

    Good for: games and GANs.

    Evidence: none. No comparison with `optimistic_adam` is known to us.

    .. math::

       x_t &= x_{t-1} - \eta_t \left( \alpha d_t + \beta (d_t - d_{t-1}) \right) \\
       d_0 &= d_1

    with :math:`d_t` the direction of `nadam`, or of `adam` without `nesterov`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      alpha: weight of the direction, >= 0.
      beta: weight of its change, >= 0.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: see `adam`.
      nesterov: whether :math:`d_t` is NAdam's direction.

    Returns:
      An `Optimizer`.
      State: 12 bytes per element, :math:`m_t` (`mu`), :math:`v_t` (`nu`) and :math:`d_t`
      (`previous`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.optimistic_adam_v2(0.1, beta=2.0, nesterov=False)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 4.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0653]

    References:
      Daskalakis et al. (2017), "Training GANs with optimism", Algorithm 1.
    """
    numbers = dict(learning_rate=learning_rate, alpha=alpha, beta=beta)
    numbers |= dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    slots = functools.partial(_zero_moments, mu_dtype=mu_dtype)
    return leafwise(_optimistic_adam, slots, numbers, nesterov=nesterov)
