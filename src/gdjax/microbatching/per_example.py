"""Map over the examples of a batch, or compute the gradient of each, in microbatches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import strict
from gdjax.core.types import LossFn, PyTree, Updates
from gdjax.microbatching.accumulators import AccumulationType, aggregate
from gdjax.microbatching.loop import as_tuple, microbatch


class IndividualOutputs(NamedTuple):
    """What `micro_grad` returns for each example in addition to the combined gradients."""

    values: Array
    metrics: PyTree
    aux: PyTree


@strict()
def micro_vmap(
    fun: Callable[..., Any],
    in_axes: int | Sequence[int | None] = 0,
    out_axes: int = 0,
    *,
    microbatch_size: int | None = None,
    vmap_fn: Callable[..., Any] = jax.vmap,
    accumulator: PyTree = AccumulationType.CONCAT,
    num_real_microbatches: int | Array | None = None,
) -> Callable[..., Any]:
    """Map a function over a batch like `jax.vmap`, but in microbatches, and combine the results.

    Args:
      fun: a function of single examples.
      in_axes: the batch axis of each positional argument, one integer if there is one argument;
        arguments with None are not mapped. Keyword arguments are mapped over their first axis.
      out_axes: must be 0.
      microbatch_size: number of examples mapped together; None means all.
      vmap_fn: the function that maps, with the arguments of `jax.vmap`.
      accumulator: see `microbatch`; CONCAT gives the result of `jax.vmap`.
      num_real_microbatches: see `microbatch`.

    Returns:
      A function of batches.

    Raises:
      NotImplementedError: for other `out_axes`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> square = gdjax.microbatching.micro_vmap(lambda x: x**2, microbatch_size=2)
      >>> print(square(jnp.arange(4)))
      [0 1 4 9]
    """
    if out_axes != 0:
        raise NotImplementedError(f"micro_vmap(out_axes=...) must be 0, got {out_axes!r}.")
    axes = as_tuple(in_axes, int)

    def mapped(*args, kwargs):
        rows = vmap_fn(fun, axes, 0)(*args, **kwargs)
        return aggregate(accumulator, rows)

    in_microbatches = microbatch(
        mapped,
        [i for i, axis in enumerate(axes) if axis is not None],
        microbatch_size,
        accumulator,
        argnames="kwargs",
        in_axes=[*(axis for axis in axes if axis is not None), 0],
        num_real_microbatches=num_real_microbatches,
    )
    return functools.wraps(fun)(lambda *args, **kwargs: in_microbatches(*args, kwargs=kwargs))


@strict()
def micro_grad(
    fun: LossFn,
    has_aux: bool = False,
    argnums: int | Sequence[int] = 0,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    microbatch_size: int | None = None,
    accumulator: PyTree = AccumulationType.SUM,
    transform_fn: Callable[[Updates], PyTree] = lambda grads: grads,
    metrics_fn: Callable[[Updates], PyTree] = lambda grads: None,
    num_real_microbatches: int | Array | None = None,
) -> Callable[..., tuple[PyTree, IndividualOutputs]]:
    """Compute the gradient of each example, transform it, and combine them, in microbatches.

    Per-example gradients can be clipped, squared or measured, while only those of one microbatch
    are in memory at a time.

    Args:
      fun: a loss, `fun(params, batch, ...)`.
      has_aux: whether it returns `(loss, aux)`.
      argnums: positions of the arguments to differentiate with respect to.
      batch_argnums: positions of the arguments with a batch along the first axis.
      keep_batch_dim: whether `fun` receives each example as a batch of one.
      microbatch_size: see `micro_vmap`.
      accumulator: how the transformed gradients are combined; see `microbatch`.
      transform_fn: applied to each example's gradient.
      metrics_fn: a function of each example's gradient before it is transformed; its results are
        kept for all examples and should be small.
      num_real_microbatches: see `microbatch`.

    Returns:
      A function that returns `(combined, outputs)`. `outputs` has `values` (the losses), `metrics`
      and `aux` of each example.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(w, x, y):
      ...     return 0.5 * jnp.mean((x @ w - y) ** 2)
      >>> f = gdjax.microbatching.micro_grad(
      ...     loss, batch_argnums=(1, 2), metrics_fn=jnp.linalg.norm, microbatch_size=2)
      >>> grad, each = f(jnp.zeros(1), jnp.ones((4, 1)), jnp.array([0.0, 2.0, 4.0, 6.0]))
      >>> print(grad, each.values, each.metrics)
      [-12.] [ 0.  2.  8. 18.] [0. 2. 4. 6.]
    """
    batch_argnums = as_tuple(batch_argnums, int)

    def with_aux(*args, **kwargs):
        return fun(*args, **kwargs) if has_aux else (fun(*args, **kwargs), None)

    def one(*args, **kwargs):
        (value, aux), grads = jax.value_and_grad(with_aux, argnums, has_aux=True)(*args, **kwargs)
        return transform_fn(grads), IndividualOutputs(value, metrics_fn(grads), aux)

    def in_microbatches(*args, **kwargs):
        axes = [0 if i in batch_argnums else None for i in range(len(args))]
        if keep_batch_dim:
            args = [
                jax.tree.map(lambda x: jnp.expand_dims(x, 1), x) if i in batch_argnums else x
                for i, x in enumerate(args)
            ]
        mapped = micro_vmap(
            one,
            axes,
            microbatch_size=microbatch_size,
            accumulator=(accumulator, AccumulationType.CONCAT),
            num_real_microbatches=num_real_microbatches,
        )
        return mapped(*args, **kwargs)

    return functools.wraps(fun)(in_microbatches)
