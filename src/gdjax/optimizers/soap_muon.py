"""SOAP-Muon: the momentum whitened in SOAP's eigenbases, then its polar factor, as in Muon.

Vyas et al. (2025), https://nikhilvyas.github.io/SOAP_Muon.pdf, in the form of record 44 of
modded-nanogpt's optimization track (2026),
https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization
There -> here: momentum -> mu, exp_avg_sq -> nu, row_gg and col_gg -> factors, q_row and q_col ->
bases, beta2 -> b2. As there, the first step is Muon's, since the first gradient gives the first
bases. Deviations: `eps` is added to the root, as in SOAP; eigenvalues that float arithmetic cannot
distinguish from 0 are shifted before the QR decomposition, as in `soap`. The bases are constants
for differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import check_choice, check_integer, checked
from gdjax.core.dealing import Devices, dealing, dealt_init
from gdjax.core.every import init_phases, is_due, when_due
from gdjax.core.lift import leafwise, off_numbers
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, safe_divide, safe_sqrt
from gdjax.core.placement import placed_along, zeros_like
from gdjax.core.trees import total_count
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.linalg.axes import gram, rotated, rotated_back
from gdjax.linalg.buckets import map_buckets, map_in_turn
from gdjax.linalg.eigenbasis import PerAxis, renewed_bases
from gdjax.linalg.matrices import Axes, MatrixSpec
from gdjax.linalg.polar import PRECONDITIONINGS, Coefficients, Preconditioning, polar_kernel
from gdjax.linalg.shapes import rotated_axes
from gdjax.optimizers.shared.orthogonal import (
    NESTEROV,
    RANGES,
    Nesterov,
    Scale,
    branch_of,
    momentum,
    numbers_of,
    on_matrices,
    or_adam,
    scaled,
    table_of,
)
from gdjax.optimizers.soap import RANGES as SOAP_RANGES


class Whitened(NamedTuple):
    """What SOAP-Muon remembers of one parameter."""

    mu: Array  # momentum of a matrix, Adam's mean of others, shaped like the parameter
    nu: Array  # mean square of a matrix's momentum in the bases, Adam's mean square of others, real
    factors: tuple[PerAxis, ...]  # for each part of a matrix L, R [*batch, n, n]; None: not rotated
    bases: tuple[PerAxis, ...]  # Q_L, Q_R, likewise: orthonormal columns
    failures: Array  # int32, how many bases were not finite, so that the old one was kept
    phase: Array | None  # in [0, 1): the time of renewal within the interval; None is its begin
    axes: Axes | None  # which axes make matrices (static, no bytes); None for a parameter of Adam

    def branch(self, hyperparams: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return whether a parameter is a matrix or one of Adam, with the numbers of that."""
        return branch_of(self.axes, self.nu, hyperparams)

    def metrics(self) -> dict[str, Array]:
        """Return how many bases failed so far, of all parameters, for `gdjax.metrics`."""
        return {"failed_bases": total_count(self.failures)}

    def cost(self) -> int:
        """Return what a step of one parameter costs, for dealing; 0 if it is updated by Adam."""
        if self.axes is None:
            return 0
        sides = [f for f in jax.tree.leaves(self.factors)]
        return self.mu.size + sum(f.size * f.shape[-1] + f.shape[-1] * self.mu.size for f in sides)


def _step(
    grad, slots, param, count, *, beta, b2, shampoo_beta, precondition_frequency, ns_coeffs, eps,
    learning_rate, weight_decay, consistent_rms, adam_learning_rate, adam_b1, adam_b2,
    adam_eps_root, adam_weight_decay, nesterov, kernel, scale
):  # fmt: skip
    o, axes = grad, slots.axes
    if axes is not None:
        ahead, slots = momentum(grad, slots, param, count, beta=beta, nesterov=nesterov)
        due = is_due(count, precondition_frequency, slots.phase)
        white = functools.partial(
            _whitened,
            count=count,
            b2=b2,
            beta=b2 if shampoo_beta is None else shampoo_beta,
            eps=eps,
            due=due,
        )
        for _ in axes.batch:
            white = jax.vmap(white)
        arrays = (axes.pieces(x) for x in (ahead, grad, slots.nu))
        parts = zip(*arrays, slots.factors, slots.bases, strict=True)
        pieces, nu, factors, bases, failed = zip(*(white(*part) for part in parts), strict=True)
        o = axes.joined([_polar(x, kernel, ns_coeffs, eps) for x in pieces], grad)
        slots = slots._replace(
            nu=axes.joined(list(nu), grad),
            factors=factors,
            bases=bases,
            failures=slots.failures + sum(jnp.sum(f) for f in failed),
        )
    return or_adam(_soap_muon)(
        o,
        slots,
        param,
        count,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        adam_learning_rate=adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        eps=eps,
        nesterov=nesterov,
        consistent_rms=consistent_rms,
        scale=scale,
    )


def _whitened(
    momentum: Array,
    grad: Array,
    nu: Array,
    factors: PerAxis,
    bases: PerAxis,
    *,
    count: Array,
    b2: Array,
    beta: Array,
    eps: Array,
    due: Array,
) -> tuple[Array, Array, PerAxis, PerAxis, Array]:
    """Return the momentum of one matrix whitened, and its new slots and failures."""
    low = rotated(momentum, bases)
    moves = count > 1
    nu = jnp.where(moves, b2 * nu + (1 - b2) * abs_sq(low), nu)
    white = safe_divide(low, jnp.where(moves, safe_sqrt(nu) + eps, 1))
    white = rotated_back(white, bases)
    factors = tuple(
        None if f is None else beta * f + (1 - beta) * gram(grad, axis)
        for axis, f in enumerate(factors)
    )
    bases, orders, failed = renewed_bases(due, count, factors, bases)
    (nu,) = when_due(due, functools.partial(_permuted, orders), nu)
    return white, nu, factors, bases, failed


def _permuted(orders: PerAxis, nu: Array) -> tuple[Array]:
    for axis, order in enumerate(orders):
        if order is not None:
            nu = jnp.take(nu, order, axis)
    return (nu,)


def _polar(piece: Array, kernel: Callable[..., Array], table: Array, eps: Array) -> Array:
    """Return the polar factor of each matrix [..., m, n]."""
    tall = piece.shape[-2] > piece.shape[-1]
    for _ in piece.shape[:-2]:
        kernel = jax.vmap(kernel, (0, None, None))
    o = kernel(piece.mT if tall else piece, table, eps)
    return o.mT if tall else o


def _soap_muon(o, slots, count, *, consistent_rms, scale):
    return scaled(o, slots.axes, scale, consistent_rms), slots


def _slots(
    param: Array,
    axes: Axes | None,
    index: int,
    mu_dtype: FloatDType,
    limit: int,
    one_sided: bool,
    stagger: bool,
) -> Whitened:
    dtype = compute_dtype(param)
    nu = zeros_like(param, real_dtype(dtype))
    failures, phase = jnp.zeros((), jnp.int32), jnp.zeros(()) if stagger else None
    mu = jnp.zeros_like(param, dtype=mu_dtype or dtype)
    if axes is None:
        return Whitened(mu, nu, (), (), failures, phase, None)
    *batch, m, n = axes.shape(param)
    *places, row, column = axes.along

    def squares(size: int) -> PerAxis:
        """Return identities for the rotated sides of a part with that many columns."""
        chosen = rotated_axes((m, size), limit, one_sided, False)
        sides = zip((m, size), chosen, (row, column), strict=True)
        return tuple(
            placed_along(
                jnp.broadcast_to(jnp.eye(k, dtype=dtype), (*batch, k, k)), param, (*places, axis)
            )
            if on
            else None
            for k, on, axis in sides
        )

    bases = tuple(squares(size) for size in axes.splits or (n,))
    factors = jax.tree.map(jnp.zeros_like, bases)
    return Whitened(mu, nu, factors, bases, failures, phase, axes)


@checked(**(RANGES | SOAP_RANGES))
def soap_muon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    b2: Hyperparam = 0.9,
    shampoo_beta: Hyperparam | None = None,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    precondition_frequency: Hyperparam = 10,
    max_precond_dim: int = 10000,
    *,
    nesterov: Nesterov = True,
    one_sided: bool = False,
    stagger: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam | None = None,
    scale: Scale | None = "width",
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Run Muon on a momentum that is whitened in SOAP's eigenbases.

    Good for: hidden matrices of transformers, in fewer but more expensive steps than Muon.

    Evidence: independent. In modded-nanogpt's track 3, SOAP before Muon on the MLP's weights takes
    3150 instead of 3225 steps (results 14 and 11,
    https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization); on all
    hidden matrices it is a part of the records from result 44 on, which takes 2750 steps with other
    changes.

    For a matrix, with bases :math:`Q_L, Q_R` from earlier gradients:

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
       \tilde m_t &= Q_L^H (\beta m_t + (1 - \beta) g_t) Q_R \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |\tilde m_t|^2 \\
       O_t &= \operatorname{polar}\left(Q_L
       \frac{\tilde m_t}{\sqrt{v_t} + \epsilon} Q_R^H\right) \\
       x_t &= x_{t-1} - \eta_t (c O_t + \lambda x_{t-1})

    The polar factor and the ``scale`` :math:`c` are those of `muon`, and the other parameters are
    updated by Adam, as there. The bases are those of `soap`: they follow the eigenvectors of

    .. math::

       L_t &= \beta_s L_{t-1} + (1 - \beta_s)\, g_t g_t^H \\
       R_t &= \beta_s R_{t-1} + (1 - \beta_s)\, g_t^H g_t

    and are renewed after steps 1, 1 + f, 1 + 2 f, ..., with f the `precondition_frequency`. The
    first step is Muon's. The momentum stays in the coordinates of the parameter.

    Differences: in the authors' report :math:`v_t` is the mean square of the rotated gradient, only
    the shorter side is rotated (`one_sided=True`), and the whitened momentum is made more even by
    an elementwise root. Records 44 to 46 of modded-nanogpt renew the bases in every step
    (`precondition_frequency=1`).

    On a CPU, renewals can be many times faster if Python starts with OPENBLAS_NUM_THREADS=1 in the
    environment: see `soap`.

    Args:
      learning_rate: see `muon`, like all arguments that are not named here.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: see `muon`.
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      shampoo_beta: :math:`\beta_s`, decay of the factors, in [0, 1); None is `b2`.
      eps: :math:`\epsilon` >= 0, added to the root of the mean square, to the norm of a matrix and
        to the root of Adam's.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      precondition_frequency: steps from one renewal of the bases to the next, a whole number >= 1;
        see `soap`.
      max_precond_dim: sides longer than this are not rotated, an integer >= 1.
      nesterov: see `muon`.
      one_sided: whether only the shorter side of each matrix is rotated, which saves most of the
        time and memory where one side is much longer.
      stagger: see `soap`.
      preconditioning: see `muon`.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`. Each matrix of a stack and each part of a cut one
        has bases of its own.
      consistent_rms: see `muon`.
      scale: see `muon`.
      ns_dtype: see `muon`.
      mesh: devices to deal the matrices over, as in `soap`: each device has momenta, factors and
        bases of equally many whole parameters, and gradients, parameters and updates travel.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless both decays are None.
      State of an m x n matrix: :math:`8 (m n + m^2 + n^2)` bytes; 8 per element of the rest.
      `gdjax.metrics(state)["failed_bases"]` counts bases that were kept because the new one was not
      finite.

    Raises:
      ValueError: as `muon`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.soap_muon(0.1, "polar_express", 8, precondition_frequency=1)
      >>> params = {"w": jnp.eye(2), "b": jnp.zeros(2)}
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     grads = {"w": jnp.array([[3.0, 0.0], [0.0, -0.5]]), "b": jnp.array([3.0, -0.5])}
      ...     updates, state = opt.update(grads, state, params)
      >>> print(updates["w"].round(3))  # of length 0.1 in all directions
      [[-0.1 -0. ]
       [-0.   0.1]]

    References:
      Vyas et al. (2025), "Improving SOAP using iterative whitening and Muon".
    """
    name, arguments = "soap_muon", locals()
    check_choice(f"{name}(preconditioning=...)", preconditioning, PRECONDITIONINGS)
    check_choice(f"{name}(nesterov=...)", nesterov, NESTEROV)
    limit = check_integer(f"{name}(max_precond_dim=...)", max_precond_dim)
    over = dealing(f"{name}(mesh=...)", mesh, stagger)
    optimizer = leafwise(
        _step,
        None,
        numbers_of(arguments) | {"ns_coeffs": table_of(name, arguments)},
        name=name,
        map_rows=map_in_turn if stagger else map_buckets,
        over=over,
        kernel=polar_kernel(preconditioning, None, ns_dtype),
        nesterov=nesterov,
        scale=scale,
    )
    slots = functools.partial(
        _slots, mu_dtype=mu_dtype, limit=limit, one_sided=one_sided, stagger=stagger
    )
    optimizer = on_matrices(optimizer, arguments, name, slots, splits=True, kind=Whitened)
    if stagger:
        optimizer = Optimizer(functools.partial(init_phases, optimizer.init), optimizer.update)
    return dealt_init(optimizer, over, functools.partial(off_numbers, name))
