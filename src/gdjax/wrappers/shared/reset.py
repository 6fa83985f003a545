"""Reset the counts and slots of an optimizer.

Three things are kept: hyperparameters, so that a change of them lasts; random keys, so that no
noise occurs twice; and what guards and accumulation count and hold back, so that nothing is lost.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import is_state
from gdjax.core.codecs import HOST, is_encoded
from gdjax.core.keys import is_key
from gdjax.core.protocols import ReportsStep
from gdjax.core.types import OptState, PyTree


def memory(state: OptState) -> PyTree:
    """Return what `reset` needs of a state: counts and slots, at any nesting."""

    def part(node):
        if not is_state(node):
            return None if is_key(node) else node
        slots = node.slots
        return node.count, memory(getattr(slots, "inner", ()) if _is_kept(slots) else slots)

    return jax.tree.map(part, state, is_leaf=is_state)


def reset(when: Array, state: OptState, first: PyTree) -> OptState:
    """Return the state with counts and slots of `first`, a `memory`, where `when` holds."""

    def part(node, old):
        if is_encoded(node):  # `with_slot_dtypes` leaves a memory as it is
            old = old if is_encoded(old) else node.encode(old)
            if node.codec.name == HOST:
                return node.encode(jnp.where(when, old.decode(), node.decode()))
            return jax.tree.map(part, node, old)
        if not is_state(node):
            return node if is_key(node) else jnp.where(when, old, node)
        slots, (count, first) = node.slots, old
        if not _is_kept(slots):
            count = jnp.where(when, count, node.count)
            return node._replace(count=count, slots=reset(when, slots, first))
        if hasattr(slots, "inner"):
            slots = slots._replace(inner=reset(when, slots.inner, first))
        return node._replace(slots=slots)

    return jax.tree.map(part, state, first, is_leaf=lambda x: is_state(x) or is_encoded(x))


def _is_kept(slots: PyTree) -> bool:
    return isinstance(slots, ReportsStep)
