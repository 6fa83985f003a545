"""optax's pairs, its empty states and the types that its users annotate with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import InitFn, InitUpdate, Optimizer, UpdateFn
from gdjax.core.types import Number, PyTree, Scalar, ScheduleFn

ArrayTree: TypeAlias = PyTree
Params: TypeAlias = PyTree
Updates: TypeAlias = PyTree
OptState: TypeAlias = PyTree
ScheduleState: TypeAlias = Any
PRNGKey: TypeAlias = Array
Shape: TypeAlias = Sequence[int]
NumLike: TypeAlias = Number
Schedule: TypeAlias = ScheduleFn
ScalarOrSchedule: TypeAlias = Scalar
MaskOrFn: TypeAlias = Any | Callable[[Params], Any] | None
TransformInitFn: TypeAlias = InitFn
TransformUpdateExtraArgsFn: TypeAlias = UpdateFn

NO_PARAMS_MSG = "This transformation needs the parameters: call update(updates, state, params)."


class TransformUpdateFn(Protocol):
    """The second function of a pair; it may take extra arguments, but need not."""

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, OptState]:
        """Return what to add to the parameters, and the next state."""
        ...


class _OfAnyLibrary(type):
    """Counts gdjax's own pairs, which take every extra argument, as pairs of both kinds."""

    def __instancecheck__(cls, pair: object) -> bool:
        ours = cls in (GradientTransformation, GradientTransformationExtraArgs)
        return super().__instancecheck__(pair) or ours and isinstance(pair, Optimizer)


class GradientTransformation(InitUpdate, metaclass=_OfAnyLibrary):
    """A pair of pure functions, `init(params)` and `update(updates, state, params=None)`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax, jax.numpy as jnp
      >>> def update(updates, state, params=None):
      ...     return jax.tree.map(jnp.sign, updates), state
      >>> tx = optax.GradientTransformation(optax.init_empty_state, update)
      >>> print(tx.update(jnp.array([3.0, -2.0]), tx.init(jnp.zeros(2)))[0])
      [ 1. -1.]
    """

    __slots__ = ()

    if TYPE_CHECKING:  # the field is an `UpdateFn`, so that any pair can be called with more

        def __new__(
            cls, init: TransformInitFn, update: TransformUpdateFn | TransformUpdateExtraArgsFn
        ) -> Self:
            """Return the pair."""
            ...


class GradientTransformationExtraArgs(GradientTransformation):
    """A pair whose `update` also takes keyword arguments, and ignores those it does not know."""

    __slots__ = ()


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


AdaptiveGradClipState: TypeAlias = EmptyState
AddDecayedWeightsState: TypeAlias = EmptyState
ClipByGlobalNormState: TypeAlias = EmptyState
ClipState: TypeAlias = EmptyState
NonNegativeParamsState: TypeAlias = EmptyState
ScaleByTrustRatioState: TypeAlias = EmptyState
ScaleState: TypeAlias = EmptyState


def init_empty_state(params: Params) -> EmptyState:
    """Return the empty state, whatever the parameters are."""
    return EmptyState()


def with_extra_args_support(tx: Any) -> GradientTransformationExtraArgs:
    """Return a pair whose `update` takes extra arguments, and drops them if `tx` takes none."""
    if isinstance(tx, GradientTransformationExtraArgs) and not isinstance(tx, Optimizer):
        return tx
    init, update = (tx.init, tx.update) if hasattr(tx, "init") else tx
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(update).parameters.values()):
        return GradientTransformationExtraArgs(init, update)

    def without_extra(updates, state, params=None, **extra_args):
        return update(updates, state, params)

    return GradientTransformationExtraArgs(init, without_extra)


def identity() -> GradientTransformation:
    """Return the updates as they are."""
    return stateless(lambda updates, params: updates)


def set_to_zero() -> GradientTransformation:
    """Return zeros, so that the parameters stay as they are."""
    return stateless(lambda updates, params: jax.tree.map(jnp.zeros_like, updates))


def stateless(f: Callable[[Updates, Params | None], Updates]) -> GradientTransformation:
    """Return the transformation that applies a function of the updates and the parameters.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.stateless(lambda updates, params: updates * 2)
      >>> print(tx.update(jnp.ones(2), None)[0])
      [2. 2.]
    """

    def update(updates, state, params=None):
        return f(updates, params), state

    return GradientTransformation(init_empty_state, update)


def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> GradientTransformation:
    """Return the transformation that applies a function to each update and its parameter."""

    def update(updates, state, params=None):
        if params is None:
            return jax.tree.map(lambda g: f(g, None), updates), state
        return jax.tree.map(f, updates, params), state

    return GradientTransformation(init_empty_state, update)


class StatefulSchedule(Protocol):
    """A value that depends on a state of its own, which `inject_hyperparams` updates each step."""

    def init(self) -> ScheduleState:
        """Return the state before the first step."""
        ...

    def update(self, state: ScheduleState, **extra_args: Any) -> ScheduleState:
        """Return the state after a step, of which `extra_args` are those of `update`."""
        ...

    def __call__(self, state: ScheduleState, **extra_args: Any) -> ArrayLike:
        """Return the value for the next step."""
        ...
