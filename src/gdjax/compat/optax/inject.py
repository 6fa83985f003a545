"""Numbers in the state: `state.hyperparams["learning_rate"] = 0.1`."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Schedule,
    ScheduleState,
    StatefulSchedule,
    with_extra_args_support,
)
from gdjax.core.base import Optimizer
from gdjax.core.numerics import safe_increment, scalar_dtype
from gdjax.core.reading import with_hyperparams_of
from gdjax.core.types import DType


class InjectStatefulHyperparamsState(NamedTuple):
    """What `inject_hyperparams` remembers.

    Attributes:
      count: number of updates so far, int32.
      hyperparams: argument of the factory -> number; a scheduled one is that of the last update.
      hyperparams_states: the states of the schedules.
      inner_state: the state of the pair that the factory makes.
    """

    count: Array
    hyperparams: dict[str, Any]
    hyperparams_states: dict[str, ScheduleState]
    inner_state: OptState


class InjectHyperparamsState(NamedTuple):
    """The state of `inject_hyperparams` in old versions of optax, to annotate with."""

    count: Array
    hyperparams: dict[str, Any]
    inner_state: OptState


class WrappedScheduleState(NamedTuple):
    """The number of steps so far, int32."""

    count: Array


class WrappedSchedule:
    """A schedule of the count as a `StatefulSchedule`.

    Example:
      >>> from gdjax.compat import optax
      >>> wrapped = optax.WrappedSchedule(optax.linear_schedule(1.0, 0.0, 4))
      >>> print(wrapped(wrapped.update(wrapped.init())))
      0.75
    """

    def __init__(self, schedule_fn: Schedule):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        """Return a count of 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        """Return the next count."""
        return WrappedScheduleState(safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        """Return the schedule's value at the count."""
        return self.schedule_fn(state.count)


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DType = None,
) -> Callable[..., GradientTransformationExtraArgs]:
    """Keep the numbers that a factory is given in `state.hyperparams`, by its arguments' names.

    A number there may be replaced, without a new compile; a scheduled one is that of the last
    update, and writing to it has no effect. Inside of jit, nor has writing to an integer whose
    default is an integer, such as Muon's `ns_steps`. In gdjax itself the numbers of every optimizer
    are in the state: see `gdjax.with_hyperparams`.

    Numbers are float32 at least, where optax rounds them to the parameters' dtype: 0.999 is 1 in
    bfloat16.

    Args:
      inner_factory: a function that returns a pair, of optax or of gdjax. It is called in each
        `init` and `update`, with the numbers as arrays.
      static_args: names of arguments that are functions, integers or arrays, but no schedules or
        numbers.
      hyperparam_dtype: dtype of the floating-point numbers; None is float32, or float64 with x64.

    Returns:
      A factory with the same arguments, whose numbers may be schedules of the step count, or
      `StatefulSchedule`s.

    Raises:
      ValueError: if `static_args` has a name that is no argument.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> def factory(rate, ratio):
      ...     return optax.adamw(rate, weight_decay=ratio * rate)
      >>> tx = optax.inject_hyperparams(factory)(rate=lambda t: 0.1 * 0.5**t, ratio=0.5)
      >>> params = jnp.ones(1)
      >>> state = tx.init(params)
      >>> state.hyperparams["ratio"] = 0.0
      >>> updates, state = tx.update(params, state, params)
      >>> updates, state = tx.update(params, state, params)
      >>> print(updates, state.hyperparams["rate"])
      [-0.05] 0.05
    """
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    if unknown := static - signature.parameters.keys():
        raise ValueError(
            f"inject_hyperparams(static_args=...) names {', '.join(sorted(unknown))}, but the "
            f"factory's arguments are {', '.join(signature.parameters)}."
        )

    @functools.wraps(inner_factory)
    def build(*args: Any, **kwargs: Any) -> GradientTransformationExtraArgs:
        fixed, numbers, schedules = _sorted(static, _arguments(signature, args, kwargs))

        def current(states: dict[str, ScheduleState], **extra_args: Any) -> dict[str, Array]:
            return {k: _number(s(states[k], **extra_args)) for k, s in schedules.items()}

        def _number(value: Any) -> Array:
            value = jnp.array(value, copy=True)  # the state may be donated
            if jnp.issubdtype(value.dtype, jnp.floating):
                return value.astype(hyperparam_dtype or scalar_dtype())
            return value.astype(value.dtype)  # not weakly typed

        def make(kept: dict[str, Array]) -> GradientTransformation:
            whole = {k: v for k, v in numbers.items() if _is_whole(v, signature.parameters.get(k))}
            known = {k: int(v) for k, v in kept.items() if k in whole and _is_known(v)}
            return inner_factory(**{**fixed, **kept, **whole, **known})

        def init(params: Params) -> InjectStatefulHyperparamsState:
            states = {k: s.init() for k, s in schedules.items()}
            kept = {k: _number(v) for k, v in numbers.items()} | current(states)
            inner = make(kept).init(params)
            return InjectStatefulHyperparamsState(jnp.zeros((), jnp.int32), kept, states, inner)

        def update(updates, state, params=None, **extra_args):
            states = state.hyperparams_states
            kept = {k: _number(v) for k, v in state.hyperparams.items()}
            kept |= current(states, **extra_args)
            pair, inner = make(kept), state.inner_state
            if isinstance(pair, Optimizer):
                inner = with_hyperparams_of(inner, pair, updates if params is None else params)
            pair = with_extra_args_support(pair)
            updates, inner = pair.update(updates, inner, params, **extra_args)
            states = {k: s.update(states[k], **extra_args) for k, s in schedules.items()}
            count = safe_increment(state.count)
            return updates, InjectStatefulHyperparamsState(count, kept, states, inner)

        return GradientTransformationExtraArgs(init, update)

    return build


def inject_stateful_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DType = None,
) -> Callable[..., GradientTransformationExtraArgs]:
    """Do what `inject_hyperparams` does; deprecated, as in optax."""
    warnings.warn(
        "inject_stateful_hyperparams is deprecated: use inject_hyperparams.",
        DeprecationWarning,
        stacklevel=2,
    )
    return inject_hyperparams(inner_factory, static_args, hyperparam_dtype)


def _arguments(signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    named = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(name)
    return named


def _is_whole(value: Any, parameter: inspect.Parameter | None) -> bool:
    default = None if parameter is None else parameter.default
    return all(isinstance(x, int) and not isinstance(x, bool) for x in (value, default))


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _sorted(
    static: set[str], arguments: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, StatefulSchedule]]:
    """Return what is neither, the numbers, and the schedules."""
    fixed, numbers, schedules = {}, {}, {}
    for name, value in arguments.items():
        if name in static or isinstance(value, bool):
            fixed[name] = value
        elif callable(value):
            is_stateful = not isinstance(value, type) and callable(getattr(value, "init", None))
            schedules[name] = value if is_stateful else WrappedSchedule(value)
        elif isinstance(value, (int, float, jax.Array, np.ndarray, np.number)):
            numbers[name] = value
        else:
            fixed[name] = value
    return fixed, numbers, schedules
