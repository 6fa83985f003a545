"""The pair and its state: the types that everything else is made of."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from typing import Any, NamedTuple, Protocol, Self, TypeGuard

import jax
import jax.core
import numpy as np
from jax import Array

from gdjax.core.pickling import reduced
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

    @property
    def __class__(self) -> type:
        """The class that `isinstance` also accepts: optax's, if the program has imported optax.

        Other libraries ask for optax's pairs by class. The class itself is `type(optimizer)`.
        """
        return getattr(sys.modules.get("optax"), "GradientTransformationExtraArgs", type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse: a pair never changes."""
        raise AttributeError(
            f"an optimizer never changes, so its {name!r} cannot be set. Its numbers are in the "
            "state: use gdjax.with_hyperparams(state, ...)."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Save the call that made the optimizer; see `gdjax.core.pickling`."""
        return reduced(self)

    def __copy__(self) -> Self:
        """Return the pair itself, which never changes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the pair itself, which never changes."""
        return self

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

    Slots and numbers are attributes, too, as they are kept: `state.mu`, `state.learning_rate`. If a
    slot and a number have the same name, it is the slot. `_replace` takes the four fields only.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> state = gdjax.adam(0.25).init(jnp.ones(2))
      >>> print(state.learning_rate, state.mu)
      0.25 [0. 0.]
    """

    count: Array
    hyperparams: dict[str, PyTree]
    slots: PyTree
    rounding: dict[str, PyTree] = {}

    def __getattr__(self, name: str) -> Any:
        """Return a slot, or a number, by its name."""
        if not name.startswith("_") and name not in OF_ARRAYS:
            if name in _fields_of(self.slots):
                return getattr(self.slots, name)
            if name in self.hyperparams:
                return self.hyperparams[name]
        raise AttributeError(_no_attribute(self, name), name=name, obj=self)

    def __dir__(self) -> list[str]:
        """List slots and numbers among the attributes."""
        return sorted({*object.__dir__(self), *_fields_of(self.slots), *self.hyperparams})

    def __repr__(self) -> str:
        """Show the numbers; of the slots, how large they are."""
        numbers = ", ".join(f"{k}={short(v)}" for k, v in self.hyperparams.items())
        return f"State(count={short(self.count)}, {numbers or 'no numbers'}, {_of_slots(self)})"


# What JAX and NumPy look for to find out whether an object is an array: a state has none of them.
OF_ARRAYS = frozenset("aval dtype itemsize nbytes ndim shape sharding size weak_type".split())


def _fields_of(slots: PyTree) -> tuple[str, ...]:
    """Return the names of the slots; none if they are the state of another optimizer, or a tree."""
    if dataclasses.is_dataclass(slots):
        return tuple(field.name for field in dataclasses.fields(slots))
    return () if is_state(slots) or not isinstance(slots, tuple) else getattr(slots, "_fields", ())


def _no_attribute(state: State, name: str) -> str:
    if name.startswith("_") or name in OF_ARRAYS:  # looked for by Python and JAX, not by a person
        return f"{type(state).__name__!r} object has no attribute {name!r}"
    kinds = {
        "fields": state._fields,
        "slots": _fields_of(state.slots),
        "numbers": tuple(state.hyperparams),
    }
    known = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names)
    near = difflib.get_close_matches(name, [x for names in kinds.values() for x in names], 1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return f"this state has no attribute {name!r}. It has the {known}.{meant}"


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
