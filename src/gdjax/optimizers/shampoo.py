"""Shampoo: the gradient times inverse roots of its second-moment matrices, along each axis.

Gupta, Koren & Singer (2018), Algorithm 2, https://arxiv.org/abs/1802.09568; with grafting, blocks
and infrequent roots as in Anil et al. (2020), https://arxiv.org/abs/2002.09018, and Shi et al.
(2023), https://arxiv.org/abs/2309.06497; one-sided as in Xie et al. (2025),
https://arxiv.org/abs/2503.10537. Paper -> here: L, R -> factors, L^(-1/4), R^(-1/4) ->
roots, beta_2 -> b2, epsilon -> eps. Deviations: an axis is cut into equal blocks, see `blocks_of`.
The roots are constants for differentiation.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import (
    CLOSED_UNIT,
    NONNEGATIVE,
    POSITIVE,
    UNIT,
    WHOLE,
    check_choice,
    check_integer,
    checked,
)
from gdjax.core.dealing import Devices, dealing, dealt_init
from gdjax.core.every import as_interval, init_phases, is_due
from gdjax.core.lift import descend, off_numbers
from gdjax.core.numerics import bias_correction, compute_dtype, real_dtype
from gdjax.core.placement import placed_along, zeros_along, zeros_like
from gdjax.core.trees import total_count
from gdjax.core.types import Hyperparam, Mask
from gdjax.linalg.axes import along, gram
from gdjax.linalg.buckets import map_buckets, map_in_turn
from gdjax.linalg.inverse_root import Root, newton_order, renewed_roots
from gdjax.linalg.shapes import Blocks, blocks_of, first_axes, merged_shape
from gdjax.optimizers.shared.grafting import GRAFTS, Graft, graft_direction, grafted

Side: TypeAlias = Literal["first", "last"]


class Blocked(NamedTuple):
    """What Shampoo remembers of one parameter, which is cut into blocks."""

    mu: Array  # running mean of the gradient, shaped like the parameter
    nu: Array | None  # second moment for the graft, real, or None
    factors: tuple[Array, ...]  # L, R: for each axis, n x n matrices [blocks, n, n]
    roots: tuple[Array, ...]  # their inverse roots, likewise
    failures: Array  # int32, how many roots failed, so that the old one was kept
    phase: Array | None  # [blocks], in [0, 1): the time of renewal within the interval, or None

    def metrics(self) -> dict[str, Array]:
        """Return how many roots failed so far, of all parameters, for `gdjax.metrics`."""
        return {"failed_roots": total_count(self.failures)}

    def cost(self) -> int:
        """Return what a step of one parameter costs, for dealing; 0 for a number."""
        if self.mu.size < 2:
            return 0
        return sum(f.shape[-1] * (f.size + self.mu.size) for f in self.factors)


def _shampoo(
    grad,
    slots,
    param,
    count,
    *,
    b1,
    b2,
    eps,
    rcond,
    precondition_frequency,
    exponent,
    b3,
    start_preconditioning_step,
    graft_b2,
    graft_eps,
    graft,
    order,
    merge,
    block_size,
    one_sided,
):
    cut = shampoo_blocks(grad.shape, merge, block_size, one_sided)
    axes = _axes(cut, one_sided) if grad.size else []
    split, pieces = cut.split, cut.split(grad.reshape(cut.shape))
    sums = 1 - b2 == 0  # as in Adagrad
    weight = jnp.where(sums, 1, 1 - b2)
    factors = tuple(
        b2 * f + weight * jax.vmap(functools.partial(gram, axis=axis))(pieces)
        for axis, f in zip(axes, slots.factors, strict=True)
    )
    if start_preconditioning_step is None:
        start_preconditioning_step = precondition_frequency
    after = count - as_interval(start_preconditioning_step, count)  # 0 in the first with roots
    due = is_due(after + 1, precondition_frequency, slots.phase) & (after >= 0)
    scale = jnp.where(sums, 1, bias_correction(b2, count))
    power = 1 / (2 * max(len(factors), 1)) if exponent is None else exponent
    roots, failed = renewed_roots(due, slots.roots, factors, (scale, power, eps, rcond), order)

    b3 = b1 if b3 is None else b3
    weight = (1 - b3) + b3 * bias_correction(b1, count - 1)  # 1 - b3 b1^(t-1)
    mean = (b3 * slots.mu + (1 - b3) * grad) / weight
    nu, plain = graft_direction(graft, grad, mean, slots.nu, count, graft_b2, graft_eps)
    plain = split(plain.reshape(cut.shape))
    shaped = jax.vmap(functools.partial(_preconditioned, axes))(
        split(mean.reshape(cut.shape)), roots
    )
    if graft is not None:
        shaped = jax.vmap(grafted)(shaped, plain)
    direction = cut.join(jnp.where(after >= 0, shaped, plain)).reshape(grad.shape)
    mu = b1 * slots.mu + (1 - b1) * grad
    return direction, Blocked(mu, nu, factors, roots, slots.failures + failed, slots.phase)


def _preconditioned(axes: list[int], piece: Array, roots: tuple[Array, ...]) -> Array:
    for axis, root in zip(axes, roots, strict=True):
        piece = along(piece, root.T, axis)
    return piece


def shampoo_blocks(
    shape: tuple[int, ...], merge: bool, block_size: int, one_sided: bool | Side
) -> Blocks:
    """Return how an array is merged and cut; a scalar is a vector of length 1."""
    if merge:
        shape = merged_shape(shape, block_size, keep_last=bool(one_sided))
    return blocks_of(shape or (1,), block_size)


def _axes(cut: Blocks, one_sided: bool | Side) -> list[int]:
    """Return the axes that have a factor: all, or one of those that are longer than 1."""
    some = [axis for axis, n in enumerate(cut.block) if n > 1]
    if not one_sided or not some:
        return list(range(len(cut.block)))
    if one_sided is True:  # the shortest
        return [min(some, key=lambda axis: cut.block[axis])]
    return some[:1] if one_sided == "first" else some[-1:]


def _slots(
    param: Array,
    merge: bool,
    block_size: int,
    graft: Graft | None,
    stagger: bool,
    one_sided: bool | Side,
) -> Blocked:
    dtype = compute_dtype(param)
    cut = shampoo_blocks(param.shape, merge, block_size, one_sided)
    count = math.prod(cut.grid)
    places = first_axes(param.shape, cut.shape)
    grid = tuple(a for a, g in zip(places, cut.grid, strict=True) if g > 1)  # where blocks lie
    axes = _axes(cut, one_sided) if param.size else []
    sides = [(cut.block[axis], (grid, places[axis])) for axis in axes]
    factors = tuple(zeros_along(param, (count, n, n), row, dtype) for n, row in sides)
    roots = tuple(
        placed_along(jnp.tile(jnp.eye(n, dtype=dtype), (count, 1, 1)), param, row)
        for n, row in sides
    )
    mu = zeros_like(param, dtype)
    nu = None if graft in (None, "sgd") else zeros_like(param, real_dtype(dtype))
    phase = jnp.zeros(count, jnp.float32) if stagger else None
    return Blocked(mu, nu, factors, roots, jnp.zeros((), jnp.int32), phase)


RANGES = dict(
    b2=CLOSED_UNIT,
    b3=UNIT._replace(optional=True),
    exponent=POSITIVE._replace(optional=True),
    rcond=UNIT._replace(optional=True),
    precondition_frequency=WHOLE,
    start_preconditioning_step=WHOLE._replace(optional=True),
    graft_b2=UNIT,
    graft_eps=NONNEGATIVE,
)


@checked(**RANGES)
def scale_by_shampoo(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-12,
    precondition_frequency: Hyperparam = 10,
    block_size: int = 1024,
    *,
    graft: Graft | None = "adam",
    exponent: Hyperparam | None = None,
    b3: Hyperparam | None = None,
    start_preconditioning_step: Hyperparam | None = None,
    graft_b2: Hyperparam = 0.999,
    graft_eps: Hyperparam = 1e-8,
    merge_dims: bool = True,
    one_sided: bool | Side = False,
    rcond: Hyperparam | None = None,
    root: Root = "eigh",
    stagger: bool = False,
    mesh: Devices = None,
) -> Optimizer:
    """Replace the gradient by Shampoo's direction; arguments and equations as in `shampoo`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_shampoo(0.0, graft=None, precondition_frequency=1, merge_dims=False)
      >>> grads = jnp.array([[3.0, 0.0], [0.0, -0.01]])
      >>> print(opt.update(grads, opt.init(jnp.zeros((2, 2))))[0].round(3))
      [[ 1.  0.]
       [ 0. -1.]]
    """
    return _optimizer("scale_by_shampoo", **locals())


@checked(**RANGES)
def shampoo(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-12,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    precondition_frequency: Hyperparam = 10,
    block_size: int = 1024,
    *,
    graft: Graft | None = "adam",
    exponent: Hyperparam | None = None,
    b3: Hyperparam | None = None,
    start_preconditioning_step: Hyperparam | None = None,
    graft_b2: Hyperparam = 0.999,
    graft_eps: Hyperparam = 1e-8,
    merge_dims: bool = True,
    one_sided: bool | Side = False,
    rcond: Hyperparam | None = None,
    root: Root = "eigh",
    stagger: bool = False,
    mesh: Devices = None,
) -> Optimizer:
    r"""Multiply a running mean of the gradient by inverse roots of second moments, axis by axis.

    Good for: large networks; long runs with tuned schedules, as in AlgoPerf.

    Evidence: independent. It won AlgoPerf with tuning, in wall-clock time over eight workloads
    (Kasimbeg et al. 2025, arXiv 2502.15015).

    For a block of a matrix:

    .. math::

       L_t &= \beta_2 L_{t-1} + (1 - \beta_2)\, g_t g_t^H \\
       R_t &= \beta_2 R_{t-1} + (1 - \beta_2)\, g_t^H g_t \\
       \bar g_t &= (\beta_3 m_{t-1} + (1 - \beta_3)\, g_t) / (1 - \beta_3 \beta_1^{t-1}) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
       s_t &= P\, \bar g_t\, Q \\
       x_t &= x_{t-1} - \eta_t \left(
       \frac{\lVert \tilde g_t \rVert}{\lVert s_t \rVert} s_t + \lambda x_{t-1} \right)

    where :math:`\tilde g_t` is the direction of the graft, such as Adam's, from the mean
    :math:`\bar g_t`. When due, the roots are renewed:

    .. math::

       P &= (L_t / (1 - \beta_2^t) + \epsilon I)^{-1/4} \\
       Q &= (R_t / (1 - \beta_2^t) + \epsilon I)^{-1/4}

    A block of k axes with factors has the power -1 / (2 k): with `one_sided`, only the shorter side
    has a factor, with the power -1/2. With b2 = 1 the factors are sums,
    :math:`L_t = L_{t-1} + g_t g_t^H`, and are not corrected. Before the first roots, the update is
    the graft's.

    On a CPU, renewals can be many times faster if Python starts with OPENBLAS_NUM_THREADS=1 in the
    environment: otherwise OpenBLAS's threads and XLA's wait for each other.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers here.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the factors, in [0, 1]; 1 sums up, as in the paper, and is the
        first choice of the authors of the distributed code.
      eps: :math:`\epsilon` >= 0, added to the eigenvalues. If the smallest is negative by rounding,
        all are shifted.
      weight_decay: :math:`\lambda` >= 0, strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      precondition_frequency: steps from one renewal of the roots to the next, a whole number >= 1.
        In a `vmap` over runs a renewal costs only where one is due in some of them.
      block_size: the maximal length of a block's axes, an integer >= 1. Longer axes are cut into
        equal parts.
      graft: the method that gives the norm of the step, for each block: "adam", "rmsprop",
        "adagrad", "sgd" (that of the mean), or None for Shampoo's own.
      exponent: the power, as a positive number: 0.5 is :math:`L^{-1/2}`. None is 1 / (2 k).
      b3: :math:`\beta_3`, weight of the mean against the new gradient, in [0, 1); None is `b1`, and
        `b1**2` looks ahead as in NAdam.
      start_preconditioning_step: the first step with roots, >= 1; None is the frequency.
      graft_b2: decay of the graft's second moment, for "adam" and "rmsprop", in [0, 1).
      graft_eps: added to the root of the graft's second moment, >= 0.
      merge_dims: whether neighbouring axes are merged from the left while not longer than the block
        size: (3, 3, 64, 128) to (576, 128), and (32, 20) to 640. With `one_sided` the last axis is
        merged with no other, so that (32, 20) stays as it is.
      one_sided: True gives a factor to the shortest axis of each block only. Where m is much
        smaller than n, this saves most of the memory and of the time of renewals. "first" and
        "last" choose the axis: that of the inputs or of the outputs of a kernel (fan_in, fan_out),
        so that L of Xie et al., on the left of a matrix (fan_out, fan_in), is "last".
      rcond: in [0, 1), or None. Eigenvalues up to `rcond` times the largest of their factor count
        as 0, and the root is that of the pseudo-inverse: directions that no gradient had up to the
        last renewal are left out, in place of being multiplied by eps^(-1 / (2 k)). For factors of
        low rank, as with few steps or small batches, with `eps=0`. About the length of the axis
        times the precision of the dtype is what rounding needs: 1e-4 for 1000 in float32.
      root: "eigh" by eigenvalues, "newton" by matrix products alone, which is faster on
        accelerators and adds 1e-6 times the largest eigenvalue; then 1 / exponent must be a whole
        number and the same for all.
      stagger: whether the renewals of the blocks are spread over the interval, so that all steps
        take about the same time, except the first with roots.
      mesh: devices to deal the parameters over, whole ones, see `soap`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State of an m x n block: :math:`8 (m^2 + n^2) + 4 m n` bytes, and 4 m n for a graft with a
      second moment; with `one_sided` and m <= n, :math:`8 m^2` in place of :math:`8 (m^2 + n^2)`. A
      step takes about :math:`4 m n (m + n)` operations, `one_sided` :math:`4 m^2 n`, and a renewal
      about :math:`20 (m^3 + n^3)`, or :math:`20 m^3`.
      `slots.failures` counts roots that were kept because the new one was not finite or, by
      "newton", had no right digit; `gdjax.metrics(state)["failed_roots"]` is the sum over the
      parameters.

    Raises:
      ValueError: if a concrete number is out of range, a choice unknown, or `rcond` is given with
        root="newton".

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> hessian = jnp.array([[5.0, 4.0], [4.0, 5.0]])
      >>> opt = gdjax.shampoo(0.1, b1=0.5, precondition_frequency=2, graft="sgd")
      >>> params = jnp.array([[2.0, 1.0], [-1.0, 1.0]])
      >>> state = opt.init(params)
      >>> for _ in range(40):
      ...     updates, state = opt.update(hessian @ params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(jnp.abs(params).max() < 0.05)
      True

    References:
      Gupta, Koren & Singer (2018), "Shampoo: preconditioned stochastic tensor optimization".
      Anil et al. (2020), "Scalable second order optimization for deep learning".
      Xie et al. (2025), "Structured preconditioners in adaptive optimization" (one-sided).
    """
    return _optimizer("shampoo", **locals())


def _optimizer(
    name: str,
    *,
    learning_rate: Hyperparam | None = None,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
    b1: Hyperparam,
    b2: Hyperparam,
    eps: Hyperparam,
    precondition_frequency: Hyperparam,
    block_size: int,
    graft: Graft | None,
    exponent: Hyperparam | None,
    b3: Hyperparam | None,
    start_preconditioning_step: Hyperparam | None,
    graft_b2: Hyperparam,
    graft_eps: Hyperparam,
    merge_dims: bool,
    one_sided: bool | Side,
    rcond: Hyperparam | None,
    root: Root,
    stagger: bool,
    mesh: Devices,
) -> Optimizer:
    """Return `shampoo`, or without a learning rate its direction; `name` is for errors."""
    block_size = check_integer(f"{name}(block_size=...)", block_size)
    check_choice(f"{name}(graft=...)", graft, GRAFTS)
    check_choice(f"{name}(root=...)", root, get_args(Root))
    check_choice(f"{name}(one_sided=...)", one_sided, (False, True, *get_args(Side)))
    order = None
    if root == "newton":
        if rcond is not None:
            raise ValueError(
                f'{name}(rcond=...) must be None with root="newton", which finds no eigenvalues, '
                f'got {rcond!r}. Use root="eigh".'
            )
        order, exponent = newton_order(f"{name}(exponent=...)", exponent), None
    numbers = dict(
        b1=b1,
        b2=b2,
        eps=eps,
        rcond=rcond,
        precondition_frequency=precondition_frequency,
        exponent=exponent,
        b3=b3,
        start_preconditioning_step=start_preconditioning_step,
        graft_b2=graft_b2 if graft in ("rmsprop", "adam") else None,
        graft_eps=None if graft in (None, "sgd") else graft_eps,
    )
    shape = dict(merge=merge_dims, block_size=block_size, one_sided=one_sided)
    over = dealing(f"{name}(mesh=...)", mesh, stagger)
    optimizer = descend(
        _shampoo,
        functools.partial(_slots, graft=graft, stagger=stagger, **shape),
        numbers,
        learning_rate,
        weight_decay,
        mask,
        name=name,
        map_rows=map_in_turn if stagger else map_buckets,
        over=over,
        graft=graft,
        order=order,
        **shape,
    )
    if stagger:
        optimizer = Optimizer(functools.partial(init_phases, optimizer.init), optimizer.update)
    return dealt_init(optimizer, over, functools.partial(off_numbers, name))
