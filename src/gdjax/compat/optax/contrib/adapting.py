"""What the pairs of `optax.contrib` need from the adapter beyond equal fields."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.compat.optax.adapter import Pair, on_gdjax
from gdjax.compat.optax.base import GradientTransformation
from gdjax.core.base import Optimizer, State
from gdjax.core.numerics import scalar_dtype
from gdjax.core.trees import derived
from gdjax.core.types import Params


def as_numbers(x: ArrayLike | Sequence[Any]) -> Array:
    """Return a new array, which may be donated, in the dtype that gdjax keeps numbers in."""
    return jnp.array(x, scalar_dtype(), copy=True)


def starting(pair: Pair, first: Callable[[Params], dict[str, Any]]) -> Pair:
    """Return a pair whose first state has other values in some fields.

    gdjax computes in the first step what optax has in the state from the beginning.

    Args:
      pair: has a NamedTuple as state.
      first: returns field -> value, given the parameters.
    """

    def init(params):
        return pair.init(params)._replace(**derived(first, params))

    return type(pair)(init, pair.update)


def on_trees(
    optimizer: Optimizer,
    state_class: type[Any],
    read: Callable[[State], Any],
    write: Callable[[State, Any, Any, Any], State],
    kind: type[Pair] = GradientTransformation,
) -> Pair:
    """Return an optimizer of gdjax whose state cannot be told from optax's without the trees.

    Args:
      optimizer: as for `on_gdjax`, like `read` and the arguments not named here.
      state_class: the class of optax's state.
      read: returns optax's state, given gdjax's.
      write: returns gdjax's state, given one with the pair's numbers, optax's state, the updates
        and the parameters.
      kind: the class of the pair.
    """

    def with_trees(native, given):
        return write(native, *given)

    pair = on_gdjax(optimizer, state_class, read=read, write=with_trees, kind=kind)

    def update(updates, state, params=None, **extra):
        return pair.update(updates, (state, updates, params), params, **extra)

    return kind(pair.init, update)
