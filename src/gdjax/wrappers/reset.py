"""Set an inner optimizer back to what it remembered at first, with the numbers it has now."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import State, is_state


def memory(state: Any) -> Any:
    """Return counts and slots of a state, however nested, without the hyperparameters."""

    def part(node):
        return (node.count, memory(node.slots)) if is_state(node) else node

    return jax.tree.map(part, state, is_leaf=is_state)


def reset(when: Array, state: Any, first: Any) -> Any:
    """Return the state with counts and slots of `first`, a `memory`, where `when` holds."""

    def part(node, old):
        if not is_state(node):
            return jnp.where(when, old, node)
        count, slots = old
        count = jnp.where(when, count, node.count)
        return State(count, node.hyperparams, reset(when, node.slots, slots))

    return jax.tree.map(part, state, first, is_leaf=is_state)
