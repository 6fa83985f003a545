"""What is made of functions, such as programs, remembered for as long as these functions live.

`functools.lru_cache` and the caches of `jax.jit` keep every function that they are given, with the
data that it closes over and with its programs. Here what is remembered holds functions of the user
only weakly, and is forgotten with any of them. So it must be made of views of them (`Weak`), and
those who use it must hold the functions themselves; `Owned` does so for what a user is given.

An object with a method, or one that is called, is what it is now: what was made is used again only
if nothing in the object has changed since.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import inspect
import itertools
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.core
import numpy as np

from gdjax.core.flax_details import serialized

Q = ParamSpec("Q")
V = TypeVar("V")
MOST = 1024  # things made of the same functions, or of none of the user
PLAIN = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType, np.dtype)


class Unjudgeable(Exception):
    """Nobody can say whether an object has changed."""


class Weak:
    """A view of a function that does not keep it alive."""

    def __init__(self, function: Callable[..., Any]):
        """Raise TypeError if the function allows no weak reference."""
        owner, self.part = function, None
        if isinstance(function, types.MethodType):
            owner, self.part = function.__self__, function.__func__
        elif isinstance(function, Owned):
            owner = function.made
        self._owner, self._id = weakref.ref(owner), id(owner)
        self.has_state = self.part is not None or not isinstance(owner, PLAIN)
        self.version = 0  # of the object when this was made, see `_version_of`

    @property
    def function(self) -> Callable[..., Any]:
        """The function."""
        owner: Any = self._owner()
        owners = [ref() for ref in _parts_of(owner) or ()]
        if owner is None or None in owners:
            raise ReferenceError(
                "a function that an optimizer's state or a program needs has been deleted: nothing "
                "but a jax.tree_util.PyTreeDef of it is left."
            )
        if owners:
            return Owned(owner, tuple(owners))
        return owner if self.part is None else types.MethodType(self.part, owner)

    @property
    def owner(self) -> Any:
        """The function, or the object of a method; None if it is gone."""
        return self._owner()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        function = self.function
        out = function(*args, **kwargs)
        if self.has_state:
            with contextlib.suppress(Unjudgeable):
                _note(self.owner)  # what tracing changes is no change
        return out

    def __getattr__(self, name: str) -> Any:
        """Return what the function has of that name."""
        if name in ("_owner", "part", "_id"):  # in a view that is not made yet
            raise AttributeError(name)
        return getattr(self.function, name)

    @property
    def __name__(self) -> str:
        function = self.function
        return getattr(function, "__name__", type(function).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Weak):
            return False
        same = self._id == other._id and self.part is other.part
        return same and self._owner() is not None and self._owner() is other._owner()

    def __hash__(self) -> int:
        return hash((self._id, self.part))


class Strong(Weak):
    """The same view, but it keeps the function, which need not allow a weak reference."""

    def __init__(self, function: Callable[..., Any]):
        """Hold the function."""
        self._function = function
        try:
            super().__init__(function)
        except TypeError:
            self._owner, self._id, self.part = lambda: function, id(function), None

    @property
    def function(self) -> Callable[..., Any]:
        """The function."""
        return self._function


class Owned:
    """A function that was made of functions of the user, together with these.

    Two are equal if what was made is the same.
    """

    def __init__(self, made: Callable[..., Any], owners: tuple[Any, ...]):
        """Keep what was made, and what it is made of."""
        self.made, self.owners = made, owners
        self.__name__ = self.__qualname__ = getattr(made, "__name__", type(made).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what was made."""
        return self.made(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owned) and self.made is other.made

    def __hash__(self) -> int:
        return hash(self.made)


_made_of: weakref.WeakKeyDictionary[Any, tuple[weakref.ref, ...]] = weakref.WeakKeyDictionary()


class _Entry(NamedTuple):
    value: Any
    number: int
    versions: list[int]  # of the objects in the key
    finalizers: list[weakref.finalize]


def remembered(make: Callable[Q, V]) -> Callable[Q, V]:
    """Remember what a function makes of its arguments, for as long as functions in them live.

    The decorated function must be called with positional arguments. It gets views of the user's
    functions, also of those in tuples. What cannot be remembered, because an argument has no hash
    or an object may have changed, is made anew of the arguments themselves.
    """
    cache: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()
    keys: dict[int, Hashable] = {}  # so that whoever waits for an owner's end holds only a number
    numbers, lock = itertools.count(), threading.RLock()

    def forget(number: int) -> None:
        seen = keys.pop(number, None)
        entry = None if seen is None else cache.pop(seen, None)
        for finalizer in () if entry is None else entry.finalizers:
            finalizer.detach()

    def look_up(*key: Any) -> tuple[Any, tuple[Any, ...]]:
        owners: list[Any] = []
        views: list[Weak] = []
        try:
            seen = tuple(_view(part, owners, views) for part in key)
            hash(seen)
        except (TypeError, Unjudgeable):
            return make(*key), ()  # pyright: ignore[reportCallIssue]
        with lock:
            entry = cache.get(seen)
            versions = [view.version for view in views]
            if entry is not None and entry.versions == versions:
                cache.move_to_end(seen)
                return entry.value, tuple(owners)
        value = make(*seen)  # pyright: ignore[reportCallIssue]
        with lock:
            if seen in cache:
                forget(cache[seen].number)
            number = next(numbers)
            finalizers = [weakref.finalize(owner, forget, number) for owner in owners]
            for finalizer in finalizers:
                finalizer.atexit = False
            keys[number] = seen
            cache[seen] = _Entry(value, number, versions, finalizers)
            if len(cache) > MOST:
                forget(next(iter(cache.values())).number)
        if callable(value):
            _made_of[value] = tuple(weakref.ref(owner) for owner in owners)
        return value, tuple(owners)

    @functools.wraps(make)
    def call(*key: Q.args, **_: Q.kwargs) -> V:
        return look_up(*key)[0]

    vars(call)["look_up"] = look_up
    return call


def remembered_with_owners(make: Callable[Q, Callable[..., Any]]) -> Callable[Q, Any]:
    """Remember a function as `remembered` does; what is returned keeps the user's functions."""
    look_up = vars(remembered(make))["look_up"]

    @functools.wraps(make)
    def call(*key: Q.args, **_: Q.kwargs) -> Any:
        made, owners = look_up(*key)
        return Owned(made, owners) if owners else made

    return call


def _view(part: Any, owners: list[Any], views: list[Weak]) -> Any:
    """Return an argument with views in place of the user's functions, and note these."""
    if isinstance(part, Owned):
        owners.extend(part.owners)
        return part.made
    if isinstance(part, tuple):
        parts = [_view(x, owners, views) for x in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    if not callable(part) or isinstance(part, type) or _is_of_a_module(part):
        return part
    if isinstance(part, Weak):
        part = part.function
    elif (refs := _parts_of(part)) is not None:
        for ref in refs:
            owners.append(ref())
            if owners[-1] is None:
                raise Unjudgeable
        return part
    try:
        view = Weak(part)
    except TypeError:  # a function of C that allows no weak reference
        return part
    if view.has_state:
        view.version = _version_of(view.owner)
    owners.append(view.owner)
    views.append(view)
    return view


def whole(part: Any) -> Any:
    """Return an argument with functions in place of their views: to hand them on, but not to keep.

    Example:
      >>> whole((Weak(print), 1)) == (print, 1)
      True
    """
    if isinstance(part, Weak):
        return part.function
    return tuple(map(whole, part)) if type(part) is tuple else part


def _parts_of(value: Any) -> tuple[weakref.ref, ...] | None:
    """Return what was remembered as made of these functions, or None if it was not made here."""
    try:
        return _made_of.get(value)
    except TypeError:  # no hash, or no weak reference
        return None  # and None is not in there either


def _is_of_a_module(function: Any) -> bool:
    """Return whether this is a function of a module of gdjax, which is never deleted."""
    name = getattr(function, "__module__", None) or ""
    return name.split(".")[0] == "gdjax" and "<locals>" not in getattr(
        function, "__qualname__", "<locals>"
    )


# --- what an object is now ------------------------------------------------------------------------


class _Watched:
    """What an object was when it was last looked at, and how often it had changed."""

    def __init__(self, state: Any):
        self.state, self.version = state, 0


_watched: dict[int, _Watched] = {}


def _version_of(owner: Any) -> int:
    """Return a number that is another one whenever an object has changed since the last call."""
    state = state_of(owner)
    if id(owner) not in _watched:
        _watched[id(owner)] = _Watched(state)
        weakref.finalize(owner, _watched.pop, id(owner), None).atexit = False
    known = _watched[id(owner)]
    if known.state != state:
        known.version += 1
        known.state = state
    return known.version


def _note(owner: Any) -> None:
    """Take an object as unchanged."""
    if id(owner) in _watched:
        _watched[id(owner)].state = state_of(owner)


class _Same:
    """An array of JAX, which never changes, compared by identity."""

    def __init__(self, array: jax.Array):
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.array is other.array

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def state_of(x: Any, left: list[int] | None = None) -> Any:
    """Return something that is equal as long as nothing in an object has changed.

    Arrays of JAX count by identity, arrays of NumPy by their content, functions by identity (what
    they close over is taken to stay), all else by what it consists of.

    Raises:
      Unjudgeable: for objects without a `__dict__`, such as a generator, and for very large ones.

    Example:
      >>> class Loss:
      ...     weight = np.ones(2)
      >>> loss, other = Loss(), Loss()
      >>> before = state_of(loss)
      >>> loss.weight = np.zeros(2)
      >>> state_of(loss) == before, state_of(other) == before
      (False, True)
    """
    left = [2000] if left is None else left
    left[0] -= 1
    if left[0] < 0 or isinstance(x, jax.core.Tracer):
        raise Unjudgeable
    inner = functools.partial(state_of, left=left)
    if isinstance(x, jax.Array):
        return _Same(x)
    if isinstance(x, np.ndarray) and not x.dtype.hasobject:
        return x.dtype, x.shape, hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest()
    if x is None or isinstance(x, (bool, int, float, complex, str, bytes, np.generic)):
        return type(x), repr(x)
    if isinstance(x, PLAIN):
        return x
    if isinstance(x, types.MethodType):
        return x.__func__, inner(x.__self__)
    if isinstance(x, functools.partial):
        return inner((x.func, x.args, x.keywords))
    if isinstance(x, Weak):
        return x
    if isinstance(x, (tuple, list)):
        return type(x), [inner(one) for one in x]
    if isinstance(x, dict):
        return type(x), [(inner(k), inner(v)) for k, v in x.items()]
    if isinstance(x, (set, frozenset)):
        return type(x), {repr(inner(one)) for one in x}
    if not hasattr(x, "__dict__"):
        raise Unjudgeable
    slots = [name for kind in type(x).__mro__ for name in getattr(kind, "__slots__", ())]
    if slots:
        raise Unjudgeable
    return type(x), inner(vars(x))


# --- functions in the structure of a tree ---------------------------------------------------------


class _Flattening(threading.local):
    found: list[Any] | None = None
    only: tuple[Any, ...] | None = None


_flattening = _Flattening()


class weak_functions:  # noqa: N801
    """While this is open, trees are flattened to structures that hold functions only weakly.

    For calls of a `jax.jit` that outlives the functions; whoever calls it holds the tree, and so
    the functions. The value is a list of the functions that are found, without repetitions. If only
    some functions are held by the caller, `only` names them.
    """

    def __init__(self, only: tuple[Any, ...] | None = None):
        """Name the functions, or None for all."""
        self.only = only

    def __enter__(self) -> list[Any]:
        """Begin."""
        self.before = _flattening.found, _flattening.only
        _flattening.found, _flattening.only = found, _ = [], self.only
        return found

    def __exit__(self, *exception: object) -> None:
        """End."""
        _flattening.found, _flattening.only = self.before


def functions_in(tree: Any) -> tuple[Any, ...]:
    """Return the functions in the structure of a tree: schedules that are plain functions."""
    with weak_functions() as found:
        jax.tree.leaves(tree)
    return tuple(found)


def as_static(function: Callable[..., Any]) -> Weak:
    """Return the static part of a node that holds a function: a view, which is weak if it may."""
    found = _flattening.found
    if found is not None and not any(function == other for other in found):
        found.append(function)
    only = _flattening.only
    weak = found is not None and (only is None or any(function == other for other in only))
    try:
        return Weak(function) if weak else Strong(function)
    except TypeError:
        return Strong(function)


def register_node(
    node: type[V],
    data_fields: Sequence[str],
    function_fields: Sequence[str] = (),
    meta_fields: Sequence[str] = (),
) -> type[V]:
    """Register a dataclass as `jax.tree_util.register_dataclass` does; fields may be functions.

    In jaxlib 0.10 to 0.12 that makes the structures of two classes with as many fields compare
    equal, and since they hash differently, `jit` ran the program of the other class now and then
    (measured: 10 of 600 pairs). Structures of nodes that are registered here differ.
    """

    def static(x):
        functions = tuple(as_static(getattr(x, name)) for name in function_fields)
        return functions, tuple(getattr(x, name) for name in meta_fields)

    def with_keys(x):
        keys = map(jax.tree_util.GetAttrKey, data_fields)
        return tuple(zip(keys, children(x), strict=True)), static(x)

    def children(x):
        return tuple(getattr(x, name) for name in data_fields)

    def build(known, parts):
        functions = [view.function for view in known[0]]
        names = (*data_fields, *function_fields, *meta_fields)
        return node(**dict(zip(names, (*parts, *functions, *known[1]), strict=True)))

    jax.tree_util.register_pytree_with_keys(
        node, with_keys, build, lambda x: (children(x), static(x))
    )
    return serialized(node)
