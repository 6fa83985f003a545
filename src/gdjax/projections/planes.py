"""Projections onto lines, hyperplanes and half-spaces: Boyd & Vandenberghe (2004), section 8.1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import strict
from gdjax.core.numerics import upcast
from gdjax.core.trees import over, unit_of
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
    unit, length = unit_of(x), unit_of(a)
    small, normal = over(x, unit), over(a, length)
    factor = _quotient(_dot(small, normal), _dot(normal, normal))
    return keep(lambda _, y: factor.astype(y.dtype) * y * unit.astype(y.dtype), x, normal)


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
    factor, unit, normal = _distance(x, a, b)
    return keep(lambda x, y: x + factor.astype(y.dtype) * y * unit.astype(y.dtype), x, normal)


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
    factor, unit, normal = _distance(x, a, b)
    factor = jnp.minimum(factor, 0)
    return keep(lambda x, y: x + factor.astype(y.dtype) * y * unit.astype(y.dtype), x, normal)


def _distance(x: PyTree, a: PyTree, b: Array) -> tuple[Array, Array, PyTree]:
    """Return factor, unit and normal, whose product leads from x to the hyperplane.

    The normal is `a` over a power of two, and the factor is for x and b over another one, so that
    no square overflows or underflows.
    """
    length = unit_of(a)
    b, normal = b / length, over(a, length)
    unit = unit_of(x, b)
    factor = _quotient(b / unit - _dot(over(x, unit), normal), _dot(normal, normal))
    return factor, unit, normal


def _dot(x: PyTree, y: PyTree) -> Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), upcast(x), upcast(y))
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _quotient(above: Array, below: Array) -> Array:
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)
