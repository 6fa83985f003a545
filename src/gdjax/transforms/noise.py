"""Add noise to the gradients."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.blocks import map_blocks
from gdjax.core.checks import FINITE, NONNEGATIVE, checked
from gdjax.core.keys import fresh_key
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_sqrt
from gdjax.core.types import Key, Params, Scalar, Updates


class Randomness(NamedTuple):
    """The source of the next noise."""

    key: Array  # a typed key of jax.random, a scalar


def add_noise_to(
    grads: Updates, slots: Randomness, count: Array, eta: Array, gamma: Array
) -> tuple[Updates, Randomness]:
    """Return the gradients with noise of variance eta / count**gamma, and the next slots."""
    deviation = safe_sqrt(eta / count**gamma)
    key, sample = jax.random.split(slots.key)
    leaves, treedef = jax.tree.flatten(grads)
    rows = list(zip(leaves, jax.random.split(sample, len(leaves)), strict=True)) if leaves else []
    kinds = [(g.shape, g.dtype) for g in leaves]
    noisy = map_blocks(_noisy, rows, kinds, [(deviation,)] * len(leaves))
    return treedef.unflatten(noisy), Randomness(key)


@jax.jit
def _noisy(row, deviation):
    grad, key = row
    return grad + deviation.astype(grad.real.dtype) * jax.random.normal(key, grad.shape, grad.dtype)


def _add_noise(grads, slots, params, count, *, eta, gamma):
    return add_noise_to(grads, slots, count, eta, gamma)


def fresh_randomness(params: Params, key: Key) -> Randomness:
    """Return a copy of the key, so that donating the state leaves the user's own valid."""
    return Randomness(fresh_key(key))


@checked(eta=NONNEGATIVE, gamma=FINITE)
def add_noise(eta: Scalar, gamma: Scalar, key: Key) -> Optimizer:
    r"""Add Gaussian noise whose variance decreases with the number of steps.

    .. math::

       g_t \leftarrow g_t + n_t, \qquad n_t \sim \mathcal N(0,\; \sigma^2 / t^\gamma)

    independent in every element and step (Neelakantan et al. 2015,
    https://arxiv.org/abs/1511.06807). For a complex element, the variance is the sum of those of
    both parts.

    Args:
      eta: :math:`\sigma^2` >= 0, variance of the first noise: a number or a schedule.
      gamma: :math:`\gamma`, power by which the variance decreases; 0 keeps it constant.
      key: an int or a `jax.random.key`. It is kept in the state, so vmap over keys (or ints)
        gives runs with different noise.

    Returns:
      An `Optimizer`.
      State: one key.

    Raises:
      TypeError: at `init`, if the key is an array of keys or of numbers.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.add_noise(0.01, 0.55, key=0)
      >>> noisy, state = opt.update(jnp.ones(1000), opt.init(jnp.ones(1000)))
      >>> print(round(float(noisy.mean()), 1), round(float(noisy.std()), 2))
      1.0 0.1
    """
    slots = functools.partial(fresh_randomness, key=key)
    return treewise(_add_noise, slots, dict(eta=eta, gamma=gamma))
