"""Multiply the updates by a number."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, checked, strict
from gdjax.core.kinds import is_array_tree, shown
from gdjax.core.lift import leafwise
from gdjax.core.numerics import is_inexact
from gdjax.core.types import Hyperparam, Number, P


def _scale(grad, slots, param, count, *, step_size):
    return step_size * grad, slots


@checked(step_size=FINITE)
def scale(step_size: Hyperparam) -> Optimizer:
    """Multiply the updates by `step_size`, a number, schedule or prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale(-0.1)
      >>> print(opt.update(jnp.ones(2), opt.init(jnp.ones(2)))[0])
      [-0.1 -0.1]
    """
    return leafwise(_scale, hyperparams=dict(step_size=step_size))


@strict()
def scale_by_schedule(step_size_fn: Hyperparam) -> Optimizer:
    """Multiply the updates by a schedule; the first update uses `step_size_fn(0)`."""
    numbers = dict(step_size=step_size_fn)
    return leafwise(_scale, hyperparams=numbers, name="scale_by_schedule")


def _scale_by_learning_rate(grad, slots, param, count, *, learning_rate, flip_sign):
    return (-learning_rate if flip_sign else learning_rate) * grad, slots


@checked()
def scale_by_learning_rate(learning_rate: Hyperparam, *, flip_sign: bool = True) -> Optimizer:
    r"""Multiply by the learning rate and, for descent, by -1.

    .. math::

       u \leftarrow -\eta_t u

    Args:
      learning_rate: :math:`\eta_t` >= 0, the step size: a number, schedule or prefix tree.
      flip_sign: whether to negate, so that adding the update descends.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_learning_rate(0.1)
      >>> print(opt.update(jnp.ones(2), opt.init(jnp.ones(2)))[0])
      [-0.1 -0.1]
    """
    numbers = dict(learning_rate=learning_rate)
    return leafwise(_scale_by_learning_rate, hyperparams=numbers, flip_sign=flip_sign)


@jax.custom_vjp
def _scale_gradient(inputs, scale):
    return inputs


def _forwards(inputs, scale):
    return inputs, scale


def _backwards(scale, cotangents):
    def times(g):
        return g * scale.astype(g.real.dtype) if is_inexact(g.dtype) else g  # integers have none

    return jax.tree.map(times, cotangents), jnp.zeros_like(scale)


_scale_gradient.defvjp(_forwards, _backwards)


@strict()
def scale_gradient(inputs: P, scale: Number) -> P:
    """Return the inputs unchanged, but multiply the gradients that are propagated back.

    -1 reverses them (as in domain adaptation), 0 stops them, even infinite ones.

    Args:
      inputs: a tree of arrays.
      scale: the factor, one number, maybe traced; its own gradient is zero.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> print(jax.grad(lambda x: gdjax.scale_gradient(x, -2.0) ** 2)(3.0))
      -12.0
    """
    if not is_array_tree(inputs):
        raise TypeError(
            f"scale_gradient(inputs=...) must be a tree of arrays, got {shown(inputs)}."
        )
    if isinstance(scale, (int, float)) and scale == 0:
        return jax.lax.stop_gradient(inputs)
    return _scale_gradient(inputs, jnp.asarray(scale, jnp.float32))
