"""Measure the gradients where they pass, and keep the measurements in the state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import checked
from gdjax.core.numerics import compute_dtype, upcast
from gdjax.core.treewise import treewise
from gdjax.transforms.ema import ema


class Snapshot(NamedTuple):
    """What a snapshot remembers."""

    measurement: dict[str, Any]  # name -> what was measured last

    def metrics(self):
        """Return the measurement, for `gdjax.metrics`."""
        return self.measurement


class Measured(NamedTuple):
    """What stateful measures remember."""

    measurements: dict[str, Any]  # name -> what was measured last; zeros at first
    measure_states: tuple[Any, ...]  # state of each measure

    def metrics(self):
        """Return the measurements, for `gdjax.metrics`."""
        return self.measurements


def strong(tree: Any) -> Any:
    """Return a copy of a tree of numbers as arrays whose dtype does not give way to others."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x), copy=True), tree)


def _snapshot(grads, slots, params, count, *, measure_name, measure):
    return grads, Snapshot({measure_name: measure(grads)})


def _first_snapshot(name, measure, params) -> Snapshot:
    return Snapshot({name: strong(measure(upcast(params)))})


def snapshot(measure_name: str, measure: Callable[[Any], Any]) -> Optimizer:
    """Measure the updates at this place of a chain; they pass as they are.

    Args:
      measure_name: under which `gdjax.tree.get(state, measure_name)` and `gdjax.metrics(state)`
        find the last measurement.
      measure: `measure(updates)` returns a tree of numbers or arrays; the updates come in at least
        float32. At `init` it is given the parameters. A function is structure.

    Returns:
      An `Optimizer`. State: what `measure` returns.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.snapshot("raw", gdjax.tree.norm), gdjax.clip_by_global_norm(1.0))
      >>> _, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))
      >>> print(gdjax.tree.get(state, "raw"))
      5.0
    """
    slots = functools.partial(_first_snapshot, measure_name, measure)
    return treewise(_snapshot, slots, measure_name=measure_name, measure=measure)


# --- measures with a state ------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _plain(measure: Callable) -> Callable:
    def update(updates, state, params=None, **extra):
        return measure(updates), state

    return update


def _as_pair(measure: Any) -> Optimizer:
    if callable(measure):
        return Optimizer(lambda params: (), _plain(measure))
    return with_extra_args_support(measure)


def _measured(grads, slots, params, count, *, names, members, **extra):
    done = [
        member(grads, state, params, **extra)
        for member, state in zip(members, slots.measure_states, strict=True)
    ]
    measurements = dict(zip(names, (strong(m) for m, _ in done), strict=True))
    return grads, Measured(measurements, tuple(state for _, state in done))


def _first_measured(names, pairs, params) -> Measured:
    params = upcast(params)
    states = tuple(pair.init(params) for pair in pairs)
    shapes = [
        jax.eval_shape(lambda p, s, u=pair.update: strong(u(p, s, p)[0]), params, state)
        for pair, state in zip(pairs, states, strict=True)
    ]
    zeros = (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape) for shape in shapes)
    return Measured(dict(zip(names, zeros, strict=True)), states)


def measures(measures: dict[str, Any]) -> Optimizer:
    """Return the transform that `gdjax.monitor(measures)` documents."""
    names = tuple(measures)
    pairs = tuple(_as_pair(measure) for measure in measures.values())
    slots = functools.partial(_first_measured, names, pairs)
    return treewise(_measured, slots, names=names, members=tuple(pair.update for pair in pairs))


def _floats(measurement: Any) -> Any:
    def up(x):
        x = jnp.asarray(x)
        return x.astype(compute_dtype(x))

    return jax.tree.map(up, measurement)


@functools.lru_cache(maxsize=1024)
def _averaging(measure: Callable, update: Callable) -> Callable:
    def averaged(updates, state, params=None, **extra):
        return update(_floats(measure(updates)), state)

    return averaged


@checked()
def measure_with_ema(
    measure: Callable[[Any], Any],
    decay: Any,
    debias: bool = True,
    accumulator_dtype: Any = None,
) -> Optimizer:
    """Average a measurement over the steps: a measure for `monitor`.

    Args:
      measure: `measure(updates)` returns a tree of numbers or arrays, also booleans.
      decay: see `ema`, as for the other arguments.
      debias: see `ema`.
      accumulator_dtype: see `ema`.

    Returns:
      An `(init, update)` pair whose update returns the average, for `monitor` alone.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> share = gdjax.measure_with_ema(lambda g: gdjax.tree.norm(g) > 1.0, decay=0.5)
      >>> opt = gdjax.monitor({"large": share})
      >>> state = opt.init(jnp.ones(1))
      >>> for grad in (2.0, 0.5):
      ...     _, state = opt.update(jnp.full(1, grad), state)
      >>> print(f'{gdjax.tree.get(state, "large"):.3f}')  # (0.25 * 1 + 0.5 * 0) / 0.75
      0.333
    """
    mean = ema(decay, debias, accumulator_dtype)

    def init(params):
        return mean.init(_floats(measure(params)))

    return Optimizer(init, _averaging(measure, mean.update))
