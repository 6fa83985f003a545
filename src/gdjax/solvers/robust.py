"""Robust losses for least squares: residuals far outside of the noise count less than squared.

min 0.5 sum_i C^2 rho((|f_i| / C)^2), the losses of `scipy.optimize.least_squares` (Triggs et al.
2000, "Bundle adjustment - a modern synthesis", https://doi.org/10.1007/3-540-44480-7_21).
Paper -> here: f -> residuals, C -> f_scale, z = (|f| / C)^2.

Each f is replaced by r = f sqrt(rho(z) / z), so that 0.5 |r|^2 is the cost: it is a sum of squares
like any other, and each method, test of a solution, and derivative holds for it.
Deviation: SciPy scales f and J by Triggs's factors instead, after which |f|^2 is not the cost. Its
Gauss-Newton matrix has the weights rho' + 2 rho'' z, cut off at 0; here they are rho'^2 z / rho,
which are positive for every loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import compute_dtype
from gdjax.core.types import Params, PyTree

Rho = Callable[[Array], Array]


class Loss(NamedTuple):
    """A loss rho, in two parts that neither cancel nor overflow."""

    near: Rho  # z -> rho(z) / z for z <= 1
    far: Rho  # w -> rho(w^2) for w = |f| / C > 1


def _square(x: Array) -> Array:
    return x * x


def _log1p_ratio(z: Array) -> Array:
    """Return log(1 + z) / z; its Taylor series where the quotient has no derivative."""
    small = z < 1e-3
    series = 1 - z * (1 / 2 - z * (1 / 3 - z * (1 / 4 - z * (1 / 5 - z / 6))))
    safe = jnp.where(small, 1, z)
    return jnp.where(small, series, jnp.log1p(safe) / safe)


def _arctan_ratio(z: Array) -> Array:
    """Return arctan(z) / z, likewise."""
    small = z < 1e-2
    square = z * z
    series = 1 - square * (1 / 3 - square * (1 / 5 - square * (1 / 7 - square / 9)))
    safe = jnp.where(small, 1, z)
    return jnp.where(small, series, jnp.arctan(safe) / safe)


LOSSES = {
    # 2 (sqrt(1 + z) - 1)
    "soft_l1": Loss(
        lambda z: 2 / (jnp.sqrt(1 + z) + 1),
        lambda w: 2 * w / (jnp.sqrt(1 + _square(1 / w)) + 1 / w),
    ),
    # z for z <= 1, else 2 sqrt(z) - 1
    "huber": Loss(jnp.ones_like, lambda w: 2 * w - 1),
    # log(1 + z)
    "cauchy": Loss(
        _log1p_ratio,
        lambda w: 2 * jnp.log(w) + jnp.log1p(_square(1 / w)),
    ),
    # arctan(z)
    "arctan": Loss(
        _arctan_ratio,
        lambda w: jnp.pi / 2 - jnp.arctan(_square(1 / w)),
    ),
}  # fmt: skip
NAMES = ("linear", *LOSSES)


def _of_function(rho: Rho) -> Loss:
    """Return the loss of a user's function of z, with rho(0) = 0 and rho'(0) = 1."""

    def near(z: Array) -> Array:
        safe = jnp.where(z > 0, z, 1)
        return jnp.where(z > 0, rho(safe) / safe, 1)

    def far(w: Array) -> Array:
        return rho(w * w)

    return Loss(near, far)


def _reweighted(loss: Loss, f: Array, c: Array) -> Array:
    """Return f sqrt(rho(z) / z) of each element, real or complex."""
    dtype = compute_dtype(f)
    f = f.astype(dtype)
    c = c.astype(f.real.dtype)
    is_far = jnp.abs(jax.lax.stop_gradient(f)) > c  # not where it is nan
    inner, outer = jnp.where(is_far, 0, f), jnp.where(is_far, f, c)
    w = inner / c
    z = w.real**2 + w.imag**2 if jnp.iscomplexobj(f) else w * w
    size = jnp.abs(outer)
    sign = outer / size if jnp.iscomplexobj(f) else jnp.sign(outer)
    outside = c * sign * jnp.sqrt(loss.far(size / c))
    return jnp.where(is_far, outside, inner * jnp.sqrt(loss.near(z)))


def _as_loss(loss: str | Rho) -> Loss:
    return LOSSES[loss] if isinstance(loss, str) else _of_function(loss)


def reweighted(residuals: PyTree, loss: str | Rho, f_scale: Array) -> PyTree:
    """Return residuals whose half sum of squares is the robust cost of the given ones.

    Args:
      residuals: a tree of real or complex arrays; of a complex element its magnitude counts.
      loss: one of `NAMES`, or rho, a function of an array z >= 0.
      f_scale: C > 0.

    Example:
      >>> import jax.numpy as jnp
      >>> r = reweighted(jnp.array([0.1, -3.0]), "huber", jnp.array(1.0))
      >>> print((0.5 * r * r).round(3))
      [0.005 2.5  ]
    """
    if loss == "linear":
        return residuals
    return jax.tree.map(lambda f: _reweighted(_as_loss(loss), f, f_scale), residuals)


def robust(
    residual_fn: Callable[[Params], PyTree], loss: str | Rho, f_scale: Array
) -> Callable[[Params], PyTree]:
    """Return `residual_fn` with reweighted residuals; see `reweighted`."""
    if loss == "linear":
        return residual_fn
    return lambda params: reweighted(residual_fn(params), loss, f_scale)


class Influence(NamedTuple):
    """How residuals enter the equations of the fit, sum_i psi(f_i) J_i = 0."""

    psi: Array  # (m,), the derivative of the cost by each residual; complex ones are two
    slope: Array  # (m,), the derivative of psi


def influence(residuals: PyTree, loss: str | Rho, f_scale: Array) -> Influence:
    """Return psi and its derivative for each residual; f and 1 for the linear loss.

    Example:
      >>> import jax.numpy as jnp
      >>> print(influence(jnp.array([0.5, -3.0]), "huber", jnp.array(1.0)).psi)
      [ 0.5 -1. ]
    """
    parts: list[tuple[Array, Array]] = []
    for leaf in jax.tree.leaves(residuals):
        f = leaf.astype(compute_dtype(leaf))
        both = (f.real, f.imag) if jnp.iscomplexobj(f) else (f,)
        for i in range(len(both)):

            def cost(part: Array, both: Any = both, i: int = i) -> Array:
                values = (*both[:i], part, *both[i + 1 :])
                whole = jax.lax.complex(*values) if len(values) == 2 else part
                r = reweighted(whole, loss, f_scale)
                return 0.5 * jnp.sum(r.real**2 + r.imag**2 if jnp.iscomplexobj(r) else r * r)

            ones = jnp.ones_like(both[i])
            parts.append(jax.jvp(jax.grad(cost), (both[i],), (ones,)))
    psi, slope = (jnp.concatenate([jnp.ravel(p[k]) for p in parts]) for k in (0, 1))
    return Influence(psi, slope)
