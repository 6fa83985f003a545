"""Record learning rate, norms of gradient and update, and skipped steps.

A norm that the optimizer takes itself, as for `clip_by_global_norm`, is the same expression of the
same array, which XLA computes once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.kinds import is_pair, shown
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_sqrt
from gdjax.core.protocols import HasMetrics, states_in, took_step
from gdjax.core.reading import hyperparams, shortest_names
from gdjax.core.trees import sum_sq, zero
from gdjax.core.types import OptState, Pair, Params
from gdjax.transforms.measure import Measure
from gdjax.transforms.measure import measures as measure_with
from gdjax.wrappers.guard import skipped_steps


class Monitored(NamedTuple):
    """What the monitor recorded of the last step; numbers."""

    rates: dict[str, Array]  # the learning rates that it used, by their names in `hyperparams`
    grad_norm: Array  # norm of the gradient before the optimizer
    update_norm: Array  # norm of the update after the optimizer
    update_ratio: Array  # norm of the update over that of the parameters
    inner: OptState  # state of the optimizer

    def metrics(self) -> dict[str, Array]:
        """Return the records, for `gdjax.metrics`."""
        return {
            **self.rates,
            "grad_norm": self.grad_norm,
            "update_norm": self.update_norm,
            "update_ratio": self.update_ratio,
            "skipped_steps": skipped_steps(self.inner),
        }

    def stepped(self) -> Array | None:
        """Return whether the optimizer took a step in the last call; skipped ones are recorded."""
        return took_step(self.inner)


def _rates(state: OptState) -> dict[str, Array]:
    found = hyperparams(state)
    return {name: value for name, value in found.items() if "learning_rate" in name.split(".")}


def _monitor(grads, slots, params, count, *, inner, **extra):
    if params is None:
        raise ValueError(f"monitor needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, **extra)
    update_norm, weight = safe_sqrt(sum_sq(updates)), safe_sqrt(sum_sq(params))
    some = weight > 0
    ratio = jnp.where(some, update_norm / jnp.where(some, weight, 1), 0)
    used = _rates(slots.inner)
    nan = jnp.asarray(jnp.nan)  # with_hyperparams may have replaced a tree of rates
    rates = {name: used.get(name, nan) for name in slots.rates}
    return updates, Monitored(rates, safe_sqrt(sum_sq(grads)), update_norm, ratio, state)


def _fresh(init: InitFn, params: Params) -> Monitored:
    inner = init(params)
    rates = {name: jnp.array(value, copy=True) for name, value in _rates(inner).items()}
    return Monitored(rates, zero(), zero(), zero(), inner)


@strict()
def monitor(measures: Pair | dict[str, Measure]) -> Optimizer:
    """Record norms and learning rates in the state: of an optimizer, or at one place of a chain.

    `monitor(optimizer)` records, of each step: the learning rates it used, `grad_norm` (of the
    gradient before any clipping inside), `update_norm`, `update_ratio` (`update_norm` over the norm
    of the parameters, typically about 1e-3; 0 where those are zero), and `skipped_steps`, how many
    updates the guards inside have skipped so far. Updates are those of `optimizer`.

    `monitor({"name": measure})`, as in optax, measures the updates at this place of a chain: a
    function of them, or an `(init, update)` pair that returns a measurement, such as
    `measure_with_ema`. Measurements are zero at first (optax: absent, so that the tree structure of
    the state changes in the first step).

    Args:
      measures: the `(init, update)` pair to monitor; or a dict of measures.

    Returns:
      An `Optimizer`. Read the records with `gdjax.metrics(state)`, however deeply it is nested.

    Raises:
      ValueError: if `update` of a monitored optimizer is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.monitor(gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1)))
      >>> params = jnp.array([6.0, 8.0])
      >>> updates, state = opt.update(jnp.array([3.0, 4.0]), opt.init(params), params)
      >>> for name, value in gdjax.metrics(state).items():
      ...     print(name, round(float(value), 4))
      learning_rate 0.1
      grad_norm 5.0
      update_norm 0.1
      update_ratio 0.01
      skipped_steps 0.0
    """
    if isinstance(measures, dict):
        for name, measure in measures.items():
            if not (callable(measure) or is_pair(measure)):
                raise TypeError(
                    f"monitor(measures=...) must have functions or (init, update) pairs in it, got "
                    f"{shown(measure)} as {name!r}."
                )
        return measure_with(measures)
    optimizer = with_extra_args_support(measures)
    return treewise(_monitor, functools.partial(_fresh, optimizer.init), inner=optimizer.update)


def metrics(state: OptState) -> dict[str, Any]:
    """Read everything that monitors and snapshots recorded, however deeply they are nested.

    Args:
      state: the state of any optimizer, chain or wrapper, also a vmapped or traced one.

    Returns:
      A flat dict, name -> the last record. Where two monitors record one name, the names are
      qualified by their position, as those of `hyperparams` are. Empty without monitors.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.snapshot("sum", jnp.sum), gdjax.monitor(gdjax.sgd(0.1)))
      >>> _, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)), jnp.ones(2))
      >>> [(name, float(value)) for name, value in gdjax.metrics(state).items()][:3:2]
      [('sum', 7.0), ('grad_norm', 5.0)]
    """
    paths, values = [], []
    for where, node in states_in(state):
        if isinstance(node.slots, HasMetrics):
            for name, value in node.slots.metrics().items():
                paths.append(((*where, jax.tree_util.DictKey(name)), 1))
                values.append(value)
    return dict(zip(shortest_names(paths), values, strict=True))
