"""What kind of value an argument takes, read from its annotation, and checked at the door.

A public function says in its signature what each argument may be, and `check_kinds` raises for what
is not. The names are those of `gdjax.core.types`; a name that is not in `KINDS` (`PyTree`,
`OptState`, the aliases of one module) is not checked here but where the value is used.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gdjax.core.codecs import NAMES
from gdjax.core.hyper import PerLeaf, Schedule, is_value
from gdjax.core.types import PrefixTree

LARGEST = 2**63  # beyond what an int64 holds, no integer can enter a program


class Kind(NamedTuple):
    """What values of a kind are called in errors, and a test that says whether a value is one."""

    text: str
    holds: Callable[[Any], bool]
    hint: str = ""  # what to do where the value is a function


def shown(value: object) -> str:
    """Return a value as an error shows it: short, with the type of what has no short form.

    Example:
      >>> print(shown("no"), shown(object()), shown(10**400)[-25:])
      'no' an instance of object ...00000 (401 characters)
    """
    try:
        text = repr(value)
    except Exception:  # a foreign __repr__ must not hide the error that is being raised
        return f"a value of type {type(value).__name__}"
    if " at 0x" in text:
        name = getattr(value, "__name__", "")
        kind = type(value).__name__
        return f"the {kind} {name}" if name else f"an instance of {kind}"
    return text if len(text) <= 80 else f"{text[:40]}...{text[-5:]} ({len(text)} characters)"


# --- single values --------------------------------------------------------------------------------


def is_bool(value: object) -> bool:
    """Return whether a value is True or False, of Python or NumPy."""
    return isinstance(value, (bool, np.bool_))


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a value is an integer, of Python or NumPy, that a program can hold."""
    is_one = isinstance(value, (int, np.integer)) and not is_bool(value)
    return is_one and -LARGEST <= int(value) < LARGEST


def is_array(value: object) -> bool:
    """Return whether a value is an array of numbers or booleans, or one number of Python."""
    if isinstance(value, (bool, int, float, complex)):
        return not isinstance(value, int) or -LARGEST <= value < LARGEST
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        number = getattr(value.dtype, "kind", "") in "biufc"
        return number or jnp.issubdtype(value.dtype, jnp.number)
    return hasattr(value, "__jax_array__")


def is_number(value: object) -> bool:
    """Return whether a value is real numbers: not booleans, not complex."""
    if is_bool(value) or not is_array(value) or isinstance(value, complex):
        return False
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return True
    return not any(jnp.issubdtype(dtype, kind) for kind in (jnp.bool_, jnp.complexfloating))


def _is_one_number(value: object) -> bool:
    return is_number(value) and np.ndim(value) == 0  # pyright: ignore[reportArgumentType]


def is_key(value: object) -> bool:
    """Return whether a value is a seed or a key of `jax.random`."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        return is_integer(value)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return True
    if not value.ndim:
        return jnp.issubdtype(value.dtype, jnp.integer)
    return value.dtype == np.uint32 and value.shape[-1] in (2, 4)


def is_dtype(value: Any) -> bool:
    """Return whether a value names a dtype of numbers that JAX has."""
    if (
        not isinstance(value, (str, type, np.dtype))
        and not hasattr(value, "dtype")
        or is_array(value)
    ):
        return False
    try:
        return jnp.issubdtype(jnp.dtype(value), jnp.number)
    except (TypeError, ValueError):
        return False


def is_float_dtype(value: Any) -> bool:
    """Return whether a value names a real floating dtype that arithmetic promotes: not of 8 bits.

    JAX has no promotion for floats of 8 bits and less. Without a scale for each block they hold
    no moment either: the square of a gradient of 1e-3 is 0.
    """
    if not is_dtype(value):
        return False
    dtype = jnp.dtype(value)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16


def _is_slot_dtype(value: Any) -> bool:
    if isinstance(value, str) and value in NAMES:
        return True
    return is_float_dtype(value) or (is_dtype(value) and jnp.dtype(value).name in NAMES)


def is_pair(value: object) -> bool:
    """Return whether a value is two functions, as an `(init, update)` pair is.

    It may also be an object that has them as methods, and unpacks into them.
    """
    methods = hasattr(value, "init") and hasattr(value, "update")
    if not isinstance(value, (tuple, list)) and not (methods and isinstance(value, Iterable)):
        return False
    parts = tuple(value)
    return len(parts) == 2 and all(map(callable, parts))


# --- trees of values ------------------------------------------------------------------------------


def _is_tree_of(
    test: Callable[[Any], bool], is_leaf: Callable[[Any], bool] | None, value: object
) -> bool:
    leaves = jax.tree.leaves(value, is_leaf=is_leaf)
    return all(map(test, leaves))


def _is_container(value: object) -> bool:
    return not jax.tree_util.all_leaves([value])


def _is_scalar(value: object) -> bool:
    return is_number(value) or isinstance(value, Schedule) or callable(value)


def _is_hyperparam(value: object) -> bool:
    if value is None:
        return False
    return _is_tree_of(lambda x: x is None or _is_scalar(x), is_value, value)


def _is_prefix_tree(value: object) -> bool:
    return _is_container(value) and not isinstance(value, Schedule)


def _is_mask(value: object) -> bool:
    if callable(value) and not _is_container(value):
        return True
    if value is None or isinstance(value, PerLeaf):
        values = jax.tree.leaves(value, is_leaf=lambda x: x is not value)
        return value is not None and all(map(is_bool, values))
    # None where a parameter is None; elsewhere `mask_leaves` raises at `init`
    return callable(value) or _is_tree_of(is_bool, None, value)


def is_array_tree(value: object) -> bool:
    """Return whether a value is a tree whose leaves are arrays or numbers."""
    return _is_tree_of(_is_array_leaf, None, value)


def is_state_leaf(x: object) -> bool:
    """Return whether a value may be a leaf of a state: an array, a number or a random key."""
    return is_array(x) or isinstance(x, jax.Array)


def _is_array_leaf(x: object) -> bool:
    if is_array(x) or isinstance(x, jax.ShapeDtypeStruct):
        return True
    dtype = getattr(x, "dtype", None)
    return dtype is not None and dtype == jax.dtypes.float0


def _is_tuple_of(test: Callable[[Any], bool], types: tuple[type, ...], value: Any) -> bool:
    return isinstance(value, types) and all(map(test, value))


def _is_iterable_of(test: Callable[[Any], bool], value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(test, value))
    if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "dtype"):
        return False
    return isinstance(value, Iterable)  # a generator, which can be read only once


def _integers(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and jnp.issubdtype(value.dtype, jnp.integer)
    return _is_tuple_of(is_integer, (tuple, list, range), value)


def _is_nested_numbers(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_nested_numbers, value))
    return is_array(value)


def _is_precision(value: str | jax.lax.Precision) -> bool:
    try:
        return bool(jax.lax.Precision(value))
    except ValueError:
        return False


# What a name in an annotation means. A union is any of its parts.
KINDS: dict[str, Kind] = {
    "None": Kind("None", lambda x: x is None),
    "bool": Kind("True or False", is_bool),
    "int": Kind("an integer", is_integer),
    "float": Kind("a number", lambda x: _is_one_number(x) and not isinstance(x, jax.Array)),
    "str": Kind("a string", lambda x: isinstance(x, str)),
    "Number": Kind(
        "one number", _is_one_number, " To run one schedule after the other use join_schedules."
    ),
    "Scalar": Kind("one number or schedule for the whole tree", _is_scalar),
    "Hyperparam": Kind("a number, an array, a schedule, or a tree of those", _is_hyperparam),
    "PrefixTree": Kind("a tree over the parameters", _is_prefix_tree),
    "Array": Kind("an array", is_array),
    "np.ndarray": Kind("an array", is_array),
    "ArrayLike": Kind("an array", _is_nested_numbers),
    "ArrayTree": Kind("a tree of arrays", is_array_tree),
    "Pair": Kind(
        "an (init, update) pair",
        is_pair,
        " Did you forget to call a factory, as in gdjax.adam(1e-3)?",
    ),
    "Mask": Kind("True or False, a tree of those, or a function that gives one", _is_mask),
    "DType": Kind("a dtype of numbers", is_dtype),
    "DTypeLike": Kind("a dtype of numbers", is_dtype),
    "FloatDType": Kind("a real floating dtype of at least 16 bits", is_float_dtype),
    "SlotDType": Kind(
        f"a real floating dtype of at least 16 bits or a code ({', '.join(map(repr, NAMES))})",
        _is_slot_dtype,
    ),
    "KeyArray": Kind("a key of jax.random", lambda x: is_key(x) and not is_integer(x)),
    "Key": Kind("an integer or a key of jax.random", is_key),
    "Precision": Kind(
        "a jax.lax.Precision or the name of one",
        lambda x: isinstance(x, (str, jax.lax.Precision)) and _is_precision(x),
    ),
    "AxisName": Kind(
        "the name of an axis or a tuple of names",
        lambda x: isinstance(x, str) or _is_tuple_of(lambda n: isinstance(n, str), (tuple,), x),
    ),
    "Axis": Kind("an axis or a tuple of axes", lambda x: is_integer(x) or _integers(x)),
    "Sequence[int]": Kind("a sequence of integers", _integers),
    "tuple[int, ...]": Kind("a tuple of integers", _integers),
    "tuple": Kind("a tuple", lambda x: isinstance(x, tuple)),
    "Mapping": Kind("a dict", lambda x: isinstance(x, Mapping)),
    "dict": Kind("a dict", lambda x: isinstance(x, dict)),
    "Space": Kind("a dict", lambda x: isinstance(x, Mapping)),
    "Callable": Kind("a function", callable),
    "LossFn": Kind("a function", callable),
    "Rule": Kind("a function", callable),
    "ScheduleFn": Kind("a function of the count, as constant_schedule(0.1)", callable),
    "Iterable[Callable]": Kind("a list of functions", functools.partial(_is_iterable_of, callable)),
    "Iterable[Mapping]": Kind(
        "a list of dicts", functools.partial(_is_iterable_of, lambda x: isinstance(x, Mapping))
    ),
    "os.PathLike[str]": Kind("a path", lambda x: isinstance(x, os.PathLike)),
}
OPTIONAL = ("AxisName", "Axis", "DType", "FloatDType", "Mask")  # None is one of their values


def kinds_of(annotation: object, names: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kinds that an annotation allows; none if it says nothing that can be checked.

    Args:
      annotation: a string, as `from __future__ import annotations` keeps it.
      names: the globals of the function's module, for aliases of `Literal`.
    """
    kinds: list[Kind] = []
    for part in _parts(str(annotation)):
        found = _kinds_of_part(part, names)
        if not found:
            return ()
        kinds += found
    return tuple(dict.fromkeys(kinds))


def _kinds_of_part(part: str, names: Mapping[str, Any]) -> tuple[Kind, ...]:
    if part in OPTIONAL:
        return KINDS[part], KINDS["None"]
    if (kind := KINDS.get(_generic(part))) is not None:
        return (kind,)
    if part.startswith(("tuple[", "Sequence[", "list[")) and part not in KINDS:
        outer, inside = part[:-1].split("[", 1)
        return _kinds_of_items(outer, inside, names)
    if part.startswith("Literal["):
        return (_choice(ast.literal_eval(f"({part[8:-1]},)")),)
    return _kinds_of_alias(names.get(part), names)


def _generic(part: str) -> str:
    """Return the name in `KINDS` of a part of an annotation, such as that of Callable[..., Any]."""
    if part.startswith(("Iterable[Callable", "Iterable[Mapping")):
        return "Iterable[Callable]" if "Callable" in part[:18] else "Iterable[Mapping]"
    return part.partition("[")[0] if part.startswith(("Callable[", "Mapping[", "dict[")) else part


def _kinds_of_items(outer: str, inside: str, names: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kind of a sequence from those of its items, such as "Scalar, Scalar"."""
    members = _parts(inside, ",")
    items = [kinds_of(member, names) for member in members if member != "..."]
    if not all(items):
        return ()
    texts = [_or([kind.text for kind in kinds]) for kinds in items]
    fixed = outer == "tuple" and members[-1] != "..."

    def holds(value: Any) -> bool:
        if not isinstance(value, (tuple, list, range)):
            if not isinstance(value, (np.ndarray, jax.Array)) or not value.ndim:
                return False
        if fixed and len(value) != len(items):
            return False
        wanted = items if fixed else items * len(value)
        return all(
            any(kind.holds(x) for kind in kinds) for x, kinds in zip(value, wanted, strict=True)
        )

    text = f"a tuple ({', '.join(texts)})" if fixed else f"a sequence of items each {texts[0]}"
    return (Kind(text, holds),)


def _or(texts: Sequence[str]) -> str:
    texts = list(dict.fromkeys(texts))
    return ", ".join(texts[:-1]) + " or " + texts[-1] if len(texts) > 1 else texts[0]


def _kinds_of_alias(alias: Any, names: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kinds of an alias of the function's module; none if it is not known."""
    if isinstance(alias, str):
        return kinds_of(alias, names)
    if get_origin(alias) is Literal:
        return (_choice(get_args(alias)),)
    if get_origin(alias) is Callable:
        return (KINDS["Callable"],)
    if get_origin(alias) in (types.UnionType, Union):
        members = get_args(alias)
        kinds: list[tuple[Kind, ...]] = []
        for name, known in (("ArrayLike", ArrayLike), ("PrefixTree", PrefixTree)):
            if set(get_args(known)) <= set(members):  # Python made one flat union of them
                kinds.append((KINDS[name],))
                members = [member for member in members if member not in get_args(known)]
        kinds += [_kinds_of_alias(member, names) for member in members]
        return tuple(kind for several in kinds for kind in several) if all(kinds) else ()
    if get_origin(alias) is tuple:
        return kinds_of(str(alias), names)
    if get_origin(alias) is Sequence:
        return (Kind("a sequence", lambda x: isinstance(x, (tuple, list))),)
    if alias in (jax.Array, np.ndarray):
        return (KINDS["Array"],)
    if alias in (bool, int, float, str, type(None)):
        return (KINDS["None" if alias is type(None) else alias.__name__],)
    if (
        alias in (Any, Hashable)
        or not isinstance(alias, type)
        or getattr(alias, "_is_protocol", False)
    ):
        return ()
    return (_instance(alias),)


@functools.cache
def _instance(of: type) -> Kind:
    return Kind(f"of type {of.__name__}", lambda x: isinstance(x, of))


@functools.cache
def _choice(choices: tuple[Any, ...]) -> Kind:
    text = "one of " + ", ".join(map(repr, choices))
    return Kind(text, lambda x: isinstance(x, (str, int)) and x in choices)


def _parts(annotation: str, separator: str = "|") -> list[str]:
    """Return the members of a union, or what another separator separates, in order.

    Example:
      >>> _parts("Callable[[int | str], Any] | None")
      ['Callable[[int | str], Any]', 'None']
    """
    parts, depth = [""], 0
    for character in annotation:
        depth += (character in "[(") - (character in "])")
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip().strip("'\"") for part in parts]


def kinds_by_name(
    function: Callable[..., Any], signature: inspect.Signature
) -> dict[str, tuple[Kind, ...]]:
    """Return argument -> kinds, for the arguments of a function that can be checked.

    Those of `*args` and `**kwargs` have these stars in their names.
    """
    names = getattr(inspect.unwrap(function), "__globals__", {})
    found = {}
    for p in signature.parameters.values():
        kinds = kinds_of(p.annotation, names)
        if kinds and p.default is None:
            kinds = (*kinds, KINDS["None"])
        if kinds:
            stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
            found[stars + p.name] = tuple(dict.fromkeys(kinds))
    return found


def check_kinds(call: str, kinds: Mapping[str, Sequence[Kind]], given: Mapping[str, Any]) -> None:
    """Raise unless each argument is of a kind that its annotation allows.

    Args:
      call: the name of the function, for errors.
      kinds: as `kinds_by_name` returns them.
      given: argument -> value.
    """
    each = [(f"{name}=...", kinds.get(name, ()), value) for name, value in given.items()]
    for name, allowed in kinds.items():
        if name.startswith("**"):
            more = given.get(name[2:], {})
            each += [(f"{key}=...", allowed, value) for key, value in more.items()]
        elif name.startswith("*"):
            each += [(name, allowed, value) for value in given.get(name[1:], ())]
    for name, allowed, value in each:
        if allowed and not any(kind.holds(value) for kind in allowed):
            raise wrong_kind(f"{call}({name})", allowed, value)


def check_kind(what: str, annotation: str, value: object) -> None:
    """Raise unless a value is of a kind that an annotation of the names in `KINDS` allows."""
    allowed = kinds_of(annotation, {})
    if not any(kind.holds(value) for kind in allowed):
        raise wrong_kind(what, allowed, value)


def wrong_kind(what: str, allowed: Sequence[Kind], value: object) -> Exception:
    """Return the error for a value of another kind than those allowed; `what` names it."""
    wanted = _or([kind.text for kind in allowed])
    large = isinstance(value, int) and not -LARGEST <= value < LARGEST
    why = ": more than 64 bits" if large else ""
    hints = "".join(kind.hint for kind in allowed) if callable(value) else ""
    typo = isinstance(value, str) and "one of " in wanted
    fraction = isinstance(value, float) and KINDS["int"] in allowed
    error = ValueError if typo or large or fraction else TypeError
    return error(f"{what} must be {wanted}, got {shown(value)}{why}.{hints}")
