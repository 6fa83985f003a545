"""EMA-Nesterov: take gradients ahead of the parameters, along a running mean of their steps.

Yau, Li, Glentis, Boreiko, Wai & Hong (2026), https://arxiv.org/abs/2605.25395
Paper -> here: x + beta m, the point that gradients are taken at -> the parameters, x ->
`eval_params(state, params)`, m -> mu, gamma -> decay, beta -> beta, A -> the optimizer.
Deviations: the point after update t is made with the beta of update t, in place of t + 1.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.evaluation import map_held
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like
from gdjax.core.residual import exact_params, land, no_residual
from gdjax.core.trees import map_leaves, zero, zeros_like
from gdjax.core.types import OptState, Pair, Params, PyTree, Scalar
from gdjax.wrappers.shared.skipping import at_steps


class EmaNesterov(NamedTuple):
    """What EMA-Nesterov remembers."""

    mu: Params  # m, running mean of the steps, shaped like the parameters
    ahead: Array  # beta of the last step: the parameters are beta m ahead; a number
    residual: PyTree  # what rounding takes from parameters of less than float32, else None
    inner: OptState  # state of the optimizer

    iterates = ("residual",)

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the parameters without the part beta m that they are ahead."""
        exact = exact_params(params, self.residual)
        return cast_like(map_held(_behind, self.mu, exact, self.ahead), params)


def _behind(mu, param, ahead):
    return param - ahead.astype(param.real.dtype) * mu


def _go_ahead(mu, update, ahead, beta, decay):
    step = update + ahead * mu  # from theta to the new theta; the update starts at y
    mu = decay * mu + (1 - decay) * step
    return update + beta * mu, mu


def _ema_nesterov(grads, slots, params, count, *, beta, decay, inner, **extra):
    if params is None:
        raise ValueError(f"ema_nesterov needs {NEEDS_PARAMS}")
    exact = exact_params(params, slots.residual)
    updates, state = inner(grads, slots.inner, exact, **extra)

    def step():
        moved, mu = map_leaves(_go_ahead, 2, (slots.mu, updates), slots.ahead, beta, decay)
        moved, residual = land(params, exact, moved, slots.residual)
        return moved, EmaNesterov(mu, beta, residual, state)

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _fresh(init: InitFn, params: Params) -> EmaNesterov:
    return EmaNesterov(zeros_like(params), zero(), no_residual(params), init(params))


@checked(beta=NONNEGATIVE)
def ema_nesterov(optimizer: Pair, beta: Scalar = 0.3, decay: Scalar = 0.99) -> Optimizer:
    r"""Take gradients at a point ahead of the parameters, along a running mean of their steps.

    The parameters are :math:`y_t`, and gradients are taken there. With :math:`u_t` the update of
    the optimizer at :math:`y_{t-1}`, and :math:`\theta_0 = y_0`:

    .. math::

       \theta_t &= y_{t-1} + u_t \\
       m_t &= \gamma m_{t-1} + (1 - \gamma) (\theta_t - \theta_{t-1}) \\
       y_t &= \theta_t + \beta_t m_t

    Evaluate at :math:`\theta` = `gdjax.eval_params(state, params)`. With :math:`\gamma = 0` and a
    constant :math:`\beta`, gradient descent is Nesterov's method. The mean over many steps is less
    noisy than the last step alone, so that it can be followed further.

    Evidence: authors only. In modded-nanogpt's track 3 it took 3125 steps in place of 3325 around
    Muon (20 runs) and 2890 in place of 2930 around Aurora (16 runs); the records after them, by
    others, keep it (results 12, 30, 39 and 40, https://github.com/KellerJordan/modded-nanogpt).

    Give :math:`\beta_t` as a schedule that is 0 during the warm-up, when :math:`m_t` is still
    unsteady, and while the learning rate decays at the end. In these results it was 0.6 or 0.3
    times the learning rate's share of its peak, from step 500 or 300 to step 2400 or 1950, with
    :math:`\gamma = 0.99`.

    Differences: the point after update t uses the schedule's value of update t; in the authors'
    code it uses that of the next one.

    Args:
      optimizer: any `(init, update)` pair, which sees y.
      beta: :math:`\beta_t` >= 0, how far ahead gradients are taken: a number or schedule.
      decay: :math:`\gamma` in [0, 1), decay of the mean.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element, in addition to that of `optimizer`; 8 where the parameters
      are of less than float32, whose rounding errors it keeps.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.ema_nesterov(gdjax.sgd(1.0), beta=2.0, decay=0.5)
      >>> params = jnp.array([4.0])
      >>> state = opt.init(params)
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      ...     print(params, gdjax.eval_params(state, params))
      [2.] [3.]
      [-1.5] [1.]

    References:
      Yau et al. (2026), "EMA-Nesterov: Stabilizing Nesterov's lookahead for accelerated deep
      learning optimization"; modded-nanogpt, track 3,
      https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization
    """
    init, update = with_extra_args_support(optimizer)
    slots = functools.partial(_fresh, init)
    return treewise(_ema_nesterov, slots, dict(beta=beta, decay=decay), inner=update)
