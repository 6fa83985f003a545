"""Two groups by a mask: an optimizer for one of them, none for the other."""

from __future__ import annotations

import functools

from gdjax.core.base import Optimizer
from gdjax.core.checks import strict
from gdjax.core.lift import mask_leaves
from gdjax.core.types import Mask, Pair, Params
from gdjax.wrappers.groups import FROZEN, KEPT, NamesOf, grouped


def _names(what: str, mask: Mask, on: str, off: str) -> NamesOf:
    return functools.partial(_two_names, what, mask, on, off)


def _two_names(what: str, mask: Mask, on: str, off: str, params: Params) -> tuple[str, ...]:
    return tuple(on if holds else off for holds in mask_leaves(what, mask, params))


@strict()
def masked(inner: Pair, mask: Mask, *, mask_compatible_extra_args: bool = False) -> Optimizer:
    """Apply a transform where `mask` is true, and return the other gradients unchanged.

    It is meant for transforms within a chain. An optimizer is rarely wrapped in it: the raw
    gradient would be added to the parameters that are masked out. Use `selective_transform` to
    leave these unchanged.

    Args:
      inner: an `(init, update)` pair.
      mask: a prefix tree of booleans, `by_path({pattern: boolean})`, or a function of the
        parameters that gives one of these; called by `init` only.
      mask_compatible_extra_args: see `groups`.

    Returns:
      An `Optimizer`, whose state keeps nothing for the parameters that are masked out.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> opt = gdjax.masked(gdjax.add_decayed_weights(0.5), {"w": True, "b": False})
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["w"], updates["b"])
      [1.5 1.5] [1.]
    """
    names_of = _names("masked(mask=...)", mask, "masked", "rest")
    return grouped("masked", {"masked": inner, "rest": KEPT}, names_of, mask_compatible_extra_args)


@strict()
def freeze(mask: Mask) -> Optimizer:
    """Set the updates to zero where `mask` is true, and return the others unchanged.

    Args:
      mask: see `masked`; True freezes all parameters.

    Returns:
      An `Optimizer` without any state in memory.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.adam(0.1), gdjax.freeze({"w": True, "b": False}))
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> updates, _ = opt.update(params, opt.init(params))
      >>> print(updates["w"], updates["b"])
      [0. 0.] [-0.1]
    """
    names_of = _names("freeze(mask=...)", mask, "frozen", "rest")
    return grouped("freeze", {"frozen": FROZEN, "rest": KEPT}, names_of)


@strict()
def selective_transform(optimizer: Pair, *, freeze_mask: Mask) -> Optimizer:
    """Optimize only the parameters where `freeze_mask` is false; the others do not change.

    Args:
      optimizer: an `(init, update)` pair. It does not see the frozen parameters, and keeps no state
        for them.
      freeze_mask: see `masked`.

    Returns:
      An `Optimizer`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> opt = gdjax.selective_transform(gdjax.adam(0.1), freeze_mask={"w": True, "b": False})
      >>> state = opt.init(params)
      >>> print(opt.update(params, state)[0]["w"], sum(x.size for x in jax.tree.leaves(state)))
      [0. 0.] 10
    """
    names_of = _names("selective_transform(freeze_mask=...)", freeze_mask, "freeze", "train")
    return grouped("selective_transform", {"train": optimizer, "freeze": FROZEN}, names_of)
