"""Adagrad: divide the gradient by the root of the sum of its squares so far.

Duchi, Hazan & Singer (2011), eq. 1 with a diagonal matrix, https://jmlr.org/papers/v12/duchi11a.html
Paper -> here: diag(G) -> sum_of_squares, eta -> learning_rate, delta -> eps.
Deviations: eps is added under the root and the sum starts at 0.1, as in optax; `eps_in_sqrt=False`
and `initial_accumulator_value=0.0` give the paper.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import zero_moments


class Squares(NamedTuple):
    """What Adagrad remembers of one parameter."""

    sum_of_squares: Array  # diag(G), sum of |g|^2, real, shaped like the parameter

    def diagonal(self, count: Array, *, eps: Array, **_: Any) -> Array:
        """Return what the direction was divided by; see `with_prox`."""
        return safe_sqrt(self.sum_of_squares + eps)


class SquaresOutside(Squares):
    """The same for `eps_in_sqrt=False`."""

    def diagonal(self, count: Array, *, eps: Array, **_: Any) -> Array:
        """Return what the direction was divided by."""
        return safe_sqrt(self.sum_of_squares) + eps


def _adagrad(grad, slots, param, count, *, initial_accumulator_value, eps):
    total = jnp.where(count == 1, initial_accumulator_value, slots.sum_of_squares) + abs_sq(grad)
    seen = total != 0  # where all gradients were 0, the step is 0, also with eps = 0
    new = slots._replace(sum_of_squares=total)
    return jnp.where(seen, grad / jnp.where(seen, new.diagonal(count, eps=eps), 1), 0), new


def _zero_squares(param: Array) -> Squares:
    return Squares(zero_moments(param).nu)


def _zero_squares_outside(param: Array) -> SquaresOutside:
    return SquaresOutside(zero_moments(param).nu)


@checked(initial_accumulator_value=NONNEGATIVE)
def adagrad(
    learning_rate: Hyperparam,
    initial_accumulator_value: Hyperparam = 0.1,
    eps: Hyperparam = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> Optimizer:
    r"""Descend along the gradient over the root of the sum of its squares so far.

    Good for: sparse gradients, convex problems.

    Evidence: theory. Its regret for convex losses is bounded (Duchi et al. 2011,
    https://jmlr.org/papers/v12/duchi11a.html); for networks it is one of fifteen tuned optimizers,
    of which none was consistently better than Adam (Schmidt et al. 2021, arXiv 2007.01547).

    .. math::

       G_t &= G_{t-1} + |g_t|^2 \\
       d_t &= g_t / \sqrt{G_t + \epsilon} \\
       x_t &= x_{t-1} - \eta_t d_t

    Where :math:`G_t = 0`, the step is 0.

    Differences: the defaults are optax's. torch is `initial_accumulator_value=0.0, eps=1e-10,
    eps_in_sqrt=False`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      initial_accumulator_value: :math:`G_0`, >= 0; only the first update uses it.
      eps: :math:`\epsilon`, added under the root or, without `eps_in_sqrt`, to it, >= 0.
      eps_in_sqrt: whether eps is added under the root.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element, :math:`G_t` (`sum_of_squares`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adagrad(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state)
      ...     print(updates)
      [-0.0953]
      [-0.069]

    References:
      Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and stochastic
      optimization", eq. 1.
    """
    numbers = dict(initial_accumulator_value=initial_accumulator_value, eps=eps)
    slots = _zero_squares if eps_in_sqrt else _zero_squares_outside
    return descend(_adagrad, slots, numbers, learning_rate)


@direction_of(adagrad)
def scale_by_rss() -> None:
    """Replace the gradient by Adagrad's direction; arguments and equations as in `adagrad`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_rss(initial_accumulator_value=0.0)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     direction, state = opt.update(jnp.ones(1), state)
      ...     print(direction)
      [1.]
      [0.7071]
    """
