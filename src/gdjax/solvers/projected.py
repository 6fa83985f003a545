"""Projected steps for any optimizer: after every update the parameters are put back into a set.

Bertsekas (1976), https://doi.org/10.1109/TAC.1976.1101194: with a line search inside, the search
runs along the projected path, so that no point outside of the set is evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from gdjax.core.base import Optimizer
from gdjax.core.chain import apply_updates, with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.kinds import is_array_tree, shown
from gdjax.core.lift import treewise
from gdjax.core.remember import register_node
from gdjax.core.trees import copied
from gdjax.core.types import Number, Pair, Params, PyTree


@functools.partial(
    register_node,
    data_fields=["numbers", "inner"],
    function_fields=["projection"],
)
@dataclasses.dataclass(frozen=True)
class Projected:
    """The slots of a projected optimizer."""

    numbers: tuple  # further arguments of the projection, trees of arrays
    inner: Any  # state of the optimizer
    projection: Callable  # static

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return x - projection(x - grads), the projected gradient."""
        ahead = self.feasible(jax.tree.map(lambda x, g: x - g, params, grads))
        return jax.tree.map(lambda x, y: x - y, params, ahead)

    def feasible(self, params: Params) -> Params:
        """Return the projection of the parameters."""
        return self.projection(params, *self.numbers)


def _projected(grads, slots, params, count, *, inner, raw_params, **extra):
    if params is None:
        raise ValueError(f"projected needs {NEEDS_PARAMS}")
    if callable(fun := extra.get("value_fn")):
        # further arguments that `fun` takes by name are passed on, so the signature must stay
        @functools.wraps(fun)
        def along_the_path(params, *args, **kwargs):
            return fun(slots.feasible(params), *args, **kwargs)

        extra = {**extra, "value_fn": along_the_path}
    updates, state = inner(grads, slots.inner, raw_params, **extra)
    new = slots.feasible(apply_updates(params, updates))
    return jax.tree.map(lambda y, x: y - x, new, params), dataclasses.replace(slots, inner=state)


@strict()
def projected(
    optimizer: Pair, projection: Callable[..., Any], *numbers: Number | PyTree
) -> Optimizer:
    r"""Put the parameters back into a set after every update of `optimizer`.

    .. math::

       x_t = P(x_{t-1} + u_t)

    with :math:`u_t` the optimizer's update and P the projection. `gdjax.minimize(..., bounds=...)`
    and `constraint=` use it, stop where :math:`x - P(x - \nabla f(x))` is small, and project again
    what rounding in `params + updates` moves out of the set. For bounds without batches
    there is `gdjax.lbfgsb`; for sets, `gdjax.projected_gradient(..., accelerated=True)`. An
    optimizer that divides by a metric, as Adam, may stop where the projected gradient is not zero,
    unless the set is a box: `gdjax.with_prox` projects in the metric.

    Args:
      optimizer: any `(init, update)` pair.
      projection: a function of a tree, as in `gdjax.projections`: a function of a module, so that
        projected optimizers share their programs.
      *numbers: further arguments of the projection; trees of arrays, leaves of the state's slots.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: that of `optimizer`, and `numbers`.

    Raises:
      ValueError: if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.projected(gdjax.sgd(1.0), gdjax.projections.projection_box, 0.0, 1.0)
      >>> params = jnp.array([0.5, 0.5])
      >>> updates, state = opt.update(jnp.array([2.0, -0.25]), opt.init(params), params)
      >>> print(params + updates)
      [0.   0.75]
    """
    optimizer = with_extra_args_support(optimizer)
    if not callable(projection):
        raise TypeError(f"projected(projection=...) must be a function, got {projection!r}.")

    if not is_array_tree(numbers):
        raise TypeError(f"projected(*numbers) must be trees of arrays, got {shown(numbers)}.")

    def slots(params: Params) -> Projected:
        own = jax.tree.map(jax.numpy.asarray, numbers)
        return Projected(copied(own), optimizer.init(params), projection)

    return treewise(_projected, slots, name="projected", inner=optimizer.update)
