"""Projections onto lines, hyperplanes and half-spaces: Boyd & Vandenberghe (2004), section 8.1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import strict
from gdjax.core.numerics import upcast
from gdjax.core.types import Number, PyTree
from gdjax.projections.reading import keep, number, pair


@strict()
def projection_vector(x: PyTree, a: PyTree) -> PyTree:
    r"""Return the nearest multiple of `a`.

    .. math::

       \frac{\langle x, a \rangle}{\langle a, a \rangle}\, a

    Args:
      x: tree of float arrays.
      a: tree of the same structure and shapes. If it is zero, so is the result (optax: NaN).

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_vector(jnp.array([3.0, 4.0]), jnp.array([2.0, 0.0])))
      [3. 0.]
    """
    x, a = pair("projection_vector", x, a)
    factor = _over(_dot(x, a), _dot(a, a))
    return keep(lambda _, y: factor.astype(y.dtype) * y, x, a)


@strict()
def projection_hyperplane(x: PyTree, a: PyTree, b: Number) -> PyTree:
    r"""Return the nearest point of a hyperplane.

    .. math::

       x - \frac{\langle a, x \rangle - b}{\langle a, a \rangle}\, a

    which is the nearest y with :math:`\langle a, y \rangle = b`.

    Args:
      x: tree of float arrays.
      a: the normal, a tree of the same structure and shapes, not zero.
      b: a number.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_hyperplane(jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0]), 1.0))
      [0. 1.]
    """
    x, a = pair("projection_hyperplane", x, a)
    b = number("projection_hyperplane(b=...)", b)
    factor = _over(b - _dot(x, a), _dot(a, a))
    return keep(lambda x, y: x + factor.astype(y.dtype) * y, x, a)


@strict()
def projection_halfspace(x: PyTree, a: PyTree, b: Number) -> PyTree:
    r"""Return the nearest point of a half-space.

    .. math::

       x - \frac{\max(\langle a, x \rangle - b,\; 0)}{\langle a, a \rangle}\, a

    which is the nearest y with :math:`\langle a, y \rangle \le b`.

    Args:
      x: tree of float arrays.
      a: the outer normal, a tree of the same structure and shapes, not zero.
      b: a number.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_halfspace(jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0]), 9.0))
      [3. 4.]
    """
    x, a = pair("projection_halfspace", x, a)
    b = number("projection_halfspace(b=...)", b)
    factor = jnp.minimum(_over(b - _dot(x, a), _dot(a, a)), 0)
    return keep(lambda x, y: x + factor.astype(y.dtype) * y, x, a)


def _dot(x: PyTree, y: PyTree) -> Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), upcast(x), upcast(y))
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _over(above: Array, below: Array) -> Array:
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)
