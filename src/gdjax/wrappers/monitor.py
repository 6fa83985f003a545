"""Record what a step did: the rate it used, the length of gradient and update, steps left out.

Norms are taken where gradients and updates pass anyway. A norm that the optimizer takes itself, as
for `clip_by_global_norm`, is the same expression of the same array, which XLA computes once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, is_state
from gdjax.core.chain import with_extra_args_support
from gdjax.core.lift import NEEDS_PARAMS
from gdjax.core.numerics import safe_sqrt, sum_sq
from gdjax.core.protocols import states_in
from gdjax.core.reading import hyperparams, shortest_names
from gdjax.core.trees import zero
from gdjax.core.treewise import treewise
from gdjax.transforms.measure import measures as measure_with


class Monitored(NamedTuple):
    """What the monitor recorded of the last step; numbers."""

    rates: dict[str, Any]  # the learning rates that it used, by their names in `hyperparams`
    grad_norm: Array  # norm of the gradient as it came in
    update_norm: Array  # norm of the update as it went out
    update_ratio: Array  # norm of the update over that of the parameters
    inner: Any  # state of the optimizer

    def metrics(self):
        """Return the records, for `gdjax.metrics`."""
        return {
            **self.rates,
            "grad_norm": self.grad_norm,
            "update_norm": self.update_norm,
            "update_ratio": self.update_ratio,
            "skipped_steps": _skipped(self.inner),
        }


def _rates(state: Any) -> dict[str, Array]:
    found = hyperparams(state)
    return {name: value for name, value in found.items() if "learning_rate" in name.split(".")}


def _skipped(state: Any) -> Array:
    guards = [n.slots for _, n in states_in(state) if hasattr(n.slots, "skipped_steps")]
    return sum((guard.skipped_steps() for guard in guards), jnp.zeros((), jnp.int32))


def _monitor(grads, slots, params, count, *, inner, **extra):
    if params is None:
        raise ValueError(f"monitor needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, **extra)
    update_norm, weight = safe_sqrt(sum_sq(updates)), safe_sqrt(sum_sq(params))
    some = weight > 0
    ratio = jnp.where(some, update_norm / jnp.where(some, weight, 1), 0)
    used = _rates(slots.inner)
    nan = jnp.asarray(jnp.nan)  # a tree of rates may be gone
    rates = {name: used.get(name, nan) for name in slots.rates}
    return updates, Monitored(rates, safe_sqrt(sum_sq(grads)), update_norm, ratio, state)


def _begin(init, params) -> Monitored:
    inner = init(params)
    rates = {name: jnp.array(value, copy=True) for name, value in _rates(inner).items()}
    return Monitored(rates, zero(), zero(), zero(), inner)


def monitor(measures: Any) -> Optimizer:
    """Record how training goes, in the state: of a whole optimizer, or at one place of a chain.

    `monitor(optimizer)` records, of each step: the learning rates it used, `grad_norm` (of the
    gradient as it comes in, before any clipping inside), `update_norm`, `update_ratio` (that over
    the norm of the parameters, healthy near 1e-3; 0 where those are zero), and `skipped_steps`,
    how many updates the guards inside have left out so far. Updates are those of `optimizer`.

    `monitor({"name": measure})`, as in optax, measures the updates that pass at this place of a
    chain: a function of them, or an `(init, update)` pair that returns a measurement, such as
    `measure_with_ema`. Measurements are zero at first (optax: absent, so that the state changes its
    structure in the first step).

    Args:
      measures: the `(init, update)` pair to watch; or a dict of measures.

    Returns:
      An `Optimizer`. Read the records with `gdjax.metrics(state)`, however deeply it is nested.

    Raises:
      ValueError: if `update` of a watched optimizer is called without parameters.

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
        return measure_with(measures)
    optimizer = with_extra_args_support(measures)
    return treewise(_monitor, functools.partial(_begin, optimizer.init), inner=optimizer.update)


def metrics(state: Any) -> dict[str, Any]:
    """Read everything that monitors and snapshots recorded, however deeply they are nested.

    Args:
      state: the state of any optimizer, chain or wrapper, also a vmapped or traced one.

    Returns:
      A flat dict, name -> the last record. Where two monitors record one name, the names are
      qualified by their place, as those of `hyperparams` are. Empty without monitors.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.snapshot("sum", jnp.sum), gdjax.monitor(gdjax.sgd(0.1)))
      >>> _, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)), jnp.ones(2))
      >>> [(name, float(value)) for name, value in gdjax.metrics(state).items()][:3:2]
      [('sum', 7.0), ('grad_norm', 5.0)]
    """
    paths, values = [], []
    for where, node in states_in(state):
        if is_state(node) and hasattr(node.slots, "metrics"):
            for name, value in node.slots.metrics().items():
                paths.append(((*where, jax.tree_util.DictKey(name)), 1))
                values.append(value)
    return dict(zip(shortest_names(paths), values, strict=True))
