"""Compiled runs, one for each function of the user, kept for as long as that function lives.

With the function as a static argument of one `jax.jit`, every function that was ever given would be
kept for good, with what it closes over and with its program, which takes megabytes: a loop that
makes a new lambda each time would fill the memory.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import DynamicJaxprTracer

_kept: dict[int, dict[Any, Callable]] = {}  # by the id of what a function belongs to
ARRAYS = (jax.Array, np.ndarray, np.generic)
NUMBERS = (*ARRAYS, bool, int, float, complex)


def call(name: str, run: Callable, fun: Any, static: tuple[Hashable, ...], given: tuple) -> Any:
    """Return `run(fun, *static, *given)`, compiled unless a trace compiles it anyway.

    Args:
      name: of the public function, for errors.
      run: a function of a module.
      fun: the user's function. If it is a pytree, as `jax.tree_util.Partial` or an Equinox module,
        its arrays are data: new ones compile nothing.
      static: structure, as functions and booleans.
      given: trees of arrays and numbers, which are data; what is neither is structure.
    """
    if not callable(fun):
        raise TypeError(f"{name} needs a function, got {fun!r}.")
    if any(isinstance(x, DynamicJaxprTracer) for x in jax.tree.leaves((fun, given))):
        return run(fun, *static, *given)  # nested, it would only cost more time to trace
    if isinstance(fun, types.MethodType) and not jax.tree_util.all_leaves([fun.__self__]):
        fun = jax.tree_util.Partial(fun.__func__, fun.__self__)
    given_data, given_rest = _split(given, NUMBERS)
    if jax.tree_util.all_leaves([fun]):
        structure = (None, given_rest, static)
        _check_hashable(name, fun, structure)
        return _program(run, fun)(structure, [], given_data)
    data, rest = _split(fun, ARRAYS)
    structure = (rest, given_rest, static)
    _check_hashable(name, None, structure)
    return _of_object(run, None, structure, data, given_data)


def _split(tree: Any, kinds: tuple[type, ...]) -> tuple[list, tuple]:
    """Return the leaves of some kinds in a tree, and the rest, which is structure."""
    leaves, treedef = jax.tree.flatten(tree)
    data = [x if isinstance(x, kinds) else None for x in leaves]
    return data, (treedef, tuple(None if isinstance(x, kinds) else x for x in leaves))


def _joined(data: list, rest: tuple) -> Any:
    treedef, others = rest
    return treedef.unflatten([o if d is None else d for d, o in zip(data, others, strict=True)])


def _run(run: Callable, fun: Any, structure: tuple, data: list, given_data: list) -> Any:
    rest, given_rest, static = structure
    fun = fun if rest is None else _joined(data, rest)
    return run(fun, *static, *_joined(given_data, given_rest))


_of_object = jax.jit(_run, static_argnums=(0, 1, 2))  # kept for good; pytrees give only structure


def _program(run: Callable, fun: Callable) -> Callable:
    """Return the program of a function, which goes when that goes, or the object of a method."""
    method = isinstance(fun, types.MethodType)
    owner, part = (fun.__self__, fun.__func__) if method else (fun, None)
    try:
        ref = weakref.ref(owner)
        if id(owner) not in _kept:
            weakref.finalize(owner, _kept.pop, id(owner), None).atexit = False
    except TypeError:  # few callables allow no weak reference
        return functools.partial(_of_object, run, fun)
    programs = _kept.setdefault(id(owner), {})
    if (run, part) not in programs:
        programs[run, part] = _compiled(run, ref, part)
    return programs[run, part]


def _compiled(run: Callable, owner: weakref.ref, part: Any) -> Callable:
    def program(structure, data, given_data):
        fun = owner() if part is None else types.MethodType(part, owner())
        return _run(run, fun, structure, data, given_data)

    program.__name__ = program.__qualname__ = run.__name__
    return jax.jit(program, static_argnums=0)


def _check_hashable(name: str, fun: Any, structure: tuple) -> None:
    """Raise if nobody can say whether a program may be used again."""
    try:
        hash(fun)
    except TypeError as error:
        raise TypeError(
            f"{name}: the function {fun!r} cannot be hashed ({error}). Give it as a function, or "
            "make its class a pytree (jax.tree_util.register_dataclass), whose arrays are data."
        ) from error
    try:
        hash(structure)
    except TypeError as error:
        raise TypeError(
            f"{name}: what is no array or number in args, or in a function that is a pytree, must "
            f"be hashable, as functions and strings are ({error})."
        ) from error
