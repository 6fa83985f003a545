"""Bad input is named at the earliest moment: argument, value, cause and fix."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import Optimizer, State
from gdjax.core.hyper import Schedule, is_value, path_name
from gdjax.core.kinds import (
    LARGEST,
    check_kinds,
    is_array,
    is_bool,
    is_integer,
    kinds_by_name,
    shown,
)
from gdjax.core.numerics import is_inexact, scalar_dtype
from gdjax.core.pickling import with_recipe
from gdjax.core.types import OptState, PyTree, TreeDef

P = ParamSpec("P")
R = TypeVar("R")
N = TypeVar("N", bound="State | Schedule")


class Range(NamedTuple):
    """The values that a number of an optimizer may have, see `checked`.

    Attributes:
      text: the range in words, for errors.
      holds: a function of a Python float that returns whether it is in the range.
      optional: whether the number may be None, which it also may if that is its default.
      decay: whether 1 minus the number matters, as for the decay of a running mean. The state then
        keeps what float32 rounds off from it, and a rule gets it as an array for which `1 - b` has
        all its digits.
      whole: whether the number is kept as an integer.

    Example:
      >>> import gdjax
      >>> gdjax.Range("in [0, 1)", lambda x: 0 <= x < 1, decay=True).holds(1.0)
      False
    """

    text: str
    holds: Callable[[float], bool]
    optional: bool = False
    decay: bool = False
    whole: bool = False


UNIT = Range("in [0, 1)", lambda x: 0 <= x < 1, decay=True)
CLOSED_UNIT = Range("in [0, 1]", lambda x: 0 <= x <= 1, decay=True)
OPEN_UNIT = Range("in (0, 1)", lambda x: 0 < x < 1)
SHARE = Range("in (0, 1]", lambda x: 0 < x <= 1)
NONNEGATIVE = Range("finite and >= 0", lambda x: 0 <= x < math.inf)
POSITIVE = Range("finite and > 0", lambda x: 0 < x < math.inf)
AT_LEAST_ONE = Range("finite and >= 1", lambda x: 1 <= x < math.inf)
ABOVE_ONE = Range("finite and > 1", lambda x: 1 < x < math.inf)
WHOLE = Range("a whole number >= 1", lambda x: 1 <= x < math.inf and x == round(x))
COUNT = Range(
    "a whole number from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31 and x == round(x), whole=True
)
FINITE = Range("finite", math.isfinite)
NUMBER = Range("a number, not NaN", lambda x: x == x, optional=True)

# What the field's standard names may be; `checked(name=Range)` adds to it or overrides it.
STANDARD = {
    "learning_rate": NONNEGATIVE,
    "weight_decay": NONNEGATIVE._replace(optional=True),
    "eps": NONNEGATIVE,
    "eps_root": NONNEGATIVE,
    "b1": UNIT,
    "b2": UNIT,
    "b3": UNIT,
    "decay": UNIT,
    "momentum": UNIT,
}

# What users of other libraries type, and the name that it has here.
SYNONYMS = {
    "lr": "learning_rate",
    "step_size": "learning_rate",
    "stepsize": "learning_rate",
    "alpha": "learning_rate",
    "eta": "learning_rate",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "beta1": "b1",
    "beta2": "b2",
    "beta_1": "b1",
    "beta_2": "b2",
    "betas": "b1",
    "rho": "decay",
    "gamma": "decay",
    "epsilon": "eps",
    "opt": "optimizer",
    "inner": "optimizer",
    "tx": "optimizer",
    "seed": "key",
    "rng": "key",
}


_running: ContextVar[str | None] = ContextVar("_running", default=None)
_ranges: ContextVar[dict[str, Range]] = ContextVar("_ranges", default=STANDARD)
_declared: dict[Hashable, dict[str, Range]] = {}  # kind of state -> the ranges of its numbers


def called(otherwise: str) -> str:
    """Return the name of the factory that the user called, for errors; see `checked`.

    It is the outermost factory that is running, so `sgd` is named where it is built from `trace`.
    Where none is running, it is `otherwise`.
    """
    return _running.get() or otherwise


def declared_ranges(names: Iterable[str]) -> dict[str, Range]:
    """Return the ranges of the hyperparameters that a running `checked` factory builds with.

    Those of the innermost factory that has an argument of that name count. Without a running
    factory there are none.
    """
    known = _ranges.get() if _running.get() else {}
    return {name: known[name] for name in names if name in known}


def remember_ranges(node: N, ranges: dict[str, Range]) -> N:
    """Return a state or a schedule as it is; `ranges_of` then finds the ranges of its numbers."""
    if ranges:
        _declared[_kind(node)] = ranges
    return node


def ranges_of(node: State | Schedule) -> dict[str, Range]:
    """Return name -> range of the numbers of a state or a schedule, as its factory declared them.

    A state is recognized by the names of its numbers and the class of its slots: it is data and
    carries no functions.
    """
    return _declared.get(_kind(node), {})


def _kind(node: State | Schedule) -> Hashable:
    if isinstance(node, State):
        return frozenset(node.hyperparams), type(node.slots)
    return type(node)


def checked(**ranges: Range) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of a function that makes an optimizer or a schedule.

    Numbers out of range are an error that names the function and the argument, when the function is
    called and when `with_hyperparams` changes them. Traced numbers pass through. Arguments of a
    wrong kind are errors as well, as far as annotations say what they may be. The optimizer has the
    name of the function, and is pickled as the call that made it.

    Args:
      **ranges: argument -> range. `learning_rate`, `weight_decay`, `eps` and `eps_root` are finite
        and >= 0, `b1`, `b2`, `b3`, `decay` and `momentum` are decays in [0, 1), unless this gives
        them another range.

    Returns:
      A decorator.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def _rule(grad, slots, param, count, *, power):
      ...     return jnp.sign(grad) * jnp.abs(grad) ** power, slots
      >>> @gdjax.checked(power=gdjax.Range("in [0, 1]", lambda x: 0 <= x <= 1))
      ... def power_descent(learning_rate, power=0.5):
      ...     return gdjax.descend(_rule, None, dict(power=power), learning_rate)
      >>> power_descent(0.1, power=2)
      Traceback (most recent call last):
      ...
      ValueError: power_descent(power=...) must be in [0, 1], got 2.0.
    """
    for name, allowed in ranges.items():
        if not isinstance(allowed, Range):
            raise TypeError(f"checked({name}=...) must be a gdjax.Range, got {shown(allowed)}.")

    def decorate(factory: Callable[P, R]) -> Callable[P, R]:
        check, name = arguments_check(factory, ranges), factory.__name__
        parameters = inspect.signature(factory).parameters
        known = {k: r for k, r in STANDARD.items() if k in parameters} | ranges

        @functools.wraps(factory)
        def build(*args: P.args, **kwargs: P.kwargs) -> R:
            check(args, kwargs)
            tokens = (
                _running.set(called(name)),
                _ranges.set(_ranges.get() | known),
            )
            try:
                made = factory(*args, **kwargs)
            finally:
                _running.reset(tokens[0])
                _ranges.reset(tokens[1])
            if isinstance(made, Schedule):
                remember_ranges(made, STANDARD | ranges)
            return _with_recipe(made, build, args, kwargs)

        vars(build)["__ranges__"] = ranges  # for `direction_of`
        return build

    return decorate


def strict(**ranges: Range) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of a public function that is no factory, as `checked` does.

    It may call functions of the user, which build optimizers of their own: `called` stays as it is.

    Args:
      **ranges: as for `checked`; the ranges of `STANDARD` are for factories.

    Example:
      >>> @strict()
      ... def halves(count: "int", exact: "bool" = False):
      ...     return count / 2
      >>> halves("8")
      Traceback (most recent call last):
      ...
      TypeError: halves(count=...) must be an integer, got '8'.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        check = arguments_check(function, ranges, {})

        @functools.wraps(function)
        def checked_call(*args: P.args, **kwargs: P.kwargs) -> R:
            check(args, kwargs)
            return _with_recipe(function(*args, **kwargs), checked_call, args, kwargs)

        return checked_call

    return decorate


def _with_recipe(made: R, factory: Callable[..., R], args: tuple, kwargs: dict[str, Any]) -> R:
    return with_recipe(made, factory, args, kwargs) if isinstance(made, Optimizer) else made


def arguments_check(
    function: Callable[..., Any],
    ranges: Mapping[str, Range],
    standard: Mapping[str, Range] = MappingProxyType(STANDARD),
) -> Callable[[tuple, dict[str, Any]], None]:
    """Return a function of the arguments of a call that raises unless they are as declared.

    Args:
      function: the function that is called; its annotations say of which kind the arguments are.
      ranges: argument -> range.
      standard: more of them, for the arguments of these names that the function has.
    """
    signature, call = inspect.signature(function), spoken_name(function)
    known = {k: r for k, r in {**standard, **ranges}.items() if k in signature.parameters}
    kinds = kinds_by_name(function, signature)

    def check(args: tuple, kwargs: dict[str, Any]) -> None:
        given = bound_arguments(call, signature, args, kwargs)
        check_kinds(call, kinds, given)
        for name in known.keys() & given.keys():
            may_be_none = known[name].optional or signature.parameters[name].default is None
            if given[name] is None and may_be_none:
                continue
            check_range(f"{call}({name}=...)", given[name], known[name])

    return check


def spoken_name(function: Callable[..., Any]) -> str:
    """Return how errors call a function: those of `gdjax.tree`, as `add`, by their package too."""
    name = function.__name__
    return f"tree.{name}" if function.__module__.startswith("gdjax.tree.") else name


def bound_arguments(
    name: str, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name, or say which one does not exist or is missing.

    Args:
      name: the function that was called, for errors.
      signature: its signature.
      args: the positional arguments of the call.
      kwargs: the keyword arguments of the call.
    """
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        problem = f"{error};"
    names = list(signature.parameters)
    for unknown in kwargs.keys() - signature.parameters.keys():
        problem = f"got an unexpected keyword argument {unknown!r}"
        meant = [SYNONYMS.get(unknown, ""), *difflib.get_close_matches(unknown, names, 1)]
        meant = [other for other in meant if other in names]
        problem += f"; did you mean {meant[0]!r}?" if meant else ";"
    raise TypeError(f"{name}() {problem} It takes {', '.join(names)}.")


def check_range(what: str, value: object, allowed: Range) -> None:
    """Raise unless every concrete number in `value` lies in the range, as given and as stored.

    A number is stored in float32, or float64 with x64: 1e39 is infinite there and 1e-46 is 0. A
    decay keeps its distance to 1, so that 1 - 1e-9 counts as less than 1. None in a tree is "off".
    """
    for x in jax.tree.leaves(value, is_leaf=is_value):
        if x is None and value is not None:
            continue
        if callable(x) or isinstance(x, jax.core.Tracer):
            continue
        if isinstance(x, (bool, str, bytes)) or not isinstance(
            x, (int, float, np.ndarray, np.generic, jax.Array)
        ):
            kinds = "a number, an array, a schedule, or a tree of those"
            raise TypeError(f"{what} must be {kinds}, got {shown(x)}.")
        if isinstance(x, int) and not -LARGEST <= x < LARGEST:
            raise ValueError(f"{what} must be {allowed.text}, got {shown(x)}: more than 64 bits.")
        for number in np.ravel(_as_doubles(what, x, allowed)).tolist():
            if not allowed.holds(number):
                raise ValueError(f"{what} must be {allowed.text}, got {number}.")
            stored = number if allowed.whole else as_stored(number)
            if not (allowed.holds(stored) or (allowed.decay and number < stored == 1)):
                raise ValueError(
                    f"{what} must be {allowed.text}, got {number}, which is {stored:g} as it is "
                    f"stored, in {scalar_dtype()}."
                )


def _as_doubles(what: str, x: object, allowed: Range) -> np.ndarray:
    try:
        array = np.asarray(x)
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{what} must be {allowed.text}; it is too large for a float.") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be a real number, got {x!r}: {error}") from None


def as_stored(number: float) -> float:
    """Return a number as the state keeps it and the device reads it.

    Example:
      >>> print(as_stored(0.5), as_stored(1e39), as_stored(1e-46), as_stored(1e-40))
      0.5 inf 0.0 0.0
    """
    dtype = scalar_dtype()
    with np.errstate(over="ignore", under="ignore"):
        stored = float(np.float64(number).astype(dtype))
    return 0.0 if abs(stored) < np.finfo(dtype).tiny else stored  # devices read subnormals as 0


def check_integer(what: str, value: object, least: int = 1) -> int:
    """Return a static integer, such as a window or a rank; raise for anything else.

    Example:
      >>> check_integer("lbfgs(memory_size=...)", 2.5)
      Traceback (most recent call last):
      ...
      ValueError: lbfgs(memory_size=...) must be an integer >= 1, got 2.5.
    """
    if is_integer(value) and value >= least:
        return int(value)
    raise ValueError(f"{what} must be an integer >= {least}, got {shown(value)}.")


def check_choice(what: str, value: object, choices: Collection[object]) -> None:
    """Raise unless `value` is one of the choices.

    Example:
      >>> check_choice("nadam(formula=...)", "typo", ("optax", "torch"))
      Traceback (most recent call last):
      ...
      ValueError: nadam(formula=...) must be one of 'optax', 'torch', got 'typo'.
    """
    same = (
        value is choice or type(value) is type(choice) and value == choice for choice in choices
    )
    if not any(same):
        wanted = ", ".join(map(repr, choices))
        raise ValueError(f"{what} must be one of {wanted}, got {shown(value)}.")


def check_state(
    name: str, state: OptState, numbers: Collection[str], slots_class: type | None = None
) -> None:
    """Raise unless a state is one that an optimizer made.

    Args:
      name: what the user called.
      state: what came in as state.
      numbers: the names of the optimizer's hyperparameters.
      slots_class: the class of its slots; None if it is not known.
    """
    if not isinstance(state, State) or state.hyperparams.keys() != set(numbers):
        whose = f"whose hyperparameters are {', '.join(sorted(numbers)) or '(none)'}"
        raise foreign_state(name, whose, state)
    if slots_class is not None and not isinstance(state.slots, slots_class):
        raise foreign_state(name, f"whose slots are {slots_class.__name__}", state.slots)


def foreign_state(name: str, whose: str, got: object) -> ValueError:
    """Return the error for a state that another optimizer made.

    Args:
      name: what the user called.
      whose: how a state of this optimizer is recognized, as "whose groups are ...".
      got: what came in, or a description of it.
    """
    if isinstance(got, State):
        got = f"one with the hyperparameters {', '.join(got.hyperparams) or '(none)'}"
    elif isinstance(got, dict) or type(got) is tuple:
        got = f"a {type(got).__name__} of {len(got)}, as of a chain"
    elif isinstance(got, jax.Array):
        got = "an array"
    elif not isinstance(got, str):
        got = type(got).__name__
    return ValueError(
        f"{name}: this state is not of this optimizer, {whose}; got {got}. Pass what the same "
        "optimizer's init or last update returned."
    )


def as_float_leaves(what: str, tree: PyTree) -> tuple[list[Any], TreeDef]:
    """Return leaves and structure of a tree of float or complex arrays; raise for other leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    for i, x in enumerate(leaves):
        if not hasattr(x, "dtype"):
            if not isinstance(x, (float, int, complex)) or is_bool(x) or not is_array(x):
                raise TypeError(
                    f"{what} must be arrays, got {type(x).__name__} at {leaf_name(tree, i)!r}. "
                    "Keep what is no array out of the tree, or put None there."
                )
            leaves[i] = x = jnp.asarray(x)
        if is_inexact(x.dtype) and x.dtype.itemsize < 2:
            raise TypeError(
                f"{what} must be of at least 16 bits, got dtype {x.dtype} at "
                f"{leaf_name(tree, i)!r}. JAX does not calculate with it: keep a copy in bfloat16 "
                "or float32, and cast."
            )
        if not is_inexact(x.dtype):
            raise TypeError(
                f"{what} must be float or complex, got dtype {x.dtype} at {leaf_name(tree, i)!r}. "
                "Cast it, or keep it out of what is optimized."
            )
    return leaves, treedef


def leaf_name(tree: PyTree, index: int) -> str:
    """Return the path of one leaf."""
    return path_name(jax.tree_util.tree_flatten_with_path(tree)[0][index][0])


def check_like(
    what: str, leaves: list[Any], treedef: TreeDef, other_what: str, other: PyTree
) -> list[Any]:
    """Return the leaves of `other` after checking it against a tree.

    Args:
      what: what `leaves` are, for the message.
      leaves: the leaves of the reference tree.
      treedef: its structure.
      other_what: what `other` is, for the message.
      other: a tree that must have the same structure and shapes, and be real where it is real.
    """
    other_leaves, other_treedef = jax.tree.flatten(other)
    if other_treedef != treedef:
        raise ValueError(
            f"{other_what} and {what} must have the same tree structure, got {other_treedef} and "
            f"{treedef}."
        )
    others = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in other_leaves]
    for i, (x, y) in enumerate(zip(leaves, others, strict=True)):
        if x.dtype == y.dtype and x.shape == y.shape:
            continue
        if x.shape != y.shape or jnp.iscomplexobj(x) != jnp.iscomplexobj(y):
            raise ValueError(
                f"{other_what} and {what} must agree in shape and in being complex, got "
                f"{y.dtype}{list(y.shape)} and {x.dtype}{list(x.shape)} at {leaf_name(other, i)!r}."
            )
    return others
