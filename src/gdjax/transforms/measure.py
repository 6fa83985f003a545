"""Measure the updates at one place of a chain, and keep the measurements in the state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import checked, strict
from gdjax.core.lift import treewise
from gdjax.core.numerics import compute_dtype, upcast
from gdjax.core.remember import remembered_with_owners
from gdjax.core.trees import derived
from gdjax.core.types import FloatDType, OptState, Pair, Params, PyTree, Scalar, Updates
from gdjax.transforms.ema import ema

# A function of the updates, or an (init, update) pair that returns a measurement for the updates.
Measure: TypeAlias = Callable[[Updates], PyTree] | Pair


class Snapshot(NamedTuple):
    """What a snapshot remembers."""

    measurement: dict[str, PyTree]  # name -> the last measurement

    def metrics(self) -> dict[str, PyTree]:
        """Return the measurement, for `gdjax.metrics`."""
        return self.measurement


class Measured(NamedTuple):
    """What stateful measures remember."""

    measurements: dict[str, PyTree]  # name -> the last measurement; zeros at first
    measure_states: tuple[OptState, ...]  # state of each measure

    def metrics(self) -> dict[str, PyTree]:
        """Return the measurements, for `gdjax.metrics`."""
        return self.measurements


def strong(tree: PyTree) -> PyTree:
    """Return a copy of a tree of numbers as arrays that are not weakly typed."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x), copy=True), tree)


def _snapshot(grads, slots, params, count, *, measure_name, measure):
    return grads, Snapshot({measure_name: measure(grads)})


def _first_snapshot(name: str, measure: Callable[[Updates], PyTree], params: Params) -> Snapshot:
    return Snapshot({name: derived(lambda x: strong(measure(upcast(x))), params)})


@strict()
def snapshot(measure_name: str, measure: Callable[[Updates], PyTree]) -> Optimizer:
    """Measure the updates at this place of a chain, and return them unchanged.

    Args:
      measure_name: under which `gdjax.tree.get(state, measure_name)` and `gdjax.metrics(state)`
        find the last measurement.
      measure: `measure(updates)` returns a tree of numbers or arrays; the updates come in at least
        float32. At `init` it is given the parameters. A function is static.

    Returns:
      An `Optimizer`.
      State: what `measure` returns.

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


@remembered_with_owners
def _plain(measure: Callable[[Updates], PyTree]) -> Callable[..., tuple[PyTree, OptState]]:
    def update(updates, state, params=None, **extra):
        return measure(updates), state

    return update


def _as_pair(measure: Measure) -> Optimizer:
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


def _first_measured(
    names: tuple[str, ...], pairs: tuple[Optimizer, ...], params: Params
) -> Measured:
    params = derived(upcast, params)
    states = tuple(pair.init(params) for pair in pairs)
    shapes = [
        jax.eval_shape(lambda p, s, u=pair.update: strong(u(p, s, p)[0]), params, state)
        for pair, state in zip(pairs, states, strict=True)
    ]
    zeros = (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape) for shape in shapes)
    return Measured(dict(zip(names, zeros, strict=True)), states)


def measures(measures: dict[str, Measure]) -> Optimizer:
    """Return the transform that `gdjax.monitor(measures)` documents."""
    names = tuple(measures)
    pairs = tuple(_as_pair(measure) for measure in measures.values())
    slots = functools.partial(_first_measured, names, pairs)
    return treewise(
        _measured, slots, name="monitor", names=names, members=tuple(pair.update for pair in pairs)
    )


def floats(measurement: PyTree) -> PyTree:
    """Return a tree of numbers, also booleans, as floating-point arrays."""

    def up(x):
        x = jnp.asarray(x)
        return x.astype(compute_dtype(x))

    return jax.tree.map(up, measurement)


@remembered_with_owners
def _averaging(measure: Callable, update: Callable) -> Callable:
    def averaged(updates, state, params=None, **extra):
        return update(floats(measure(updates)), state)

    return averaged


@checked()
def measure_with_ema(
    measure: Callable[[Updates], PyTree],
    decay: Scalar,
    debias: bool = True,
    accumulator_dtype: FloatDType = None,
) -> Optimizer:
    """Average a measurement over the steps: a measure for `monitor`.

    Args:
      measure: `measure(updates)` returns a tree of numbers or arrays, also booleans.
      decay: see `ema`, like all other arguments.
      debias: see `ema`.
      accumulator_dtype: see `ema`.

    Returns:
      An `(init, update)` pair whose update returns the average, for `monitor` only.

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

    def init(params: Params) -> OptState:
        return mean.init(derived(lambda x: floats(measure(x)), params))

    return Optimizer(init, _averaging(measure, mean.update))
