"""Estimates of the Hessian's diagonal, for `sophia` and `adahessian`.

An estimate is an `(init, update)` pair, as an optimizer is; its update returns the estimated
diagonal. Users can write their own.

Hutchinson: Liu et al. (2023), Algorithm 1, https://arxiv.org/abs/2305.14342
Gauss-Newton-Bartlett: Algorithm 2 there.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.keys import fresh_key
from gdjax.core.lift import treewise
from gdjax.core.numerics import abs_sq
from gdjax.core.types import Key, Params


class Randomness(NamedTuple):
    """The source of the next random numbers."""

    key: Array  # a typed key of jax.random, a scalar


def _hutchinson(grads, slots, params, count, *, raw_params, obj_fn=None, value_fn=None):
    function = value_fn if obj_fn is None else obj_fn
    if function is None:
        raise TypeError(
            "hutchinson_estimator_diag_hessian needs the loss as a function of the parameters: "
            "call update(grads, state, params, obj_fn=...)."
        )
    if raw_params is None:
        raise ValueError(f"hutchinson_estimator_diag_hessian needs {NEEDS_PARAMS}")
    key, sample = jax.random.split(slots.key)
    leaves, treedef = jax.tree.flatten(raw_params)
    keys = jax.random.split(sample, len(leaves)) if leaves else ()
    signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    signs = treedef.unflatten(signs)
    product = jax.jvp(jax.grad(function), (raw_params,), (signs,))[1]
    return jax.tree.map(jnp.multiply, signs, product), Randomness(key)


@strict()
def hutchinson_estimator_diag_hessian(random_seed: Key = 0) -> Optimizer:
    r"""Estimate the diagonal of the Hessian by a product with random signs.

    .. math::

       \hat h &= z\, (H z) \\
       z_i &= \pm 1 \text{ with probability } \tfrac12

    It is unbiased, and exact for a diagonal Hessian. It costs about two gradients: one
    Hessian-vector product, forward over reverse. `update` needs `obj_fn=` (or `value_fn=`, as `fit`
    passes it): the loss as a function of the parameters alone, on the batch of this step.

    Args:
      random_seed: an int or a `jax.random.key`; it is kept in the state.

    Returns:
      An `Optimizer` whose updates are the estimate.
      State: one key.

    Raises:
      TypeError: if `update` is called without the function.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> estimate = gdjax.hutchinson_estimator_diag_hessian()
      >>> params = jnp.array([1.0, 2.0])
      >>> loss = lambda x: jnp.sum(jnp.array([3.0, -5.0]) * x**2)
      >>> print(estimate.update(params, estimate.init(params), params, obj_fn=loss)[0])
      [  6. -10.]
    """
    slots = functools.partial(_slots, key=random_seed)
    return treewise(_hutchinson, slots, name="hutchinson_estimator_diag_hessian")


def _gauss_newton_bartlett(grads, slots, params, count, *, raw_params, sampled_obj_fn, batch_size):
    if raw_params is None:
        raise ValueError(f"gauss_newton_bartlett_diag_hessian needs {NEEDS_PARAMS}")
    key, sample = jax.random.split(slots.key)
    sampled = jax.grad(sampled_obj_fn)(raw_params, sample)
    return jax.tree.map(lambda g: batch_size * abs_sq(g), sampled), Randomness(key)


@strict()
def gauss_newton_bartlett_diag_hessian(key: Key = 0) -> Optimizer:
    r"""Estimate the Gauss-Newton diagonal by the squared gradient at labels drawn from the model.

    .. math::

       \hat h = B\, \hat g^2

    with :math:`\hat g` the gradient of the mean loss over the B samples of the batch, with labels
    drawn from the model. It is never negative and costs one gradient. It is for losses that are the
    negative log-likelihood of the model's own distribution, such as cross entropy. `update` needs
    `sampled_obj_fn=`, called with (params, key): the mean loss over the batch with labels drawn
    from the model's output, such as `jax.lax.stop_gradient(jax.random.categorical(key, logits))`;
    and `batch_size=`, the number of terms in that mean.

    Args:
      key: an int or a `jax.random.key`; it is kept in the state.

    Returns:
      An `Optimizer` whose updates are the estimate.
      State: one key.

    Raises:
      TypeError: if `update` is called without the function or the size.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def sampled(x, key):  # eight labels, drawn from a Gaussian of variance 1 around x
      ...     labels = jax.lax.stop_gradient(x) + jax.random.normal(key, (8,))
      ...     return jnp.mean(0.5 * (x - labels) ** 2)
      >>> def estimate(seed):
      ...     init, update = gdjax.gauss_newton_bartlett_diag_hessian(seed)
      ...     x = jnp.array(3.0)
      ...     return update(x, init(x), x, sampled_obj_fn=sampled, batch_size=8)[0]
      >>> print(jax.vmap(estimate)(jnp.arange(10_000)).mean().round(1))  # the Hessian is 1
      1.0
    """
    slots = functools.partial(_slots, key=key)
    return treewise(_gauss_newton_bartlett, slots, name="gauss_newton_bartlett_diag_hessian")


def _slots(params: Params, key: Key) -> Randomness:
    return Randomness(fresh_key(key))
