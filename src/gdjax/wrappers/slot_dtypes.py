"""Keep chosen slots of any optimizer in fewer bits, to save memory, or in more, for precision."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer, is_state
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import COUNT, WHOLE, strict
from gdjax.core.codecs import NAMES, STOCHASTIC, Encoded, codec_of, encoded, is_encoded
from gdjax.core.explicit import automatically
from gdjax.core.hyper import Placeholder
from gdjax.core.keys import fresh_key
from gdjax.core.lift import mask_leaves
from gdjax.core.placement import placed_along, sharding_along
from gdjax.core.protocols import KeepsIterates, states_in
from gdjax.core.trees import derived
from gdjax.core.types import (
    FloatDType,
    Key,
    Mask,
    OptState,
    Pair,
    Params,
    PyTree,
    SlotDType,
    TreeDef,
)

SQUARES = ("nu", "nu_max", "v", "e_g", "e_x", "sum_of_squares", "grad_sum_sq")


@strict(min_size=COUNT, block=WHOLE)
def with_slot_dtypes(
    optimizer: Pair,
    *,
    mask: Mask = None,
    min_size: int = 4096,
    block: int = 256,
    scale_dtype: FloatDType = None,
    key: Key = 0,
    **dtypes: SlotDType,
) -> Optimizer:
    """Keep some slots of an optimizer in dtypes of their own, or in codes of 8 bits.

    What `mu_dtype` and `nu_dtype` are for `adam`, for any slot of any optimizer, at any nesting.
    Arithmetic stays in at least float32: a slot is decoded when it is read and rounded when stored,
    array by array within the step, so that there is no float32 copy of the whole state; but methods
    that need sums over all parameters before their step, such as Prodigy, have one during the step.

    ========================  ==========  =======================================================
    dtype                     bytes each  for
    ========================  ==========  =======================================================
    "float32"                 4           slots that an optimizer keeps in less
    "bfloat16", "float16"     2           means of gradients; means of squares stop too early
    "bfloat16_stochastic"     2           both: rounded up or down at random, right in the mean
    "int8"                    1 + 4/256   means of gradients: a dynamic code with sign, 7 decades
    "uint8"                   1 + 4/256   means of squares: the same without sign; NaN for
                                          negative numbers
    "float8_e4m3fn"           1 + 4/256   means of gradients
    "float8_e5m2"             1 + 4/256   what needs range; too coarse for means of squares
    ========================  ==========  =======================================================

    The last four have a scale for each block of elements. A block lies along the last axis, and
    where that is shorter continues along the axes before it, so codes and scales are sharded as the
    parameter is, if its shards are multiples of a block. A block with a number that is not finite
    is NaN. In a block without negative numbers, none becomes 0 that was not: it may be divided by.

    Slots with codes are nodes, `gdjax.core.codecs.Encoded`. `gdjax.decoded(state)` shows the
    numbers; functions of `jax.numpy` take a single slot as its array. Derivatives do not pass
    through codes, so hypergradients over several steps need other dtypes.

    Evidence: authors only. Dettmers et al. 2021, arXiv 2110.02861, for 8 bits in blocks.

    Args:
      optimizer: an `(init, update)` pair made of gdjax's optimizers.
      mask: which parameters take part: a prefix tree of booleans, a `by_path` of them, or a
        function of the parameters that gives one of these. None is all. Dettmers et al. keep
        the states of embeddings in 32 bits:
        `mask=gdjax.by_path({r".*embed.*": False, r".*": True})`.
      min_size: an array of fewer elements keeps its dtype where codes or random rounding are asked
        for, >= 0: there is little to save.
      block: the most elements that share a scale, >= 1.
      scale_dtype: the dtype of scales, bfloat16 or float32; None is float32, or float64 for
        float64 slots.
      key: a seed or a key of `jax.random`, for random rounding. Each array has its own key, which
        is a leaf of the state.
      **dtypes: name of a slot -> a floating dtype of at least 16 bits, or a name in the table.
        Complex leaves, integers and keys keep their own.

    Returns:
      An `Optimizer` with the same `update`.
      State: see the table; Adam with `mu="int8"` and `nu="uint8"` takes 2.03 bytes per parameter in
      place of 8.

    Raises:
      TypeError: for a dtype that is neither a floating one nor in the table.
      ValueError: for scales of float16; at `init`, if no state in the optimizer has a slot of that
        name; if it is the state of an optimizer; if less than float32 is asked for a slot with
        parameters, such as `z` of `schedule_free`, to which steps are added that would be rounded
        away; if a mask is given and a slot is not shaped like the parameters.

    Warns:
      UserWarning: if a mean of squares is to be rounded to nearest in 16 bits: a step changes it by
        less than half a unit, so it stops at about half of its value.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", nu="uint8")
      >>> state = opt.init({"w": jnp.zeros((64, 512)), "b": jnp.zeros(512)})
      >>> print(state.mu["w"], state.nu["w"], state.nu["b"].dtype)
      Encoded(int8[64, 512]) Encoded(uint8[64, 512]) float32
      >>> print(state.mu["w"].codes.dtype, state.mu["w"].scales.shape)
      int8 (64, 2)

    References:
      Dettmers et al. (2022), "8-bit optimizers via block-wise quantization". The code that is
      nearest to a number is that of bitsandbytes; differences are named in gdjax.core.codecs.
    """
    if scale_dtype is not None and jnp.dtype(scale_dtype) == jnp.float16:
        raise ValueError(
            "with_slot_dtypes(scale_dtype=...) must be bfloat16, float32 or float64, got float16, "
            "in which the square of a gradient of 1e-4 is 0."
        )
    storage = {name: _storage(dtype) for name, dtype in dtypes.items()}
    for name in storage.keys() & set(SQUARES):
        if storage[name] in ("bfloat16", "float16"):
            warnings.warn(
                f"with_slot_dtypes({name}={storage[name]!r}) rounds a mean of squares to nearest: "
                "a step changes it by less than half a unit of 16 bits, so it stops at about half "
                f'of its value. Use {STOCHASTIC!r}, "uint8" or "float32".',
                stacklevel=3,
            )
    init, update = with_extra_args_support(optimizer)

    def init_stored(params: Params) -> OptState:
        state = init(params)
        _check(state, storage)
        if isinstance(params, Placeholder):  # as `tree.map_params` has it
            return state
        keys = map(functools.partial(jax.random.fold_in, fresh_key(key)), itertools.count())
        on = None if mask is None else mask_leaves("with_slot_dtypes(mask=...)", mask, params)

        def slot(name: str, tree: PyTree) -> PyTree:
            def leaf(kept):
                x = kept.decode() if is_encoded(kept) else kept
                if not jnp.issubdtype(x.dtype, jnp.floating):
                    return kept
                if storage[name] not in NAMES:
                    return x.astype(storage[name])
                if x.size < min_size:
                    return kept
                own = next(keys) if storage[name] == STOCHASTIC else None
                return _encoded(x, storage[name], block, scales, own)

            if on is None:
                return jax.tree.map(leaf, tree, is_leaf=is_encoded)
            parts, treedef = _parts(name, tree, params)
            return treedef.unflatten(
                [
                    jax.tree.map(leaf, part, is_leaf=is_encoded) if yes else part
                    for part, yes in zip(parts, on, strict=True)
                ]
            )

        scales = None if scale_dtype is None else jnp.dtype(scale_dtype)
        return changed_slots(state, storage, slot)

    return Optimizer(init_stored, update)


def _encoded(
    x: Array, name: str, block: int, scale_dtype: np.dtype | None, key: Array | None
) -> Encoded:
    """Return `encoded(...)` with codes and scales where `x` lies, and the key on all devices."""
    data = None if key is None else jax.random.key_data(key)

    def parts(x, data):
        own = None
        if key is not None:
            own = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
        kept = encoded(x, name, block, scale_dtype, own)
        return kept.codes, kept.scales

    def placed(part: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return placed_along(part, x, range(x.ndim))
        sharding = sharding_along(x, part.shape, range(x.ndim))
        if isinstance(part, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding)
        return part if sharding in (None, part.sharding) else jax.device_put(part, sharding)

    codes, scales = derived(lambda x: automatically(parts, x, data), x)
    scales = None if scales is None else placed(scales)
    if key is not None:
        key = jax.random.split(key)[1]  # that of the next rounding
        key = key if isinstance(x, jax.ShapeDtypeStruct) else placed_along(key, x, ())
    return Encoded(placed(codes), scales, key, codec_of(x, name, block))


def _storage(dtype: SlotDType) -> str:
    return STOCHASTIC if dtype == STOCHASTIC else jnp.dtype(dtype).name


def _check(state: OptState, storage: dict[str, str]) -> None:
    """Raise if a slot is not there, or must stay as it is."""
    found: dict[str, None] = {}
    for _, node in states_in(state):
        for name in slot_names(node.slots):
            found[name] = None
            what = f"with_slot_dtypes({name}=...)"
            if name not in storage:
                continue
            if any(map(is_state, jax.tree.leaves(getattr(node.slots, name), is_leaf=is_state))):
                raise ValueError(
                    f"{what}: this is the state of an optimizer; name one of its slots."
                )
            exact = isinstance(node.slots, KeepsIterates) and name in node.slots.iterates
            if exact and storage[name] not in ("float32", "float64"):
                raise ValueError(
                    f"{what} must be float32 or float64, got {storage[name]!r}: "
                    f"{type(node.slots).__name__} keeps parameters there, in which steps that are "
                    "small against them must not be lost."
                )
    for missing in storage.keys() - found.keys():
        raise ValueError(
            f"with_slot_dtypes({missing}=...): the optimizer has no slot of that name, only "
            f"{', '.join(found) or 'none'}."
        )


def changed_slots(
    tree: PyTree, names: Collection[str] | None, slot: Callable[[str, PyTree], PyTree]
) -> PyTree:
    """Return a tree of states with the slots of these names changed by `slot(name, value)`.

    Args:
      tree: a state, or a tree that holds states.
      names: those of slots; None for all that are no states of other optimizers.
      slot: a function of name and value of a slot.
    """

    def one(node):
        if not is_state(node):
            return node
        slots = node.slots
        fields = [name for name in slot_names(slots) if names is None or name in names]
        if fields:
            slots = slots._replace(**{name: slot(name, getattr(slots, name)) for name in fields})
        return node._replace(slots=changed_slots(slots, names, slot))

    return jax.tree.map(one, tree, is_leaf=is_state)


def slot_names(slots: PyTree) -> tuple[str, ...]:
    """Return the names of slots; none if they are the state of another optimizer."""
    return () if is_state(slots) else getattr(slots, "_fields", ())


def _parts(name: str, tree: PyTree, params: Params) -> tuple[list[PyTree], TreeDef]:
    """Return the part of a slot for each parameter, and the structure of the parameters."""
    treedef = jax.tree.structure(params)
    try:
        return treedef.flatten_up_to(tree), treedef
    except (TypeError, ValueError):
        raise ValueError(
            f"with_slot_dtypes(mask=...): the slot {name!r} has no part for each parameter, so it "
            "cannot be masked. Give the parameters optimizers of their own, as by gdjax.groups."
        ) from None
