"""The pair and its state: the types that everything else is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jax import Array

if TYPE_CHECKING:  # for type checkers only: importing chex costs as much as the rest of gdjax
    from chex import ArrayTree
else:
    ArrayTree = Any

# What users of optax annotate with.
Params = ArrayTree
Updates = ArrayTree
OptState = ArrayTree
ScalarOrSchedule = float | Array | Callable[[Any], Any]
MaskOrFn = Any | Callable[[Any], Any] | None


class InitFn(Protocol):
    """Makes the state of an optimizer for given parameters."""

    def __call__(self, params: Any, /) -> Any:
        """Return the state for `params`, a tree of arrays or of `jax.ShapeDtypeStruct`."""
        ...


class UpdateFn(Protocol):
    """One step: gradients in, updates to *add* to the parameters out."""

    def __call__(
        self, updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        """Return `(updates, state)`; `extra` is forwarded to whichever part asks for it by name."""
        ...


class Optimizer(NamedTuple):
    """A pair of pure functions; `new_params = params + updates`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> init, update = gdjax.sgd(0.5)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = update(jnp.array([1.0, 1.0]), init(params), params)
      >>> print(gdjax.apply_updates(params, updates))
      [0.5 1.5]
    """

    init: InitFn
    update: UpdateFn


class State(NamedTuple):
    """The state of one optimizer or transform.

    Attributes:
      count: number of updates done so far, int32 scalar; stays at its maximum, 2**31 - 1.
      hyperparams: name -> number (a scalar of at least float32), schedule, or tree of those.
      slots: a NamedTuple of trees shaped like the parameters (`mu`, `nu`, ...), or `()`.
    """

    count: Array
    hyperparams: dict[str, Any]
    slots: Any


def is_state(node: Any) -> bool:
    """Return whether `node` is the state of one optimizer."""
    return isinstance(node, State)


# Under optax's names: one type serves both, since every update here takes extra arguments, and
# `chain` gives foreign ones the ability.
GradientTransformation = Optimizer
GradientTransformationExtraArgs = Optimizer
TransformInitFn = InitFn
TransformUpdateFn = UpdateFn
TransformUpdateExtraArgsFn = UpdateFn
