"""Measurements of the updates at one place of a chain, kept in the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.compat.optax.accumulation import ema
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    stateless,
    with_extra_args_support,
)
from gdjax.compat.optax.combine import chain
from gdjax.core.hyper import Placeholder
from gdjax.core.trees import derived
from gdjax.core.types import FloatDType, PyTree
from gdjax.transforms.measure import floats, strong


class SnapshotState(NamedTuple):
    """Name -> the last measurement."""

    measurement: dict[str, PyTree]


def snapshot(measure_name: str, measure: Callable[[Updates], PyTree]) -> GradientTransformation:
    """Return the updates as they are, and keep a measurement of them in the state.

    Args:
      measure_name: with it `optax.tree.get(state, measure_name)` finds the measurement.
      measure: a function of the updates; in `init`, of the parameters.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.snapshot("norm", optax.tree.norm)
      >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.ones(2)))
      >>> print(optax.tree.get(state, "norm"))
      5.0
    """

    def taken(tree: PyTree) -> SnapshotState:
        return SnapshotState({measure_name: strong(measure(tree))})

    def update(updates, state, params=None, **extra_args):
        return updates, taken(updates)

    return GradientTransformation(lambda params: derived(taken, params), update)


class MonitorState(NamedTuple):
    """What `monitor` remembers.

    Attributes:
      measurements: name -> the last measurement.
      measure_states: the states of the measures.
    """

    measurements: dict[str, PyTree]
    measure_states: tuple[OptState, ...]


def monitor(
    measures: Mapping[str, GradientTransformation | Callable[[Updates], PyTree]],
) -> GradientTransformationExtraArgs:
    """Return the updates as they are, and keep measurements that may have states of their own.

    Measurements are zero at first, where optax has none, so that the state keeps its structure.

    Args:
      measures: name -> function of the updates, or pair whose `update` returns a measurement, as
        `measure_with_ema` gives one.
    """
    pairs = {
        name: with_extra_args_support(
            stateless(lambda updates, _, measure=measure: measure(updates))
            if callable(measure)
            else measure
        )
        for name, measure in measures.items()
    }

    def measured(updates, states, params, extra_args):
        done = [
            pair.update(updates, state, params, **extra_args)
            for pair, state in zip(pairs.values(), states, strict=True)
        ]
        measurements = dict(zip(pairs, (strong(m) for m, _ in done), strict=True))
        return MonitorState(measurements, tuple(state for _, state in done))

    def init(params: Params) -> MonitorState:
        states = tuple(pair.init(params) for pair in pairs.values())
        if isinstance(params, Placeholder):  # of tree_map_params
            return MonitorState({}, states)
        try:
            like = jax.eval_shape(lambda p, s: measured(p, s, p, {}).measurements, params, states)
        except TypeError:  # a measure that needs an extra argument
            return MonitorState({}, states)
        return MonitorState(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like), states)

    def update(updates, state, params=None, **extra_args: Any):
        return updates, measured(updates, state.measure_states, params, extra_args)

    return GradientTransformationExtraArgs(init, update)


def measure_with_ema(
    measure: Callable[[Updates], PyTree],
    decay: Any,
    debias: bool = True,
    accumulator_dtype: FloatDType = None,
) -> GradientTransformationExtraArgs:
    """Average a measurement over the steps, for `monitor`.

    Args:
      measure: a function of the updates that returns a tree of numbers, also booleans.
      decay: see `ema`, like all further arguments.
      debias: see `ema`.
      accumulator_dtype: see `ema`.
    """
    mean = ema(decay, debias, accumulator_dtype)

    def init(params: Params) -> OptState:
        return mean.init(derived(lambda tree: floats(measure(tree)), params))

    first = stateless(lambda updates, params: floats(measure(updates)))
    return chain(first, mean._replace(init=init))
