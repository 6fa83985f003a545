"""What a fit says of its own errors: the covariance of the parameters at a minimum.

cov = s^2 (J^T J)^-1, s^2 = |r|^2 / (m - n): Bates & Watts (1988), "Nonlinear regression analysis
and its applications", section 2.2. With a robust loss s^2 is that of Huber (1981), "Robust
statistics", section 7.6: K^2 (sum psi^2 / (m - n)) / (mean psi')^2, with
K = 1 + n/m var(psi') / (mean psi')^2.

J^T J is not formed, since its condition is the square of J's. J with columns of length 1 is Q R,
and A = D^-1 R^-1 is a root of the inverse, (J^T J)^-1 = A A^T, in any units.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import compute_dtype
from gdjax.core.remember import register_node
from gdjax.core.types import Params, PyTree
from gdjax.solvers.damped import Linearized, jacobian, norm
from gdjax.solvers.result import Result
from gdjax.solvers.robust import Rho, influence


class Uncertainty(NamedTuple):
    """The inverse of J^T J at a solution, and how large the errors of the residuals are.

    Both in units of one number, which cancels; under `vmap` with leading axes.
    """

    root: Array  # (n, n), A; a row is inf where J does not determine the parameter
    spread: Array  # s, inf unless m > n
    given: Array  # what s is where the residuals have unit variance


def inverse_root(j: Array) -> Array:
    """Return A with (J^T J)^-1 = A A^T for J, (m, n); inf in the rows of what J leaves open.

    A parameter is open if its unit vector has a part of more than sqrt(eps) in the null space of J
    with columns of length 1; singular values below n eps times the largest are 0.

    Example:
      >>> import jax.numpy as jnp
      >>> a = inverse_root(jnp.array([[2.0, 0.0], [0.0, 4.0], [0.0, 3.0]]))
      >>> print((a @ a.T).round(3))
      [[0.25 0.  ]
       [0.   0.04]]
    """
    (m, n), eps = j.shape, jnp.finfo(j.dtype).eps
    if not n:
        return jnp.zeros((0, 0), j.dtype)
    lengths = norm(j, axis=0)
    scale = jnp.where(lengths > 0, lengths, 1)
    rows = jnp.concatenate([j / scale[None], jnp.zeros((max(n - m, 0), n), j.dtype)])
    upper = jnp.linalg.qr(rows, mode="r")
    _, s, vt = jnp.linalg.svd(jax.lax.stop_gradient(upper))
    kept = s > n * eps * s[0]
    regular, eye = kept.all(), jnp.eye(n, dtype=j.dtype)
    inverse = jax.scipy.linalg.solve_triangular(jnp.where(regular, upper, eye), eye)
    pseudo = vt.T * jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)[None]
    known = regular | (norm(vt.T * ~kept[None], axis=1) <= eps**0.5)
    return jnp.where(known[:, None], jnp.where(regular, inverse, pseudo) / scale[:, None], jnp.inf)


def uncertainty(
    at: Linearized,
    residuals: PyTree,
    fixed: Array,
    loss: str | Rho = "linear",
    f_scale: Array | float = 1.0,
) -> Uncertainty:
    """Return the uncertainty of the parameters at a solution.

    Args:
      at: the linearized residuals there, without the loss.
      residuals: the residuals there, a tree, likewise.
      fixed: (n,), which parameters were given: they are exact, and do not count.
      loss: see `gdjax.solvers.robust`.
      f_scale: likewise.
    """
    m, n = at.value.size, at.point.size - jnp.sum(fixed)
    root = jnp.where(fixed[:, None], 0, inverse_root(jnp.where(fixed[None], 0, jacobian(at))))
    freedom = jnp.where(m > n, m - n, 1).astype(root.dtype)
    if loss == "linear":
        spread, given = norm(at.value) / jnp.sqrt(freedom), 1 / at.unit
    else:
        psi, slope = influence(residuals, loss, jnp.asarray(f_scale))
        mean = jnp.mean(slope)
        inverse = jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1), jnp.inf)
        correction = 1 + n / m * jnp.var(slope) * inverse**2
        spread = correction * norm(psi / at.unit) / jnp.sqrt(freedom) * inverse
        given = jnp.sqrt(inverse) / at.unit
    return Uncertainty(root, jnp.where(m > n, spread, jnp.inf), given)


@functools.partial(
    register_node,
    data_fields=[*(field.name for field in dataclasses.fields(Result)), "uncertainty"],
)
@dataclasses.dataclass(frozen=True, repr=False)
class LeastSquaresResult(Result):
    """What `least_squares` returns: a `Result` that knows how well the parameters are determined.

    Attributes:
      uncertainty: the Jacobian's part in the covariance, (n, n) and two numbers; None without
        `covariance`.
    """

    uncertainty: Uncertainty | None = None

    def covariance(self, absolute_sigma: bool = False) -> Array:
        """Return the covariance of the parameters at the solution, s^2 (J^T J)^-1.

        As `scipy.optimize.curve_fit` returns it: s^2 is the sum of squares over m - n, for m
        residuals and n parameters. With a robust loss, as statsmodels' `RLM`: with Huber's s^2,
        and the J of the residuals themselves. Bounds that are met do not change it, as in SciPy: it
        is then that of a fit without them. Parameters with lower == upper are exact, with
        covariance 0, and do not count in n.

        Args:
          absolute_sigma: whether the residuals are known to have unit variance, so that s is 1;
            with a robust loss it is the inverse of the cost's Hessian, J^T J times the mean psi'.

        Returns:
          A matrix over the elements of the parameters, leaf by leaf in the order of
          `jax.tree.leaves`; of a complex leaf first the real parts, then the imaginary ones. Inf in
          the row and the column of each parameter that the residuals do not determine (J has no
          full rank); everywhere if m <= n, unless `absolute_sigma`. Under `vmap` with leading axes.

        Raises:
          ValueError: if the fit was made without it.

        Example:
          >>> import gdjax, jax.numpy as jnp
          >>> x, y = jnp.arange(5.0), jnp.array([1.1, 2.9, 5.2, 6.8, 9.1])
          >>> fit = gdjax.least_squares(lambda p: p[0] + p[1] * x - y, jnp.ones(2))
          >>> print(fit.covariance().round(4))
          [[ 0.0214 -0.0071]
           [-0.0071  0.0036]]
        """
        a = self._scaled_root(absolute_sigma)
        known = jnp.isfinite(a).all(-1)
        safe = jnp.where(known[..., None], a, 0)
        product = jnp.matmul(safe, jnp.swapaxes(safe, -1, -2), precision="highest")
        return jnp.where(known[..., None, :] & known[..., :, None], product, jnp.inf)

    def standard_errors(self, absolute_sigma: bool = False) -> Params:
        """Return the standard deviation of each parameter, the roots of the covariance's diagonal.

        They are computed without it, so they neither overflow nor underflow where it would.

        Args:
          absolute_sigma: see `covariance`.

        Returns:
          A tree like the parameters, in at least float32; of a complex parameter the deviation of
          the real part + i times that of the imaginary part.

        Raises:
          ValueError: if the fit was made without it.

        Example:
          >>> import gdjax, jax.numpy as jnp
          >>> x, y = jnp.arange(5.0), jnp.array([1.1, 2.9, 5.2, 6.8, 9.1])
          >>> def residual_fn(p): return p["a"] + p["b"] * x - y
          >>> errors = gdjax.least_squares(residual_fn, {"a": 1.0, "b": 1.0}).standard_errors()
          >>> print(f"{errors['a']:.4f} {errors['b']:.4f}")
          0.1463 0.0597
        """
        a = self._scaled_root(absolute_sigma)
        deviations = norm(a, axis=-1)
        leaves, treedef = jax.tree.flatten(self.params)
        lanes = a.shape[:-2]
        out, start = [], 0

        def part(leaf: Array) -> Array:
            nonlocal start
            size = leaf.size // max(math.prod(lanes), 1)
            start += size
            return deviations[..., start - size : start].reshape(leaf.shape)

        for leaf in leaves:
            whole = (
                jax.lax.complex(part(leaf), part(leaf)) if jnp.iscomplexobj(leaf) else part(leaf)
            )
            out.append(whole.astype(compute_dtype(leaf)))
        return treedef.unflatten(out)

    def _scaled_root(self, absolute_sigma: bool) -> Array:
        """Return A s, whose rows have the products cov_ij."""
        known = self.uncertainty
        if known is None:
            raise ValueError(
                "this result has no covariance: for more than 100 parameters it takes "
                "least_squares(covariance=True), which forms the Jacobian."
            )
        s = known.given if absolute_sigma else known.spread
        return jnp.where(known.root == 0, 0, known.root * s[..., None, None])
