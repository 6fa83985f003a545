"""APOLLO: gradient descent with Adam's scaling per channel, estimated in a random projection.

Zhu et al. (2024), Algorithm 1, https://arxiv.org/abs/2412.05270
Paper -> here: P -> the projection, R -> low, M^R, V^R -> mu, nu, alpha^2 -> scale, gamma ->
growth_limit, T -> update_proj_gap, r -> rank. Deviations, as in the authors' code: Adam's bias
correction multiplies the direction after the limiter, and `eps` is added before it. A zero gradient
does not limit the next step. The projection is generated from its key in every step, so it takes no
memory.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, POSITIVE, WHOLE, check_choice, check_integer, checked
from gdjax.core.every import as_interval
from gdjax.core.keys import fresh_key
from gdjax.core.lift import descend
from gdjax.core.numerics import (
    abs_sq,
    bias_correction,
    compute_dtype,
    real_dtype,
    safe_divide,
    safe_sqrt,
)
from gdjax.core.placement import zeros_along
from gdjax.core.remember import register_node
from gdjax.core.types import Hyperparam, Key, Mask
from gdjax.linalg.axes import matmul
from gdjax.linalg.matrices import Axes, MatrixSpec
from gdjax.optimizers.adam import zero_moments
from gdjax.optimizers.shared.slots import matrix_rows, with_slots

ScaleType: TypeAlias = Literal["channel", "tensor"]
RANGES = dict(
    scale=NONNEGATIVE, update_proj_gap=WHOLE, growth_limit=POSITIVE._replace(optional=True)
)


@functools.partial(register_node, data_fields=["key"], meta_fields=["axes", "rank", "tensor"])
@dataclasses.dataclass(frozen=True)
class Sketch:
    """The axes of one parameter's matrices and the source of its projections."""

    key: Array  # a typed key of jax.random, a scalar
    axes: Axes
    rank: int
    tensor: bool  # whether there is one scale for a whole matrix


class Scaled(NamedTuple):
    """What APOLLO remembers of one parameter; what it does not need is None."""

    mu: Array  # running mean of the projected gradient, or of the gradient itself
    nu: Array  # running mean of its square, real
    norm: Array | None  # norm of the previous scaled gradient of each matrix, (*batch, 1, 1)
    sketch: Sketch | None


def _apollo(grad, slots, param, count, *, b1, b2, eps, scale, update_proj_gap, growth_limit=None):
    sketch = slots.sketch
    if sketch is None:
        low = grad
    else:
        matrices = sketch.axes.matrices(grad)
        low = _projected(matrices, sketch, (count - 1) // as_interval(update_proj_gap, count))
    mu = b1 * slots.mu + (1 - b1) * low
    nu = b2 * slots.nu + (1 - b2) * abs_sq(low)
    direction = safe_divide(mu, safe_sqrt(nu) + eps)
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


def _projected(matrices: Array, sketch: Sketch, period: Array) -> Array:
    """Return the matrices with their smaller side projected to the rank by a Gaussian matrix."""
    *batch, m, n = matrices.shape
    key = jax.random.fold_in(sketch.key, period)
    shape = (*batch, sketch.rank, min(m, n))
    gaussian = jax.random.normal(key, shape, matrices.real.dtype) / sketch.rank**0.5
    gaussian = gaussian.astype(matrices.dtype)
    if _is_wide(matrices):
        return matmul(gaussian, matrices)
    return matmul(matrices, gaussian.mT)


def _is_wide(matrices: Array) -> bool:
    return matrices.shape[-2] <= matrices.shape[-1]


def _norm(x: Array, axes: int | tuple[int, int]) -> Array:
    return safe_sqrt(jnp.sum(abs_sq(x), axes, keepdims=True))


def _slots(
    param: Array, axes: Axes | None, index: int, key: Key, rank: int, tensor: bool
) -> Scaled:
    if axes is None:
        return Scaled(*zero_moments(param), None, None)
    (*batch, m, n), (*stack, i, j) = axes.shape(param), axes.along
    r = min(rank, m, n)
    shape, kept = ((*batch, r, n), (*stack, None, j)) if m <= n else ((*batch, m, r), (*stack, i))
    low = zeros_along(param, shape, kept, compute_dtype(param))
    norm = zeros_along(param, (*batch, 1, 1), stack, real_dtype(low.dtype))
    sketch = Sketch(jax.random.fold_in(fresh_key(key), index), axes, r, tensor)
    return Scaled(*zero_moments(low), norm, sketch)


@checked(**RANGES)
def apollo(
    learning_rate: Hyperparam,
    rank: int = 128,
    update_proj_gap: Hyperparam = 200,
    scale: Hyperparam = 1.0,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    weight_dimension_numbers: MatrixSpec = None,
    *,
    scale_type: ScaleType = "channel",
    growth_limit: Hyperparam | None = 1.01,
    key: Key = 0,
) -> Optimizer:
    r"""Descend along the gradient, with channels scaled as by Adam in a random projection.

    Good for: pre-training of large models with memory similar to SGD's.

    Evidence: mixed. For language models its perplexity is above Adam's at 60 M parameters and below
    it at 130 M to 1 B (Glentis et al. 2025, arXiv 2506.16659).

    For an m x n matrix with m <= n, and a Gaussian projection :math:`P_t` of shape (r, m):

    .. math::

       R_t &= P_t g_t, \quad P_{t,ij} \sim N(0, 1/r) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) R_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |R_t|^2 \\
       \tilde R_t &= m_t / (\sqrt{v_t} + \epsilon) \\
       s_{t,j} &= \|\tilde R_{t,:j}\| / (\|R_{t,:j}\| + 10^{-8}) \\
       G_t &= g_t \operatorname{diag}(s_t) \\
       \bar G_t &= G_t / \max(1, \|G_t\| / (\gamma \|\bar G_{t-1}\|)) \\
       x_t &= x_{t-1} - \eta_t \Bigl(\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \alpha \bar G_t
              + \lambda x_{t-1}\Bigr)

    The first :math:`G_t` is not limited, nor is one after a zero gradient. For m > n the projection
    is from the right and the channels are the rows. Adam updates other parameters, also with
    :math:`\epsilon` added before bias correction. A projection shortens channels by about
    :math:`\sqrt{r / m}`: the paper takes :math:`\alpha^2 = m / r`.

    Differences: the authors' code decays the parameters after the step.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers here.
      rank: :math:`r`, number of rows of the projection, an integer >= 1; at most the smaller side.
      update_proj_gap: steps from one :math:`P_t` to the next, a whole number >= 1.
      scale: :math:`\alpha^2`, square of the factor of the scaled gradients, >= 0.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon`, added to the root before bias correction, >= 0.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      weight_dimension_numbers: which axes make matrices, see `galore`.
      scale_type: "channel" for a scale for each channel, "tensor" for one for a matrix.
      growth_limit: :math:`\gamma`, largest ratio of the norms of a scaled gradient and the previous
        one, > 0; None for any.
      key: for the projections, an int or a `jax.random.key`. It is kept in the state.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State, for an m x n matrix with m <= n: 8 r n bytes, :math:`m_t` (`mu`) and :math:`v_t`
      (`nu`); 8 bytes per element of other parameters.

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
    return _optimizer("apollo", **locals())


@checked(**RANGES)
def apollo_mini(
    learning_rate: Hyperparam,
    *,
    rank: int = 1,
    update_proj_gap: Hyperparam = 200,
    scale: Hyperparam = 128.0,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    weight_dimension_numbers: MatrixSpec = None,
    growth_limit: Hyperparam | None = 1.01,
    key: Key = 0,
) -> Optimizer:
    r"""Run `apollo` with one scale for each matrix, estimated in a projection of rank 1.

    Good for: the same as `apollo`, with almost no state.

    Evidence: mixed. For language models its perplexity is above Adam's at 60 M and 130 M parameters
    and below it at 350 M and 1 B (Glentis et al. 2025, arXiv 2506.16659).

    In the equations of `apollo` the scales of all channels are one number:

    .. math::

       s_t = \|\tilde R_t\| / (\|R_t\| + 10^{-8})

    Args:
      learning_rate: see `apollo`, like all arguments.
      rank: see `apollo`.
      update_proj_gap: see `apollo`.
      scale: see `apollo`.
      b1: see `apollo`.
      b2: see `apollo`.
      eps: see `apollo`.
      weight_decay: see `apollo`.
      mask: see `apollo`.
      weight_dimension_numbers: see `apollo`.
      growth_limit: see `apollo`.
      key: see `apollo`.

    Returns:
      An `Optimizer`, as `apollo`.
      State: for an m x n matrix 8 max(m, n) bytes, about as little as SGD.

    Raises:
      ValueError: as `apollo`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.apollo_mini(0.01, scale=1.0)
      >>> params, grads = jnp.zeros((2, 3)), jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
      >>> print(opt.update(grads, opt.init(params), params)[0].round(4))
      [[-0.0117 -0.     -0.    ]
       [-0.     -0.     -0.0156]]
    """
    return _optimizer("apollo_mini", scale_type="tensor", **locals())


def _optimizer(
    name: str,
    *,
    learning_rate: Hyperparam,
    rank: int,
    update_proj_gap: Hyperparam,
    scale: Hyperparam,
    b1: Hyperparam,
    b2: Hyperparam,
    eps: Hyperparam,
    weight_decay: Hyperparam | None,
    mask: Mask,
    weight_dimension_numbers: MatrixSpec,
    scale_type: ScaleType,
    growth_limit: Hyperparam | None,
    key: Key,
) -> Optimizer:
    """Return `apollo`; `name` is for errors."""
    check_choice(f"{name}(scale_type=...)", scale_type, ("channel", "tensor"))
    numbers = dict(
        b1=b1,
        b2=b2,
        eps=eps,
        scale=scale,
        update_proj_gap=update_proj_gap,
        growth_limit=growth_limit,
    )
    optimizer = descend(_apollo, None, numbers, learning_rate, weight_decay, mask, name=name)
    slots = functools.partial(
        _slots,
        key=key,
        rank=check_integer(f"{name}(rank=...)", rank),
        tensor=scale_type == "tensor",
    )
    what = f"{name}(weight_dimension_numbers=...)"
    return with_slots(optimizer, Scaled, matrix_rows(what, weight_dimension_numbers, slots))
