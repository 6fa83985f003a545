"""What must vanish at a solution, for stop criteria and for implicit derivatives; what is allowed.

Without constraints it is the gradient. A method for something else takes part by giving its slots
a method `optimality(params, grads, hyperparams) -> tree`, like `eval_params` of averages; one whose
parameters must stay in a set, a method `feasible(params) -> params`.
"""

from __future__ import annotations

from typing import Any

import jax

from gdjax.core.base import is_state
from gdjax.core.hyper import value_at


def optimality(state: Any, params: Any, grads: Any) -> Any:
    """Return the tree that is zero where the optimizer would stay: the gradient, or its likeness.

    Args:
      state: the state of any optimizer, chain or wrapper.
      params: the point.
      grads: the gradient of the objective there.

    Returns:
      `grads`, or for a method with constraints or a nonsmooth term, x - prox(x - grads).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, grads = jnp.array([0.0, 2.0]), jnp.array([0.5, -1.0])
      >>> state = gdjax.proximal_gradient(gdjax.proximal.prox_lasso, 0.1, reg=1.0).init(x)
      >>> print(optimality(state, x, grads))  # |0.5| <= 1 at 0; -1 + 1 = 0 at 2
      [0. 0.]
    """
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if not is_state(node):
            continue
        if hasattr(node.slots, "optimality"):
            numbers = {k: value_at(v, node.count) for k, v in node.hyperparams.items()}
            return node.slots.optimality(params, grads, numbers)
        inner = optimality(node.slots, params, grads)
        if inner is not grads:
            return inner
    return grads


def feasible(state: Any, params: Any) -> Any:
    """Return the parameters, put back into the set that the outermost constraint in a state gives.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([-1.0, 2.0])
      >>> print(feasible(gdjax.lbfgsb(lower=0.0).init(x), x), feasible(gdjax.adam(0.1).init(x), x))
      [0. 2.] [-1.  2.]
    """
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if is_state(node):
            if hasattr(node.slots, "feasible"):
                return node.slots.feasible(params)
            params = feasible(node.slots, params)
    return params
