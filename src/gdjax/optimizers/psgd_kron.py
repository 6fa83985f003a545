"""PSGD with Kronecker factors: a whitening preconditioner that is learned online.

Li (2015), https://arxiv.org/abs/1512.04202; Pooladzandi & Li (2024),
https://arxiv.org/abs/2402.04553; Li (2024), https://arxiv.org/abs/2402.11858; the details follow
psgd-jax's `kron`, the update without solves the author's psgd_torch. Paper -> here: Q_k -> factors,
g -> the (mean) gradient, v -> the random probe, mu (its step size) -> preconditioner_lr.
Deviations: the factors are updated and balanced at deterministic intervals; factors that would not
be finite are kept, and so are those of a zero gradient, which grow without bound in psgd-jax; the
noise is psgd-jax's in both updates. The preconditioner is a constant for differentiation.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import (
    NONNEGATIVE,
    POSITIVE,
    SHARE,
    UNIT,
    WHOLE,
    check_choice,
    check_integer,
    checked,
)
from gdjax.core.dealing import Devices, dealing, dealt_init
from gdjax.core.every import renew_when
from gdjax.core.keys import fresh_key
from gdjax.core.lift import descend, off_numbers
from gdjax.core.numerics import bias_correction, compute_dtype, real_dtype, root_mean_sq
from gdjax.core.placement import placed_along, zeros_like
from gdjax.core.trees import total_count
from gdjax.core.types import Hyperparam, Key, Mask, Number, Params
from gdjax.linalg.buckets import map_scanned
from gdjax.linalg.whitening import SAVING, Saving, first_factors, learned, whitened
from gdjax.optimizers.shared.slots import with_slots
from gdjax.schedules.update_probability import precond_update_prob_schedule

FactorUpdate: TypeAlias = Literal["triangular", "procrustes"]


class Whitened(NamedTuple):
    """What PSGD remembers of one parameter."""

    mu: Array  # running mean of the gradient, shaped like the parameter
    factors: tuple[Array, ...]  # Q_k for each axis of n: a matrix [n, n], or a diagonal [n]
    bounds: Array | None  # [axes], real, what bounds the steps of "procrustes"
    waiting: Array  # int32, steps since the last update of the factors
    updates: Array  # int32, how many updates there were
    failures: Array  # int32, how many updates were not applied because they were not finite
    key: Array  # where the probes come from

    def metrics(self) -> dict[str, Array]:
        """Return how many updates failed so far, of all parameters, for `gdjax.metrics`."""
        return {"failed_updates": total_count(self.failures)}

    def cost(self) -> int:
        """Return what a step of one parameter costs, for dealing; 0 if all factors are diagonal."""
        sides = [len(q) for q in self.factors if q.ndim == 2]
        return sum(n * (n * n + self.mu.size) for n in sides)


def _psgd_kron(
    grad,
    slots,
    param,
    count,
    *,
    b1,
    preconditioner_update_probability,
    preconditioner_lr,
    balance_interval,
    clip_update_rms,
    bound_decay,
    momentum_into_precond_update,
):
    mu = b1 * slots.mu + (1 - b1) * grad
    mean = mu / bias_correction(b1, count)
    shape = grad.shape or (1,)
    waiting = slots.waiting + 1
    due = waiting >= 1 / preconditioner_update_probability
    new = slots._replace(mu=mu, waiting=jnp.where(due, 0, waiting))
    if not grad.size:
        return mean, new
    seen = (mean if momentum_into_precond_update else grad).reshape(shape)
    key = jax.random.fold_in(slots.key, count)
    kept = slots.factors, slots.bounds, slots.updates, slots.failures
    given = seen, key, preconditioner_lr, bound_decay, balance_interval
    factors, bounds, updates, failures = renew_when(due, learned, kept, *given)
    direction = whitened(mean.reshape(shape), factors).reshape(grad.shape)
    if clip_update_rms is not None:
        direction = direction / jnp.maximum(1, root_mean_sq(direction) / clip_update_rms)
    return direction, new._replace(
        factors=factors, bounds=bounds, updates=updates, failures=failures
    )


def _slots(
    param: Array,
    key: Array,
    scale: Number,
    limit: int,
    least_ndim: int,
    saving: Saving | None,
    procrustes: bool,
) -> Whitened:
    dtype, shape = compute_dtype(param), param.shape or (1,)
    factors = tuple(
        placed_along(factor, param, (axis,) if param.ndim else ())
        for axis, factor in enumerate(
            first_factors(shape, jnp.asarray(scale, dtype), limit, least_ndim, saving)
        )
    )
    bounds = jnp.zeros(len(shape), real_dtype(dtype)) if procrustes else None
    a, b, c = (jnp.zeros((), jnp.int32) for _ in range(3))  # not one array: states are donated
    return Whitened(zeros_like(param, dtype), factors, bounds, a, b, c, key)


RANGES = dict(
    preconditioner_update_probability=SHARE,
    preconditioner_lr=NONNEGATIVE,
    preconditioner_init_scale=POSITIVE,
    balance_interval=WHOLE,
    clip_update_rms=POSITIVE._replace(optional=True),
    bound_decay=UNIT,
)


@checked(**RANGES)
def scale_by_psgd_kron(
    b1: Hyperparam = 0.9,
    preconditioner_update_probability: Hyperparam | None = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: Saving | None = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Hyperparam = 0.1,
    preconditioner_init_scale: Number = 1.0,
    *,
    balance_interval: Hyperparam = 100,
    clip_update_rms: Hyperparam | None = 1.1,
    factor_update: FactorUpdate = "triangular",
    bound_decay: Hyperparam = 0.9,
    key: Key = 0,
    mesh: Devices = None,
) -> Optimizer:
    """Replace the gradient by PSGD's direction; arguments and equations as in `psgd_kron`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_psgd_kron(preconditioner_lr=0.02)
      >>> grads = jnp.array([4.0, -0.1])
      >>> state = opt.init(grads)
      >>> for _ in range(200):
      ...     direction, state = opt.update(grads, state)
      >>> bool(-4 < direction[0] / direction[1] < -1)  # of the gradient: -40
      True
    """
    return _optimizer("scale_by_psgd_kron", **locals())


@checked(**RANGES)
def psgd_kron(
    learning_rate: Hyperparam = 0.001,
    b1: Hyperparam = 0.9,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    preconditioner_update_probability: Hyperparam | None = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: Saving | None = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Hyperparam = 0.1,
    preconditioner_init_scale: Number = 1.0,
    *,
    balance_interval: Hyperparam = 100,
    clip_update_rms: Hyperparam | None = 1.1,
    factor_update: FactorUpdate = "triangular",
    bound_decay: Hyperparam = 0.9,
    key: Key = 0,
    mesh: Devices = None,
) -> Optimizer:
    r"""Whiten a running mean of the gradient by Kronecker factors that are learned online.

    Good for: large networks and noisy gradients, without second moments or an `eps` to set.

    Evidence: independent. For language models it is among the fastest of eleven tuned optimizers,
    with `muon` and `soap` (Wen et al. 2025, arXiv 2509.02046).

    The factors :math:`Q_k`, one for each axis, make up :math:`Q = Q_1 \otimes Q_2 \otimes \ldots`:

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
       \hat m_t &= m_t / (1 - \beta_1^t) \\
       \tilde d_t &= Q^H Q\, \hat m_t \\
       d_t &= \tilde d_t / \max(1,\; \operatorname{rms}(\tilde d_t) / 1.1) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    When due, before the direction is computed, the factors are fitted to the gradient by means of a
    random probe z, and of :math:`A_k` and :math:`B_k`, which are A and B as matrices whose rows run
    along axis k:

    .. math::

       A &= Q (\hat m_t + 2^{-23/2}\, \operatorname{mean}|\hat m_t|\, z) \\
       B &= Q^{-H} z, \qquad z \sim \mathcal N(0, I) \\
       Q_k &\leftarrow Q_k - \nu\,
       \frac{\operatorname{triu}(A_k A_k^H - B_k B_k^H)}{\lVert A_k A_k^H + B_k B_k^H \rVert}\, Q_k

    A lower bound is used for the spectral norm.

    Differences: psgd-jax balances the factors at random times, here it is done every
    `balance_interval` updates; factors that would not be finite are kept.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers here.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      weight_decay: :math:`\lambda` >= 0, strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      preconditioner_update_probability: updates of the factors for each step, in (0, 1], often a
        schedule: one is due when 1 / probability steps have passed. None is
        `precond_update_prob_schedule()`.
      max_size_triangular: longer axes have diagonal factors, an integer >= 1.
      min_ndim_triangular: parameters of fewer axes have diagonal factors, an integer >= 0.
      memory_save_mode: None; "one_diag" for a diagonal factor on the longest axis; "all_diag".
      momentum_into_precond_update: whether the factors learn from the mean or from the gradient.
      preconditioner_lr: :math:`\nu` >= 0, step size of the factors.
      preconditioner_init_scale: scale > 0 of the first Q, the root of the preconditioner.
      balance_interval: updates between two balancings of the factors' sizes, a whole number >= 1.
      clip_update_rms: the largest root mean square of a direction, > 0; None for any. A whitened
        gradient has 1.
      factor_update: "triangular" as above; "procrustes" is Li's later update of full matrices
        without solves, :math:`Q_k \leftarrow Q_k - \nu (C_k - \tau_k I)\, Q_k / l_k`, rotated a
        little towards symmetry. :math:`C_k = D_k D_k^H` with :math:`D = Q^H A`, and
        :math:`\tau_k` is the number of elements over the length of axis k.
      bound_decay: decay of :math:`l_k` in "procrustes", which bounds the norm of
        :math:`C_k + \tau_k I`, in [0, 1).
      key: for the probes, an int or a `jax.random.key`. It is kept in the state.
      mesh: devices to deal the parameters with full factors over, whole ones, see `soap`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State of an m x n matrix: :math:`4 (m n + m^2 + n^2)` bytes.

    Raises:
      ValueError: if a concrete number is out of range, or a choice unknown.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> hessian = jnp.array([[5.0, 4.0], [4.0, 5.0]])
      >>> opt = gdjax.psgd_kron(gdjax.linear_schedule(0.1, 0.0, 60))
      >>> params = jnp.array([[2.0, 1.0], [-1.0, 1.0]])
      >>> state = opt.init(params)
      >>> for _ in range(60):
      ...     updates, state = opt.update(hessian @ params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(jnp.abs(params).max() < 0.3)
      True

    References:
      Li (2015), "Preconditioned stochastic gradient descent".
      Pooladzandi & Li (2024), "Curvature-informed SGD via general purpose Lie-group
      preconditioners".
      Li (2024), "Stochastic Hessian fittings with Lie groups".
    """
    return _optimizer("psgd_kron", **locals())


def _optimizer(
    name: str,
    *,
    learning_rate: Hyperparam | None = None,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
    b1: Hyperparam,
    preconditioner_update_probability: Hyperparam | None,
    max_size_triangular: int,
    min_ndim_triangular: int,
    memory_save_mode: Saving | None,
    momentum_into_precond_update: bool,
    preconditioner_lr: Hyperparam,
    preconditioner_init_scale: Number,
    balance_interval: Hyperparam,
    clip_update_rms: Hyperparam | None,
    factor_update: FactorUpdate,
    bound_decay: Hyperparam,
    key: Key,
    mesh: Devices,
) -> Optimizer:
    """Return `psgd_kron`, or without a learning rate its direction; `name` is for errors."""
    check_choice(f"{name}(memory_save_mode=...)", memory_save_mode, SAVING)
    check_choice(f"{name}(factor_update=...)", factor_update, ("triangular", "procrustes"))
    procrustes = factor_update == "procrustes"
    over = dealing(f"{name}(mesh=...)", mesh)
    if preconditioner_update_probability is None:
        preconditioner_update_probability = precond_update_prob_schedule()
    numbers = dict(
        b1=b1,
        preconditioner_update_probability=preconditioner_update_probability,
        preconditioner_lr=preconditioner_lr,
        balance_interval=balance_interval,
        clip_update_rms=clip_update_rms,
        bound_decay=bound_decay if procrustes else None,
    )
    optimizer = descend(
        _psgd_kron,
        None,
        numbers,
        learning_rate,
        weight_decay,
        mask,
        name=name,
        map_rows=map_scanned,
        over=over,
        momentum_into_precond_update=momentum_into_precond_update,
    )
    slots = functools.partial(
        _slots,
        scale=preconditioner_init_scale,
        limit=check_integer(f"{name}(max_size_triangular=...)", max_size_triangular),
        least_ndim=check_integer(f"{name}(min_ndim_triangular=...)", min_ndim_triangular, 0),
        saving=memory_save_mode,
        procrustes=procrustes,
    )

    def rows(params: Params) -> list[Whitened]:
        first = fresh_key(key)
        leaves = enumerate(jax.tree.leaves(params))
        return [slots(x, jax.random.fold_in(first, i)) for i, x in leaves]

    optimizer = with_slots(optimizer, Whitened, rows)
    return dealt_init(optimizer, over, functools.partial(off_numbers, name))
