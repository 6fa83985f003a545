"""APOLLO: gradient descent whose channels are scaled as Adam would, judged in a random projection.

Zhu et al. (2024), Algorithm 1, https://arxiv.org/abs/2412.05270
Paper -> here: P -> the projection, R -> low, M^R, V^R -> mu, nu, alpha^2 -> scale, gamma ->
growth_limit, T -> update_proj_gap, r -> rank. Deviations, as in the authors' code: Adam's bias
correction multiplies the direction after the limiter, and `eps` is added before it. A step whose
gradient is zero does not hold the next one down. The projection is drawn again from its key in
every step, so it takes no memory.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import NONNEGATIVE, POSITIVE, WHOLE, check_choice, checked
from gdjax.core.every import as_interval
from gdjax.core.keys import fresh_key
from gdjax.core.lift import descend
from gdjax.core.numerics import abs_sq, bias_correction, compute_dtype, real_dtype, safe_sqrt
from gdjax.linalg.matrices import Axes, matrix_axes
from gdjax.optimizers.adam import zero_moments
from gdjax.optimizers.galore import check_rank


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["key"], meta_fields=["axes", "rank", "tensor"]
)
@dataclasses.dataclass(frozen=True)
class Sketch:
    """How one parameter is seen as matrices and where its projections come from."""

    key: Array  # a typed key of jax.random, a scalar
    axes: Axes
    rank: int
    tensor: bool  # whether one scale is for a whole matrix


class Scaled(NamedTuple):
    """What APOLLO remembers of one parameter; what it does not need is None."""

    mu: Array  # running mean of the projected gradient, or of the gradient itself
    nu: Array  # running mean of its square, real
    norm: Array | None  # norm of the last scaled gradient of each matrix, (*batch, 1, 1)
    sketch: Sketch | None


def _apollo(
    grad, slots, param, count, *, b1, b2, eps, scale, update_proj_gap, growth_limit=None
):  # fmt: skip
    sketch = slots.sketch
    if sketch is None:
        low = grad
    else:
        matrices = sketch.axes.matrices(grad)
        low = projected(matrices, sketch, (count - 1) // as_interval(update_proj_gap, count))
    mu = b1 * slots.mu + (1 - b1) * low
    nu = b2 * slots.nu + (1 - b2) * abs_sq(low)
    direction = mu / (safe_sqrt(nu) + eps)
    norm = slots.norm
    if sketch is not None:
        over = (-2, -1) if sketch.tensor else -2 if _is_wide(matrices) else -1
        scaled = matrices * (_norm(direction, over) / (_norm(low, over) + 1e-8))
        norm = _norm(scaled, (-2, -1))
        if growth_limit is not None:  # Chen et al. (2024), https://arxiv.org/abs/2410.01623
            growth = norm / jnp.where(slots.norm > 0, slots.norm + 1e-8, 1)
            limiter = jnp.where(slots.norm > 0, jnp.maximum(growth / growth_limit, 1), 1)
            scaled, norm = scaled / limiter, norm / limiter
        direction = safe_sqrt(scale) * sketch.axes.array(scaled, grad)
    correction = safe_sqrt(bias_correction(b2, count)) / bias_correction(b1, count)
    return correction * direction, Scaled(mu, nu, norm, sketch)


def projected(matrices: Array, sketch: Sketch, period: Array) -> Array:
    """Return the matrices with their smaller side projected to the rank by a Gaussian matrix."""
    *batch, m, n = matrices.shape
    key = jax.random.fold_in(sketch.key, period)
    shape = (*batch, sketch.rank, min(m, n))
    gaussian = jax.random.normal(key, shape, matrices.real.dtype) / sketch.rank**0.5
    gaussian = gaussian.astype(matrices.dtype)
    if _is_wide(matrices):
        return jnp.matmul(gaussian, matrices, precision="highest")
    return jnp.matmul(matrices, gaussian.mT, precision="highest")


def _is_wide(matrices: Any) -> bool:
    return matrices.shape[-2] <= matrices.shape[-1]


def _norm(x, axes):
    return safe_sqrt(jnp.sum(abs_sq(x), axes, keepdims=True))


def _later(param) -> Scaled:
    zero = jnp.zeros(())  # _init_sketches puts the real ones here
    return Scaled(zero, zero, None, None)


def _init_sketches(init, key, rank, tensor, spec, params) -> State:
    state = init(params)
    leaves, treedef = jax.tree.flatten(params)
    axes = matrix_axes("apollo(weight_dimension_numbers=...)", spec, params)
    key = fresh_key(key)
    rows = []
    for i, (x, a) in enumerate(zip(leaves, axes, strict=True)):
        if a is None:
            rows.append(Scaled(*zero_moments(x), None, None))
            continue
        *batch, m, n = a.shape(x)
        r = min(rank, m, n)
        low = jnp.zeros((*batch, r, n) if m <= n else (*batch, m, r), compute_dtype(x))
        norm = jnp.zeros((*batch, 1, 1), real_dtype(low.dtype))
        sketch = Sketch(jax.random.fold_in(key, i), a, r, tensor)
        rows.append(Scaled(*zero_moments(low), norm, sketch))
    if not rows:
        return state
    return state._replace(slots=Scaled(*map(treedef.unflatten, zip(*rows, strict=True))))


@checked(scale=NONNEGATIVE, update_proj_gap=WHOLE, growth_limit=POSITIVE._replace(optional=True))
def apollo(
    learning_rate: Any,
    rank: int = 128,
    update_proj_gap: Any = 200,
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
    *,
    scale_type: str = "channel",
    growth_limit: Any = 1.01,
    key: Any = 0,
) -> Optimizer:
    """Descend along the gradient, its channels scaled as Adam scales them in a random projection.

    Good for: pre-training of large models, with SGD-like memory.

    For a matrix of m <= n, with P of shape (r, m) and elements N(0, 1/r), drawn anew every
    `update_proj_gap` steps:
    low = P g;  mu, nu as in `adam`, of low;  adam = mu / (sqrt(nu) + eps);
    scaled = g * (|adam_j| / (|low_j| + 1e-8)) in each column j, then shortened so that its norm is
    at most `growth_limit` times the last one;
    update = -learning_rate * (sqrt(1 - b2^t) / (1 - b1^t) * sqrt(scale) * scaled
    + weight_decay * param)

    For m > n the projection is from the right and the channels are the rows. Other parameters go to
    Adam. A projection makes channels shorter, by about sqrt(r / m): the paper takes scale = m / r.

    Args:
      learning_rate: step size >= 0: a number, schedule or prefix tree, like all numbers here.
      rank: rows of the projection, an int >= 1; at most the smaller side.
      update_proj_gap: steps from one projection to the next, a whole number >= 1.
      scale: square of the factor of the scaled gradients.
      b1: see `adam`.
      b2: see `adam`.
      eps: added to the root before bias correction, >= 0.
      weight_decay: strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      weight_dimension_numbers: which axes make matrices, see `galore`.
      scale_type: "channel" for a scale for each channel, "tensor" for one for a matrix.
      growth_limit: how many times longer than the last one a scaled gradient may be, > 0; None for
        any.
      key: where the projections come from, an int or a `jax.random.key`. It lives in the state.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`. State, for an
      m x n matrix with m <= n: 8 r n bytes.

    Raises:
      ValueError: if a concrete number is out of range; at `init`, if a parameter lacks an axis.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"kernel": jnp.zeros((100, 400)), "bias": jnp.zeros(400)}
      >>> opt = gdjax.apollo(1e-2, rank=4, scale=25.0)
      >>> state = jax.eval_shape(opt.init, params)
      >>> state.slots.mu["kernel"].shape, state.slots.mu["bias"].shape
      ((4, 400), (400,))

    References:
      Zhu et al. (2024), "APOLLO: SGD-like memory, AdamW-level performance", Algorithm 1.
    """
    check_choice("apollo(scale_type=...)", scale_type, ("channel", "tensor"))
    check_rank("apollo", rank)
    numbers = dict(b1=b1, b2=b2, eps=eps, scale=scale, update_proj_gap=update_proj_gap)
    numbers["growth_limit"] = growth_limit
    init, update = descend(_apollo, _later, numbers, learning_rate, weight_decay, mask)
    tensor, spec = scale_type == "tensor", weight_dimension_numbers
    return Optimizer(functools.partial(_init_sketches, init, key, rank, tensor, spec), update)


def apollo_mini(
    learning_rate: Any, *, rank: int = 1, scale: Any = 128.0, **options: Any
) -> Optimizer:
    """Run `apollo` with one scale for each matrix, judged in a projection of rank 1.

    Good for: as `apollo`, with almost no state at all.

    Args:
      learning_rate: see `apollo`.
      rank: see `apollo`.
      scale: see `apollo`.
      **options: all else that `apollo` takes.

    Returns:
      An `Optimizer`. State: for an m x n matrix 8 max(m, n) bytes, about as little as SGD.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.apollo_mini(0.01, scale=1.0)
      >>> params, grads = jnp.zeros((2, 3)), jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
      >>> print(opt.update(grads, opt.init(params), params)[0].round(4))
      [[-0.0117 -0.     -0.    ]
       [-0.     -0.     -0.0156]]
    """
    return apollo(learning_rate, rank, scale=scale, scale_type="tensor", **options)
