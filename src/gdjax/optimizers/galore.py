"""GaLore: an optimizer on gradients projected to low rank, in a basis renewed at intervals.

Zhao et al. (2024), Algorithm 2, https://arxiv.org/abs/2403.03507
Paper -> here: P, Q -> projector, R -> the projected gradient, T -> update_proj_gap, alpha -> scale,
r -> rank. Deviations: the signs of the singular vectors, which an SVD does not determine, are fixed
(the largest element of each is positive), so that all devices give the same run. The basis is a
constant for differentiation.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.checks import FINITE, WHOLE, check_choice, check_integer, checked
from gdjax.core.every import is_due, when_due
from gdjax.core.lift import descend, treewise
from gdjax.core.numerics import compute_dtype
from gdjax.core.placement import zeros_along
from gdjax.core.remember import register_node
from gdjax.core.types import Hyperparam, Mask, OptState, Pair, Params, PyTree, Scalar
from gdjax.linalg.axes import matmul
from gdjax.linalg.matrices import Axes, DimensionNumbers, MatrixSpec, matrix_axes
from gdjax.optimizers.adam import scale_by_adam
from gdjax.optimizers.sgd import gradient_rule

GaLoreDimensionNumbers = DimensionNumbers
Side: TypeAlias = Literal["smaller", "larger"]
RANGES = dict(scale=FINITE, update_proj_gap=WHOLE)


@functools.partial(register_node, data_fields=["basis"], meta_fields=["axes", "left"])
@dataclasses.dataclass(frozen=True)
class Projector:
    """The basis of one parameter, and the axes of its matrices."""

    basis: Array  # orthonormal columns, (*batch, m, r) if left, else (*batch, n, r)
    axes: Axes
    left: bool  # whether it multiplies the matrices from the left

    def down(self, x: Array) -> Array:
        """Return the matrices of x in the basis: (*batch, r, n) if left, else (*batch, m, r)."""
        matrices = self.axes.matrices(x)
        if self.left:
            return matmul(self.basis.conj().mT, matrices)
        return matmul(matrices, self.basis)

    def up(self, low: Array, like: Array) -> Array:
        """Return an array in the shape of `like` from matrices in the basis."""
        full = matmul(self.basis, low) if self.left else matmul(low, self.basis.conj().mT)
        return self.axes.array(full, like)

    def renewed(self, x: Array) -> Projector:
        """Return the projector onto the first singular vectors of x."""
        u, _, vh = jnp.linalg.svd(self.axes.matrices(jax.lax.stop_gradient(x)), full_matrices=False)
        basis = (u if self.left else vh.conj().mT)[..., : self.basis.shape[-1]]
        largest = jnp.argmax(jnp.abs(basis), -2, keepdims=True)
        entry = jnp.take_along_axis(basis, largest, -2)
        return dataclasses.replace(self, basis=basis * (entry.conj() / jnp.abs(entry)))


class LowRank(NamedTuple):
    """What GaLore remembers."""

    inner_state: OptState  # the state of the inner optimizer, for projected gradients
    projector: PyTree  # a tree of `Projector`, None where the gradient is not projected


def _galore(grads, slots, params, count, *, scale, update_proj_gap, inner, **extra):
    leaves, treedef = jax.tree.flatten(grads)

    def renew(*projectors):
        return tuple(
            None if p is None else p.renewed(g) for p, g in zip(projectors, leaves, strict=True)
        )

    projectors = treedef.flatten_up_to(slots.projector)
    projectors = when_due(is_due(count, update_proj_gap), renew, *projectors)
    low = [g if p is None else p.down(g) for p, g in zip(projectors, leaves, strict=True)]
    low, state = inner(treedef.unflatten(low), slots.inner_state, **extra)
    updates = [
        u if p is None else scale.astype(g.real.dtype) * p.up(u, g)
        for p, u, g in zip(projectors, treedef.flatten_up_to(low), leaves, strict=True)
    ]
    return treedef.unflatten(updates), LowRank(state, treedef.unflatten(projectors))


def _slots(
    params: Params, what: str, spec: MatrixSpec, rank: int, side: Side, inner_init: InitFn
) -> LowRank:
    leaves, treedef = jax.tree.flatten(params)
    axes = matrix_axes(what, spec, params)
    pairs = [
        (x, None) if a is None else _empty(x, a, rank, side)
        for x, a in zip(leaves, axes, strict=True)
    ]
    low, projectors = (
        (treedef.unflatten(column) for column in zip(*pairs)) if pairs else (params,) * 2
    )
    return LowRank(inner_init(low), projectors)


def _empty(x: Array, axes: Axes, rank: int, side: Side) -> tuple[Array, Projector]:
    """Return zeros in the shapes of the projected gradient and of its basis."""
    (*batch, m, n), (*stack, i, j) = axes.shape(x), axes.along
    r, dtype = min(rank, m, n), compute_dtype(x)
    left = m <= n if side == "smaller" else m >= n
    low, basis = ((r, n), (m, r)) if left else ((m, r), (n, r))
    kept, along = ((None, j), (i,)) if left else ((i,), (j,))
    projector = Projector(zeros_along(x, (*batch, *basis), (*stack, *along), dtype), axes, left)
    return zeros_along(x, (*batch, *low), (*stack, *kept), dtype), projector


@checked(**RANGES)
def scale_by_galore(
    rank: int = 128,
    update_proj_gap: Scalar = 200,
    scale: Scalar = 1.0,
    base_optimizer: Pair | None = None,
    weight_dimension_numbers: MatrixSpec = None,
    *,
    side: Side = "smaller",
) -> Optimizer:
    """Replace the gradient by GaLore's direction; arguments and equations as in `galore`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_galore(rank=1)
      >>> grads = jnp.array([[4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
      >>> print(opt.update(grads, opt.init(jnp.zeros((2, 3))))[0])
      [[1. 0. 0.]
       [0. 0. 0.]]
    """
    return _direction("scale_by_galore", **locals())


def _direction(
    name: str,
    *,
    rank: int,
    update_proj_gap: Scalar,
    scale: Scalar,
    base_optimizer: Pair | None,
    weight_dimension_numbers: MatrixSpec,
    side: Side,
) -> Optimizer:
    """Return the direction of `galore`; `name` is for errors."""
    check_choice(f"{name}(side=...)", side, ("smaller", "larger"))
    inner = with_extra_args_support(base_optimizer or scale_by_adam())
    slots = functools.partial(
        _slots,
        what=f"{name}(weight_dimension_numbers=...)",
        spec=weight_dimension_numbers,
        rank=check_integer(f"{name}(rank=...)", rank),
        side=side,
        inner_init=inner.init,
    )
    numbers = dict(scale=scale, update_proj_gap=update_proj_gap)
    return treewise(_galore, slots, numbers, name=name, inner=inner.update)


@checked(**RANGES)
def galore(
    learning_rate: Hyperparam,
    rank: int = 128,
    update_proj_gap: Scalar = 200,
    scale: Scalar = 1.0,
    base_optimizer: Pair | None = None,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    weight_dimension_numbers: MatrixSpec = None,
    *,
    side: Side = "smaller",
) -> Optimizer:
    r"""Run Adam on the gradients of matrices in the basis of their first singular vectors.

    Good for: pre-training and fine-tuning of large matrices on one device.

    Evidence: mixed. For language models its perplexity is above Adam's at 60 M to 350 M parameters,
    and below it at 1 B (Glentis et al. 2025, arXiv 2506.16659).

    For an m x n matrix with m <= n; in the steps 1, 1 + T, 1 + 2T, ... the basis :math:`P_t` is
    renewed, from the first r left singular vectors of :math:`g_t`:

    .. math::

       P_t &= U_{:,1:r}, \quad U \Sigma V^\top = g_t \\
       R_t &= P_t^\top g_t \\
       N_t &= \operatorname{Adam}(R_t) \\
       d_t &= \alpha P_t N_t \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    For m > n the basis is of right singular vectors and multiplies from the right. Adam's moments
    do not change when the basis does. Adam updates other parameters as usual.

    Differences: optax projects the larger side, as with `side="larger"`. The authors' code adds
    Adam's :math:`\epsilon` before bias correction and decays the parameters after the step.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree.
      rank: :math:`r`, number of columns of the basis, an integer >= 1; at most the smaller side.
      update_proj_gap: :math:`T`, steps from one basis to the next, a whole number >= 1. Each
        renewal costs an SVD of every matrix; under `vmap` every step does.
      scale: :math:`\alpha`, factor of the projected directions, finite; 0.25 in the paper.
      base_optimizer: the transform that runs in the basis; it gets no parameters. None is
        `scale_by_adam()`.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      weight_dimension_numbers: which axes make matrices: a `GaLoreDimensionNumbers` for all
        parameters of two and more dimensions, a prefix tree or `by_path` of them and None, or a
        function of the parameters that gives one. Axes not named are a batch: (1, 2) for stacked
        layers, ((0, 1, 2), 3) for convolutions. None takes the parameters of two dimensions.
      side: "smaller" projects the smaller side of the matrix, as in the paper; "larger" the larger
        one, which needs fewer moments.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State with Adam, for an m x n matrix with m <= n: 4 r m bytes of the basis (`projector`) and
      8 r n of the moments (`inner_state`); 8 bytes per element of other parameters.

    Raises:
      ValueError: if a concrete number is out of range; at `init`, if a parameter lacks an axis.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"kernel": jnp.zeros((100, 400)), "bias": jnp.zeros(400)}
      >>> opt = gdjax.galore(1e-3, rank=4, scale=0.25)
      >>> state = jax.eval_shape(opt.init, params)  # Adam: 80800
      >>> sum(x.size for x in jax.tree.leaves(state[0].slots.projector))
      400
      >>> sum(x.size for x in jax.tree.leaves(state[0].slots.inner_state.slots))
      4000

    References:
      Zhao et al. (2024), "GaLore: memory-efficient LLM training by gradient low-rank projection",
      Algorithm 2.
    """
    direction = _direction(
        "galore",
        rank=rank,
        update_proj_gap=update_proj_gap,
        scale=scale,
        base_optimizer=base_optimizer,
        weight_dimension_numbers=weight_dimension_numbers,
        side=side,
    )
    step = descend(gradient_rule, None, {}, learning_rate, weight_decay, mask, name="galore")
    return chain(direction, step)
