"""QK-clip: scale down the query and key weights of heads with too large attention logits.

Kimi Team (2025), Algorithm 1, https://arxiv.org/abs/2507.20534; QK-clip over Muon is MuonClip.
Paper -> here: S_max -> max_logits, tau -> threshold, gamma -> factor. Deviations: none.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import POSITIVE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.hyper import leaf_values, whole_leaf_values
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like
from gdjax.core.remember import register_node
from gdjax.core.types import OptState, Pair, Params, PrefixTree, PyTree, Scalar
from gdjax.wrappers.shared.skipping import at_steps


@functools.partial(register_node, data_fields=[], meta_fields=["axis"])
@dataclasses.dataclass(frozen=True)
class HeadAxis:
    """The axis along which a parameter's heads lie; static, without leaves."""

    axis: int


class QKClip(NamedTuple):
    """What the wrapper remembers."""

    heads: PyTree  # a tree of `HeadAxis`, None where nothing is clipped
    inner: OptState  # state of the optimizer


def _clipped(update, param, heads, logits, threshold, power):
    logits = jnp.asarray(logits, update.real.dtype)
    axis, n = heads.axis % update.ndim, update.shape[heads.axis]
    if logits.ndim > 1 or (logits.ndim and (not len(logits) or n % len(logits))):
        raise ValueError(
            f"qk_clip: max_logits must be one number for each head, got shape {logits.shape} for "
            f"{n} outputs along axis {heads.axis} of a parameter of shape {update.shape}."
        )
    factor = (threshold / jnp.maximum(logits, threshold)) ** power
    if logits.ndim:
        factor = jnp.repeat(factor, n // len(logits))
        factor = factor.reshape([n if i == axis else 1 for i in range(update.ndim)])
    return factor * (param + update) - param


def _qk_clip(grads, slots, params, count, *, threshold, power, inner, max_logits, **extra):
    if params is None:
        raise ValueError(f"qk_clip needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, max_logits=max_logits, **extra)
    slots = QKClip(slots.heads, cast_like(state, slots.inner))

    def step():
        leaves, treedef = jax.tree.flatten(updates)
        heads, old = treedef.flatten_up_to(slots.heads), treedef.flatten_up_to(params)
        logits = leaf_values("qk_clip: max_logits", max_logits, updates)
        for i, (h, s) in enumerate(zip(heads, logits, strict=True)):
            if h is not None and s is not None:
                numbers = (x.astype(leaves[i].real.dtype) for x in (threshold, power))
                leaves[i] = _clipped(leaves[i], old[i], h, s, *numbers)
        return treedef.unflatten(leaves), slots

    return at_steps(state, step, (updates, slots))


@checked(threshold=POSITIVE, power=POSITIVE)
def qk_clip(
    optimizer: Pair,
    head_axis: int | PrefixTree | None,
    threshold: Scalar = 100.0,
    power: Scalar = 0.5,
) -> Optimizer:
    r"""Run an optimizer, then scale down query and key weights of heads with too large logits.

    Head by head, with :math:`U_t` the optimizer's update and :math:`S_t` the largest logit:

    .. math::

       W_t = \gamma^p\, (W_{t-1} + U_t), \qquad \gamma = \min(1,\; \tau / S_t)

    Evidence: authors only. Kimi Team 2025, arXiv 2507.20534.

    Args:
      optimizer: any `(init, update)` pair; over `muon` it is MuonClip.
      head_axis: the axis of a parameter along which the heads lie, in consecutive blocks of equal
        size; None where nothing is clipped. `by_path({".*(query|key)": -1, ".*": None})` or a
        prefix tree.
      threshold: :math:`\tau` > 0, the largest logit that is not clipped.
      power: :math:`p` > 0, power of the factor: 0.5 where queries and keys share it; 1 for the
        rotary part of the queries in MLA, with a second wrapper, where the rotary keys are shared
        by the heads and not scaled.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `max_logits=`, a prefix tree over the
      parameters of the largest logit of each head in this step's batch, [heads], or of one number
      for all, or None.
      State: that of the optimizer.

    Raises:
      ValueError: if a number is out of range, or heads do not divide an axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.qk_clip(gdjax.sgd(0.0), gdjax.by_path({"query": 1, ".*": None}))
      >>> params = {"query": jnp.ones((2, 4)), "value": jnp.ones((2, 4))}
      >>> logits = jnp.array([400.0, 50.0])
      >>> updates, _ = opt.update(
      ...     params, opt.init(params), params, max_logits={"query": logits, "value": None}
      ... )
      >>> print((params["query"] + updates["query"])[0], updates["value"][0])
      [0.5 0.5 1.  1. ] [-0. -0. -0. -0.]

    References:
      Kimi Team (2025), "Kimi K2: open agentic intelligence".
    """
    init, update = with_extra_args_support(optimizer)

    def slots(params: Params) -> QKClip:
        treedef = jax.tree.structure(params)
        axes = whole_leaf_values("qk_clip(head_axis=...)", head_axis, params)
        for axis, x in zip(axes, jax.tree.leaves(params), strict=True):
            if axis is not None and not (
                isinstance(axis, int) and -jnp.ndim(x) <= axis < jnp.ndim(x)
            ):
                raise ValueError(
                    f"qk_clip(head_axis=...) must name an axis of the shape {jnp.shape(x)}, got "
                    f"{axis!r}."
                )
        heads = [None if axis is None else HeadAxis(axis) for axis in axes]
        return QKClip(treedef.unflatten(heads), init(params))

    return treewise(_qk_clip, slots, dict(threshold=threshold, power=power), inner=update)
