"""Adam-mini: Adam with one step size for each block of a parameter, and so half of its memory.

Zhang et al. (2024), Algorithm 2, https://arxiv.org/abs/2406.16793
Paper -> here: m -> mu, v -> nu, t -> count, eta -> learning_rate, lambda -> weight_decay.
Deviations: blocks are said by axes, not guessed from the names of the parameters; `eps_root` is an
addition.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import checked
from gdjax.core.hyper import PerLeaf, path_name
from gdjax.core.lift import descend
from gdjax.core.numerics import (
    abs_sq,
    bias_correction,
    compute_dtype,
    mean_to,
    real_dtype,
    safe_sqrt,
)
from gdjax.optimizers.adam import Moments, zero_moments


def _adam_mini(grad, slots, param, count, *, b1, b2, eps, eps_root):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * mean_to(abs_sq(grad), slots.nu.shape)
    root = safe_sqrt(nu / bias_correction(b2, count) + eps_root)
    return mu / bias_correction(b1, count) / (root + eps), Moments(mu, nu)


def _mean_and_blocks(param, mu_dtype=None) -> Moments:
    return Moments(zero_moments(param, mu_dtype).mu, jnp.zeros(()))  # nu: see _init_blocks


def _init_blocks(init, block_axes, params) -> State:
    state = init(params)
    axes = axes_per_leaf("adam_mini(block_axes=...)", block_axes, params, (-1,))

    def zeros(x, kept):
        shape = tuple(n if i in kept else 1 for i, n in enumerate(x.shape))
        return jnp.zeros(shape, real_dtype(compute_dtype(x)))

    leaves, treedef = jax.tree.flatten(params)
    nu = treedef.unflatten(map(zeros, leaves, axes)) if leaves else params
    return state._replace(slots=state.slots._replace(nu=nu))


def axes_per_leaf(what: str, spec: Any, params: Any, matrix: tuple = ()) -> list[tuple[int, ...]]:
    """Return the axes that a specification names, for each leaf.

    Args:
      what: the argument's name, for errors.
      spec: an axis or a tuple of axes, for the leaves of two and more dimensions; the others get
        none. Or `by_path` of those, which names leaves of any kind.
      params: the parameters.
      matrix: what None means for a leaf of two and more dimensions, if it comes without `by_path`.
    """
    named = jax.tree_util.tree_flatten_with_path(params)[0]
    if isinstance(spec, PerLeaf):
        values = spec.per_leaf(tuple(path_name(path) for path, _ in named))
    else:
        spec = matrix if spec is None else spec
        values = [spec if jnp.ndim(x) > 1 else () for _, x in named]
    axes = []
    for (path, x), value in zip(named, values, strict=True):
        value = () if value is None else value if isinstance(value, tuple) else (value,)
        if not all(isinstance(i, int) and -x.ndim <= i < x.ndim for i in value):
            raise ValueError(
                f"{what} must name axes of the parameters, got {value} for {path_name(path)!r} of "
                f"shape {x.shape}. Name them by parameter with gdjax.by_path."
            )
        axes.append(tuple(i % x.ndim for i in value))
    return axes


@checked()
def adam_mini(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    block_axes: Any = None,
) -> Optimizer:
    """Run Adam with the mean square averaged over blocks of the parameter.

    Good for: Adam's path with half its memory.

    mu as in `adam`;  nu = b2 nu + (1 - b2) mean over the block of |g|^2;
    update = -learning_rate * (mu / (1 - b1^t) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)
    + weight_decay * param)

    The blocks should be the dense ones of the Hessian. The paper's, for JAX's kernels: an output
    neuron (last axis) for values, projections and MLPs; a token (axis 0) for embeddings, and for a
    head of shape (inputs, tokens) the last axis again; a head (axis 1 of (inputs, heads, size)) for
    queries and keys; all of the parameter for biases and norms. By name:
    `block_axes=by_path({".*embedding": 0, ".*(query|key)/kernel": 1, ".*kernel": -1, ".*": None})`.

    Args:
      learning_rate: as in `adam`, like all arguments that are not named here.
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      mu_dtype: see `adam`.
      weight_decay: strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      block_axes: the axis or axes along which blocks differ; a block extends over the others. () is
        one block for each parameter. Parameters of fewer than two dimensions are one block, unless
        named by `by_path`. None is -1. Name stacked layers too: (0, -1) for (layers, inputs,
        outputs).

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`. State: 4 bytes
      per element (mu) and 4 per block (nu).

    Raises:
      ValueError: if a concrete number is out of range; at `init`, if a parameter lacks an axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, grads = jnp.zeros((2, 2)), jnp.array([[1.0, 30.0], [7.0, 40.0]])
      >>> opt = gdjax.adam_mini(0.1)
      >>> updates, state = opt.update(grads, opt.init(params), params)
      >>> print(updates.round(3), state.slots.nu.shape)
      [[-0.02  -0.085]
       [-0.14  -0.113]] (1, 2)

    References:
      Zhang et al. (2024), "Adam-mini: use fewer learning rates to gain more".
    """
    slots = functools.partial(_mean_and_blocks, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    init, update = descend(_adam_mini, slots, numbers, learning_rate, weight_decay, mask)
    return Optimizer(functools.partial(_init_blocks, init, block_axes), update)
