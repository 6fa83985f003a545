"""Numbers are data: how a hyperparameter enters the state, and is read in a step.

A hyperparameter is a number, a `Schedule`, or a prefix tree of those over the parameters; two
nodes, `ByPath` and `Masked`, say per leaf which number holds. All of them are pytrees whose
numbers are leaves; everything else about them (patterns, masks, functions) is static.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import State
from gdjax.core.flax_details import serialized
from gdjax.core.numerics import Decay, scalar_dtype
from gdjax.core.remember import as_static, register_node
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

    one_number: ClassVar[bool] = True  # whether a value is one number, not an array
    lengths: ClassVar[tuple[str, ...] | None] = None  # fields in steps; None: see `in_epochs`

    def __call__(self, count: Number) -> Array:
        """Return the value for update number `count`, where 0 is the first."""
        raise TypeError(f"{type(self).__name__} does not define __call__(count)")


class DecaySchedule(Schedule):
    """A schedule of a decay that knows all digits of 1 minus its value; see `Decay`."""

    def decay(self, count: Number) -> Decay:
        """Return the decay for update number `count`."""
        raise TypeError(f"{type(self).__name__} does not define decay(count)")

    def __call__(self, count: Number) -> Array:
        """Return the decay for update number `count` as an array, which rounds it."""
        return self.decay(count).value


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def schedule(cls: type[S]) -> type[S]:
    """Make `cls` a frozen dataclass that JAX knows as a pytree; its fields are leaves."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    static = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]
    data = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    return register_node(made, data_fields=data, meta_fields=static)


@schedule
class FunctionSchedule(Schedule):
    """A user's own callable pytree, whose leaves are leaves."""

    function: ScheduleFn

    def __call__(self, count: Number) -> Array:
        """Return `function(count)`."""
        return self.function(count)


@serialized
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

    def over(self, what: str, tree: PyTree) -> list[Any]:
        """Return one value for each leaf of a tree; `what` names the number in errors."""
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        return self.per_leaf(tuple(path_name(path) for path, _ in paths))

    def check_used(self, what: str, tree: PyTree) -> None:
        """Raise if a part of this can apply to no parameter of the tree; `what` is for errors."""


@serialized
@jax.tree_util.register_pytree_with_keys_class
class ByPath(PerLeaf):
    """Pattern -> value; see `by_path`."""

    def __init__(
        self, patterns: tuple[str, ...], values: tuple[Any, ...], allow_unused: bool = False
    ):
        self.patterns, self.values, self.allow_unused = patterns, values, allow_unused

    def tree_flatten_with_keys(self):
        """Return the values as children, the patterns as static data."""
        keys = map(jax.tree_util.DictKey, self.patterns)
        return tuple(zip(keys, self.values, strict=True)), (self.patterns, self.allow_unused)

    @classmethod
    def tree_unflatten(cls, static, values):
        """Rebuild from static data and children."""
        return cls(static[0], tuple(values), static[1])

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return the value of the first pattern that matches, for each path."""
        found = [first_match(self.patterns, name) for name in names]
        for i, name in zip(found, names, strict=True):
            if i is None:
                raise ValueError(
                    f"by_path: no pattern of {list(self.patterns)} matches the parameter {name!r}. "
                    'Add a last rule, with the pattern r".*", for the rest.'
                )
        return [self.values[i] for i in found if i is not None]

    def check_used(self, what: str, tree: PyTree) -> None:
        """Raise if a pattern is the first match of no parameter; see `by_path`."""
        if not self.allow_unused:
            check_patterns(what, self.patterns, tree)

    def __repr__(self) -> str:
        """Show patterns and values as a dict."""
        return f"by_path({dict(zip(self.patterns, self.values, strict=True))})"


@serialized
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

    def over(self, what: str, tree: PyTree) -> list[Any]:
        """Return the value or None for each leaf of a tree."""
        return self.choose(leaf_values(what, self.value, tree))


def by_path(rules: Mapping[str, Any], *, allow_unused: bool = False) -> ByPath:
    r"""Set a hyperparameter per parameter, by regular expressions over the parameters' paths.

    Args:
      rules: pattern -> number or schedule, or None to switch the term off there. A parameter's path
        joins its keys with "/": `params["layers"][0]["bias"]` is "layers/0/bias". The first pattern
        that matches the whole path wins. A last "/value", as in Flax NNX, may be left out.
      allow_unused: whether a pattern may apply to no parameter, for a recipe that serves several
        models. If false, such a pattern is an error at `init`, since it usually is a typing error.
        The last pattern may always be left with nothing to do if it matches every path, as r".*"
        for the rest does. A parameter that is None counts: a rule may be for another group.

    Returns:
      A value for any hyperparameter of any optimizer; the numbers in it are leaves of the state.

    Raises:
      TypeError: if the rules are no dict of strings.
      ValueError: if a pattern is not a regular expression; at `init`, if a parameter matches no
        pattern, or a pattern applies to no parameter (with the paths that there are).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
      >>> opt = gdjax.sgd(gdjax.by_path({r".*bias": 0.0, r".*": 0.1}))
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["kernel"], updates["bias"])
      [-0.1 -0.1] [-0. -0.]
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"by_path(rules=...) must be a dict, pattern -> value, got {type(rules).__name__}."
        )
    if not isinstance(allow_unused, bool):
        raise TypeError(f"by_path(allow_unused=...) must be True or False, got {allow_unused!r}.")
    if not rules:
        raise ValueError("by_path(rules=...) must have at least one rule, got {}.")
    for pattern in rules:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"by_path(rules=...): {pattern!r} is not a regular expression: {error}"
            ) from None
    return ByPath(tuple(rules), tuple(rules.values()), allow_unused)


def first_match(patterns: tuple[str, ...], name: str) -> int | None:
    """Return which pattern is the first to match a whole path, or None."""
    return next((i for i, pattern in enumerate(patterns) if _matches(pattern, name)), None)


def _matches(pattern: str, name: str) -> bool:
    bare = name.removesuffix("/value")  # Flax NNX has each parameter in a box of that name
    return bool(re.fullmatch(pattern, name) or re.fullmatch(pattern, bare))


def is_left_out(node: object) -> bool:
    """Return whether a node stands for a parameter that is not there: None, or optax's MaskedNode.

    Example:
      >>> from typing import NamedTuple
      >>> class Nothing(NamedTuple): ...
      >>> is_left_out(None), is_left_out(Nothing()), is_left_out(())
      (True, True, False)
    """
    return node is None or (isinstance(node, tuple) and not node and hasattr(node, "_fields"))


def check_patterns(what: str, patterns: tuple[str, ...], tree: PyTree) -> None:
    """Raise if a pattern is the first to match for no path of a tree; see `by_path`.

    What is left out counts: in a group, it stands for the parameters of other groups.
    """
    if isinstance(tree, Placeholder) or not jax.tree.leaves(tree):
        return
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_left_out)[0]
    names = [path_name(path) for path, _ in paths]
    used = {first_match(patterns, name) for name in names}
    for i, pattern in enumerate(patterns):
        if i in used:
            continue
        matched = [name for name in names if _matches(pattern, name)]
        if i == len(patterns) - 1 and len(matched) == len(names):
            continue  # the rest, of which there is none
        way_out = "for a recipe that serves several models pass allow_unused=True."
        if matched:
            earlier = patterns[first_match(patterns, matched[0]) or 0]
            raise ValueError(
                f"{what}: the pattern {pattern!r} is never used: the first pattern that matches "
                f"wins, and {matched[0]!r} matches {earlier!r} before it. Put it first, or "
                f"{way_out}"
            )
        raise ValueError(
            f"{what}: the pattern {pattern!r} matches no parameter. A pattern must match the whole "
            f"path; the paths are {nearest(pattern, names)}. Correct it, or {way_out}"
        )


def nearest(given: object, names: Sequence[Any], most: int = 12) -> str:
    """Return names as a list in words, those most like what was given first.

    Example:
      >>> nearest("bais", ["kernel", "bias", "scale"], 2)
      "'bias', 'scale' and 1 more"
    """
    of = re.sub(r"[^\w/]", "", str(given))

    def similarity(name: object) -> float:
        parts = (str(name), *str(name).split("/"))
        return max(difflib.SequenceMatcher(None, of, part).ratio() for part in parts)

    closest = (
        sorted(dict.fromkeys(names), key=similarity, reverse=True) if len(names) < 5000 else names
    )
    more = f" and {len(closest) - most} more" if len(closest) > most else ""
    return ", ".join(map(repr, closest[:most])) + more


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


def as_given(numbers: Mapping[str, Hyperparam | None]) -> dict[str, Any]:
    """Return the numbers of an optimizer as it keeps them: a plain function as a node.

    Libraries that take functions apart then leave it whole; see `gdjax.core.compiled.Compiled`.
    """

    def one(value):
        return PlainFunction(value) if isinstance(value, types.FunctionType) else value

    return {k: jax.tree.map(one, v, is_leaf=is_value) for k, v in numbers.items()}


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
        if params is not None:
            value.check_used(what, params)
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


def rounding_key(name: str) -> str:
    """Return the key in `State.rounding` of a decay."""
    return f"{name}_rounding"


def rounding_of(value: Hyperparam | None, params: Params = None) -> PyTree:
    """Return what rounding takes from each number in `value`, in the structure of `as_hyper`.

    It is 0 for an array, which is taken as it is, and for a schedule, whose values are.
    """
    if value is None:
        return None
    if isinstance(value, PerLeaf):
        return jax.tree.map(rounding_of, value, is_leaf=lambda x: x is not value)
    if jax.tree_util.all_leaves([value]):
        return jnp.asarray(rounded_off(value), scalar_dtype())
    if isinstance(value, Schedule) or (callable(value) and type(value) is not type(params)):
        return jnp.zeros((), scalar_dtype())
    return jax.tree.map(rounding_of, value, is_leaf=is_value)


def rounded_off(x: object) -> np.ndarray:
    """Return what rounding takes from a number, or an array of them, of the host."""
    if not isinstance(x, (float, np.ndarray, np.generic)):
        return np.zeros(())
    return np.float64(x) - np.asarray(x).astype(scalar_dtype())


# --- in a step ------------------------------------------------------------------------------------


def value_at(value: PyTree, count: Array, what: str | None = None) -> PyTree:
    """Return `value` with every schedule in it replaced by what it gives at `count`.

    `what` names the number in errors, for a step: there a schedule must give one real number. In
    the state of several runs, `count` and the numbers of schedules have the axes of the runs.
    """

    def evaluate(x):
        return _evaluated(x, count, what) if isinstance(x, Schedule) else x

    return jax.tree.map(evaluate, value, is_leaf=lambda x: isinstance(x, Schedule))


def _evaluated(schedule: Schedule, count: Array, what: str | None) -> Array:
    if jnp.ndim(count):  # of several runs: each schedule sees the numbers and the count of one
        runs = len(count)
        leaves, treedef = jax.tree.flatten(schedule)
        axes = [0 if jnp.ndim(x) and len(x) == runs else None for x in leaves]
        one = functools.partial(_evaluated, what=what)
        return jax.vmap(one, in_axes=(treedef.unflatten(axes), 0))(schedule, count)
    given = schedule(count)
    try:
        new = None if given is None or isinstance(given, str) else jnp.asarray(given)
    except TypeError:
        new = None
    real = new is not None and not jnp.iscomplexobj(new)
    fits = new is not None and (new.shape == () or not schedule.one_number)
    if what is not None and not (real and fits):
        got = repr(given) if new is None else f"an array of shape {new.shape}, {new.dtype}"
        raise ValueError(f"{what}: the schedule must return one real number, got {got}.")
    return jnp.asarray(given, scalar_dtype())


def numbers_at(state: State, count: Array, name: str = "") -> dict[str, Any]:
    """Return name -> value at `count`, for a rule that takes one number for the whole tree.

    `name` is what the user called, for errors.
    """
    numbers = {k: value_at(v, count, f"{name}({k}=...)") for k, v in state.hyperparams.items()}
    for k, value in numbers.items():
        lost = _rounding_at(state, k, count)
        if lost is not None and jax.tree_util.all_leaves([value]):
            numbers[k] = Decay(value, lost)
    return numbers


def _rounding_at(state: State, name: str, count: Array | None) -> PyTree:
    """Return what rounding took from a decay, or None if the number is no decay."""
    lost, value = state.rounding.get(rounding_key(name)), state.hyperparams[name]
    if lost is None or count is None:
        return lost

    def of(part, known):
        return part.decay(count).rounding if isinstance(part, DecaySchedule) else known

    return jax.tree.map(of, value, lost, is_leaf=lambda x: isinstance(x, Schedule))


def leaf_numbers(
    name: str, state: State, tree: PyTree, count: Array | None = None
) -> dict[str, list[Any]]:
    """Return for each hyperparameter its values in the leaves of `tree`, decays as `Decay`.

    Args:
      name: what the user called, for errors.
      state: the state that has the numbers.
      tree: see `leaf_values`.
      count: see `leaf_values`.
    """
    numbers = {}
    for k, value in state.hyperparams.items():
        numbers[k] = leaf_values(f"{name}({k}=...)", value, tree, count)
        if (lost := _rounding_at(state, k, count)) is not None:
            pairs = zip(numbers[k], leaf_values(f"{name}({k}=...)", lost, tree), strict=True)
            once: dict[int, Decay] = {}  # leaves that share a number share the object
            numbers[k] = [
                None if v is None else once.setdefault(id(v), Decay(v, r)) for v, r in pairs
            ]
    return numbers


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
        value = value_at(value, count, what)
    if isinstance(value, PerLeaf):
        return value.over(what, tree)
    if isinstance(value, Schedule) or jax.tree_util.all_leaves([value]):
        return [value] * len(jax.tree.leaves(tree))
    return spread(what, value, tree)


def whole_leaf_values(what: str, value: PyTree, tree: PyTree) -> list[Any]:
    """Return `leaf_values` for all parameters; raise if a pattern applies to none of them."""
    if isinstance(value, PerLeaf):
        value.check_used(what, tree)
    return leaf_values(what, value, tree)


def path_name(path: tuple[Any, ...]) -> str:
    """Return the path of a leaf as a string, keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_distinct(what: str, names: Sequence[str]) -> None:
    """Raise if two paths are the same once their keys are joined, as those of a/b and "a/b"."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} have the path {name!r} twice. Rename one of them.")
        seen.add(name)
