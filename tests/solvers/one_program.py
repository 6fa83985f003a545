"""Many functions of different sizes as one, so that what is run on them is compiled once."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp


def combined(residuals: Sequence[Callable], m: int, sizes: Sequence[int]) -> Callable:
    """Return `residual(x, index)`: that of one function, (m,), filled with zeros.

    Args:
      residuals: functions of their own number of parameters to their own number of residuals.
      m: the number of residuals.
      sizes: how many parameters each has: it is given as many of the first elements of x.
    """

    def alone(residual, size):
        def filled(x):
            r = residual(x[:size])
            return jnp.pad(r, (0, m - r.size))

        return filled

    branches = [alone(*pair) for pair in zip(residuals, sizes, strict=True)]
    return lambda x, index: jax.lax.switch(index, branches, x)
