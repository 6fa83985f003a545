"""Optimizers are saved as the call that made them: factory and arguments.

Their functions close over what they need and are shared by all optimizers of a kind, so they are
not saved themselves. Loading calls the factory again, and finds the same update function.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


class Recipe(NamedTuple):
    """The call that made an optimizer."""

    factory: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def with_recipe(pair: T, factory: Callable[..., T], args: tuple, kwargs: Mapping[str, Any]) -> T:
    """Return a copy of a pair that knows the call that made it.

    It is a copy, since a factory may return one of its arguments.
    """
    made = tuple.__new__(type(pair), pair)
    vars(made)["_recipe"] = Recipe(factory, args, dict(kwargs))
    return made


def reduced(pair: tuple[Any, ...]) -> tuple[Callable, tuple]:
    """Return what pickle saves of a pair: the call that made it, or else its functions.

    Raises:
      pickle.PicklingError: if a function among the arguments cannot be found by its name, such as a
        lambda, and pickle itself is at work: cloudpickle and dill save such functions.
    """
    recipe = vars(pair).get("_recipe")
    if recipe is None:
        what, parts = type(pair).__name__, dict(zip(("init", "update"), pair, strict=True))
    else:
        what, parts = recipe.factory.__name__, _arguments(recipe)
    if _saves_by_name():
        for name, part in parts.items():
            for function in _nameless(part):
                raise pickle.PicklingError(
                    f"{what}({name}=...) has {_described(function)}, which pickle cannot save, as "
                    "it saves a function by its name in a module. Define it with def at the top of "
                    "a module, or use cloudpickle."
                )
    return (type(pair), tuple(pair)) if recipe is None else (rebuilt, tuple(recipe))


def rebuilt(factory: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call a factory again."""
    return factory(*args, **kwargs)


def _arguments(recipe: Recipe) -> dict[str, Any]:
    known = inspect.signature(recipe.factory).bind(*recipe.args, **recipe.kwargs).arguments
    return {"the factory itself, ": recipe.factory, **known}


def _nameless(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions in a value that are not what their names stand for.

    Objects with a way of their own to be saved, such as other optimizers, are left to that.
    """
    if isinstance(value, types.FunctionType):
        if not _has_name(value):
            yield value
    elif isinstance(value, functools.partial):
        yield from _nameless((value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        yield from _nameless(value.__self__)
    elif type(value).__reduce__ is object.__reduce__ and not isinstance(value, type):
        parts: Any = ()
        if isinstance(value, Mapping):
            parts = value.values()
        elif isinstance(value, (tuple, list)):
            parts = value
        elif dataclasses.is_dataclass(value):
            parts = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
        for part in parts:
            yield from _nameless(part)


def _has_name(function: types.FunctionType) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _described(function: types.FunctionType) -> str:
    code = function.__code__
    kind = "a lambda" if function.__name__ == "<lambda>" else f"the function {function.__name__!r}"
    return f"{kind} of {code.co_filename}, line {code.co_firstlineno}"


def _saves_by_name() -> bool:
    """Return whether no pickler is at work that saves functions by value."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if "cloudpickle" in module or module.split(".")[0] == "dill":
            return False
        frame = frame.f_back
    return True
