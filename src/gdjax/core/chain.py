"""Run optimizers one after the other; add their updates to the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import called, foreign_state, strict
from gdjax.core.compiled import compiled
from gdjax.core.hyper import is_left_out, path_name
from gdjax.core.lift import leafwise
from gdjax.core.numerics import cast_like, upcast
from gdjax.core.remember import remembered_with_owners
from gdjax.core.types import OptState, P, Pair, Params, Updates


@strict()
def chain(*optimizers: Pair) -> Optimizer:
    """Apply optimizers or transforms in turn; each sees the updates of the one before it.

    Low-precision gradients travel through the chain as float32 and are cast back once, at its end.

    Args:
      *optimizers: `(init, update)` pairs, also chains and transformations of optax. None gives the
        identity.

    Returns:
      An `Optimizer` whose state is the tuple of its members' states.

    Raises:
      TypeError: if an argument is no pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1))
      >>> updates, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.zeros(2)))
      >>> print(updates)
      [-0.06 -0.08]
    """
    members = tuple(with_extra_args_support(o) for o in optimizers)

    def init(params: Params) -> tuple[OptState, ...]:
        return tuple(member.init(params) for member in members)

    return Optimizer(init, _chain_update(called("chain"), tuple(m.update for m in members)))


@strict()
def named_chain(*optimizers: tuple[str, Pair]) -> Optimizer:
    """Apply optimizers in turn, like `chain`, with a state that is a dict of their names.

    Args:
      *optimizers: `(name, pair)`; names must be distinct strings.

    Raises:
      ValueError: if two names are the same.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.named_chain(("clip", gdjax.clip(1.0)), ("descend", gdjax.sgd(0.1)))
      >>> list(opt.init(jnp.zeros(2)))
      ['clip', 'descend']
    """
    names = tuple(name for name, _ in optimizers)
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise ValueError(f"named_chain needs distinct strings as names, got {names}.")
    members = tuple(with_extra_args_support(o) for _, o in optimizers)

    def init(params: Params) -> dict[str, OptState]:
        return {name: m.init(params) for name, m in zip(names, members, strict=True)}

    updates = tuple(member.update for member in members)
    return Optimizer(init, _chain_update(called("named_chain"), updates, names))


@remembered_with_owners
def _chain_update(
    name: str, members: tuple[Callable, ...], names: tuple[str, ...] | None = None
) -> Callable:
    keys = names or range(len(members))
    of = "" if names else f"{len(members)} members"

    def chained(updates, state, params=None, **extra):
        if not _has_parts(state, len(members), names):
            raise foreign_state(name, f"a chain of {', '.join(names or ())}{of}", state)
        dtypes, updates = updates, upcast(jax.tree.map(jnp.asarray, updates))
        new = {}
        for key, update in zip(keys, members, strict=True):
            updates, new[key] = update(updates, state[key], params, **extra)
        states = new if names else tuple(new.values())
        return cast_like(updates, jax.tree.map(jnp.asarray, dtypes)), states

    return compiled(chained, name)


def _has_parts(state: OptState, size: int, names: tuple[str, ...] | None) -> bool:
    if names is not None:
        return isinstance(state, dict) and state.keys() == set(names)
    return isinstance(state, (tuple, list)) and not isinstance(state, State) and len(state) == size


@strict()
def with_extra_args_support(tx: Pair) -> Optimizer:
    """Let the update of a foreign pair accept extra arguments, which it then ignores.

    Args:
      tx: an `(init, update)` pair, of gdjax or of another library.

    Returns:
      The same pair if its update accepts `**extra` already, else one that drops them.
    """
    try:
        init, update = tx
    except (TypeError, ValueError):
        init = update = None
    if not (callable(init) and callable(update)):
        raise TypeError(
            f"expected an (init, update) pair, got {tx!r}. Did you forget to call a factory,"
            " as in gdjax.adam(1e-3)?"
        )
    return Optimizer(init, _accepting_extra(update))


def _accepting_extra(update: Callable) -> Callable:
    parameters = inspect.signature(update).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return update if takes_all else _dropping_extra(update)


@remembered_with_owners
def _dropping_extra(update: Callable) -> Callable:
    def without_extra(updates, state, params=None, **extra):
        return update(updates, state, params)

    return without_extra


def _identity(grad, slots, param, count):
    return grad, slots


def identity() -> Optimizer:
    """Return the gradients as they are: the neutral element of `chain`."""
    return leafwise(_identity)


def apply_updates(params: P, updates: Updates) -> P:
    """Add updates to parameters; each parameter keeps its dtype.

    Args:
      params: a tree of arrays.
      updates: a tree of the same structure; the sum is rounded once, from the wider dtype. None in
        place of a leaf or a subtree leaves its parameters as they are, and so do optax's
        `MaskedNode` and an update of dtype float0, the gradient of an integer.

    Returns:
      The new parameters, shaped and typed like `params`.

    Raises:
      ValueError: if structures or shapes differ.
      TypeError: if the sum is not of the parameter's kind: a complex update of a real parameter, or
        a float update of an integer.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.apply_updates({"w": jnp.ones(2)}, {"w": jnp.array([0.5, -1.0])}))
      {'w': Array([1.5, 0. ], dtype=float32)}
    """
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((params, updates)))
    return _sums(params, updates) if traced else _jitted_sums(params, updates)


def _sums(params: P, updates: Updates) -> P:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_left_out)
    try:
        parts = treedef.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"apply_updates: the updates must have the structure of the parameters. {error}"
        ) from None
    new = [_added(path, update, part) for (path, update), part in zip(leaves, parts, strict=True)]
    return treedef.unflatten(new)


_jitted_sums = jax.jit(_sums)  # in a trace of the caller a nested one only takes time


def _added(path, update, param):
    if is_left_out(update) or getattr(update, "dtype", None) == jax.dtypes.float0:
        return param
    if not jax.tree_util.all_leaves([param]):
        raise ValueError(
            f"apply_updates: the update at {path_name(path)!r} is one array, where the parameters "
            f"have a tree, {jax.tree.structure(param)}."
        )
    param, update = jnp.asarray(param), jnp.asarray(update)
    if param.shape == update.shape and param.dtype == update.dtype:
        return jax.lax.add(param, update)  # which traces faster than jnp.add
    what = f"apply_updates: the update at {path_name(path)!r} is {update.dtype}{list(update.shape)}"
    if update.shape != param.shape:
        raise ValueError(f"{what}, its parameter {param.dtype}{list(param.shape)}: shapes differ.")
    total = jnp.result_type(param, update)
    for kind in (jnp.complexfloating, jnp.inexact):
        if jnp.issubdtype(total, kind) and not jnp.issubdtype(param.dtype, kind):
            raise TypeError(
                f"{what}, its parameter {param.dtype}, which cannot hold the sum. Cast the "
                "parameter, or put None in place of the update."
            )
    return (param + update).astype(param.dtype)
