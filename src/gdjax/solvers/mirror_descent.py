"""Mirror descent: gradient steps in the coordinates of a mirror map, here of the entropy.

Nemirovski & Yudin (1983); Beck & Teboulle (2003), https://doi.org/10.1016/S0167-6377(02)00231-6
Paper -> here: grad psi -> to_dual, grad psi* -> to_primal, t_k -> learning_rate.
Deviation: the dual point lives in the state, so that a weight that underflows can come back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import upcast
from gdjax.core.remember import register_node
from gdjax.core.trees import derived
from gdjax.core.types import Params, PyTree, Scalar


@functools.partial(register_node, data_fields=["dual"], function_fields=["to_dual", "to_primal"])
@dataclasses.dataclass(frozen=True)
class Mirror:
    """The slots of mirror descent."""

    dual: Any  # to_dual(params), shaped like the parameters, at least float32
    to_dual: Callable  # static
    to_primal: Callable  # static

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return x - to_primal(to_dual(x) - grads)."""
        return jax.tree.map(lambda x, g: x - self.to_primal(self.to_dual(x) - g), params, grads)


def _mirror_descent(grads, slots, params, count, *, learning_rate):
    if params is None:
        raise ValueError(f"mirror_descent needs {NEEDS_PARAMS}")
    dual = jax.tree.map(lambda z, g: z - learning_rate.astype(g.dtype) * g, slots.dual, grads)
    updates = jax.tree.map(lambda z, x: slots.to_primal(z) - x, dual, params)
    return updates, dataclasses.replace(slots, dual=dual)


def last_axis_softmax(x: Array) -> Array:
    """Return the softmax over the last axis, the mirror of the entropy on the simplex."""
    return jax.nn.softmax(x, axis=-1)


@checked()
def mirror_descent(
    learning_rate: Scalar,
    to_dual: Callable[[Array], Array] = jnp.log,
    to_primal: Callable[[Array], Array] = last_axis_softmax,
) -> Optimizer:
    r"""Descend in dual coordinates; by default multiply weights on the simplex (exponentiated).

    Good for: probabilities and positive weights, by multiplicative steps.

    Evidence: theory. Its rate for convex functions depends on the dimension only by a logarithm on
    the simplex (Beck & Teboulle 2003, https://doi.org/10.1016/S0167-6377(02)00231-6).

    .. math::

       z_t &= z_{t-1} - \eta_t g_t, \qquad z_0 = \nabla \psi(x_0) \\
       x_t &= (\nabla \psi)^{-1}(z_t)

    By default each leaf is a distribution over its last axis, and :math:`x_t` is proportional to
    :math:`x_{t-1} e^{-\eta_t g_t}`. With `to_primal=jnp.exp` weights are positive only.

    Args:
      learning_rate: :math:`\eta_t` >= 0: a number or schedule.
      to_dual: :math:`\nabla \psi`, gradient of the mirror map, for one array: a function of a
        module.
      to_primal: its inverse, onto the set.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.mirror_descent(1.0)
      >>> params = jnp.array([0.5, 0.25, 0.25])
      >>> state = opt.init(params)
      >>> updates, state = opt.update(jnp.log(jnp.array([4.0, 1.0, 1.0])), state, params)
      >>> print(params + updates)  # 0.5 / 4 : 0.25 : 0.25
      [0.2 0.4 0.4]
    """
    for what, function in (("to_dual", to_dual), ("to_primal", to_primal)):
        if not callable(function):
            raise TypeError(f"mirror_descent({what}=...) must be a function, got {function!r}.")

    def slots(params: Params) -> Mirror:
        dual = derived(lambda x: jax.tree.map(to_dual, upcast(x)), params)
        return Mirror(dual, to_dual, to_primal)

    return treewise(
        _mirror_descent, slots, dict(learning_rate=learning_rate), name="mirror_descent"
    )
