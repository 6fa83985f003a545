"""Adam: divide a running mean of the gradient by its running root-mean-square.

Kingma & Ba (2014), Algorithm 1, https://arxiv.org/abs/1412.6980
AdamW: Loshchilov & Hutter (2017), Algorithm 2, https://arxiv.org/abs/1711.05101
Paper -> here: m -> mu, v -> nu, t -> count, alpha -> learning_rate, lambda -> weight_decay.
Deviations: the weight decay is multiplied by the learning rate, as in torch and optax.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import abs_sq, bias_correction, compute_dtype, real_dtype, safe_sqrt


class Moments(NamedTuple):
    """What Adam remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter
    nu: Array  # v, running mean of its square, real, shaped like the parameter


class AdamMoments(Moments):
    """Moments that also say what Adam's steps were divided by."""

    def diagonal(self, count, *, b2, eps, eps_root, **_):
        """Return the optimizer's metric after `count` updates; see `with_prox`."""
        return _denominator(self.nu, count, b2, eps, eps_root)


def _denominator(nu, count, b2, eps, eps_root) -> Array:
    return safe_sqrt(nu / bias_correction(b2, count) + eps_root) + eps


def adam_rule(grad, slots, param, count, *, b1, b2, eps, eps_root, nesterov):
    """Return Adam's direction, uphill, and the new moments."""
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    mu_hat = corrected_mean(mu, grad, count, b1, nesterov)
    return mu_hat / _denominator(nu, count, b2, eps, eps_root), slots._replace(mu=mu, nu=nu)


def corrected_mean(mu, grad, count, b1, nesterov) -> Array:
    """Return the mean without its bias towards 0, with `nesterov` as the next step would see it."""
    if not nesterov:
        return mu / bias_correction(b1, count)
    ahead = b1 * mu / bias_correction(b1, count + 1)  # Dozat (2016) with a constant b1
    return ahead + (1 - b1) * grad / bias_correction(b1, count)


def zero_moments(param, mu_dtype=None, nu_dtype=None) -> Moments:
    """Return zero moments for one parameter, of at least float32 unless a dtype is asked for."""
    dtype = compute_dtype(param)
    mu = jnp.zeros_like(param, dtype=mu_dtype or dtype)
    return Moments(mu, jnp.zeros_like(param, dtype=nu_dtype or real_dtype(dtype)))


def adam_moments(param, mu_dtype=None, nu_dtype=None) -> AdamMoments:
    """Return zero moments for one parameter, for `adam_rule` as it is."""
    return AdamMoments(*zero_moments(param, mu_dtype, nu_dtype))


@checked()
def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    nu_dtype: Any = None,
) -> Optimizer:
    """Replace the gradient by Adam's direction, which points uphill.

    The arguments, memory and source are those of `adam`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(0.1))
      >>> updates, state = opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))
      >>> print(updates.round(4))
      [-0.1  0.1]
    """
    slots = functools.partial(adam_moments, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    return leafwise(
        adam_rule, slots, dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root), nesterov=nesterov
    )


@checked()
def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    nu_dtype: Any = None,
) -> Optimizer:
    r"""Descend along a running mean of the gradient over its root-mean-square.

    Good for: a first try on almost anything.

    mu = b1 mu + (1 - b1) g;  nu = b2 nu + (1 - b2) |g|^2;
    update = -learning_rate * (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    `eps` stands outside the root and after bias correction, as in the paper, torch and optax.
    TensorFlow's "epsilon hat" is `eps / sqrt(1 - b2**t)` here.

    Args:
      learning_rate: step size >= 0, in units of the parameters: a number, schedule or prefix tree,
        like all numbers below.
      b1: decay of the mean, in [0, 1).
      b2: decay of the mean square, in [0, 1).
      eps: added to the root, >= 0.
      eps_root: added under the root, >= 0; not needed for differentiating through a step.
      mu_dtype: dtype of the mean; None is float32, or float64 for float64 parameters.
      nesterov: whether to look one step ahead, as `nadam` does.
      nu_dtype: dtype of the mean square, likewise. In bfloat16 it stalls at half its true value.

    Returns:
      An `Optimizer`. State: 8 bytes for each float32 or bfloat16 element (mu, nu).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.adam(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      [ 0.702 -1.701]

    References:
      Kingma & Ba (2014), "Adam: a method for stochastic optimization", Algorithm 1.
    """
    slots = functools.partial(adam_moments, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(adam_rule, slots, numbers, learning_rate, nesterov=nesterov)


@checked()
def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    nu_dtype: Any = None,
) -> Optimizer:
    """Run Adam with decoupled weight decay.

    Good for: neural networks, the baseline to beat.

    update = -learning_rate * (Adam's direction + weight_decay * param)

    Args:
      learning_rate: as in `adam`, like all arguments that are not named here.
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      mu_dtype: see `adam`.
      weight_decay: strength >= 0 of the decay, multiplied by the learning rate. torch's default is
        1e-2, optax's and ours 1e-4.
      mask: which leaves decay: a prefix tree of booleans or a function of the parameters that
        gives one; None is all. `weight_decay=gdjax.by_path(...)` does the same by name.
      nesterov: see `adam`.
      nu_dtype: see `adam`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 8 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(2)}
      >>> opt = gdjax.adamw(0.1, weight_decay=0.5, mask={"w": True, "b": False})
      >>> zeros = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = opt.update(zeros, opt.init(params), params)
      >>> print(updates["w"], updates["b"])
      [-0.05 -0.05] [-0. -0.]

    References:
      Loshchilov & Hutter (2017), "Decoupled weight decay regularization", Algorithm 2.
    """
    slots = functools.partial(adam_moments, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(adam_rule, slots, numbers, learning_rate, weight_decay, mask, nesterov=nesterov)
