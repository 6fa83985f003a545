"""Reset the counts and slots of an optimizer, but keep its current hyperparameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import is_state
from gdjax.core.types import OptState, PyTree


def memory(state: OptState) -> PyTree:
    """Return counts and slots of a state, at any nesting, without the hyperparameters."""

    def part(node):
        return (node.count, memory(node.slots)) if is_state(node) else node

    return jax.tree.map(part, state, is_leaf=is_state)


def reset(when: Array, state: OptState, first: PyTree) -> OptState:
    """Return the state with counts and slots of `first`, a `memory`, where `when` holds."""

    def part(node, old):
        if not is_state(node):
            return jnp.where(when, old, node)
        count, slots = old
        count = jnp.where(when, count, node.count)
        return node._replace(count=count, slots=reset(when, node.slots, slots))

    return jax.tree.map(part, state, first, is_leaf=is_state)
