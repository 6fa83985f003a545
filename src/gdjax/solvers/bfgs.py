"""BFGS and the self-scaled methods of Broyden's family: an estimate of the whole inverse Hessian.

Nocedal & Wright (2006), "Numerical optimization", Algorithm 6.1, (6.17), (6.20). Self-scaled
methods: Al-Baali (1998), Comput. Optim. Appl. 9, and with Khalfan (2005), Optim. Methods Softw. 20;
for physics-informed networks Urbán, Stefanou & Pons (2024), https://arxiv.org/abs/2405.04230, (8)
to (23), here with the names of that paper:

H <- 1/τ [H - H y y'H / y'H y + φ y'H y v v'] + s s' / y's,  v = s / y's - H y / y'H y

with b = s'B s / y's, h = y'H y / y's, a = b h - 1, B = H^-1. BFGS is τ = φ = 1.
Paper -> here: H -> inverse_hessian; b, h, θ, τ, φ, s, y as there.
Deviations: a pair with y's <= eps |s| |y| is rejected; before the first pair enters, H is
(y's / y'y) I, (6.20), and that pair is not scaled; s'B s is <s, g>^2 / <g, H g> with the gradient g
before the step, exact for steps along H g, as those of a line search are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast, safe_sqrt
from gdjax.core.trees import derived
from gdjax.core.types import Pair, Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.solvers.line_search import is_curved, scale_by_zoom_linesearch, searched


class Curvature(NamedTuple):
    """The slots of Broyden's family; n counts all elements, complex ones twice."""

    params: Array  # (n,) the parameters of the last update
    updates: Array  # (n,) the gradient of the last update, g
    inverse_hessian: Array  # H, (n, n)
    slope: Array  # <g, H g> of the last update
    pairs: Array  # how many pairs are in H, int32


Factors = Callable[[Array, Array, int], tuple[Array, Array]]  # of b, h and n: tau and phi


def bfgs_factors(b: Array, h: Array, n: int) -> tuple[Array, Array]:
    """Return tau = phi = 1."""
    return jnp.ones_like(h), jnp.ones_like(h)


def ssbfgs_factors(b: Array, h: Array, n: int) -> tuple[Array, Array]:
    """Return tau = min(1, 1 / b), (11), and phi = 1."""
    return jnp.minimum(1, 1 / b), jnp.ones_like(h)


def ssbroyden_factors(b: Array, h: Array, n: int) -> tuple[Array, Array]:
    """Return tau and phi by (13) to (23)."""
    a = jnp.maximum(b * h - 1, jnp.finfo(h.dtype).eps)  # less is rounding
    c = jnp.sqrt(a / (1 + a))
    rho = jnp.minimum(1, h / ((1 + a) * (1 + c)))  # h (1 - c)
    theta = jnp.maximum((rho - 1) / a, jnp.minimum(1 / rho, (1 - b) / b))
    sigma = jnp.maximum(1 + a * theta, rho)  # rho is its least value
    tau_1, sigma_n = jnp.minimum(1, 1 / b), sigma ** (1 / min(1 - n, -1))
    above = jnp.where(theta > 0, theta, 1)
    tau = tau_1 * jnp.minimum(sigma_n, 1 / above)
    return jnp.where(theta > 0, tau, jnp.minimum(tau_1 * sigma_n, sigma)), (1 - theta) / sigma


def _broyden(grads, slots, params, count, *, raw_params, caller, factors):
    if params is None:
        raise ValueError(f"{caller} needs {NEEDS_PARAMS}")
    dtype = slots.params.dtype
    x, g = cast(as_vector(raw_params), dtype), cast(as_vector(grads), dtype)
    if not x.size:
        return grads, slots
    s = jnp.where(count > 1, x - slots.params, 0)
    y, last = g - slots.updates, slots.updates
    ys, yy = jnp.vdot(y, s), jnp.vdot(y, y)
    keep = is_curved(s, y, ys, yy)
    rho = 1 / jnp.where(keep, ys, 1)

    hy = slots.inverse_hessian @ y
    stuck = (count > 1) & ~jnp.any(s != 0)  # the last direction made no progress
    indefinite = keep & ~(jnp.vdot(y, hy) > 0)  # H, by rounding
    known = (slots.pairs > 0) & ~stuck & ~indefinite
    norm = safe_sqrt(jnp.vdot(g, g))
    first = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))  # a first step of at most length 1
    begun = jnp.where(keep, ys / jnp.where(keep, yy, 1), first)  # (6.20)
    matrix = jnp.where(known, slots.inverse_hessian, begun * jnp.eye(x.size, dtype=dtype))
    hy = jnp.where(known, hy, begun * y)

    yhy, sg = jnp.vdot(y, hy), jnp.vdot(s, last)
    h, b = rho * yhy, rho * sg * (sg / jnp.where(known, slots.slope, 1))
    scaled = known & keep & (b > 0)
    tau, phi = factors(jnp.where(scaled, b, 1), jnp.where(scaled, h, 1), x.size)
    tau, phi = jnp.where(scaled, tau, 1), jnp.where(scaled, phi, 1)
    mixed = jnp.outer(s, hy) + jnp.outer(hy, s)
    new = matrix - phi * rho * mixed + (phi - 1) / jnp.where(keep, yhy, 1) * jnp.outer(hy, hy)
    new = (new + phi * rho * h * jnp.outer(s, s)) / tau + rho * jnp.outer(s, s)
    matrix = jnp.where(keep, new, matrix)

    direction = matrix @ g
    slope, pairs = jnp.vdot(g, direction), jnp.where(known, slots.pairs, 0) + keep
    return as_tree(direction, grads), Curvature(x, g, matrix, slope, pairs)


def _nothing_known(params: Params) -> Curvature:
    x = derived(as_vector, params)
    zero = jnp.zeros((), x.dtype)
    return Curvature(
        jnp.zeros_like(x), jnp.zeros_like(x), jnp.eye(x.size, dtype=x.dtype), zero,
        jnp.zeros((), jnp.int32),
    )  # fmt: skip


def _direction(caller: str, factors: Factors) -> Optimizer:
    return treewise(_broyden, _nothing_known, name=caller, caller=caller, factors=factors)


def scale_by_bfgs() -> Optimizer:
    r"""Multiply the gradient by BFGS's estimate of the inverse Hessian.

    .. math::

       H_{t+1} &= (I - \rho s y^\top) H_t (I - \rho y s^\top) + \rho s s^\top \\
       \rho &= 1 / y^\top s

    with s the last step and y the last change of the gradient.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 n + 8 bytes per element, for n elements in all. An update takes about 10 n²
      operations.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_bfgs()
      >>> x = jnp.array([3.0, 4.0])
      >>> print(opt.update(x, opt.init(x), x)[0])  # a first step of length 1
      [0.6 0.8]
    """
    return _direction("scale_by_bfgs", bfgs_factors)


def scale_by_ssbfgs() -> Optimizer:
    r"""Multiply the gradient by the inverse Hessian that self-scaled BFGS estimates.

    Before a pair enters as in `scale_by_bfgs`, H is divided by

    .. math::

       \tau = \min\left( 1,\; \frac{y^\top s}{s^\top H^{-1} s} \right)

    so that curvature that was overestimated along the last step is lowered in all directions.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State and operations as `scale_by_bfgs`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return x[0] ** 2 + 50 * x[1] ** 2
      >>> opt = gdjax.chain(gdjax.scale_by_ssbfgs(), gdjax.scale(-1.0))
      >>> x = jnp.array([1.0, 1.0])
      >>> state = opt.init(x)
      >>> for _ in range(12):
      ...     updates, state = opt.update(jax.grad(fun)(x), state, x)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(bool(fun(x) < 1e-3))
      True
    """
    return _direction("scale_by_ssbfgs", ssbfgs_factors)


def scale_by_ssbroyden() -> Optimizer:
    r"""Multiply the gradient by the inverse Hessian that self-scaled Broyden updates estimate.

    .. math::

       H_{t+1} &= \frac 1 \tau \left( H - \frac{H y y^\top H}{y^\top H y}
       + \phi\, (y^\top H y)\, v v^\top \right) + \frac{s s^\top}{y^\top s} \\
       v &= \frac{s}{y^\top s} - \frac{H y}{y^\top H y}

    with s the last step, y the last change of the gradient, and numbers :math:`\tau` and
    :math:`\phi` that each pair chooses by how well H predicted it; both are 1 in `scale_by_bfgs`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State and operations as `scale_by_bfgs`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return x[0] ** 2 + 50 * x[1] ** 2
      >>> opt = gdjax.chain(gdjax.scale_by_ssbroyden(), gdjax.scale(-1.0))
      >>> x = jnp.array([1.0, 1.0])
      >>> state = opt.init(x)
      >>> for _ in range(12):
      ...     updates, state = opt.update(jax.grad(fun)(x), state, x)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(bool(fun(x) < 1e-3))
      True
    """
    return _direction("scale_by_ssbroyden", ssbroyden_factors)


DEFAULT = scale_by_zoom_linesearch(30, initial_guess_strategy="one")


@checked(learning_rate=NONNEGATIVE)
def bfgs(learning_rate: Scalar | None = None, linesearch: Pair | None = DEFAULT) -> Optimizer:
    r"""Minimize a smooth function by BFGS and a line search.

    .. math::

       x_{t+1} = x_t - t\, H_t\, \nabla f(x_t)

    with the H of `scale_by_bfgs` and the step size t of the line search.

    Good for: exact gradients of smooth functions of up to some hundred parameters.

    Evidence: theory. It converges superlinearly near minima of smooth functions (Nocedal & Wright
    2006, https://doi.org/10.1007/978-0-387-40065-5, chapter 6).

    Args:
      learning_rate: see `lbfgs`.
      linesearch: see `lbfgs`.

    Returns:
      An `Optimizer`; see `lbfgs`.
      State: 4 n + 12 bytes per element, for n elements in all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = gdjax.minimize(fun, jnp.array([-1.2, 1.0]), gdjax.bfgs())
      >>> print(result.params.round(3))
      [1. 1.]
    """
    return searched("bfgs", scale_by_bfgs(), learning_rate, linesearch)


@checked(learning_rate=NONNEGATIVE)
def ssbfgs(learning_rate: Scalar | None = None, linesearch: Pair | None = DEFAULT) -> Optimizer:
    """Minimize a smooth function by self-scaled BFGS and a line search.

    As `bfgs`, with the H of `scale_by_ssbfgs`.

    Good for: ill-conditioned problems with exact gradients, such as physics-informed networks in
    float64, up to a few thousand parameters.

    Evidence: independent. For physics-informed networks its errors are orders of magnitude below
    those of Adam, and below those of BFGS and L-BFGS (Kiyani et al. 2025, arXiv 2501.16371).

    Args:
      learning_rate: see `lbfgs`.
      linesearch: see `lbfgs`.

    Returns:
      An `Optimizer`; see `lbfgs`.
      State: 4 n + 12 bytes per element, for n elements in all. An update takes about 10 n²
      operations and the evaluations.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = gdjax.minimize(fun, jnp.array([-1.2, 1.0]), gdjax.ssbfgs())
      >>> print(result.params.round(3))
      [1. 1.]

    References:
      Al-Baali (1998), Comput. Optim. Appl. 9; Urbán et al. (2024),
      https://arxiv.org/abs/2405.04230, (11).
    """
    return searched("ssbfgs", scale_by_ssbfgs(), learning_rate, linesearch)


@checked(learning_rate=NONNEGATIVE)
def ssbroyden(learning_rate: Scalar | None = None, linesearch: Pair | None = DEFAULT) -> Optimizer:
    """Minimize a smooth function by a self-scaled method of Broyden's family and a line search.

    As `bfgs`, with the H of `scale_by_ssbroyden`.

    Good for: the same as `ssbfgs`.

    Evidence: independent. For physics-informed networks its errors are orders of magnitude below
    those of Adam, and below those of BFGS and L-BFGS (Kiyani et al. 2025, arXiv 2501.16371).

    Args:
      learning_rate: see `lbfgs`.
      linesearch: see `lbfgs`.

    Returns:
      An `Optimizer`; see `lbfgs`.
      State: 4 n + 12 bytes per element, for n elements in all. An update takes about 10 n²
      operations and the evaluations.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = gdjax.minimize(fun, jnp.array([-1.2, 1.0]), gdjax.ssbroyden())
      >>> print(result.params.round(3))
      [1. 1.]

    References:
      Al-Baali & Khalfan (2005), Optim. Methods Softw. 20; Urbán et al. (2024),
      https://arxiv.org/abs/2405.04230, (13) to (23); Kiyani et al. (2025),
      https://arxiv.org/abs/2501.16371.
    """
    return searched("ssbroyden", scale_by_ssbroyden(), learning_rate, linesearch)
