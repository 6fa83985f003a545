"""Transformations of a part of the parameters: what is left out is a `MaskedNode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    set_to_zero,
    with_extra_args_support,
)
from gdjax.compat.optax.combine import partition
from gdjax.core.hyper import Placeholder
from gdjax.core.types import PyTree


class MaskedNode(NamedTuple):
    """Stands for a part of a tree that is left out: a node without leaves.

    `jax.tree.map` passes over it; `is_leaf=lambda x: isinstance(x, MaskedNode)` finds it.
    """


class MaskedState(NamedTuple):
    """The state of what is applied to the unmasked part, with `MaskedNode` for the rest."""

    inner_state: OptState


def masked(
    inner: GradientTransformation,
    mask: PyTree | Callable[[Params], PyTree],
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformationExtraArgs:
    """Apply a transformation where a mask is true, and return the other updates as they are.

    Args:
      inner: the transformation, of optax or of gdjax. It sees `MaskedNode` for what is left out,
        and has no state for it.
      mask: a tree of booleans, the parameters' tree or a prefix of it, or a function of the
        parameters (of the updates, in `update`) that gives one.
      mask_compatible_extra_args: whether extra arguments of `update` that have the structure of the
        updates are masked too.

    Raises:
      ValueError: in `init` and `update`, if the mask is no prefix of the tree.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
      >>> decay = optax.masked(optax.add_decayed_weights(0.1), {"bias": False, "kernel": True})
      >>> updates, state = decay.update(params, decay.init(params), params)
      >>> print(updates["bias"], updates["kernel"])
      [1.] [1.1]
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> MaskedState:
        if isinstance(params, Placeholder):  # of tree_map_params
            return MaskedState(inner.init(params))
        return MaskedState(inner.init(_kept(tree_given_by(mask, params), params)))

    def update(updates, state, params=None, **extra_args: Any):
        tree = tree_given_by(mask, updates)
        if mask_compatible_extra_args:
            alike = jax.tree.structure(updates)
            extra_args = {
                k: _kept(tree, v) if jax.tree.structure(v) == alike else v
                for k, v in extra_args.items()
            }
        shown = None if params is None else _kept(tree, params)
        new, inner_state = inner.update(
            _kept(tree, updates), state.inner_state, shown, **extra_args
        )
        merged = jax.tree.map(lambda on, new, old: new if on else old, tree, new, updates)
        return merged, MaskedState(inner_state)

    return GradientTransformationExtraArgs(init, update)


def is_function(given: PyTree) -> bool:
    """Return whether a mask or labels are a function, not a tree that is callable itself.

    An Equinox module is such a tree; a function has itself as its only leaf.
    """
    leaves = jax.tree.leaves(given)
    return bool(leaves) and all(map(callable, leaves))


def tree_given_by(given: PyTree | Callable[[Params], PyTree], params: Params) -> PyTree:
    """Return a tree of masks or labels, or what a function gives for these parameters."""
    return given(params) if is_function(given) else given


def _kept(mask: PyTree, tree: PyTree) -> PyTree:
    try:
        return jax.tree.map(lambda on, part: part if on else MaskedNode(), mask, tree)
    except ValueError as error:
        raise ValueError(
            "masked(mask=...) must be a tree of booleans, the parameters' tree or a prefix of it, "
            f"got {jax.tree.structure(mask)} for {jax.tree.structure(tree)}. {error}"
        ) from None


def freeze(mask: PyTree) -> GradientTransformation:
    """Set the updates to zero where a mask is true.

    Args:
      mask: one boolean, or a tree of them that is a prefix of the parameters.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> updates = {"a": jnp.ones(1), "b": jnp.ones(1)}
      >>> frozen = optax.freeze({"a": True, "b": False})
      >>> print(frozen.update(updates, frozen.init(updates))[0])
      {'a': Array([0.], dtype=float32), 'b': Array([1.], dtype=float32)}
    """
    return masked(set_to_zero(), mask)


def selective_transform(
    optimizer: GradientTransformation, *, freeze_mask: PyTree
) -> GradientTransformationExtraArgs:
    """Apply an optimizer where a mask is false; where it is true, the updates are zero.

    Args:
      optimizer: has no state for what is frozen.
      freeze_mask: one boolean, or a tree of them that is a prefix of the parameters.
    """

    def labels(params: Params) -> PyTree:
        return jax.tree.map(lambda frozen: "freeze" if frozen else "train", freeze_mask)

    return partition({"train": optimizer, "freeze": set_to_zero()}, labels)
