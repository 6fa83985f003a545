"""Dion: Muon of low rank, by one step of power iteration with QR, and error feedback.

Ahn et al. (2025), Algorithm 1, https://arxiv.org/abs/2504.05295
Paper -> here: M -> mu, Q -> nu, mu -> beta, r -> the rank. Deviations: the first basis is Gaussian,
drawn from `key` and the index of the parameter among all.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gdjax.core.base import Optimizer, State, UpdateFn
from gdjax.core.checks import checked
from gdjax.core.codecs import decoded, stored
from gdjax.core.compiled import compiled
from gdjax.core.dealing import Dealing, Devices, dealing, dealing_here, laid_out
from gdjax.core.hyper import leaf_numbers
from gdjax.core.keys import fresh_key
from gdjax.core.lift import leafwise
from gdjax.core.numerics import (
    abs_sq,
    cast_like,
    compute_dtype,
    safe_divide,
    safe_sqrt,
    upcast,
)
from gdjax.core.placement import placed_along
from gdjax.core.types import FloatDType, Hyperparam, Key, Mask, Updates
from gdjax.linalg.axes import matmul
from gdjax.linalg.buckets import map_buckets, map_dealt
from gdjax.linalg.matrices import Axes, MatrixSpec
from gdjax.optimizers.shared.orthogonal import (
    RANGES,
    Orthogonal,
    Scale,
    accumulated,
    check_share,
    numbers_of,
    on_matrices,
    only_momentum,
    or_adam,
    scaled,
    stacks_sharded_as_before,
)


def _dion(o, slots, count, *, scale, consistent_rms):
    return scaled(o, slots.axes, scale, consistent_rms), slots


def _low_rank(row, beta, eps):
    """Return what a step of one matrix needs, from its momentum [m, n] and basis [n, r].

    The momentum and the basis are put together where they live, so that they keep their shardings.

    Returns:
      The direction, what leaves the momentum, the next basis, and whether there is one.
    """
    m, basis = row
    p = _orthonormal(matmul(m, basis))
    r = matmul(m.conj().mT, p)
    used = (1 - beta.astype(m.real.dtype)) * matmul(p, r.conj().mT)
    norms = safe_sqrt(jnp.sum(abs_sq(r), -2, keepdims=True))
    q = safe_divide(r, norms + eps.astype(norms.dtype))
    return matmul(p, q.conj().mT), used, q, jnp.any(p != 0)


def _orthonormal(x: Array) -> Array:
    """Return an orthonormal basis of the columns; the columns of a zero matrix stay zero.

    A small multiple of the unit matrix is added, since the QR decomposition of dependent columns
    cannot be differentiated; it is too small to change other results.
    """
    size = safe_sqrt(jnp.sum(abs_sq(x), (-2, -1), keepdims=True))
    one = jnp.eye(x.shape[-2], x.shape[-1], dtype=x.dtype)
    some = size > 0
    unit = x / jnp.where(some, size, 1) + jnp.finfo(x.dtype).eps * one
    q = jnp.linalg.qr(jnp.where(some, unit, one))[0]
    return jnp.where(some, q, 0)


def _slots(
    param: Array,
    axes: Axes | None,
    index: int,
    key: Key,
    rank_fraction: float,
    mu_dtype: FloatDType,
    over: Dealing | None,
) -> Orthogonal:
    slots = only_momentum(param, axes, mu_dtype=mu_dtype, adam=True)
    if axes is None:
        return slots
    (*batch, m, n), (*stack, _, j) = axes.shape(param), axes.along
    shape = (*batch, n, max(1, math.ceil(rank_fraction * min(m, n))))
    key = jax.random.fold_in(fresh_key(key), index)
    basis = jax.random.normal(key, shape, compute_dtype(param))
    if over is None:
        return slots._replace(nu=placed_along(basis, param, (*stack, j)))
    axis = next((i for i, k in enumerate(shape[:-1]) if k % over.devices == 0), None)
    spec = [over.axes if i == axis else None for i in range(len(shape))]
    return slots._replace(nu=laid_out(basis, over, PartitionSpec(*spec)))


@functools.lru_cache(maxsize=256)
def _update(before: UpdateFn, after: UpdateFn, over: Dealing | None) -> UpdateFn:
    def update(grads, state, params=None, **extra):
        grads = jax.tree.map(jnp.asarray, grads)
        m, mid = before(upcast(grads), state, params)
        dealt = dealing_here(over)
        o, slots = _stepped(m, state._replace(slots=decoded(state.slots)), dealt)
        mid = mid._replace(count=state.count, slots=stored(slots, state.slots))
        if dealt is not None:
            o, mid = stacks_sharded_as_before(o, mid, grads if params is None else params, state)
        updates, new = after(o, mid, params)
        return cast_like(updates, grads), new

    return compiled(update, "dion")


def _stepped(tree: Updates, state: State, over: Dealing | None) -> tuple[Updates, Orthogonal]:
    """Return the directions in place of the momenta of matrices, and the slots after the step."""
    leaves, treedef = jax.tree.flatten(tree)
    mu, nu, axes = map(treedef.flatten_up_to, state.slots)
    hyper = leaf_numbers("dion", state, tree, state.count)
    matrices = [i for i, a in enumerate(axes) if a]
    rows = []
    for i in matrices:
        m, q = axes[i].matrices(leaves[i]), upcast(nu[i])
        rows.append(tuple(x.reshape(-1, *x.shape[-2:]) for x in (m, q)))
    shared = [(hyper["beta"][i], hyper["eps"][i]) for i in matrices]
    keys = [tuple(map(id, more)) for more in shared]
    if over is None:
        out = map_buckets(_low_rank, rows, keys, shared, stacks=True)
    else:
        out = map_dealt(_low_rank, rows, keys, shared, over)
    for i, (direction, used, q, live) in zip(matrices, out, strict=True):
        m, shape = leaves[i], axes[i].shape(leaves[i])
        leaves[i] = axes[i].array(direction.reshape(shape), m)
        mu[i] = m - axes[i].array(used.reshape(shape), m)
        live = live.reshape(*shape[:-2], 1, 1)
        nu[i] = jnp.where(live, q.reshape(nu[i].shape), upcast(nu[i]))
    unflatten = treedef.unflatten
    return unflatten(leaves), state.slots._replace(mu=unflatten(mu), nu=unflatten(nu))


@checked(**RANGES)
def dion(
    learning_rate: Hyperparam,
    rank_fraction: float = 0.25,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.01,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    key: Key = 0,
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.95,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam | None = None,
    scale: Scale | None = "spectral",
    mesh: Devices = None,
) -> Optimizer:
    r"""Step along a low-rank orthonormal approximation of the momentum; Adam for the rest.

    Good for: Muon's directions where matrices are sharded, or too large for full products.

    Evidence: authors only. Ahn et al. 2025, arXiv 2504.05295.

    For an m x n matrix, with a basis :math:`Q_t` of r columns:

    .. math::

       B_t &= M_{t-1} + g_t \\
       P_t &= \operatorname{qr}(B_t Q_{t-1}) \\
       R_t &= B_t^\top P_t \\
       M_t &= B_t - (1 - \beta) P_t R_t^\top \\
       Q_{t,:j} &= R_{t,:j} / (\|R_{t,:j}\| + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (c P_t Q_t^\top + \lambda x_{t-1})

    The columns of :math:`P_t` are an orthonormal basis of those of :math:`B_t Q_{t-1}`, and
    :math:`c` is the ``scale``. Other parameters are updated by Adam.

    Args:
      learning_rate: :math:`\eta_t`, see `muon`, like all arguments that are not named here.
      rank_fraction: the rank r over the smaller side, in (0, 1]; a shape, so a Python number.
      beta: :math:`\beta`, the share of the used part that stays in the momentum, in [0, 1).
      eps: :math:`\epsilon`, added to the norms of the columns, and Adam's, >= 0.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      key: an int or `jax.random.key` for the first basis.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`; without `splits`.
      consistent_rms: see `muon`.
      scale: see `muon`.
      mesh: see `muon`; momenta and bases travel too.

    Returns:
      As `muon`.
      State of an m x n matrix: 4 m n + 4 r n bytes, :math:`M_t` (`mu`) and :math:`Q_t` (`nu`); 8
      bytes per element of the rest.

    Raises:
      ValueError: as `muon`, and for a fraction out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dion(1.0, 0.5, weight_decay=None)
      >>> grads = jnp.array([[3.0, 0.0], [0.0, 0.0]])
      >>> updates, state = opt.update(grads, opt.init(grads), grads)
      >>> print(abs(updates.round(3)), state.slots.mu)
      [[1. 0.]
       [0. 0.]] [[2.85 0.  ]
       [0.   0.  ]]

    References:
      Ahn et al. (2025), "Dion: distributed orthonormalized updates", Algorithm 1.
    """
    arguments = locals()
    check_share("dion(rank_fraction=...)", rank_fraction)
    over, numbers = dealing("dion(mesh=...)", mesh), numbers_of(arguments)
    rules = accumulated, or_adam(_dion)
    before, after = (
        leafwise(rule, None, numbers, name="dion", nesterov=False, scale=scale) for rule in rules
    )
    slots = functools.partial(
        _slots, key=key, rank_fraction=rank_fraction, mu_dtype=mu_dtype, over=over
    )
    optimizer = Optimizer(before.init, _update(before.update, after.update, over))
    return on_matrices(optimizer, arguments, "dion", slots)
