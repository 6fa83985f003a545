"""Curvature of a loss(params, inputs, targets): Hessian times vector, and two diagonals.

The names are those of optax, which has deprecated them. Deviations: `hessian_diag` needs memory for
a few columns of the Hessian at a time, not for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from gdjax.core.checks import as_float_leaves, check_like, strict
from gdjax.core.explicit import automatically
from gdjax.core.numerics import cast_like
from gdjax.core.types import ArrayTree, Params

Loss = Callable[[Any, Any, Any], Any]

COLUMNS = 32  # of the Hessian at a time: enough to keep a device busy


@strict()
def hvp(loss: Loss, v: ArrayTree, params: Params, inputs: Any, targets: Any) -> Params:
    """Return the Hessian of the loss by the parameters times v, at the cost of two gradients.

    Forward over reverse mode (Pearlmutter 1994): the Hessian is never formed.

    Args:
      loss: a function of (params, inputs, targets), to a number.
      v: a vector of as many elements as the parameters, in the order of `ravel_pytree`; or a tree
        like them.
      params: tree of real float arrays.
      inputs: passed to `loss`.
      targets: passed to `loss`.

    Returns:
      A tree like `params`.

    Raises:
      TypeError: if a parameter is not real and float.
      ValueError: if `v` fits neither form.

    Example:
      >>> import jax.numpy as jnp
      >>> def loss(w, x, y): return jnp.sum((x @ w - y) ** 2)
      >>> x, w = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.zeros(2)
      >>> print(hvp(loss, jnp.array([1.0, 0.0]), w, x, jnp.ones(2)))
      [2. 4.]
    """
    params = _read("hvp", params)
    return _product(loss, automatically(_as_tree, params, v), params, inputs, targets)


@strict()
def hessian_diag(loss: Loss, params: Params, inputs: Any, targets: Any) -> Array:
    """Return the diagonal of the Hessian, exactly, at the cost of two gradients per parameter.

    For many parameters estimate it instead: `gdjax.hutchinson_estimator_diag_hessian`.

    Args:
      loss: see `hvp`, like all arguments.
      params: see `hvp`.
      inputs: see `hvp`.
      targets: see `hvp`.

    Returns:
      A vector of as many elements as the parameters, in the order of `ravel_pytree`.

    Example:
      >>> import jax.numpy as jnp
      >>> def loss(w, x, y): return jnp.sum((x @ w - y) ** 2)
      >>> x, w = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.zeros(2)
      >>> print(hessian_diag(loss, w, x, jnp.ones(2)))
      [ 2. 10.]
    """
    return automatically(_hessian_diag, _read("hessian_diag", params), loss, inputs, targets)


def _hessian_diag(params: Params, loss: Loss, inputs: Any, targets: Any) -> Array:
    flat, unravel = ravel_pytree(params)

    def element(i):
        unit = unravel((jnp.arange(flat.size) == i).astype(flat.dtype))
        return ravel_pytree(_product(loss, unit, params, inputs, targets))[0][i]

    return jax.lax.map(element, jnp.arange(flat.size), batch_size=COLUMNS) if flat.size else flat


@strict()
def fisher_diag(negative_log_likelihood: Loss, params: Params, inputs: Any, targets: Any) -> Array:
    """Return the square of the gradient: the diagonal of the observed Fisher information.

    The gradient is that of all the inputs together. The diagonal of the empirical Fisher matrix of
    a batch, the mean of the squares of the single gradients, is the mean over `jax.vmap` of this.

    Args:
      negative_log_likelihood: a function of (params, inputs, targets), to a number.
      params: see `hvp`.
      inputs: see `hvp`.
      targets: see `hvp`.

    Returns:
      A vector of as many elements as the parameters, in the order of `ravel_pytree`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def nll(w, x, y): return 0.5 * (x @ w - y) ** 2
      >>> x, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 3.0])
      >>> print(jax.vmap(fisher_diag, (None, None, 0, 0))(nll, jnp.zeros(2), x, y).mean(0))
      [0.5 6.5]
    """
    params = _read("fisher_diag", params)
    grads = jax.grad(negative_log_likelihood)(params, inputs, targets)
    return automatically(lambda grads: jnp.square(ravel_pytree(grads)[0]), grads)


def _read(call: str, params: Params) -> Params:
    leaves, treedef = as_float_leaves(f"{call}(params=...)", params)
    for x in leaves:
        if jnp.iscomplexobj(x):
            raise TypeError(f"{call}(params=...) must be real, got dtype {x.dtype}.")
    return treedef.unflatten([jnp.asarray(x) for x in leaves])


def _as_tree(params: Params, v: ArrayTree) -> Params:
    flat, unravel = ravel_pytree(params)
    if jax.tree_util.all_leaves([v]) and jnp.shape(v) == flat.shape:
        return unravel(jnp.asarray(v, flat.dtype))
    treedef = jax.tree.structure(params)
    if jax.tree_util.all_leaves([v]) and not jax.tree_util.treedef_is_leaf(treedef):
        raise ValueError(
            f"hvp(v=...) must be a vector of {flat.size} elements or a tree like the parameters, "
            f"got shape {list(jnp.shape(v))}."
        )
    check_like("hvp(params=...)", *jax.tree.flatten(params), "hvp(v=...)", v)
    return cast_like(v, params)


def _product(loss: Loss, v: ArrayTree, params: Params, inputs: Any, targets: Any) -> Params:
    def gradient(params):
        return jax.grad(loss)(params, inputs, targets)

    return jax.jvp(gradient, (params,), (v,))[1]
