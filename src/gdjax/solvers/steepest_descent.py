"""Gradient descent whose step size a line search finds."""

from __future__ import annotations

from gdjax.core.base import Optimizer
from gdjax.core.chain import identity
from gdjax.core.checks import strict
from gdjax.core.types import Pair
from gdjax.solvers.backtracking import scale_by_backtracking_linesearch
from gdjax.solvers.line_search import searched

DEFAULT = scale_by_backtracking_linesearch(
    40, decrease_factor=0.5, increase_factor=2.0, max_learning_rate=float("inf"), store_grad=True
)


@strict()
def steepest_descent(linesearch: Pair | None = DEFAULT) -> Optimizer:
    r"""Minimize a smooth function by gradient descent with a line search.

    .. math::

       x_{t+1} = x_t - t\, \nabla f(x_t)

    with the step size t of the line search.

    Good for: functions that are cheap and well conditioned; see `lbfgs` for others.

    Evidence: theory. It converges linearly near minima, at a rate that the condition number
    determines (Nocedal & Wright 2006, https://doi.org/10.1007/978-0-387-40065-5, section 3.3).

    Args:
      linesearch: the end of the chain, a `scale_by_..._linesearch(...)`.

    Returns:
      An `Optimizer`; see `lbfgs`.
      State: 4 bytes per element.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(jnp.array([1.0, 10.0]) * (x - 1) ** 2)
      >>> print(gdjax.minimize(fun, jnp.zeros(2), gdjax.steepest_descent()).params.round(3))
      [1. 1.]
    """
    return searched("steepest_descent", identity(), None, linesearch)
