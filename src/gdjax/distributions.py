"""Normal distributions with independent elements, given by mean and log standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict


class MultiNormal(NamedTuple):
    """A normal distribution with independent elements; a pytree of its two parameters."""

    loc: Array  # the mean
    log_scale: Array  # log of the standard deviation, broadcasts with the mean

    @property
    def params(self) -> list[Array]:
        """The mean and the log of the standard deviation."""
        return [self.loc, self.log_scale]

    def sample(self, shape: Sequence[int], key: Array) -> Array:
        """Return samples along new leading axes, differentiable with respect to both parameters."""
        shape = (*shape, *jnp.broadcast_shapes(self.loc.shape, self.log_scale.shape))
        noise = jax.random.normal(key, shape, jnp.result_type(self.loc, self.log_scale))
        loc, log_scale = (jnp.broadcast_to(p, shape) for p in self)
        return noise * jnp.exp(log_scale) + loc

    def log_prob(self, x: ArrayLike) -> Array:
        """Return the log density, summed over the axes of the distribution."""
        axes = len(jnp.broadcast_shapes(self.loc.shape, self.log_scale.shape))
        x = jnp.asarray(x)
        shape = jnp.broadcast_shapes(x.shape, self.loc.shape, self.log_scale.shape)
        loc, log_scale = (jnp.broadcast_to(p, shape) for p in self)
        z = (jnp.broadcast_to(x, shape) - loc) * jnp.exp(-log_scale)
        each = -0.5 * z**2 - log_scale - 0.5 * math.log(2 * math.pi)
        return jnp.sum(each, tuple(range(-axes, 0)))


@strict()
def multi_normal(loc: ArrayLike, log_scale: ArrayLike) -> MultiNormal:
    """Return a normal distribution with independent elements.

    Args:
      loc: the mean, an array.
      log_scale: the log of the standard deviation, an array that broadcasts with `loc`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> normal = gdjax.multi_normal(jnp.array([1.0, 2.0]), jnp.log(jnp.array([0.1, 1.0])))
      >>> normal.sample((3,), jax.random.key(0)).shape, normal.log_prob(jnp.array([1.0, 2.0])).shape
      ((3, 2), ())
    """
    return MultiNormal(jnp.asarray(loc), jnp.asarray(log_scale))
