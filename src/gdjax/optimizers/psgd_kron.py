"""PSGD with Kronecker factors: whiten the gradient by a preconditioner that is learned online.

Li (2015), https://arxiv.org/abs/1512.04202; Li (2024), https://arxiv.org/abs/2402.04553; the
details follow psgd-jax's `kron`. Paper -> here: Q_k -> factors, g -> the (mean) gradient, v -> the
random probe, mu (its step size) -> preconditioner_lr. Deviations: updates and balancings of the
factors come in turns that are not random; factors that would not be finite are kept, and so are
those of a zero gradient, which psgd-jax lets grow without end. The preconditioner is a constant for
differentiation.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import FINITE, NONNEGATIVE, POSITIVE, Range, check_choice, checked
from gdjax.core.every import INTERVAL, is_due, renew_when
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.keys import fresh_key
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import bias_correction, compute_dtype, root_mean_sq
from gdjax.linalg.axes import along, along_inverse, gram, matmul, scaled, sum_others
from gdjax.linalg.buckets import map_buckets
from gdjax.linalg.norm_bounds import spectral_norm_lower_bound
from gdjax.linalg.shapes import check_length

PROBABILITY = Range("in (0, 1]", lambda x: 0 < x <= 1)


class Whitened(NamedTuple):
    """What PSGD remembers of one parameter."""

    mu: Array  # running mean of the gradient, shaped like the parameter
    factors: tuple[Array, ...]  # Q_k for each axis of n: upper triangular [n, n], or a diagonal [n]
    waiting: Array  # int32, steps since the last update of the factors
    updates: Array  # int32, how many updates there were
    failures: Array  # int32, how many updates were refused since they were not finite
    key: Array  # where the probes come from


def _psgd_kron(
    grad, slots, param, count, *, b1, preconditioner_update_probability, preconditioner_lr,
    balance_interval, clip_update_rms, momentum_into_precond_update,
):  # fmt: skip
    mu = b1 * slots.mu + (1 - b1) * grad
    mean = mu / bias_correction(b1, count)
    shape = grad.shape or (1,)
    waiting = slots.waiting + 1
    due = waiting >= 1 / preconditioner_update_probability
    if not grad.size:
        return mean, slots._replace(waiting=jnp.where(due, 0, waiting))
    seen = (mean if momentum_into_precond_update else grad).reshape(shape)
    kept = slots.factors, slots.updates, slots.failures
    given = seen, jax.random.fold_in(slots.key, count), preconditioner_lr, balance_interval
    factors, updates, failures = renew_when(due, _learn, kept, *given)
    direction = whitened(mean.reshape(shape), factors).reshape(grad.shape)
    if clip_update_rms is not None:
        direction = direction / jnp.maximum(1, root_mean_sq(direction) / clip_update_rms)
    waiting = jnp.where(due, 0, waiting)
    return direction, Whitened(mu, factors, waiting, updates, failures, slots.key)


def whitened(x: Array, factors: tuple[Array, ...]) -> Array:
    """Return x with Q_k^H Q_k applied along every axis."""
    for axis, q in enumerate(factors):
        if q.ndim == 1:
            x = scaled(x, [None] * axis + [(q.conj() * q)])
        else:
            x = along(along(x, q.T, axis), q.conj(), axis)
    return x


def _learn(kept, x, key, rate, balance_interval):
    """Do one step of gradient descent on the criterion |Q x|^2 + |Q^-H v|^2, on a Lie group."""
    old, updates, failures = kept
    probe = jax.random.normal(key, x.shape, x.dtype)
    nonzero = jnp.any(x != 0)
    factors = _balanced(old, is_due(updates + 1, balance_interval))
    damping = math.sqrt(np.finfo(np.float32).eps)
    a = b = x + damping * jnp.mean(jnp.abs(x)) * probe
    b = probe.conj()
    for axis, q in enumerate(factors):
        if q.ndim == 1:
            a, b = scaled(a, [None] * axis + [q]), scaled(b, [None] * axis + [1 / q])
        else:
            a, b = along(a, q.T, axis), along_inverse(b, q, axis)
    new = tuple(_turned(q, a, b.conj(), axis, rate) for axis, q in enumerate(factors))
    largest = functools.reduce(jnp.multiply, [jnp.max(jnp.abs(q)) ** 2 for q in new])
    limit = jnp.finfo(largest.dtype).max ** 0.5  # beyond, the product with a gradient may overflow
    ok = jnp.all(jnp.array([jnp.all(jnp.isfinite(q)) for q in new])) & (largest < limit)
    new = tuple(jnp.where(ok & nonzero, q, before) for q, before in zip(new, old, strict=True))
    return new, updates + 1, failures + (nonzero & ~ok)


def _turned(q, a, b, axis, rate):
    tiny = jnp.finfo(q.real.dtype).tiny
    if q.ndim == 1:
        first, second = sum_others((a * a.conj()).real, axis), sum_others((b * b.conj()).real, axis)
        norm = jnp.max(jnp.abs(first + second)) + tiny
        return q - (rate / norm * (first - second)).astype(q.dtype) * q
    first, second = gram(a, axis), gram(b, axis)
    norm = spectral_norm_lower_bound(first + second) + tiny
    return q - matmul(jnp.triu((rate / norm).astype(q.dtype) * (first - second)), q)


def _balanced(factors, due):
    """Give the factors one largest element, which leaves their product as it is."""
    sizes = jnp.stack([jnp.max(jnp.abs(q)) for q in factors])
    mean = jnp.exp(jnp.mean(jnp.log(sizes)))
    by = jnp.where(due & (mean > 0) & jnp.isfinite(mean), mean / sizes, 1)
    return tuple(q * by[i].astype(q.dtype) for i, q in enumerate(factors))


def _start(param, scale, limit, least_ndim, mode) -> Whitened:
    dtype = compute_dtype(param)
    shape = param.shape or (1,)
    longest = int(np.argsort(shape)[::-1][0])  # as in psgd-jax, the last of equal ones
    scale = jnp.asarray(scale, dtype) ** (1 / len(shape))

    def start(i, n):
        diagonal = n == 1 or n > limit or len(shape) < least_ndim
        diagonal |= mode == "all_diag" or (mode == "one_diag" and i == longest)
        return scale * (jnp.ones(n, dtype) if diagonal else jnp.eye(n, dtype=dtype))

    factors = tuple(start(i, n) for i, n in enumerate(shape))
    a, b, c = (jnp.zeros((), jnp.int32) for _ in range(3))  # no buffer twice
    return Whitened(jnp.zeros(param.shape, dtype), factors, a, b, c, jnp.zeros(()))


def _init_keys(init, key, params) -> State:
    state = init(params)
    leaves, treedef = jax.tree.flatten(params)
    key = fresh_key(key)
    keys = treedef.unflatten([jax.random.fold_in(key, i) for i in range(len(leaves))])
    return state._replace(slots=state.slots._replace(key=keys))


@schedule
class UpdateProbability(Schedule):
    """Flat, then an exponential decay to a floor; see `precond_update_prob_schedule`."""

    max_prob: Any
    min_prob: Any
    decay: Any
    flat_start: Any

    def __call__(self, count: Any) -> Array:
        """Return the probability for update number `count`, where 0 is the first."""
        falling = self.max_prob * jnp.exp(-self.decay * (count + 1 - self.flat_start))
        return jnp.minimum(jnp.maximum(falling, self.min_prob), self.max_prob)


@checked(max_prob=PROBABILITY, min_prob=PROBABILITY, decay=NONNEGATIVE, flat_start=FINITE)
def precond_update_prob_schedule(
    max_prob: Any = 1.0, min_prob: Any = 0.03, decay: Any = 0.001, flat_start: Any = 500
) -> Schedule:
    """Update a preconditioner often at first, rarely once it is learned.

    min(max_prob, max(min_prob, max_prob * exp(-decay * (t - flat_start)))), t = 1, 2, ...

    Args:
      max_prob: updates for each step at first, in (0, 1].
      min_prob: updates for each step in the end, in (0, 1].
      decay: how fast they get fewer, >= 0.
      flat_start: the steps before they do.

    Example:
      >>> import gdjax
      >>> rate = gdjax.precond_update_prob_schedule()
      >>> print([round(float(rate(n)), 4) for n in (0, 1499, 10000)])
      [1.0, 0.3679, 0.03]
    """
    return UpdateProbability(max_prob, min_prob, decay, flat_start)


RANGES = dict(
    preconditioner_update_probability=PROBABILITY, preconditioner_lr=NONNEGATIVE,
    preconditioner_init_scale=POSITIVE, balance_interval=INTERVAL,
    clip_update_rms=POSITIVE._replace(optional=True),
)  # fmt: skip
MODES = (None, "one_diag", "all_diag")


@checked(**RANGES)
def scale_by_psgd_kron(
    b1: Any = 0.9,
    preconditioner_update_probability: Any = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: str | None = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Any = 0.1,
    preconditioner_init_scale: Any = 1.0,
    *,
    balance_interval: Any = 100,
    clip_update_rms: Any = 1.1,
    key: Any = 0,
) -> Optimizer:
    """Replace the gradient by PSGD's direction; the arguments are those of `psgd_kron`.

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
    return _lifted(
        leafwise, "scale_by_psgd_kron", (), b1, preconditioner_update_probability,
        max_size_triangular, min_ndim_triangular, memory_save_mode, momentum_into_precond_update,
        preconditioner_lr, preconditioner_init_scale, balance_interval, clip_update_rms, key,
    )  # fmt: skip


@checked(**RANGES)
def psgd_kron(
    learning_rate: Any = 0.001,
    b1: Any = 0.9,
    weight_decay: Any = 0.0,
    mask: Any = None,
    preconditioner_update_probability: Any = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: str | None = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Any = 0.1,
    preconditioner_init_scale: Any = 1.0,
    *,
    balance_interval: Any = 100,
    clip_update_rms: Any = 1.1,
    key: Any = 0,
) -> Optimizer:
    """Whiten a running mean of the gradient by Kronecker factors that are learned step by step.

    Good for: large networks, noisy gradients; no second moments and no `eps` to set.

    mu = b1 mu + (1 - b1) g;  m = mu / (1 - b1^t);
    when due, with v ~ N(0, 1) and x = m + sqrt(2^-23) mean|m| v:
    A = x with every Q_k applied;  B = v with every Q_k^-H applied;  T1 = A_k A_k^H, T2 = B_k B_k^H;
    Q_k = Q_k - preconditioner_lr * triu(T1 - T2) Q_k / |T1 + T2|, by a lower bound of that norm;
    direction = m with every Q_k^H Q_k applied, with a root mean square of at most 1.1;
    update = -learning_rate * (direction + weight_decay * param)

    Args:
      learning_rate: step size >= 0: a number, schedule or prefix tree, like all numbers here.
      b1: decay of the mean, in [0, 1).
      weight_decay: strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      preconditioner_update_probability: updates of the factors for each step, in (0, 1], often a
        schedule: one is due when 1 / probability steps have passed. None is
        `precond_update_prob_schedule()`.
      max_size_triangular: longer axes have diagonal factors, an int.
      min_ndim_triangular: parameters of fewer axes have diagonal factors, an int.
      memory_save_mode: None; "one_diag" for a diagonal factor on the longest axis; "all_diag".
      momentum_into_precond_update: whether the factors learn from the mean or the gradient itself.
      preconditioner_lr: step size of the factors, >= 0.
      preconditioner_init_scale: of the first preconditioner, > 0; of its root, that is.
      balance_interval: updates between two balancings of the factors' sizes, a whole number >= 1.
      clip_update_rms: the largest root mean square of a direction, > 0; None for any. A whitened
        gradient has 1.
      key: where the probes come from, an int or a `jax.random.key`. It lives in the state.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`. State of an
      m x n matrix: 4 (m n + m^2 + n^2) bytes.

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
      Li (2024), "Stochastic Hessian fittings with Lie groups".
    """
    return _lifted(
        descend, "psgd_kron", (learning_rate, weight_decay, mask), b1,
        preconditioner_update_probability, max_size_triangular, min_ndim_triangular,
        memory_save_mode, momentum_into_precond_update, preconditioner_lr,
        preconditioner_init_scale, balance_interval, clip_update_rms, key,
    )  # fmt: skip


def _lifted(
    lift, name, outer, b1, probability, limit, least_ndim, mode, momentum_into_precond_update,
    preconditioner_lr, scale, balance_interval, clip_update_rms, key,
):  # fmt: skip
    check_length(f"{name}(max_size_triangular=...)", limit)
    check_choice(f"{name}(memory_save_mode=...)", mode, MODES)
    if probability is None:
        probability = precond_update_prob_schedule()
    numbers = dict(
        b1=b1, preconditioner_update_probability=probability, preconditioner_lr=preconditioner_lr,
        balance_interval=balance_interval, clip_update_rms=clip_update_rms,
    )  # fmt: skip
    slots = functools.partial(_start, scale=scale, limit=limit, least_ndim=least_ndim, mode=mode)
    init, update = lift(
        _psgd_kron, slots, numbers, *outer, map_rows=map_buckets,
        momentum_into_precond_update=momentum_into_precond_update,
    )  # fmt: skip
    return Optimizer(functools.partial(_init_keys, init, key), update)
