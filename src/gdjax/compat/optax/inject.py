"""optax's way to keep hyperparameters in the state: `state.hyperparams["learning_rate"] = 0.1`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer, State, is_state
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_state
from gdjax.core.hyper import as_hyper
from gdjax.core.lift import compiled
from gdjax.core.numerics import cast_like, safe_increment, scalar_dtype
from gdjax.core.protocols import took_step
from gdjax.core.remember import remembered_with_owners, whole
from gdjax.core.types import DType, OptState, Pair, Params

Q = ParamSpec("Q")


class Injected(NamedTuple):
    """What is remembered in addition to the numbers."""

    schedules: dict[str, Any]  # the schedules; of stateful ones, their states
    inner_state: OptState  # state of the optimizer that the factory makes


def _is_stateful(x: object) -> bool:
    return not isinstance(x, type) and callable(getattr(x, "init", None)) and callable(x)


def _current(
    schedules: dict[str, Any],
    stateful: dict[str, Any],
    count: Array,
    dtype: DType,
    extra: dict[str, Any],
) -> dict[str, Array]:
    values = {
        name: stateful[name](s, **extra) if name in stateful else s(count)
        for name, s in schedules.items()
    }
    return {name: jnp.asarray(value, dtype) for name, value in values.items()}


def _with_numbers_of(fresh: OptState, old: OptState) -> OptState:
    """Return `old`, counts and slots, with the hyperparameters of a fresh state."""

    def part(new, old):
        if not is_state(new):
            return old
        return new._replace(count=old.count, slots=_with_numbers_of(new.slots, old.slots))

    return jax.tree.map(part, fresh, old, is_leaf=is_state)


def _make_update(
    factory: Callable[..., Pair],
    fixed: tuple[tuple[str, Any], ...],
    stateful: tuple[tuple[str, Any], ...],
    names: tuple[str, ...],
    dtype: DType,
) -> Callable[..., Any]:
    def inject_hyperparams(updates, state, params=None, **extra):
        check_state("inject_hyperparams", state, names, Injected)
        schedules, inner = state.slots
        kind = dtype or scalar_dtype()
        numbers = {k: jnp.asarray(v, kind) for k, v in state.hyperparams.items()}
        numbers |= _current(schedules, dict(stateful), state.count, kind, extra)
        optimizer = with_extra_args_support(factory(**dict(whole(fixed)), **numbers))
        fresh = optimizer.init(updates if params is None else params)
        inner = _with_numbers_of(fresh, inner)
        updates, new = optimizer.update(updates, inner, params, **extra)
        moved = {k: s.update(schedules[k], **extra) for k, s in stateful}
        slots = Injected(schedules | moved, cast_like(new, inner))
        took = took_step(slots)
        count = safe_increment(state.count)
        count = count if took is None else jnp.where(took, count, state.count)
        return updates, State(count, numbers, slots)

    return compiled(inject_hyperparams, "inject_hyperparams")


_remembered_update = remembered_with_owners(_make_update)


def inject_hyperparams(
    inner_factory: Callable[Q, Pair],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DType = None,
) -> Callable[Q, Optimizer]:
    """Keep the numbers that a factory is given in `state.hyperparams`, by its arguments' names.

    gdjax's own factories do not need it: `gdjax.hyperparams` and `gdjax.with_hyperparams` read
    and write the numbers of any state. It is here for code that is written for optax, and for
    factories whose arguments are not hyperparameters themselves, as below.

    Numbers are float32 at least, where optax rounds them to the parameters' dtype. A scheduled
    number is that of the last update, as in optax, and writing to it has no effect.

    Args:
      inner_factory: a function that returns an `(init, update)` pair, of gdjax or of optax. It is
        called again in each trace, with traced numbers.
      static_args: names of arguments that are functions or integers but not schedules or numbers.
      hyperparam_dtype: dtype of the numbers; None is float32, or float64 with x64.

    Returns:
      A factory with the same arguments, whose numbers may be schedules of the step count, or
      `StatefulSchedule`s.

    Raises:
      ValueError: if `static_args` has a name that is not an argument.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> def factory(rate, ratio):
      ...     return optax.adamw(rate, weight_decay=ratio * rate)
      >>> opt = optax.inject_hyperparams(factory)(rate=lambda t: 0.1 * 0.5**t, ratio=0.5)
      >>> params = jnp.ones(1)
      >>> state = opt.init(params)
      >>> state.hyperparams["ratio"] = 0.0
      >>> updates, state = opt.update(params, state, params)
      >>> updates, state = opt.update(params, state, params)
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
    def build(*args: Q.args, **kwargs: Q.kwargs) -> Optimizer:
        numbers, schedules, stateful, fixed = {}, {}, {}, {}
        for name, value in _arguments(signature, args, kwargs).items():
            if name in static or isinstance(value, bool):
                fixed[name] = value
            elif _is_stateful(value):
                stateful[name] = value
            elif callable(value):
                schedules[name] = value
            elif isinstance(value, (int, float, jax.Array, np.ndarray, np.number)):
                numbers[name] = value
            else:
                fixed[name] = value

        def init(params: Params) -> State:
            dtype = hyperparam_dtype or scalar_dtype()
            count = jnp.zeros((), jnp.int32)
            kept = {k: as_hyper(f"inject_hyperparams({k}=...)", s) for k, s in schedules.items()}
            kept |= {k: s.init() for k, s in stateful.items()}
            start = {k: jnp.array(v, dtype, copy=True) for k, v in numbers.items()}
            start |= _current(kept, stateful, count, dtype, {})
            make: Callable[..., Pair] = inner_factory
            inner = with_extra_args_support(make(**fixed, **start)).init(params)
            return State(count, start, Injected(kept, inner))

        names = tuple(sorted(numbers | schedules | stateful))
        parts = tuple(fixed.items()), tuple(stateful.items()), names
        key = inner_factory, *parts, hyperparam_dtype
        return Optimizer(init, _remembered_update(*key))

    return build


def _arguments(signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    named = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(name)
    return named
