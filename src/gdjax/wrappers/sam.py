"""Sharpness-aware minimization: descend along the gradient at the worst point nearby.

Foret, Kleiner, Mobahi & Neyshabur (2020), Algorithm 1, https://arxiv.org/abs/2010.01412
ASAM: Kwon, Kim, Park & Choi (2021), Algorithm 1, https://arxiv.org/abs/2102.11600
Paper -> here: rho -> rho, w -> the parameters, T_w -> |param| + eta.
Deviations: where the gradient is zero, the worst point is the parameters themselves.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.evaluation import eval_params, map_held
from gdjax.core.lift import NEEDS_PARAMS
from gdjax.core.numerics import cast_like, times, upcast
from gdjax.core.trees import copied, magnitude, map_leaves
from gdjax.core.treewise import treewise
from gdjax.transforms.normalize import unit_length
from gdjax.wrappers.reset import memory, reset


class Sam(NamedTuple):
    """What SAM remembers."""

    phase: Array  # updates since the last real one, int32
    center: Any  # the parameters to return to, shaped like them; None in opaque mode
    first: Any  # what the adversary remembers at first; None unless it is reset
    adversary: Any  # state of the optimizer that climbs
    inner: Any  # state of the optimizer that descends

    def eval_params(self, params, count, hyperparams):
        """Return the parameters between two climbs."""
        if self.center is not None:
            params = map_held(_grounded, self.center, params, self.phase)
        return eval_params(self.inner, params)


def _grounded(center, param, climbed):
    return jnp.where(climbed == 0, param, center)


def _return(center, param, update):
    return center - param + update


# --- the climb --------------------------------------------------------------------------------


def _stretched(grad, param, eta):
    return (magnitude(param) + eta) * grad


def _sam_adversary(grads, slots, params, count, *, rho, eta, adaptive):
    if not adaptive:
        return unit_length(grads, -rho), slots
    if params is None:
        raise ValueError(f"sam_adversary(adaptive=True) needs {NEEDS_PARAMS}")
    (stretched,) = map_leaves(_stretched, 1, (grads, params), eta)
    return map_leaves(_stretched, 1, (unit_length(stretched, -rho), params), eta)[0], slots


# --- climb, then descend --------------------------------------------------------------------------


def _sam(
    grads, slots, params, count, *, sync_period, reset_state, batch_axis_name, inner, adversary,
    grad_fn=None, raw_params=None, **extra,
):  # fmt: skip
    if params is None or grad_fn is None:
        raise ValueError(
            "sam(opaque_mode=True) needs the function that gives gradients, update(..., "
            f"grad_fn=lambda params, i: ...), and {NEEDS_PARAMS}"
        )
    at, state = params, slots.adversary
    for i in range(sync_period - 1):
        climb, state = adversary(grads, state, at, **extra)
        at = jax.tree.map(jnp.subtract, at, climb)
        grads = upcast(grad_fn(cast_like(at, raw_params), i))
        if batch_axis_name is not None:
            grads = jax.lax.pmean(grads, axis_name=batch_axis_name)
    state = slots.adversary if reset_state else state
    updates, new = inner(grads, slots.inner, params, grad_fn=grad_fn, **extra)
    return updates, slots._replace(adversary=state, inner=new)


def _sam_in_turns(grads, slots, params, count, *, sync_period, inner, adversary, **extra):
    if params is None:
        raise ValueError(f"sam needs {NEEDS_PARAMS}")
    starting, due = slots.phase == 0, slots.phase == sync_period - 1
    (center,) = map_leaves(_grounded, 1, (slots.center, params), ~starting)

    def descend():
        updates, state = inner(grads, slots.inner, center, **extra)
        (updates,) = map_leaves(_return, 1, (center, params, updates))
        return updates, slots.adversary, cast_like(state, slots.inner)

    def climb():
        updates, state = adversary(grads, slots.adversary, params, **extra)
        return times(updates, jnp.array(-1.0)), cast_like(state, slots.adversary), slots.inner

    updates, adversary_state, state = jax.lax.cond(due, descend, climb)
    if slots.first is not None:
        adversary_state = reset(due, adversary_state, slots.first)
    phase = (slots.phase + 1) % sync_period
    return updates, Sam(phase, center, slots.first, adversary_state, state)


def _fresh(init, adversary_init, opaque, keep_first, params) -> Sam:
    center = None if opaque else copied(params)
    first = memory(adversary_init(params)) if keep_first else None
    return Sam(jnp.zeros((), jnp.int32), center, first, adversary_init(params), init(params))


# --- public ---------------------------------------------------------------------------------------


@checked(rho=NONNEGATIVE, eta=NONNEGATIVE)
def sam_adversary(rho: Any = 0.05, *, adaptive: bool = False, eta: Any = 0.01) -> Optimizer:
    """Step back along the gradient by a fixed length; `sam` climbs by the negative of it.

    update = -rho g / |g|, or, for ASAM, -rho T^2 g / |T g| with T = |param| + eta.

    Args:
      rho: length >= 0 of the step: one number or schedule, as for `eta`. For ASAM about ten times
        that for SAM.
      adaptive: whether lengths are measured relative to the parameters (ASAM).
      eta: added to the parameters' magnitude >= 0; for ASAM only.

    Returns:
      An `Optimizer` that remembers nothing of the parameters.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.sam_adversary(0.5)
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))[0])
      [-0.3 -0.4]
    """
    return treewise(_sam_adversary, hyperparams=dict(rho=rho, eta=eta), adaptive=adaptive)


def sam(
    optimizer: Any,
    adv_optimizer: Any = None,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Optimizer:
    """Descend along the gradient taken where an adversary has climbed to.

    A cycle has `sync_period` gradients: all but the last move the parameters up by the adversary's
    steps, the last one is the descent of `optimizer` from where the cycle began. Each gradient is
    an `update` of its own, or, in opaque mode, `update(..., grad_fn=...)` does a whole cycle.

    A zero gradient gives a zero climb (optax: NaN). With sync_period=1 it is `optimizer` itself.

    Args:
      optimizer: the `(init, update)` pair that descends.
      adv_optimizer: the pair that climbs, by the negative of its updates; None is
        `sam_adversary(0.05)`, of which `sam_adversary(0.5, adaptive=True)` makes ASAM.
      sync_period: number of gradients >= 1 in a cycle; structure, not a leaf of the state.
      reset_state: whether the adversary starts anew in each cycle.
      opaque_mode: whether `update` calls `grad_fn(params, i)`, i = 0, 1, ..., for the gradients
        after the first, instead of being called with them.
      batch_axis_name: axis over which those gradients are averaged, inside `pmap` or `shard_map`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes for each element (none in
      opaque mode), besides those of the two optimizers. Between cycles and within,
      `gdjax.eval_params(state, params)` gives the parameters without the climb.

    Raises:
      ValueError: if `sync_period` is out of range; if `update` lacks parameters or `grad_fn`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> grad = jax.grad(lambda x: jnp.sum(x**2) / 2)
      >>> opt = gdjax.sam(gdjax.sgd(0.5), gdjax.sam_adversary(0.1), opaque_mode=True)
      >>> params = jnp.array([3.0, 4.0])
      >>> updates, state = opt.update(
      ...     grad(params), opt.init(params), params, grad_fn=lambda params, i: grad(params))
      >>> print(updates)  # -0.5 * ([3, 4] + 0.1 * [0.6, 0.8])
      [-1.53 -2.04]

    References:
      Foret et al. (2020), "Sharpness-aware minimization for efficiently improving generalization".
    """
    if not isinstance(sync_period, int) or sync_period < 1:
        raise ValueError(f"sam(sync_period=...) must be an integer >= 1, got {sync_period!r}.")
    inner = with_extra_args_support(optimizer)
    adversary = with_extra_args_support(adv_optimizer or sam_adversary())
    keep_first = reset_state and not opaque_mode
    slots = functools.partial(_fresh, inner.init, adversary.init, opaque_mode, keep_first)
    cycle = functools.partial(
        treewise, slots=slots, sync_period=sync_period, inner=inner.update,
        adversary=adversary.update,
    )  # fmt: skip
    if not opaque_mode:
        return cycle(_sam_in_turns)
    return cycle(_sam, reset_state=reset_state, batch_axis_name=batch_axis_name)
