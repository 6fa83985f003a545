"""Sharpness-aware minimization: descend along the gradient where the loss is highest nearby.

Foret, Kleiner, Mobahi & Neyshabur (2020), Algorithm 1, https://arxiv.org/abs/2010.01412
Paper -> here: w -> the parameters; epsilon -> minus the update of the adversary, see
`gdjax.sam_adversary`. Deviations: none.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_integer, strict
from gdjax.core.evaluation import eval_params, map_held
from gdjax.core.every import either
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like, upcast
from gdjax.core.protocols import also_took_step
from gdjax.core.trees import copied, map_leaves, times
from gdjax.core.types import AxisName, OptState, Pair, Params, PyTree
from gdjax.transforms.adversary import sam_adversary
from gdjax.wrappers.guard import all_finite
from gdjax.wrappers.shared.reset import memory, reset


class Sam(NamedTuple):
    """What SAM remembers."""

    phase: Array  # updates since the last descent, int32
    center: Params  # the parameters to return to, shaped like them; None in opaque mode
    first: PyTree  # counts and slots of the adversary at `init`; None unless it is reset
    adversary: OptState  # state of the optimizer that ascends
    inner: OptState  # state of the optimizer that descends

    iterates = ("center", "first")

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the parameters without the ascent."""
        if self.center is not None:
            params = map_held(_before_ascent, self.center, params, self.phase)
        return eval_params(self.inner, params)

    def stepped(self) -> Array:
        """Return whether the last call descended, and the optimizer took a step."""
        return also_took_step(self.phase == 0, self.inner)


def _before_ascent(center, param, phase):
    return jnp.where(phase == 0, param, center)


def _return(center, param, update):
    return center - param + update


def _sam(
    grads,
    slots,
    params,
    count,
    *,
    sync_period,
    reset_state,
    batch_axis_name,
    inner,
    adversary,
    grad_fn=None,
    raw_params=None,
    **extra,
):
    if params is None or grad_fn is None:
        raise ValueError(
            "sam(opaque_mode=True) needs the function that gives gradients, update(..., "
            f"grad_fn=lambda params, i: ...), and {NEEDS_PARAMS}"
        )
    at, state = params, slots.adversary
    for i in range(sync_period - 1):
        climb, state = _climb(adversary, grads, state, at, extra)
        at = jax.tree.map(jnp.add, at, climb)
        grads = upcast(grad_fn(cast_like(at, raw_params), i))
        if batch_axis_name is not None:
            grads = jax.lax.pmean(grads, axis_name=batch_axis_name)
    state = slots.adversary if reset_state else state
    updates, new = inner(grads, slots.inner, params, grad_fn=grad_fn, **extra)
    return updates, slots._replace(adversary=state, inner=new)


def _climb(adversary, grads, state, params, extra):
    """Return the ascent and the adversary's state; none, and the old one, if it is not finite.

    Descent returns from where the ascent led, and from NaN nothing does.
    """
    updates, new = adversary(grads, state, params, **extra)
    climb, left = times(updates, jnp.array(-1.0)), jax.tree.map(jnp.zeros_like, updates)
    return either(
        all_finite(updates), lambda: (climb, cast_like(new, state)), lambda: (left, state)
    )


def _sam_by_turns(grads, slots, params, count, *, sync_period, inner, adversary, **extra):
    if params is None:
        raise ValueError(f"sam needs {NEEDS_PARAMS}")
    starting, due = slots.phase == 0, slots.phase == sync_period - 1
    (center,) = map_leaves(_before_ascent, 1, (slots.center, params), ~starting)

    def descend():
        updates, state = inner(grads, slots.inner, center, **extra)
        (updates,) = map_leaves(_return, 1, (center, params, updates))
        return updates, slots.adversary, cast_like(state, slots.inner)

    def ascend():
        climb, state = _climb(adversary, grads, slots.adversary, params, extra)
        return climb, state, slots.inner

    updates, adversary_state, state = jax.lax.cond(due, descend, ascend)
    if slots.first is not None:
        adversary_state = reset(due, adversary_state, slots.first)
    phase = (slots.phase + 1) % sync_period
    return updates, Sam(phase, center, slots.first, adversary_state, state)


def _fresh(
    init: InitFn, adversary_init: InitFn, opaque: bool, keep_first: bool, params: Params
) -> Sam:
    center = None if opaque else copied(params)
    first = memory(adversary_init(params)) if keep_first else None
    return Sam(jnp.zeros((), jnp.int32), center, first, adversary_init(params), init(params))


@strict()
def sam(
    optimizer: Pair,
    adv_optimizer: Pair | None = None,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: AxisName = None,
) -> Optimizer:
    r"""Descend along the gradient at the parameters that an adversary has reached by ascent.

    .. math::

       \hat x_t &= x_{t-1} + \rho\, \frac{\nabla f(x_{t-1})}{\lVert \nabla f(x_{t-1}) \rVert} \\
       g_t &= \nabla f(\hat x_t)

    and :math:`x_t` is the optimizer's step from :math:`x_{t-1}` along :math:`g_t`. (This is with
    the default adversary, see `sam_adversary`, and two gradients in a step.)

    A cycle has `sync_period` gradients: with all but the last the adversary ascends; with the last
    one `optimizer` descends from the parameters at the start of the cycle. Each gradient is one
    `update`, or, in opaque mode, `update(..., grad_fn=...)` does a whole cycle.

    A zero gradient gives no ascent (optax: NaN), and neither does one that is not finite: a guard
    around `optimizer` then has parameters to keep. With sync_period=1 it is `optimizer` itself.

    Evidence: mixed. Vision transformers on ImageNet are clearly more accurate with it, if there is
    no strong augmentation (Chen et al. 2021, arXiv 2106.01548); for language models it often
    degrades the result, even with twice the compute (Singh et al. 2025, arXiv 2502.02407).

    Args:
      optimizer: the `(init, update)` pair that descends.
      adv_optimizer: the pair that ascends, by the negative of its updates; None is
        `sam_adversary(0.05)`. `sam_adversary(0.5, adaptive=True)` makes it ASAM.
      sync_period: number of gradients >= 1 in a cycle; static, not a leaf of the state.
      reset_state: whether the adversary is reset in each cycle.
      opaque_mode: whether `update` calls `grad_fn(params, i)`, i = 0, 1, ..., for the gradients
        after the first, instead of being called with them.
      batch_axis_name: axis over which those gradients are averaged, inside `pmap` or `shard_map`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element (none in opaque mode), in addition to those of the two
      optimizers. Between cycles and within, `gdjax.eval_params(state, params)` gives the parameters
      without the ascent.

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
    sync_period = check_integer("sam(sync_period=...)", sync_period)
    inner = with_extra_args_support(optimizer)
    adversary = with_extra_args_support(adv_optimizer or sam_adversary())
    keep_first = reset_state and not opaque_mode
    slots = functools.partial(_fresh, inner.init, adversary.init, opaque_mode, keep_first)
    cycle = functools.partial(
        treewise,
        slots=slots,
        name="sam",
        sync_period=sync_period,
        inner=inner.update,
        adversary=adversary.update,
    )
    if not opaque_mode:
        return cycle(_sam_by_turns)
    return cycle(_sam, reset_state=reset_state, batch_axis_name=batch_axis_name)
