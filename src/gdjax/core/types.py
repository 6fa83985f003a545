"""What arguments may be: the aliases that annotate every public function.

They are names for readers and type checkers, and `gdjax.core.kinds` holds the callers of a public
function to those that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, ForwardRef, Protocol, TypeAlias, TypeVar, Union

import numpy as np
from jax import Array
from jax.typing import DTypeLike

if TYPE_CHECKING:
    from gdjax.core.hyper import PerLeaf
else:  # hyper imports this file; tools that evaluate annotations look it up there
    PerLeaf = ForwardRef("PerLeaf", module="gdjax.core.hyper")


class Dataclass(Protocol):
    """An instance of a dataclass: an Equinox module, a Flax struct, a chex dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


P = TypeVar("P")  # the type of the parameters, which gradients and updates share
T = TypeVar("T")

# --- trees ---

PyTree: TypeAlias = Any  # a tree of arrays; any container that JAX knows, or an array by itself
ArrayTree: TypeAlias = PyTree  # one whose leaves are arrays or numbers; checked where it says so
Params: TypeAlias = PyTree  # the parameters
Updates: TypeAlias = PyTree  # gradients or updates, shaped like the parameters
TreeDef: TypeAlias = Any  # jax.tree_util.PyTreeDef, which type checkers see as a variable
OptState: TypeAlias = PyTree  # the state of an optimizer

# --- numbers that steer an optimizer ---

Number: TypeAlias = float | int | Array | np.ndarray | np.number  # one number, maybe traced
ScheduleFn: TypeAlias = Callable[[Any], Any]  # of the step count; `gdjax.Schedule` is one
Scalar: TypeAlias = Number | ScheduleFn  # one number for the whole tree, maybe scheduled
PrefixTree: TypeAlias = Union[  # noqa: UP007 (a reference ahead has no |)
    Mapping[Any, Any], list[Any], tuple[Any, ...], Dataclass, PerLeaf
]
Hyperparam: TypeAlias = Scalar | PrefixTree  # one number, or one for each part of the tree

# --- what is static ---

Mask: TypeAlias = bool | PrefixTree | Callable[[Any], Any] | None  # which leaves take part
DType: TypeAlias = DTypeLike | None  # None is the default that the docstring names
FloatDType: TypeAlias = DTypeLike | None  # a real floating one of at least 16 bits, or None
SlotDType: TypeAlias = DTypeLike  # of a slot, also the name of a code; see `with_slot_dtypes`
Key: TypeAlias = int | Array  # a seed, or a key of jax.random
KeyArray: TypeAlias = Array  # a key of jax.random
AxisName: TypeAlias = str | tuple[str, ...] | None  # of `vmap`, `pmap` or `shard_map`

# --- functions ---

Rule: TypeAlias = Callable[..., tuple[Any, Any]]  # of one array or tree; see `leafwise`
LossFn: TypeAlias = Callable[..., Any]  # (params, ...) -> a real scalar, or (scalar, aux)
Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]  # (init, update), ours or foreign
