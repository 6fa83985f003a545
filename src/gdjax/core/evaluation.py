"""Read the parameters to evaluate with out of any state, where they are not those one trains.

A wrapper takes part by giving its slots, a NamedTuple, a method
`eval_params(params, count, hyperparams) -> params`, where `count` updates have been done and
`hyperparams` are the numbers that the last of them used. If it passes parameters of its own to an
inner optimizer, it calls `eval_params(inner_state, ...)` itself; the search ends with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import is_state
from gdjax.core.hyper import numbers_at
from gdjax.core.lift import own_decoded
from gdjax.core.numerics import compute_dtype
from gdjax.core.protocols import HoldsEvalParams
from gdjax.core.types import OptState, P, Params, PyTree


def eval_params(state: OptState, params: P) -> P:
    """Return the parameters to evaluate with: averaged, schedule-free or lookahead weights.

    Args:
      state: the state of any optimizer, chain or wrapper. If several wrappers that hold weights
        are nested, the outermost one decides; side by side, each gives the weights of its part.
      params: the parameters that are trained, to which the state belongs.

    Returns:
      A tree like `params`, in the same dtypes; `params` themselves if the state holds no others.

    Raises:
      TypeError: if the state and the parameters are in the wrong order.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.clip(1.0), gdjax.tail_average(gdjax.sgd(1.0)))
      >>> params = jnp.array([4.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params, gdjax.eval_params(state, params))
      [1.] [2.]
    """
    if any(map(is_state, _top(params))) and not any(map(is_state, _top(state))):
        raise TypeError(
            "eval_params(state, params): `params` holds the state of an optimizer, and `state` "
            "none. Give the state first: eval_params(state, params)."
        )
    return _held(state, params)


def _top(tree: PyTree) -> list:
    return jax.tree.leaves(tree, is_leaf=is_state)  # no state inside of another one


def _held(state: OptState, params: P) -> P:
    for node in filter(is_state, _top(state)):
        if isinstance(node.slots, HoldsEvalParams):
            last = jnp.maximum(node.count - 1, 0)
            params = own_decoded(node.slots).eval_params(params, node.count, numbers_at(node, last))
        else:
            params = _held(node.slots, params)
    return params


def map_held(leaf: Callable[..., Array], held: PyTree, params: Params, *numbers: Array) -> Params:
    """Return `leaf(held, param, *numbers)` for each parameter, in its dtype.

    `leaf` is a function of a module. Where `held` has None, because that parameter belongs to
    another group, the parameter stays.
    """

    def one(x, param):
        return param if x is None else _cast_back(leaf, x, param, *numbers)

    return jax.tree.map(one, held, params, is_leaf=lambda x: x is None)


@functools.partial(jax.jit, static_argnums=0)
def _cast_back(leaf, x, param, *numbers):
    dtype = compute_dtype(x, param)
    return leaf(x.astype(dtype), param.astype(dtype), *numbers).astype(param.dtype)
