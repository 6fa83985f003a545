"""Averages of the parameters over the steps, to evaluate with; training itself is unchanged.

Polyak & Juditsky (1992), https://doi.org/10.1137/0330046 (`tail_average`);
Shamir & Zhang (2013), https://arxiv.org/abs/1212.1824 (`polynomial_average`).
All are mean += c_t (param - mean) and differ in c_t, where t counts the steps that the optimizer
took: not calls that a guard inside skips, or in which an accumulation waits for more gradients.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import CLOSED_UNIT, NONNEGATIVE, checked
from gdjax.core.evaluation import map_held
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.trees import copied, map_leaves, zero
from gdjax.core.types import OptState, Pair, Params, Scalar
from gdjax.wrappers.shared.skipping import at_steps


class Average(NamedTuple):
    """What an average remembers."""

    mean: Params  # the average, at first the parameters, shaped like them, at least float32
    weight: Array  # sum of the weights of an exponential average, at most 1; a number
    inner: OptState  # state of the averaged optimizer

    iterates = ("mean",)

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the average, mixed with the parameters if `share` is below 1."""
        return map_held(_mix, self.mean, params, hyperparams["share"])


def _mix(mean, param, share):
    return param + share * (mean - param)


def _follow(mean, param, update, c):
    return mean + c * (param + update - mean)


def _averaged(name, grads, slots, params, inner, extra, c, weight):
    if params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, **extra)

    def step():
        (mean,) = map_leaves(_follow, 1, (slots.mean, params, updates), c)
        return updates, Average(mean, weight, state)

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _average(grads, slots, params, count, *, decay, share, debias, inner, **extra):
    weight = decay * slots.weight + (1 - decay)
    c = 1 - decay
    if debias:
        c = c / jnp.where(weight > 0, weight, 1)
    return _averaged("average", grads, slots, params, inner, extra, c, weight)


def _polynomial_average(grads, slots, params, count, *, gamma, share, inner, **extra):
    c = (gamma + 1) / (gamma + count)
    return _averaged("polynomial_average", grads, slots, params, inner, extra, c, slots.weight)


def _tail_average(grads, slots, params, count, *, start, share, inner, **extra):
    c = 1 / jnp.maximum(count - start.astype(jnp.int32), 1).astype(start.dtype)
    return _averaged("tail_average", grads, slots, params, inner, extra, c, slots.weight)


def _fresh(init: InitFn, params: Params) -> Average:
    return Average(copied(params), zero(), init(params))


@checked(decay=CLOSED_UNIT, share=CLOSED_UNIT)
def average(
    optimizer: Pair, decay: Scalar = 0.999, debias: bool = True, *, share: Scalar = 1.0
) -> Optimizer:
    r"""Keep an exponential average of the parameters while `optimizer` trains them.

    .. math::

       \bar x_t = \beta \bar x_{t-1} + (1 - \beta)\, x_t

    divided by the sum of the weights with `debias`; read it with `gdjax.eval_params(state,
    params)`.

    A warm-up is a schedule: `decay=lambda t: jnp.minimum(0.999, (2 + t) / (11 + t))`.

    Evidence: mixed. Averages shorten training on seven workloads of AlgoPerf (Ajroldi et al. 2025,
    arXiv 2502.06761), but the submissions with averages are behind NAdamW itself there (Kasimbeg et
    al. 2025, arXiv 2502.15015). Moving the weights by 0.6 of the way to an average over the end of
    a run saves 30 of 2750 steps of modded-nanogpt's track 3; the average itself was worse there
    (results 44 to 46, https://github.com/KellerJordan/modded-nanogpt).

    Args:
      optimizer: any `(init, update)` pair; its updates are returned unchanged. The wrapper must
        be the outermost one: nothing may change the updates after it.
      decay: :math:`\beta` in [0, 1], share of the past: a number or schedule.
      debias: whether the average starts as the parameters after the first update (the
        weights are divided by their sum, for schedules too), or else as those at `init`.
      share: share of the average, in [0, 1], in what `eval_params` gives; the rest is the
        parameters.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element, in addition to that of `optimizer`.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.average(gdjax.sgd(1.0), decay=0.5)
      >>> params = jnp.array([4.0])
      >>> state = opt.init(params)
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params, gdjax.eval_params(state, params))  # (2/3) 2 + (1/3) 3
      [2.] [2.3333]
    """
    init, update = with_extra_args_support(optimizer)
    numbers = dict(decay=decay, share=share)
    return treewise(_average, functools.partial(_fresh, init), numbers, inner=update, debias=debias)


@checked(gamma=NONNEGATIVE, share=CLOSED_UNIT)
def polynomial_average(optimizer: Pair, gamma: Scalar = 8.0, *, share: Scalar = 1.0) -> Optimizer:
    r"""Keep an average of the parameters with polynomially growing weights.

    .. math::

       \bar x_t = \bar x_{t-1} + \frac{\gamma + 1}{\gamma + t} (x_t - \bar x_{t-1})

    The weights grow like :math:`t^\gamma`, so that recent parameters weigh more in a run of any
    length. The authors of `dog` recommend it for that method.

    Args:
      optimizer: see `average`, like all arguments that are not named here.
      gamma: :math:`\gamma` >= 0, power of the weights; 0 is the plain mean.
      share: see `average`.

    Returns:
      As `average`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.polynomial_average(gdjax.dog())
      >>> params = jnp.array([4.0])
      >>> updates, state = opt.update(params, opt.init(params), params)
      >>> print(gdjax.eval_params(state, params + updates) == params + updates)
      [ True]
    """
    init, update = with_extra_args_support(optimizer)
    numbers = dict(gamma=gamma, share=share)
    return treewise(_polynomial_average, functools.partial(_fresh, init), numbers, inner=update)


@checked(start=NONNEGATIVE, share=CLOSED_UNIT)
def tail_average(optimizer: Pair, start: Scalar = 0, *, share: Scalar = 1.0) -> Optimizer:
    r"""Keep the plain mean of the parameters after every update except the first `start`.

    .. math::

       \bar x_t = \frac{1}{t - t_0} \sum_{i=t_0+1}^t x_i

    Args:
      optimizer: see `average`, like all arguments that are not named here.
      start: :math:`t_0` >= 0, number of updates to leave out; until then the parameters themselves
        are the mean.
      share: see `average`.

    Returns:
      As `average`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.tail_average(gdjax.sgd(1.0), start=1)
      >>> params = jnp.array([4.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params, gdjax.eval_params(state, params))  # the mean of 2 and 1
      [1.] [1.5]
    """
    init, update = with_extra_args_support(optimizer)
    numbers = dict(start=start, share=share)
    return treewise(_tail_average, functools.partial(_fresh, init), numbers, inner=update)
