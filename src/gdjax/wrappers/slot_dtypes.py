"""Keep chosen slots of any optimizer in another dtype, to save memory or for more precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer, is_state
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.protocols import states_in
from gdjax.core.types import FloatDType, OptState, Pair, Params, PyTree


@strict()
def with_slot_dtypes(optimizer: Pair, **dtypes: FloatDType) -> Optimizer:
    """Keep some slots of an optimizer in dtypes of their own.

    What `mu_dtype` and `nu_dtype` are for `adam`, for any slot of any optimizer, at any nesting.
    Arithmetic stays in at least float32: a slot is cast when it is read and rounded when stored.

    Args:
      optimizer: an `(init, update)` pair made of gdjax's optimizers.
      **dtypes: name of a slot -> floating dtype of at least 16 bits. Complex leaves and integers
        keep their own.

    Returns:
      An `Optimizer` with the same `update`. State: a bfloat16 slot takes 2 bytes per element in
      place of 4.

    Raises:
      TypeError: for a dtype that is not a floating one, or has 8 bits: JAX does not calculate with
        those, and without scales of their own they hold no moment (1e-6 is 0 in float8_e4m3fn).
      ValueError: at `init`, if no state in the optimizer has a slot of that name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_slot_dtypes(gdjax.yogi(0.1), mu="bfloat16")
      >>> slots = opt.init(jnp.zeros(3)).slots
      >>> print(slots.mu.dtype, slots.nu.dtype)
      bfloat16 float32
    """
    for name, dtype in dtypes.items():
        if dtype is None:
            raise TypeError(
                f"with_slot_dtypes({name}=...) must be a real floating dtype, got None."
            )
    init, update = with_extra_args_support(optimizer)

    def init_cast(params: Params) -> OptState:
        state = init(params)
        slots = (getattr(node.slots, "_fields", ()) for _, node in states_in(state))
        names = dict.fromkeys(name for fields in slots for name in fields)
        for missing in dtypes.keys() - names.keys():
            raise ValueError(
                f"with_slot_dtypes({missing}=...): the optimizer has no slot of that name, only "
                f"{', '.join(names) or 'none'}."
            )
        return _recast(state, dtypes)

    return Optimizer(init_cast, update)


def _recast(tree: PyTree, dtypes: dict[str, FloatDType]) -> PyTree:
    """Return a tree of states with their slots cast."""

    def one(node):
        if not is_state(node):
            return node
        slots = node.slots
        if chosen := dtypes.keys() & set(getattr(slots, "_fields", ())):
            slots = slots._replace(**{k: _cast(getattr(slots, k), dtypes[k]) for k in chosen})
        return node._replace(slots=_recast(slots, dtypes))

    return jax.tree.map(one, tree, is_leaf=is_state)


def _cast(tree: PyTree, dtype: FloatDType) -> PyTree:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
