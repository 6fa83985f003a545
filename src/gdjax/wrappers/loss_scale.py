"""Dynamic loss scaling: gradients in float16 that do not vanish below its smallest number.

Micikevicius et al. (2017), section 3.2, https://arxiv.org/abs/1710.03740. The loss is multiplied by
a scale before it is differentiated, and the gradients are divided by it in float32. A gradient that
is not finite is left out and lowers the scale; many finite ones in a row raise it.
Deviations: none from torch's `GradScaler` with `min_scale=0`, nor from jmp's `DynamicLossScale`
with `growth_factor = 1 / backoff_factor`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import AT_LEAST_ONE, NONNEGATIVE, POSITIVE, SHARE, checked
from gdjax.core.every import as_interval
from gdjax.core.hyper import numbers_at
from gdjax.core.lift import treewise
from gdjax.core.protocols import also_took_step, states_in
from gdjax.core.trees import map_leaves, zero
from gdjax.core.types import OptState, Pair, Params, Scalar
from gdjax.wrappers.guard import all_finite
from gdjax.wrappers.shared.skipping import tally, unless


class LossScale(NamedTuple):
    """What loss scaling remembers."""

    scale: Array  # what the next loss is multiplied by; 0 before the first update: init_scale
    good_steps: Array  # finite gradients in a row at this scale, int32
    skipped: Array  # updates left out so far, int32
    updated: Array  # whether the last gradients were finite
    inner: OptState  # state of the optimizer

    def skipped_steps(self) -> Array:
        """Return how many updates were left out."""
        return self.skipped

    def stepped(self) -> Array:
        """Return whether the last call took a step."""
        return also_took_step(self.updated, self.inner)


def _divided(grad, scale):
    return grad / scale


def _with_loss_scale(
    grads,
    slots,
    params,
    count,
    *,
    init_scale,
    growth_interval,
    growth_factor,
    backoff_factor,
    min_scale,
    inner,
    grad=None,
    **extra,
):
    scale = _current(slots, init_scale)
    if grad is not None:
        (extra["grad"],) = map_leaves(_divided, 1, (grad,), scale)
    (unscaled,) = map_leaves(_divided, 1, (grads,), scale)
    bad = ~all_finite(grads)
    updates, state = unless(bad, inner, unscaled, slots.inner, params, extra)
    skipped, _ = tally(bad, slots.skipped, slots.good_steps)
    good_steps = jnp.where(bad, 0, slots.good_steps + 1)
    grows = good_steps >= as_interval(growth_interval, good_steps)
    larger = scale * growth_factor
    scale = jnp.where(grows & jnp.isfinite(larger), larger, scale)
    scale = jnp.where(bad, jnp.maximum(scale * backoff_factor, min_scale), scale)
    return updates, LossScale(scale, jnp.where(grows, 0, good_steps), skipped, ~bad, state)


def _current(slots: LossScale, init_scale: Array) -> Array:
    return jnp.where(slots.scale > 0, slots.scale, init_scale)


def _fresh(init: InitFn, params: Params) -> LossScale:
    good_steps, skipped = (jnp.zeros((), jnp.int32) for _ in range(2))
    return LossScale(zero(), good_steps, skipped, jnp.array(True), init(params))


@checked(
    init_scale=POSITIVE,
    growth_interval=AT_LEAST_ONE,
    growth_factor=AT_LEAST_ONE,
    backoff_factor=SHARE,
    min_scale=NONNEGATIVE,
)
def with_loss_scale(
    optimizer: Pair,
    init_scale: Scalar = 2.0**15,
    growth_interval: Scalar = 2000,
    growth_factor: Scalar = 2.0,
    backoff_factor: Scalar = 0.5,
    min_scale: Scalar = 1.0,
) -> Optimizer:
    """Divide gradients by a scale, which adapts, that the loss was multiplied by.

    Good for: gradients in float16, whose smallest number is 6e-8; bfloat16 needs no scale.

    Evidence: independent. It is part of mixed-precision training (Micikevicius et al. 2017, arXiv
    1710.03740) in PyTorch (https://docs.pytorch.org/docs/stable/amp.html).

    Multiply the loss by `gdjax.loss_scale(state)` before it is differentiated. The gradients are
    divided by it in float32. If one of them is not finite, the step is left out, bit for bit, and
    the scale is multiplied by `backoff_factor`; after `growth_interval` finite ones in a row it is
    multiplied by `growth_factor`. `gdjax.skipped_steps` counts what is left out. `gdjax.fit`,
    `gdjax.sweep` and `gdjax.unroll` multiply the loss by themselves, and report it as it was.

    Args:
      optimizer: any `(init, update)` pair, which sees the gradients of the loss itself. The wrapper
        must enclose all that looks at gradients, such as clipping. An accumulation may be inside,
        where it leaves single bad gradients out, or outside, where one spoils those of its step.
      init_scale: the first scale > 0.
      growth_interval: number of finite gradients in a row >= 1, rounded, after which it grows.
      growth_factor: what it is multiplied by then, >= 1; a scale that would be infinite stays.
      backoff_factor: what it is multiplied by after gradients that are not finite, in (0, 1].
      min_scale: the scale does not get smaller than this, >= 0.

    Returns:
      An `Optimizer`.
      State: the scale, two counts and a flag, in addition to that of `optimizer`.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.with_loss_scale(gdjax.with_master_weights(gdjax.lion(0.1)))
      >>> params = jnp.array([1.0, 2.0], jnp.float16)
      >>> def loss(params):
      ...     return jnp.sum(1e-4 * jnp.sin(1e-4 * params))  # 1e-8 is 0 in float16
      >>> @jax.jit
      ... def step(params, state):
      ...     grads = jax.grad(lambda x: loss(x) * gdjax.loss_scale(state))(params)
      ...     updates, state = opt.update(grads, state, params)
      ...     return gdjax.apply_updates(params, updates), state
      >>> print(step(params, opt.init(params))[0])
      [0.9   1.899]

      In a whole run nothing else is needed:

      >>> def error(params, data):
      ...     return jnp.mean((data * params - 3) ** 2)
      >>> result = gdjax.fit(error, jnp.float16(1.0), opt, jnp.ones(8, jnp.float16), steps=100)
      >>> print(result.params.round(1), gdjax.loss_scale(result.state))
      3.0 8192.0

    References:
      Micikevicius et al. (2017), "Mixed precision training".
    """
    init, update = with_extra_args_support(optimizer)
    numbers = dict(
        init_scale=init_scale,
        growth_interval=growth_interval,
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        min_scale=min_scale,
    )
    return treewise(_with_loss_scale, functools.partial(_fresh, init), numbers, inner=update)


def loss_scale(state: OptState) -> Array | float:
    """Return what the loss is to be multiplied by; 1 for a state without `with_loss_scale`.

    Args:
      state: the state of any optimizer, at any nesting.

    Raises:
      ValueError: if there are several scales in the state: a loss has one.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> state = gdjax.with_loss_scale(gdjax.sgd(0.1), 1024.0).init(jnp.ones(2))
      >>> print(gdjax.loss_scale(state), gdjax.loss_scale(gdjax.sgd(0.1).init(jnp.ones(2))))
      1024.0 1.0
    """
    found = [node for _, node in states_in(state) if isinstance(node.slots, LossScale)]
    if not found:
        return 1.0
    if len(found) > 1:
        raise ValueError(
            f"loss_scale(state=...): the state has {len(found)} scales, and the loss can be "
            "multiplied by one only. Put with_loss_scale around groups, not into them."
        )
    (node,) = found
    return _current(node.slots, numbers_at(node, node.count)["init_scale"])
