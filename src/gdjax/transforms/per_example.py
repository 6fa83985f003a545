"""Clip the gradient of each example, then sum over the examples, as for differential privacy.

Abadi et al. (2016), Algorithm 1, https://arxiv.org/abs/1607.00133 (whole gradient);
McMahan et al. (2017), section 3, https://arxiv.org/abs/1710.06963 (layer by layer).
These are functions of gradients with a leading batch axis, as `vmap(grad(loss))` returns them.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import strict
from gdjax.core.numerics import cast, compute_dtype, is_inexact, safe_sqrt, upcast
from gdjax.core.trees import sum_sq
from gdjax.core.types import ArrayTree, Number, PyTree, Updates


def _check_batched(what: str, grads: ArrayTree) -> None:
    shapes = [jnp.shape(g) for g in jax.tree.leaves(grads)]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{what} needs gradients that all have the examples along their first axis, got "
            f"shapes {shapes}. Take them with jax.vmap(jax.grad(loss), in_axes=(None, 0))."
        )


def _floats(grads: ArrayTree) -> Updates:
    def up(x):
        x = jnp.asarray(x)
        return x if is_inexact(x.dtype) else x.astype(compute_dtype(x))

    return jax.tree.map(up, grads)


def _clipped_sum(grads, bound):
    norms = safe_sqrt(jax.vmap(sum_sq)(grads))
    over = norms > bound  # so that a zero gradient is never over the bound, nor divided by
    factor = jnp.where(over, bound / jnp.where(over, norms, 1), 1)

    def weighted(grad):
        up = upcast(grad)
        weights = cast(factor, up.real.dtype).reshape(-1, *(1,) * (up.ndim - 1))
        return cast(jnp.sum(weights * up, 0), grad.dtype)

    return jax.tree.map(weighted, grads), jnp.sum(factor < 1, dtype=jnp.int32)


@strict()
def per_example_global_norm_clip(grads: ArrayTree, l2_norm_clip: Number) -> tuple[Updates, Array]:
    r"""Clip each example's gradient to a norm, and sum over the examples.

    .. math::

       \sum_i g_i \min(1,\; C / \lVert g_i \rVert)

    Args:
      grads: a tree of gradients with the examples along their first axis.
      l2_norm_clip: :math:`C` >= 0, the largest Euclidean norm of one example's whole gradient.

    Returns:
      A pair `(sum, clipped)` of the tree without the first axis, in the gradients' dtypes but
      summed in at least float32, and the number of examples that were scaled down.

    Raises:
      ValueError: if the leaves' first axes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> grads = jnp.array([[3.0, 4.0], [0.0, 0.5]])
      >>> total, clipped = gdjax.per_example_global_norm_clip(grads, 1.0)
      >>> print(total, clipped)
      [0.6 1.3] 1
    """
    _check_batched("per_example_global_norm_clip", grads)
    if not jax.tree.leaves(grads):
        return grads, jnp.zeros((), jnp.int32)
    return _clipped_sum(_floats(grads), l2_norm_clip)


@strict()
def per_example_layer_norm_clip(
    grads: ArrayTree, global_l2_norm_clip: Number, uniform: bool = True
) -> tuple[Updates, PyTree]:
    r"""Clip each array of each example's gradient to a norm, and sum over the examples.

    Args:
      grads: a tree of gradients with the examples along their first axis.
      global_l2_norm_clip: :math:`C` >= 0, the largest Euclidean norm of one example's whole
        gradient.
      uniform: whether the bound of each of K arrays is :math:`C / \sqrt K`, or else
        :math:`C \sqrt{d / D}` for an array of d of the D elements.

    Returns:
      `(sum, clipped)` as `per_example_global_norm_clip` gives, where `clipped` is a tree with the
      number of examples for each array.

    Raises:
      ValueError: if the leaves' first axes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> grads = {"a": jnp.array([[3.0, 4.0]]), "b": jnp.array([[0.5]])}
      >>> total, clipped = gdjax.per_example_layer_norm_clip(grads, 2**0.5)
      >>> print(total["a"], total["b"], {k: int(n) for k, n in clipped.items()})
      [0.6 0.8] [0.5] {'a': 1, 'b': 0}
    """
    _check_batched("per_example_layer_norm_clip", grads)
    leaves, treedef = jax.tree.flatten(_floats(grads))
    sizes = [math.prod(x.shape[1:]) for x in leaves]
    shares = [1 / len(leaves) if uniform else n / max(sum(sizes), 1) for n in sizes]
    bounds = [global_l2_norm_clip * math.sqrt(share) for share in shares]
    out = [_clipped_sum(x, bound) for x, bound in zip(leaves, bounds, strict=True)]
    return treedef.unflatten([x for x, _ in out]), treedef.unflatten([n for _, n in out])
