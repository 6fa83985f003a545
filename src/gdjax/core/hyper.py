"""Numbers are data: how a hyperparameter enters the state, and is read in a step.

A hyperparameter is a number, a `Schedule`, or a prefix tree of those over the parameters; two
nodes, `ByPath` and `Masked`, say per leaf which number holds. All of them are pytrees whose
numbers are leaves; everything else about them (patterns, masks, functions) is static.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import scalar_dtype
from gdjax.core.remember import as_static
from gdjax.core.types import Hyperparam, Number, Params, PyTree, ScheduleFn

S = TypeVar("S")

# --- schedules ----------------------------------------------------------------------------------


class Schedule:
    """A pytree that is a function of the step count. The first update uses `schedule(0)`.

    Subclass with the `schedule` decorator; the fields are leaves, and so may be traced, vmapped and
    differentiated. Fields made with `dataclasses.field(metadata={"static": True})` are static.

    Example:
      >>> import gdjax, jax
      >>> @gdjax.schedule
      ... class Inverse(gdjax.Schedule):
      ...     peak: float
      ...     def __call__(self, count):
      ...         return self.peak / (1 + count)
      >>> print(Inverse(1.0)(3), jax.tree.leaves(Inverse(1.0)))
      0.25 [1.0]
    """

    def __call__(self, count: Number) -> Array:
        """Return the value for update number `count`, where 0 is the first."""
        raise TypeError(f"{type(self).__name__} does not define __call__(count)")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def schedule(cls: type[S]) -> type[S]:
    """Make `cls` a frozen dataclass that JAX knows as a pytree; its fields are leaves."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    static = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]
    data = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(made, data, static)


@schedule
class FunctionSchedule(Schedule):
    """A user's own callable pytree, whose leaves are leaves."""

    function: ScheduleFn

    def __call__(self, count: Number) -> Array:
        """Return `function(count)`."""
        return self.function(count)


@dataclasses.dataclass(frozen=True, eq=False)
class PlainFunction(FunctionSchedule):
    """A user's own function; it has no leaves."""


jax.tree_util.register_pytree_with_keys(
    PlainFunction,
    lambda node: ((), as_static(node.function)),
    lambda static, _: PlainFunction(static.function),
    lambda node: ((), as_static(node.function)),
)


# --- one number per leaf --------------------------------------------------------------------------


class PerLeaf:
    """Base of nodes that say for each parameter leaf which value holds there."""

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return one value for each parameter, whose paths are `names`."""
        raise TypeError(f"{type(self).__name__} does not define per_leaf")


@jax.tree_util.register_pytree_with_keys_class
class ByPath(PerLeaf):
    """Pattern -> value; see `by_path`."""

    def __init__(self, patterns: tuple[str, ...], values: tuple[Any, ...]):
        self.patterns, self.values = patterns, values

    def tree_flatten_with_keys(self):
        """Return the values as children, the patterns as static data."""
        keys = map(jax.tree_util.DictKey, self.patterns)
        return tuple(zip(keys, self.values, strict=True)), self.patterns

    @classmethod
    def tree_unflatten(cls, patterns, values):
        """Rebuild from static data and children."""
        return cls(patterns, tuple(values))

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return the value of the first pattern that matches, for each path."""
        return [self.values[self._match(name)] for name in names]

    def _match(self, name: str) -> int:
        bare = name.removesuffix("/value")  # Flax NNX has each parameter in a box of that name
        for i, pattern in enumerate(self.patterns):
            if re.fullmatch(pattern, name) or re.fullmatch(pattern, bare):
                return i
        raise ValueError(
            f"by_path: no pattern of {list(self.patterns)} matches the parameter {name!r}. "
            'Add a last rule, with the pattern r".*", for the rest.'
        )

    def __repr__(self) -> str:
        """Show patterns and values as a dict."""
        return f"by_path({dict(zip(self.patterns, self.values, strict=True))})"


@jax.tree_util.register_pytree_with_keys_class
class Masked(PerLeaf):
    """One value for the leaves where `mask` is true, None (no such term) for the others."""

    def __init__(self, value: PyTree, mask: tuple[bool, ...]):
        self.value, self.mask = value, mask

    def tree_flatten_with_keys(self):
        """Return the value as the only child, the mask as static data."""
        return ((jax.tree_util.GetAttrKey("value"), self.value),), self.mask

    @classmethod
    def tree_unflatten(cls, mask, children):
        """Rebuild from static data and child."""
        return cls(children[0], mask)

    def choose(self, values: list[Any]) -> list[Any]:
        """Return the value or None for each leaf, given the values without the mask."""
        if len(values) != len(self.mask):
            raise ValueError(f"the mask has {len(self.mask)} leaves, the tree {len(values)}")
        return [value if on else None for value, on in zip(values, self.mask, strict=True)]


def by_path(rules: Mapping[str, Any]) -> ByPath:
    r"""Set a hyperparameter per parameter, by regular expressions over the parameters' paths.

    Args:
      rules: pattern -> number or schedule, or None to switch the term off there. A parameter's path
        joins its keys with "/": `params["layers"][0]["bias"]` is "layers/0/bias". The first pattern
        that matches the whole path wins. A last "/value", as in Flax NNX, may be left out.

    Returns:
      A value for any hyperparameter of any optimizer; the numbers in it are leaves of the state.

    Raises:
      ValueError: at `init`, if a parameter matches no pattern.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
      >>> opt = gdjax.sgd(gdjax.by_path({r".*bias": 0.0, r".*": 0.1}))
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["kernel"], updates["bias"])
      [-0.1 -0.1] [-0. -0.]
    """
    if not rules:
        raise ValueError("by_path(rules=...) must have at least one rule, got {}.")
    for pattern in rules:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"by_path: {pattern!r} is not a regular expression: {error}") from None
    return ByPath(tuple(rules), tuple(rules.values()))


# --- into the state -------------------------------------------------------------------------------


def is_value(node: object) -> bool:
    """Return whether `node` is one value of a prefix tree: None, a schedule, or a function."""
    if node is None or isinstance(node, Schedule):
        return True
    return callable(node) and jax.tree_util.all_leaves([node])


def as_array(what: str, x: object, scalar: bool = False) -> Array:
    """Return a number or an array as a strong array, of shape () if it must be a scalar.

    `what` names it in errors.
    """
    if isinstance(x, (bool, str, bytes)):
        raise TypeError(f"{what} must be a number, an array or a schedule, got {x!r}.")
    try:  # a copy: the state may be donated, the user's own array not
        x = jnp.array(x, scalar_dtype(), copy=True)
    except TypeError:
        raise TypeError(
            f"{what} must be a number, an array or a schedule, got {type(x).__name__}."
        ) from None
    if scalar and x.ndim:
        raise ValueError(
            f"{what} must be one number, got an array of shape {x.shape}. For a grid of values "
            "vmap over init: jax.vmap(lambda h: optimizer(h).init(params))(values)."
        )
    return x


def as_hyper(what: str, value: Hyperparam | None, params: Params = None) -> PyTree:
    """Return the form in which `value` is kept in the state: strong arrays of at least float32.

    `what` names the argument in errors. `params`, if given, says which pytrees are prefix trees
    over the parameters, and is checked against them.
    """
    if value is None:
        return None
    if isinstance(value, Schedule):
        return jax.tree.map(lambda x: as_array(what, x), value)
    if isinstance(value, PerLeaf):
        return jax.tree.map(lambda x: as_hyper(what, x), value, is_leaf=lambda x: x is not value)
    if jax.tree_util.all_leaves([value]):
        if callable(value):
            return PlainFunction(value)
        return as_array(what, value, scalar=True)
    if callable(value) and type(value) is not type(params):
        return FunctionSchedule(jax.tree.map(lambda x: as_array(what, x), value))
    if params is not None:
        spread(what, value, params)
    return jax.tree.map(lambda x: as_hyper(what, x), value, is_leaf=is_value)


@jax.tree_util.register_pytree_node_class
class Placeholder:
    """A placeholder for a tree of parameters: `init` of it shows where a state has such trees."""

    def tree_flatten(self):
        """Return no children: what maps over leaves keeps the node."""
        return (), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild from nothing."""
        return cls()


def spread(what: str, value: PyTree, tree: PyTree) -> list[Any]:
    """Return the value of a prefix tree for each leaf of `tree`."""
    if isinstance(tree, Placeholder):
        return []
    values: list[Any] = []
    try:
        jax.tree.map(
            lambda v, part: values.extend([v] * len(jax.tree.leaves(part))),
            value,
            tree,
            is_leaf=is_value,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{what} is a tree that is no prefix of the parameters: "
            f"{jax.tree.structure(value, is_leaf=is_value)} over {jax.tree.structure(tree)}. "
            f"{error}"
        ) from None
    return values


# --- in a step ------------------------------------------------------------------------------------


def value_at(value: PyTree, count: Array) -> PyTree:
    """Return `value` with every schedule in it replaced by what it gives at `count`."""
    return jax.tree.map(
        lambda x: jnp.asarray(x(count), scalar_dtype()) if isinstance(x, Schedule) else x,
        value,
        is_leaf=lambda x: isinstance(x, Schedule),
    )


def leaf_values(what: str, value: PyTree, tree: PyTree, count: Array | None = None) -> list[Any]:
    """Return the number for each leaf of `tree`; None where off.

    Args:
      what: names the number in errors.
      value: a number, a schedule or a prefix tree of those, as it is kept in a state.
      tree: the parameters, or a tree like them.
      count: the step at which schedules are evaluated; None leaves them as they are.
    """
    if value is None or jax.tree_util.all_leaves([value]):
        return [value] * len(jax.tree.leaves(tree))
    if count is not None:
        value = value_at(value, count)
    if isinstance(value, Masked):  # over a number, a schedule, or again one number per leaf
        return value.choose(leaf_values(what, value.value, tree))
    if isinstance(value, PerLeaf):
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        return value.per_leaf(tuple(path_name(path) for path, _ in paths))
    if isinstance(value, Schedule) or jax.tree_util.all_leaves([value]):
        return [value] * len(jax.tree.leaves(tree))
    return spread(what, value, tree)


def path_name(path: tuple[Any, ...]) -> str:
    """Return the path of a leaf as a string, keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
