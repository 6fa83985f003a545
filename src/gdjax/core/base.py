"""The pair and its state: the types that everything else is made of."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, Protocol, TypeGuard

import jax
import jax.core
import numpy as np
from jax import Array

from gdjax.core.types import OptState, P, Params, PyTree


class InitFn(Protocol):
    """Makes the state of an optimizer for given parameters."""

    def __call__(self, params: Params, /) -> OptState:
        """Return the state for `params`, a tree of arrays or of `jax.ShapeDtypeStruct`."""
        ...


class UpdateFn(Protocol):
    """One step: gradients in, updates to *add* to the parameters out."""

    def __call__(
        self, updates: P, state: OptState, params: Params = None, **extra: Any
    ) -> tuple[P, OptState]:
        """Return `(updates, state)`; `extra` is forwarded to whichever part asks for it by name."""
        ...


class InitUpdate(NamedTuple):
    """Two functions: gdjax's optimizers, and the transformations of `gdjax.compat.optax`."""

    init: InitFn
    update: UpdateFn


class Optimizer(InitUpdate):
    """A pair of pure functions; `new_params = params + updates`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> init, update = gdjax.sgd(0.5)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = update(jnp.array([1.0, 1.0]), init(params), params)
      >>> print(gdjax.apply_updates(params, updates))
      [0.5 1.5]
    """

    __slots__ = ()

    @property
    def __class__(self) -> type:
        """The class that `isinstance` also accepts: optax's, if the program has imported optax.

        Other libraries ask for optax's pairs by class. The class itself is `type(optimizer)`.
        """
        optax = sys.modules.get("optax")
        return getattr(optax, "GradientTransformationExtraArgs", type(self))

    def __repr__(self) -> str:
        """Name the update function, which says what the optimizer is."""
        return f"Optimizer({getattr(self.update, '__name__', self.update)})"


class State(NamedTuple):
    """The state of one optimizer or transform.

    Attributes:
      count: number of updates done so far, int32 scalar; stays at its maximum, 2**31 - 1. That
        of a wrapper does not count calls in which the optimizer inside takes no step.
      hyperparams: name -> number (a scalar of at least float32), schedule, or tree of those.
      slots: a NamedTuple of trees shaped like the parameters (`mu`, `nu`, ...), or `()`.
      rounding: "<name>_rounding" -> the exact decay minus the one stored, for each decay in
        `hyperparams`, in a tree of the same structure; see `gdjax.core.numerics.Decay`.
    """

    count: Array
    hyperparams: dict[str, PyTree]
    slots: PyTree
    rounding: dict[str, PyTree] = {}

    def __repr__(self) -> str:
        """Show the numbers; of the slots, how large they are."""
        numbers = ", ".join(f"{k}={short(v)}" for k, v in self.hyperparams.items())
        return f"State(count={short(self.count)}, {numbers or 'no numbers'}, {_of_slots(self)})"


def short(value: PyTree) -> str:
    """Return a value as a few words: a number as it is, an array or a tree by its size.

    Example:
      >>> import jax.numpy as jnp
      >>> print(short(jnp.array(0.5)), short({"a": jnp.ones((2, 3)), "b": jnp.ones(4)}))
      0.5 {2 arrays, 40 bytes}
      >>> print(short(jnp.ones((2, 3), jnp.bfloat16)))
      bfloat16[2, 3]
    """
    leaves = jax.tree.leaves(value)
    if jax.tree_util.all_leaves([value]) and hasattr(value, "dtype"):
        known = value.shape == () and isinstance(value, jax.Array | np.ndarray | np.generic)
        if (
            known
            and not isinstance(value, jax.core.Tracer)
            and getattr(value.dtype, "kind", " ") in "biufc"
        ):
            return f"{np.asarray(value).item():.6g}"
        return f"{value.dtype}{list(value.shape)}"
    if not any(hasattr(x, "dtype") for x in leaves):
        return text if len(text := repr(value)) <= 80 else "{no arrays}"
    total = sum(x.size * x.dtype.itemsize for x in leaves if hasattr(x, "dtype"))
    return f"{{{len(leaves)} arrays, {total:,} bytes}}"


def _of_slots(state: State) -> str:
    fields = getattr(state.slots, "_fields", ())
    if not fields:
        return "no slots" if state.slots == () else f"slots={short(state.slots)}"
    parts = (
        f"{k}={v!r}" if is_state(v) else f"{k}={short(v)}"
        for k, v in zip(fields, state.slots, strict=True)
    )
    return f"{type(state.slots).__name__}({', '.join(parts)})"


def is_state(node: object) -> TypeGuard[State]:
    """Return whether `node` is the state of one optimizer."""
    return isinstance(node, State)
