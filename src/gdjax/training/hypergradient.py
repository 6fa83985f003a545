"""Gradients through training: how a validation loss changes with any hyperparameter.

Maclaurin, Duvenaud & Adams (2015), https://arxiv.org/abs/1502.03492; forward mode: Franceschi et
al. (2017), https://arxiv.org/abs/1703.01785. Checkpoints at every sqrt(steps)-th step: Chen et al.
(2016), section 3, https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.chain import apply_updates, with_extra_args_support
from gdjax.core.checks import check_choice, check_integer, strict
from gdjax.core.kinds import is_array_tree, shown
from gdjax.core.types import Key, LossFn, P, Pair, Params, PyTree
from gdjax.training.engine import draw
from gdjax.training.epochs import with_epochs
from gdjax.training.inputs import (
    as_key,
    check_batch_size,
    check_loss_output,
    one_batch,
    rebuilt,
)
from gdjax.wrappers.loss_scale import loss_scale

FEW = 4  # hyperparameters up to which forward mode is chosen: it costs about that many runs


@strict()
def unroll(
    loss_fn: LossFn,
    params: Params,
    optimizer: Pair,
    data: PyTree,
    *,
    steps: int,
    batch_size: int | None = None,
    key: Key | None = None,
    model_state: PyTree = None,
    checkpoint: bool = True,
) -> Params | tuple[Params, PyTree]:
    """Train and return the parameters, differentiably: `fit` for use inside a function.

    The batches are those of `fit` with the same key. Every argument may be traced: numbers in the
    optimizer, parameters, data.

    Args:
      loss_fn: `loss_fn(params, batch)`, differentiable twice.
      params: where training starts.
      optimizer: an `(init, update)` pair, built from traced hyperparameters or not.
      data: a tree of arrays with the examples along axis 0.
      steps: number of updates >= 1.
      batch_size: as in `fit`.
      key: as in `fit`.
      model_state: as in `fit`; the loss is then `loss_fn(params, model_state, batch)`, which
        returns `(loss, model_state)`.
      checkpoint: whether reverse mode keeps only every sqrt(steps)-th state and computes those in
        between once more: memory of 2 sqrt(steps) states instead of `steps`, for one more forward
        pass.

    Returns:
      The trained parameters, or `(params, model_state)` if a `model_state` is given.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> def error(rate):
      ...     x = gdjax.unroll(loss_fn, jnp.zeros(()), gdjax.sgd(rate), jnp.ones(4), steps=5)
      ...     return loss_fn(x, jnp.ones(4))
      >>> print(f"{jax.grad(error)(0.1):.3f} {-20 * 0.8**9:.3f}")  # of (1 - 2 rate)^10
      -2.684 -2.684
    """
    check_integer("unroll(steps=...)", steps)
    init, update = with_extra_args_support(optimizer)
    has_model_state = model_state is not None
    if not is_array_tree(model_state):
        raise TypeError(
            f"unroll(model_state=...) must be a tree of arrays, got {shown(model_state)}."
        )
    model_state = jax.tree.map(jnp.asarray, model_state)
    if not is_array_tree(data) or not all(map(jnp.ndim, jax.tree.leaves(data) or [0])):
        raise TypeError(
            "unroll(data=...) must be a tree of arrays with the examples along axis 0, got "
            f"{shown(data)}."
        )
    data = jax.tree.map(jnp.asarray, data)
    key, examples = as_key(0 if key is None else key), len(jax.tree.leaves(data)[0])
    picks = None
    if batch_size is not None:
        check_batch_size("unroll", batch_size, examples)
        picks = draw(key, jnp.zeros((), jnp.int32), steps, examples, batch_size)
    state = with_epochs("unroll", init(params), examples // (batch_size or examples))
    given = (params, rebuilt(model_state)) if has_model_state else (params,)
    out = jax.eval_shape(loss_fn, *given, one_batch(data, batch_size))
    check_loss_output("unroll", out, False, has_model_state, model_state)

    def step(carry, now):
        i, picked = now
        batch = data if picked is None else jax.tree.map(lambda x: x[picked], data)
        params, state, model_state = carry

        def loss_and_state(p):
            if not has_model_state:
                return loss_fn(p, batch), None
            return loss_fn(p, rebuilt(model_state), batch)

        def scaled(p):
            loss, new = loss_and_state(p)
            return loss * scale, (loss, new)

        scale = loss_scale(state)
        (_, (loss, new)), grads = jax.value_and_grad(scaled, has_aux=True)(params)
        updates, state = update(
            grads, state, params, value=loss, grad=grads,
            value_fn=lambda p: loss_and_state(p)[0], key=jax.random.fold_in(key, i), batch=batch,
        )  # fmt: skip
        return (apply_updates(params, updates), state, new), None

    def trained(carry):
        params, _, model_state = carry
        return (params, model_state) if has_model_state else params

    carry = (params, state, model_state)
    every = jnp.arange(steps, dtype=jnp.int32), picks
    if not checkpoint:
        return trained(jax.lax.scan(step, carry, every)[0])
    length = math.isqrt(steps)
    whole = steps // length * length

    def segment(carry, part):
        return jax.lax.scan(jax.checkpoint(step), carry, part)

    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, length, *x.shape[1:]), every)
    carry, _ = jax.lax.scan(jax.checkpoint(segment), carry, parts)
    rest = jax.tree.map(lambda x: x[whole:], every)
    return trained(segment(carry, rest)[0])


@strict()
def hypergradient(
    fit_fn: Callable[[P], Array], values: P, *, mode: str = "auto"
) -> tuple[Array, P]:
    """Return a validation loss and its gradient by all hyperparameters.

    Args:
      fit_fn: `fit_fn(values)` trains, usually with `unroll`, and returns the loss on data that the
        training does not see: a real scalar.
      values: a tree of numbers and arrays: learning rates, one per layer, the knots of a schedule,
        weights of the data, starting points, ...
      mode: "reverse" (backpropagation: about 3 runs, memory for sqrt(steps) states), "forward" (one
        tangent run for each number, memory for one state each), or "auto": forward for up to 4
        numbers.

    Returns:
      `(loss, gradient)`, the gradient a tree like `values`.

    Raises:
      TypeError: if a value is no float, or `fit_fn` does not return a number.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> def fit_fn(values):
      ...     optimizer = gdjax.sgd(values["rate"], momentum=values["momentum"])
      ...     x = gdjax.unroll(loss_fn, jnp.zeros(()), optimizer, jnp.ones(4), steps=20)
      ...     return loss_fn(x, jnp.full(4, 1.1))
      >>> loss, grad = gdjax.hypergradient(fit_fn, {"rate": 0.01, "momentum": 0.5})
      >>> print(f"{loss:.3f}", *(f"{k}: {v:.1f}" for k, v in grad.items()))  # more is better
      0.299 momentum: -0.8 rate: -41.9
    """
    check_choice("hypergradient(mode=...)", mode, ("auto", "forward", "reverse"))
    if not is_array_tree(values) or not jax.tree.leaves(values):
        raise TypeError(f"hypergradient(values=...) must be a tree of floats, got {shown(values)}.")
    for x in jax.tree.leaves(values):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"hypergradient(values=...) must be floats, got {x!r}.")
    values = jax.tree.map(jnp.asarray, values)
    out = jax.eval_shape(fit_fn, values)
    if getattr(out, "shape", None) != ():
        got = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", out)
        raise TypeError(
            f"hypergradient(fit_fn=...) must return one number, the validation loss; got {got}."
        )
    size = sum(x.size for x in jax.tree.leaves(values))
    if mode == "reverse" or mode == "auto" and size > FEW:
        return jax.value_and_grad(fit_fn)(values)
    leaves, treedef = jax.tree.flatten(values)
    shapes = [x.shape for x in leaves]
    ends = np.cumsum([x.size for x in leaves])[:-1]

    def along(direction):
        parts = jnp.split(direction, ends)
        tangents = [
            p.reshape(s).astype(x.dtype) for p, s, x in zip(parts, shapes, leaves, strict=True)
        ]
        return jax.jvp(fit_fn, (values,), (treedef.unflatten(tangents),))

    losses, slopes = jax.vmap(along)(jnp.eye(size))
    parts = jnp.split(slopes, ends)
    grads = [p.reshape(s).astype(x.dtype) for p, s, x in zip(parts, shapes, leaves, strict=True)]
    return losses[0], treedef.unflatten(grads)
