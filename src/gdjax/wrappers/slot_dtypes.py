"""Keep chosen slots of any optimizer in another dtype: less memory, or more precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer, State, is_state
from gdjax.core.chain import with_extra_args_support


def with_slot_dtypes(optimizer: Any, **dtypes: Any) -> Optimizer:
    """Keep some slots of an optimizer in dtypes of their own.

    What `mu_dtype` and `nu_dtype` are to `adam`, for any slot of any optimizer, however nested.
    Arithmetic stays in at least float32: a slot is widened when it is read, rounded when kept.

    Args:
      optimizer: an `(init, update)` pair made of gdjax's optimizers.
      **dtypes: name of a slot -> floating dtype. Complex leaves and integers keep their own.

    Returns:
      An `Optimizer` with the same `update`. State: a bfloat16 slot takes 2 bytes per element in
      place of 4.

    Raises:
      TypeError: for a dtype that is not a floating one.
      ValueError: at `init`, if no state in the optimizer has a slot of that name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_slot_dtypes(gdjax.yogi(0.1), mu="bfloat16")
      >>> slots = opt.init(jnp.zeros(3)).slots
      >>> print(slots.mu.dtype, slots.nu.dtype)
      bfloat16 float32
    """
    for name, dtype in dtypes.items():
        if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
            raise TypeError(f"with_slot_dtypes({name}=...) must be a floating dtype, got {dtype}.")
    init, update = with_extra_args_support(optimizer)

    def init_cast(params: Any) -> Any:
        names: dict[str, None] = {}
        state = _recast(init(params), dtypes, names)
        for missing in dtypes.keys() - names.keys():
            raise ValueError(
                f"with_slot_dtypes({missing}=...): the optimizer has no slot of that name, only "
                f"{', '.join(names) or 'none'}."
            )
        return state

    return Optimizer(init_cast, update)


def _recast(tree: Any, dtypes: dict[str, Any], names: dict[str, None]) -> Any:
    """Return a tree of states with their slots cast; gather the names of all slots."""

    def one(node):
        if not isinstance(node, State):
            return node
        slots = node.slots
        fields = getattr(slots, "_fields", ())
        names.update(dict.fromkeys(fields))
        if fields:
            new = {k: _cast(getattr(slots, k), dtypes[k]) for k in fields if k in dtypes}
            slots = slots._replace(**new)
        return node._replace(slots=_recast(slots, dtypes, names))

    return jax.tree.map(one, tree, is_leaf=is_state)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
