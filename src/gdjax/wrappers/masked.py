"""Two groups by a mask: one optimizer for one of them, none for the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gdjax.core.base import Optimizer
from gdjax.wrappers.groups import FROZEN, KEPT, grouped, leaf_labels


def _names(mask: Any, on: str, off: str) -> Callable[[Any], tuple[str, ...]]:
    return functools.partial(_two_names, mask, on, off)


def _two_names(mask, on, off, params) -> tuple[str, ...]:
    return tuple(on if holds else off for holds in leaf_labels("mask=...", mask, params))


def masked(inner: Any, mask: Any, *, mask_compatible_extra_args: bool = False) -> Optimizer:
    """Apply an optimizer where `mask` is true, and hand on the others' gradients as they are.

    So it is meant for transforms, within a chain. For an optimizer it is hardly ever what one
    wants: the raw gradient would be added to the parameters that are masked out. Use
    `selective_transform` to leave these as they are.

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
    members = {"masked": inner, "rest": KEPT}
    return grouped(members, _names(mask, "masked", "rest"), mask_compatible_extra_args)


def freeze(mask: Any) -> Optimizer:
    """Set the updates to zero where `mask` is true, and hand on the others.

    Args:
      mask: see `masked`; True freezes all.

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
    return grouped({"frozen": FROZEN, "rest": KEPT}, _names(mask, "frozen", "rest"))


def selective_transform(optimizer: Any, *, freeze_mask: Any) -> Optimizer:
    """Optimize only the parameters where `freeze_mask` is false; the others stay as they are.

    Args:
      optimizer: an `(init, update)` pair. It sees and remembers nothing of the frozen parameters.
      freeze_mask: see `masked`.

    Returns:
      An `Optimizer`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> opt = gdjax.selective_transform(gdjax.adam(0.1), freeze_mask={"w": True, "b": False})
      >>> state = opt.init(params)
      >>> print(opt.update(params, state)[0]["w"], sum(x.size for x in jax.tree.leaves(state)))
      [0. 0.] 8
    """
    members = {"train": optimizer, "freeze": FROZEN}
    return grouped(members, _names(freeze_mask, "freeze", "train"))
