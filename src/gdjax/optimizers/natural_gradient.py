"""Natural gradients: the direction of steepest descent in a metric of the model's outputs.

Amari (1998), "Natural gradient works efficiently in learning"; Martens (2020), "New insights and
perspectives on the natural gradient method", https://arxiv.org/abs/1412.1193
MinSR: Chen & Heyl (2024), https://arxiv.org/abs/2302.01941, eq. (3)
SPRING: Goldshlager, Abrahamsen & Lin (2024), https://arxiv.org/abs/2401.10190, algorithm 1
Damping by Levenberg and Marquardt's rule: Martens & Grosse (2015), https://arxiv.org/abs/1503.05671,
section 6.5
Energy natural gradient: Mueller & Zeinhofer (2023), https://arxiv.org/abs/2302.13163
Paper -> here: F, S or G -> the metric A^T A, O bar -> A, epsilon bar -> e, lambda -> damping,
mu -> momentum, phi -> direction, C -> norm_constraint, omega -> damping_decay.
Deviations: SPRING's 1 1^T / N in the kernel is left out, it changes no result, since A is centered;
its regularization, like any damping, is on all forms (MinSR has a pseudo-inverse: damping = 0). The
rule of the damping is applied in each step, in place of its fifth power in each fifth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import (
    CLOSED_UNIT,
    NONNEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    WHOLE,
    check_choice,
    checked,
)
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_sqrt
from gdjax.core.on_batch import on_batch
from gdjax.core.trees import zero, zeros_like
from gdjax.core.types import Params, PyTree, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.linalg.damped import (
    check_preconditioner,
    damped_cg,
    damped_direction,
    damped_inverse,
    preconditioner,
)
from gdjax.optimizers.shared.metric import (
    LIKELIHOODS,
    Form,
    Metric,
    in_rows,
    joined,
    metric,
    whitened,
)

SOLVERS = ("auto", "normal", "kernel", "qr", "cg")


class Natural(NamedTuple):
    """What a natural gradient remembers."""

    direction: Any  # phi of the last step, shaped like the parameters; None without momentum
    factor: Array  # of the damping, changed by Levenberg and Marquardt's rule; 1 at first


def _natural_gradient(
    grads, slots, params, count, *, learning_rate, damping, momentum=None, norm_constraint=None,
    damping_decay=None, cg_rtol=None, cg_steps=None, caller, form, solver, preconditioned,
    preconditioner_rank, function, raw_params, output_fn=None, jacobian=None, residuals=None,
    weights=None, batch=None, value_fn=None,
):  # fmt: skip
    g = as_vector(grads)
    if not g.size:
        return grads, slots
    whole = None
    if jacobian is None:
        whole = on_batch(caller, "output_fn", output_fn, function, batch)
    a = metric(
        caller, form, raw_params, jacobian=jacobian, whole=whole, batch=batch, weights=weights,
        per_sample=None if output_fn is not None else function, matrix_free=solver == "cg",
    )  # fmt: skip
    damping = (damping * slots.factor).astype(g.dtype)
    by: dict[str, Any] = {"rtol": cg_rtol, "max_steps": cg_steps}
    if a.rows is None:
        sizes = [as_vector(x).size for x in jax.tree.leaves(raw_params)]
        near = preconditioner(
            preconditioned, a.push, a.pull, g, sizes, functools.partial(_diagonal, a, g),
            preconditioner_rank,
        )  # fmt: skip
        by["precondition"] = near(damping)
    solve = functools.partial(_solved, a, damping, solver, by)
    # (A^T A + damping) phi = g + damping mu phi_{k-1}
    last, seen = None, None
    if momentum is not None:
        last = momentum.astype(g.dtype) * as_vector(slots.direction)
        seen = a.push(last)
    if residuals is not None:  # g = A^T e
        e = _whitened_residuals(caller, form, residuals, weights, a.size, g)
        g = a.pull(e) if damping_decay is not None else g
        phi = solve(e if seen is None else e - seen, g)
    else:
        phi = solve(None, g if seen is None else g - a.pull(seen))
    phi = phi if last is None else last + phi
    rate = learning_rate.astype(g.dtype)
    if norm_constraint is not None:
        size = safe_sqrt(norm_constraint).astype(g.dtype)
        length = safe_sqrt(jnp.vdot(phi, phi))
        rate = jnp.where(rate * length > size, size / jnp.where(length > 0, length, 1), rate)
    step, factor = -rate * phi, slots.factor
    if damping_decay is not None:
        model = jnp.vdot(g, step) + 0.5 * (_square(a.push(step)) + damping * _square(step))
        change = _change(caller, value_fn, raw_params, step)
        factor = _adapted(factor, damping_decay, change, model)
    kept = None if momentum is None else as_tree(phi, slots.direction)
    return as_tree(step, grads), Natural(kept, factor)


def _solved(
    a: Metric, damping: Array, solver: str, cg: dict[str, Any], e: Array | None, g: Array
) -> Array:
    """Return (A^T A + damping I)^-1 g; (A^T A + damping I)^-1 A^T e if e is given."""
    if a.rows is not None:
        k, n = a.rows.shape
        form = ("normal" if n <= k else "kernel") if solver == "auto" else solver
        if e is not None:
            return damped_direction(a.rows, e, damping, solver=form)
        return damped_inverse(a.rows, g, damping, solver=form)
    if e is not None:
        return damped_cg(a.push, a.pull, e, damping, **cg).d
    # the rows [A; sqrt(damping) I], of which g is the product with [0; g / sqrt(damping)]
    root = jnp.sqrt(jnp.where(damping > 0, damping, jnp.finfo(damping.dtype).eps))
    right = jnp.concatenate([jnp.zeros(a.size, root.dtype), g / root])
    return damped_cg(
        lambda v: jnp.concatenate([a.push(v), root * v]),
        lambda w: a.pull(w[: a.size]) + root * w[a.size :],
        right,
        0.0,
        **cg,
    ).d


def _diagonal(a: Metric, like: Array) -> Array:
    """Return an estimate of the diagonal of F, from 8 random combinations of the rows of A."""
    probes = jax.random.normal(jax.random.key(0), (8, a.size), like.dtype)
    return jnp.mean(jax.vmap(a.pull)(probes) ** 2, axis=0)


def _whitened_residuals(
    caller: str, form: Form, residuals: PyTree, weights: Array | None, size: int, like: Array
) -> Array:
    """Return e with g = A^T e from the derivatives of the loss in the outputs."""
    if form.likelihood != "squared":
        raise ValueError(
            f"{caller}: residuals= are for likelihood='squared'; give the gradients, got "
            f"likelihood={form.likelihood!r}."
        )
    parts = in_rows(f"{caller}: residuals=", residuals)
    found = sum(p.size for p in parts)
    if found == 2 * size:  # complex residuals of real outputs: the gradients are real parts
        parts = in_rows(caller, jax.tree.map(jnp.real, residuals))
    elif 2 * found == size:  # real residuals of complex outputs
        parts = [jnp.concatenate([p, jnp.zeros_like(p)], axis=1) for p in parts]
    elif found != size:
        raise ValueError(
            f"{caller}: residuals= must have the shape of the outputs, {size} real numbers, got "
            f"{found}."
        )
    return joined([whitened(p, None, 0, weights, form)[..., None] for p in parts], like)[:, 0]


def _square(x: Array) -> Array:
    return jnp.vdot(x, x)


def _change(
    caller: str, value_fn: Callable[[Params], Array] | None, params: Params, step: Array
) -> Array:
    """Return by how much the loss changes, in the numbers that the parameters will have."""
    if value_fn is None:
        raise TypeError(
            f"{caller}(damping_decay=...) needs value_fn=: call update(grads, state, params, "
            "value_fn=...) with the loss as a function of the parameters, as fit does."
        )
    after = value_fn(as_tree(as_vector(params) + step, params))
    return (after - value_fn(params)).astype(step.dtype)


def _adapted(factor: Array, omega: Array, change: Array, model: Array) -> Array:
    """Return the next factor of the damping from rho = change / model, section 6.5."""
    rho = jnp.where(model < 0, change / jnp.where(model < 0, model, 1), 0.5)
    worse = (rho < 0.25) | ~jnp.isfinite(change)
    new = jnp.where(worse, factor / omega, jnp.where(rho > 0.75, factor * omega, factor))
    return jnp.clip(new, 1e-12, 1e12).astype(factor.dtype)


def _slots(params: Params, with_momentum: bool) -> Natural:
    return Natural(zeros_like(params) if with_momentum else None, zero() + 1)


_RANGES = dict(
    damping=NONNEGATIVE,
    norm_constraint=POSITIVE._replace(optional=True),
    damping_decay=OPEN_UNIT._replace(optional=True),
    cg_rtol=NONNEGATIVE,
    cg_steps=WHOLE,
)


def _build(
    caller: str,
    numbers: dict[str, Scalar | None],
    function: Callable[[Params, Any], PyTree] | None,
    form: Form,
    solver: str,
    preconditioned: str | None = None,
    preconditioner_rank: int = 32,
) -> Optimizer:
    check_choice(f"{caller}(likelihood=...)", form.likelihood, LIKELIHOODS)
    check_choice(f"{caller}(solver=...)", solver, SOLVERS)
    check_preconditioner(caller, solver, preconditioned, preconditioner_rank)
    if solver != "cg":
        numbers = {k: v for k, v in numbers.items() if k not in ("cg_rtol", "cg_steps")}
    slots = functools.partial(_slots, with_momentum=numbers.get("momentum") is not None)
    return treewise(
        _natural_gradient, slots, numbers, name=caller, needs_params=True, caller=caller,
        function=function, form=form, solver=solver, preconditioned=preconditioned,
        preconditioner_rank=preconditioner_rank,
    )  # fmt: skip


@checked(**_RANGES, momentum=CLOSED_UNIT._replace(optional=True))
def natural_gradient(
    learning_rate: Scalar,
    damping: Scalar = 1e-3,
    momentum: Scalar | None = None,
    norm_constraint: Scalar | None = None,
    damping_decay: Scalar | None = None,
    *,
    output_fn: Callable[[Params, Any], PyTree] | None = None,
    likelihood: str = "squared",
    centered: bool = False,
    solver: str = "auto",
    cg_rtol: Scalar = 1e-4,
    cg_steps: Scalar = 100,
    preconditioner: str | None = None,
    preconditioner_rank: int = 32,
) -> Optimizer:
    r"""Descend along the gradient in the metric of the model's outputs.

    Good for: networks in physics, small models in float64, any loss that is cheap against its step.

    Evidence: authors only. For physics-informed networks: Mueller & Zeinhofer 2023, arXiv
    2302.13163.

    .. math::

       F &= \frac 1 N \sum_{i=1}^N J_i^\top H_i J_i \\
       \varphi_t &= (F + \lambda I)^{-1} (g_t + \lambda \mu\, \varphi_{t-1}) \\
       x_t &= x_{t-1} - \min\left(
       \eta_t,\; \frac{\sqrt C}{\lVert \varphi_t \rVert} \right) \varphi_t

    :math:`J_i` is the Jacobian of the outputs of sample i. With "squared", for sums of squares
    :math:`\tfrac12 \lVert f - y \rVert^2` and for energies, :math:`H_i = I`; with "softmax", for
    logits with the probabilities p, :math:`H_i = \operatorname{diag}(p) - p p^\top`. Both are
    Fisher's metric and the Gauss-Newton matrix of the loss. Which outputs, `update` is told by one
    of three extras:

    - `batch=`, as in `fit`, with `output_fn` in this call: the Jacobian is computed sample by
      sample, for the cost of one gradient for each output. The outputs of a sample must not depend
      on the other samples.
    - `output_fn=`, a function of the parameters to all outputs, with a leading axis of samples. Its
      Jacobian costs min(k, n) products with the whole batch.
    - `jacobian=`, a tree like the parameters with a leading axis of samples.

    And by two more, if wanted: `residuals=`, the derivatives of the loss in the outputs, as
    f - y. Then :math:`g_t = \sum_i J_i^\top r_i / N`, which needs no gradient (the one given only
    has its shapes), and the kernel form is exact for small damping. `weights=`, one for each
    sample, in place of 1 / N: probabilities, or a quadrature's, which sum to the volume.

    With k real outputs in all and n real parameters a step costs, after the Jacobian of k n
    numbers:

    - "normal", n <= k: :math:`k n^2 + n^3 / 3` multiplications, a matrix of n x n;
    - "kernel", k < n: :math:`n k^2 + k^3 / 3`, a matrix of k x k;
    - "qr": 2 to 4 times as much, for a damping below the least that both others take, 5e-7 of the
      trace of F in float32 and 1e-15 of it in float64;
    - "cg": no Jacobian, two products with it in each of `cg_steps` steps, for large k and n.

    Energies that are no sums of squares (Mueller & Zeinhofer 2023) have the metric of the outputs
    that their quadratic part is made of: for the integral of
    :math:`\tfrac12 \lVert \nabla u \rVert^2 - f u` these are :math:`\nabla u` at the nodes, with
    the quadrature's weights. With a line search: `chain(natural_gradient(1.0, ...),
    scale_by_backtracking_linesearch(...))`.

    Complex parameters are two real ones each, and complex outputs two real outputs; gradients are
    uphill, `jnp.conj(jax.grad(...))`.

    Args:
      learning_rate: :math:`\eta_t` >= 0: a number or a schedule, like all numbers below.
      damping: :math:`\lambda` >= 0, added to the eigenvalues of F, in units of F.
      momentum: :math:`\mu` of SPRING, in [0, 1]: the part of the last direction that the step keeps
        where no sample of this batch sees it. None is 0, without a slot.
      norm_constraint: :math:`C` > 0, the largest square of the length of a step. None is no limit.
      damping_decay: in (0, 1), as 0.95: the damping is multiplied by it after a step in which the
        loss fell by more than 3/4 of what the quadratic model predicted, and divided by it below
        1/4. Needs `value_fn=`, the loss as a function of the parameters. None is constant.
      output_fn: `output_fn(params, batch)`, see above; an array, or a tree of them. It is static.
      likelihood: "squared" or "softmax" over the last axis of the output.
      centered: whether J_i is taken relative to its mean over the samples: F is then the covariance
        of the derivatives, as for log-probabilities and log-amplitudes.
      solver: see above; "auto" is "normal" or "kernel".
      cg_rtol: with "cg": stop at this part of the first residual.
      cg_steps: with "cg": largest number of steps, >= 1.
      preconditioner: with "cg": "nystrom", for a few large eigenvalues of F, costs 2
        preconditioner_rank products and O((k + n) rank^2) in each update; "block_diagonal" has the
        blocks of leaves of up to 64 elements, a product for each, and the diagonal of the others,
        from 8. None is none.
      preconditioner_rank: of "nystrom", >= 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: one number, and 4 bytes per element with momentum (the last direction).

    Raises:
      ValueError: if a concrete number is out of range, or shapes do not fit.
      TypeError: if `update` is called without outputs.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> x = jnp.array([1.0, 2.0, 3.0])
      >>> y = 2.0 * jnp.exp(-0.5 * x)
      >>> def output_fn(params, batch):
      ...     return params[0] * jnp.exp(-params[1] * batch)
      >>> loss = lambda params: 0.5 * jnp.mean((output_fn(params, x) - y) ** 2)
      >>> opt = gdjax.natural_gradient(1.0, 1e-6, output_fn=output_fn)
      >>> params = jnp.array([1.0, 0.2])
      >>> state = opt.init(params)
      >>> for _ in range(6):
      ...     updates, state = opt.update(jax.grad(loss)(params), state, params, batch=x)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      [2.  0.5]

    References:
      Martens (2020), "New insights and perspectives on the natural gradient method".
    """
    numbers: dict[str, Scalar | None] = dict(
        learning_rate=learning_rate,
        damping=damping,
        momentum=momentum,
        norm_constraint=norm_constraint,
        damping_decay=damping_decay,
        cg_rtol=cg_rtol,
        cg_steps=cg_steps,
    )
    form = Form(likelihood, centered)
    return _build(
        "natural_gradient", numbers, output_fn, form, solver, preconditioner, preconditioner_rank
    )


@checked(**_RANGES)
def min_sr(
    learning_rate: Scalar,
    damping: Scalar = 1e-4,
    *,
    output_fn: Callable[[Params, Any], PyTree] | None = None,
    solver: str = "auto",
) -> Optimizer:
    r"""Descend by stochastic reconfiguration, in the kernel form of MinSR with few samples.

    Good for: variational Monte Carlo, ground states of quantum systems.

    Evidence: theory. Its updates are those of stochastic reconfiguration, computed from a smaller
    matrix (Chen & Heyl 2024, arXiv 2302.01941).

    .. math::

       A_i &= (O_i - \bar O) / \sqrt N, \qquad e_i = (E_i - \bar E) / \sqrt N \\
       x_t &= x_{t-1} - \eta_t A^\top (A A^\top + \lambda I)^{-1} e

    with :math:`O_i` the derivative of the log-amplitude of sample i, :math:`E_i` its local energy,
    and bars for their means over the N samples.

    It is `natural_gradient(centered=True)`, and takes its extras: `batch=` with `output_fn` here,
    which returns log psi, real or complex, or `jacobian=`; and `residuals=` for the local energies.
    Gradients may be given in their place, also that of another loss. With n parameters below the
    k real numbers of the log-amplitudes it solves in the parameters, which is the same direction.

    Differences: NetKet's gradient of real parameters is twice that of complex ones, and so are its
    steps: its `VMC_SR` with a learning rate of 0.01 is `min_sr(0.02)` for real parameters, and for
    complex ones it has the factor in its `VMC_SR`, but not in `VMC` with `SR`.

    Args:
      learning_rate: :math:`\eta_t` >= 0, of imaginary time: a number or a schedule.
      damping: :math:`\lambda` >= 0, added to the eigenvalues of the metric; the diagonal shift. 0
        gives the pseudo-inverse.
      output_fn: `output_fn(params, batch)`, see `natural_gradient`.
      solver: see `natural_gradient`: "auto", "normal", "kernel", "qr".

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: one number.

    Raises:
      ValueError: if a concrete number is out of range, or shapes do not fit.
      TypeError: if `update` is called without outputs.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> log_psi = lambda params, x: -params * x**2  # an oscillator; the ground state has 0.5
      >>> local_energy = lambda params, x: params + (0.5 - 2 * params**2) * x**2
      >>> opt = gdjax.min_sr(0.5, output_fn=log_psi)
      >>> params, x = jnp.array(0.8), jnp.linspace(-1.5, 1.5, 9)
      >>> state = opt.init(params)
      >>> for _ in range(8):
      ...     energies = local_energy(params, x)
      ...     updates, state = opt.update(params, state, params, batch=x, residuals=energies)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      0.5

    References:
      Chen & Heyl (2024), "Empowering deep neural quantum states through efficient optimization".
    """
    numbers: dict[str, Scalar | None] = dict(learning_rate=learning_rate, damping=damping)
    return _build("min_sr", numbers, output_fn, Form("squared", True), solver)


@checked(**_RANGES, momentum=CLOSED_UNIT)
def spring(
    learning_rate: Scalar,
    damping: Scalar = 1e-3,
    momentum: Scalar = 0.99,
    norm_constraint: Scalar | None = 1e-3,
    *,
    output_fn: Callable[[Params, Any], PyTree] | None = None,
    solver: str = "auto",
) -> Optimizer:
    r"""Descend by stochastic reconfiguration, keeping the last direction where samples are silent.

    Good for: variational Monte Carlo with fewer samples than parameters.

    Evidence: authors only. Goldshlager et al. 2024, arXiv 2401.10190.

    With A and e of `min_sr`:

    .. math::

       \varphi_t &= A^\top (A A^\top + \lambda I)^{-1} (e - \mu A \varphi_{t-1})
       + \mu\, \varphi_{t-1} \\
       x_t &= x_{t-1} - \min\left(
       \eta_t,\; \frac{\sqrt C}{\lVert \varphi_t \rVert} \right) \varphi_t

    Args:
      learning_rate: :math:`\eta_t` >= 0: a number or a schedule, like all numbers below.
      damping: :math:`\lambda` >= 0, added to the eigenvalues of the metric.
      momentum: :math:`\mu` in [0, 1]: the part of the last direction that remains. NetKet advises
        0.8.
      norm_constraint: :math:`C` > 0, the largest square of the length of a step; None for no limit.
      output_fn: `output_fn(params, batch)`, see `natural_gradient`; the extras are those of
        `min_sr`.
      solver: see `natural_gradient`: "auto", "normal", "kernel", "qr".

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element (the last direction) and one number.

    Raises:
      ValueError: if a concrete number is out of range, or shapes do not fit.
      TypeError: if `update` is called without outputs.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.spring(0.1, damping=0.0, momentum=0.5)
      >>> params = jnp.zeros(2)
      >>> state = opt.init(params)
      >>> jacobian = jnp.array([[1.0, 0.0], [-1.0, 0.0]])  # two samples see the first parameter
      >>> more = dict(jacobian=jacobian, residuals=jnp.array([0.2, -0.2]))
      >>> updates, state = opt.update(params, state, params, **more)
      >>> print(updates.round(3), state.direction.round(3))
      [-0.02 -0.  ] [0.2 0. ]

    References:
      Goldshlager, Abrahamsen & Lin (2024), "A Kaczmarz-inspired approach to accelerate the
      optimization of neural network wavefunctions".
    """
    numbers: dict[str, Scalar | None] = dict(
        learning_rate=learning_rate,
        damping=damping,
        momentum=momentum,
        norm_constraint=norm_constraint,
    )
    return _build("spring", numbers, output_fn, Form("squared", True), solver)
