"""The optimizer to begin with: one-sided SOAP with a schedule and rates by width, nothing to tune.

SOAP: Vyas et al. (2024), https://arxiv.org/abs/2409.11321; rates by width: Yang, Hu et al. (2022),
https://arxiv.org/abs/2203.03466
Deviations: the width of an array is read from its first values instead of a base model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import chain
from gdjax.core.checks import POSITIVE, UNIT, WHOLE, checked
from gdjax.core.dealing import Devices
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, upcast
from gdjax.core.trees import derived
from gdjax.core.types import Hyperparam, Mask, Number
from gdjax.optimizers.soap import soap
from gdjax.schedules.warmup_decay import warmup_linear_decay_schedule
from gdjax.transforms.decay import mask_by_ndim

MATRICES = mask_by_ndim()


class Width(NamedTuple):
    """What is remembered of one parameter."""

    width: Array  # n, about the fan-in, a real scalar; 1 for vectors and scalars


def _scale_by_width(update, slots, param, count, *, base_width):
    return update * jnp.minimum(base_width / slots.width, 1), slots


def _slots(param: Array) -> Width:
    return Width(derived(_fan_in, param))


def _fan_in(param: Array) -> Array:
    """Return 1 / variance of the first values, at most what the shape allows."""
    if param.ndim < 2 or not param.size:
        return jnp.ones((), real_dtype(compute_dtype(param)))
    variance = jnp.mean(abs_sq(upcast(param)))
    return jnp.clip(1 / variance, 1, param.size / max(param.shape))


@checked(
    steps=POSITIVE,
    warmup=UNIT._replace(decay=False),
    base_width=POSITIVE,
    precondition_frequency=WHOLE,
)
def default_optimizer(
    steps: Number,
    learning_rate: Number = 0.02,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.95,
    weight_decay: Hyperparam = 0.1,
    mask: Mask = MATRICES,
    *,
    warmup: Number = 0.05,
    base_width: Hyperparam = 64.0,
    precondition_frequency: Hyperparam = 5,
    mesh: Devices = None,
) -> Optimizer:
    r"""Train a network of unknown kind for a known number of steps, with nothing to tune.

    Good for: a first run of a network that is trained from random parameters.

    Evidence: authors only. It takes 1.85 times fewer steps to the targets of six small workloads
    (https://github.com/gdjax/gdjax/blob/main/bench/training/README.md) than AdamW that is tuned in
    AlgoPerf's space, and 1.35 times fewer than AdamW that is tuned with rates to 0.1, with one
    configuration, which was chosen on these workloads; on their variants, where nothing was chosen,
    all targets are reached as well. Larger models than these, of 3000 to 20000 parameters, were not
    trained to a target. For what it is made of see `soap` and `width_scaling`.

    It is `soap` on the shorter side of each matrix, with rates that decrease with the width:

    .. math::

       \eta_t(x) = \min\left( 1, \frac{n_0}{n(x)} \right) \eta
       \begin{cases} t / W & t < W \\ (T - t) / (T - W) & t \ge W \end{cases}
       \qquad W = w\, T

    with :math:`T` the steps, :math:`t` from 0, and :math:`n(x)` the fan-in of a parameter: 1 over
    the variance of its first values, at most the product of all its axes but the longest, as for
    parameters that begin at 0; 1 for vectors and scalars. So embeddings with values of about 1 have
    the whole rate, and hidden matrices and outputs :math:`n_0 / n` of it, as in the maximal update
    parametrization.

    After `steps` updates the rate is 0: give the true number of optimizer steps, not of epochs or
    of gradients that are accumulated. To go on for longer, set `learning_rate.decay_steps` by
    `with_hyperparams`. For fine-tuning, where the first values are those of a trained network, use
    a smaller rate.

    Args:
      steps: :math:`T` > 0, how many updates the run has.
      learning_rate: :math:`\eta` >= 0, the highest rate, that of a matrix of the base width. Where
        it may be tuned at all, try half and twice.
      b1: see `soap`.
      b2: see `soap`.
      weight_decay: see `soap`. A matrix decays at its own rate.
      mask: which parameters decay, see `adamw`; by default those of two axes or more.
      warmup: :math:`w`, share of the steps in which the rate rises, in [0, 1).
      base_width: :math:`n_0` > 0. Narrower matrices have the whole rate.
      precondition_frequency: see `soap`.
      mesh: see `soap`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State of an m x n matrix, :math:`m \le n`: :math:`8 (m n + m^2)` bytes, in float32. A step
      takes about :math:`6 m^2 n` operations more than AdamW's. The width of a parameter is the leaf
      `width` of its slots.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> x = jax.random.normal(jax.random.key(0), (100, 8))
      >>> model, opt = gdjax.models.mlp([8, 32, 1]), gdjax.default_optimizer(100)
      >>> loss = lambda params: jnp.mean((model.apply(params, x)[:, 0] - jnp.sin(x[:, 0])) ** 2)
      >>> params = model.init(jax.random.key(1))
      >>> state = opt.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
      ...     return gdjax.apply_updates(params, updates), state
      >>> for _ in range(100):
      ...     params, state = step(params, state)
      >>> print(loss(params) < 0.01)
      True
    """
    rate = warmup_linear_decay_schedule(0.0, learning_rate, warmup * steps, steps)
    optimizer = soap(
        rate,
        b1,
        b2,
        weight_decay=weight_decay,
        mask=mask,
        precondition_frequency=precondition_frequency,
        one_sided=True,
        mesh=mesh,
    )
    return chain(optimizer, leafwise(_scale_by_width, _slots, dict(base_width=base_width)))
