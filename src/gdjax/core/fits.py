"""Whether gradients, parameters and state fit each other, and errors that say where not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import short
from gdjax.core.checks import as_float_leaves, check_like, check_state, leaf_name
from gdjax.core.hyper import path_name
from gdjax.core.kinds import is_number, shown
from gdjax.core.numerics import scalar_dtype
from gdjax.core.types import OptState, Params, TreeDef, Updates

NEEDS_PARAMS = "the parameters: call update(grads, state, params)."


def checked_leaves(
    name: str,
    numbers: Collection[str],
    kind: type | None,
    needs_params: bool,
    grads: Updates,
    state: OptState,
    params: Params,
) -> tuple[list[Any], list[Any] | None, TreeDef]:
    """Return the leaves of gradients and parameters (or None), and their structure, checked.

    Args:
      name: what the user called.
      numbers: the names of the optimizer's hyperparameters.
      kind: the class of its slots; None if it is not known.
      needs_params: whether the parameters may not be None.
      grads: the gradients.
      state: what came in as state.
      params: the parameters, or None.
    """
    leaves, treedef = as_float_leaves(f"{name}: the gradients", grads)
    check_state(name, state, numbers, kind)
    if type(grads).__module__.startswith("flax.nnx"):
        _check_nnx(name, treedef, grads, state)
    if params is None and needs_params:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    if params is None:
        return leaves, None, treedef
    parts = check_like("the gradients", leaves, treedef, f"{name}: the parameters", params)
    return leaves, parts, treedef


def loss_given(name: str, value: object) -> Array:
    """Return the `value=` of an update, the loss, in at least float32."""
    if value is None:
        raise ValueError(f"{name} needs the loss: call update(grads, state, params, value=loss).")
    if not is_number(value) or np.size(value) != 1:  # pyright: ignore[reportArgumentType]
        raise ValueError(
            f"{name}: update(..., value=...) must be the loss, one real number, got "
            f"{shown(value)}. Take its mean over examples."
        )
    x = jnp.asarray(value)  # pyright: ignore[reportArgumentType]
    return x.astype(jnp.promote_types(x.dtype, scalar_dtype())).reshape(())


def _check_nnx(name: str, treedef: TreeDef, grads: Updates, state: OptState) -> None:
    """Raise if `flax.nnx.Optimizer` has changed the structure of slots, as it does of tuples."""
    for tree in state.slots if isinstance(state.slots, tuple) else ():
        try:
            rows = treedef.flatten_up_to(tree)
        except (TypeError, ValueError):  # not shaped like the parameters
            continue
        for i, row in enumerate(rows):
            if type(row) is type(grads):
                raise ValueError(
                    f"{name}: flax.nnx.Optimizer has replaced what the state has of "
                    f"{leaf_name(grads, i)!r} by {short(row)}: it cannot hold states with several "
                    "arrays for each parameter. Keep the state of this optimizer yourself, as "
                    "docs/guides/other-libraries.md shows for Flax NNX."
                )


def check_avals(name: str, grad: Array | None, new: Any, old: Any) -> None:
    """Raise if a step would change the shapes of the slots, or make real ones complex.

    The gradients then do not belong to the parameters that the state was made for.
    """
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(new)[0], jax.tree.leaves(old), strict=False
    ):
        if jnp.shape(x) != y.shape or jnp.iscomplexobj(x) and not jnp.iscomplexobj(y):
            of = "the gradients do" if grad is None else f"a gradient {short(grad)} does"
            raise ValueError(
                f"{name}: {of} not fit the state, whose slot {path_name(path)!r} is {short(y)} and "
                f"would become {short(x)}. Call init with these parameters."
            )


def misfit(name: str, grads: Updates, leaves: list[Any], slots: list[Any]) -> ValueError | None:
    """Return the error for a gradient that has the shape of none of its slots, if there is one."""
    for i, (grad, kept) in enumerate(zip(leaves, slots, strict=True)):
        arrays = [x for x in jax.tree.leaves(kept) if jnp.ndim(x)]
        of_reals = jnp.iscomplexobj(grad) and not any(map(jnp.iscomplexobj, arrays))
        if arrays and (of_reals or all(jnp.shape(x) != jnp.shape(grad) for x in arrays)):
            shapes = ", ".join(short(x) for x in arrays)
            return ValueError(
                f"{name}: the gradient at {leaf_name(grads, i)!r} is {short(grad)}, which does not "
                f"fit its slots in the state, {shapes}. Call init with these parameters."
            )
    return None


def tree_misfit(name: str, grads: Updates, slots: Any) -> ValueError | None:
    """Return the error for a gradient that differs in shape from a tree like it in the slots."""
    leaves, treedef = jax.tree.flatten(grads)
    alike = jax.tree.leaves(slots, is_leaf=lambda x: jax.tree.structure(x) == treedef)
    for tree in alike if treedef.num_leaves else ():
        if jax.tree.structure(tree) != treedef:
            continue
        for i, (x, y) in enumerate(zip(leaves, jax.tree.leaves(tree), strict=True)):
            if jnp.ndim(y) and jnp.shape(x) != jnp.shape(y):
                return ValueError(
                    f"{name}: the gradient at {leaf_name(grads, i)!r} is {short(x)}, in the state "
                    f"it is {short(y)}. Call init with these parameters."
                )
    return None
