"""From a rule to an optimizer of trees: `leafwise`, `descend` and `treewise`.

This file is where the promises of every optimizer are kept: numbers are read from the state only,
arithmetic is done in at least float32, the state never changes its avals, one rule is traced once
for each distinct shape, and one update function serves every value of every number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Concatenate, NamedTuple, ParamSpec

import jax
import jax.core
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State, is_state
from gdjax.core.blocks import map_blocks
from gdjax.core.checks import (
    Range,
    as_float_leaves,
    called,
    checked,
    declared_ranges,
    leaf_name,
    remember_ranges,
    strict,
)
from gdjax.core.codecs import decoded, is_encoded, stored
from gdjax.core.compiled import compiled
from gdjax.core.dealing import (
    Dealing,
    DealtTree,
    buckets_in,
    check_dealing,
    on_devices,
    stacked,
    unstacked,
)
from gdjax.core.fits import NEEDS_PARAMS, check_avals, checked_leaves, misfit, tree_misfit
from gdjax.core.flax_details import tell_flax
from gdjax.core.hyper import (
    Masked,
    Schedule,
    as_given,
    as_hyper,
    leaf_numbers,
    leaf_values,
    numbers_at,
    rounding_key,
    rounding_of,
    whole_leaf_values,
)
from gdjax.core.kinds import is_bool, shown
from gdjax.core.numerics import cast, compute_dtype, real_dtype, safe_increment, upcast
from gdjax.core.placement import replicated_like
from gdjax.core.protocols import took_step
from gdjax.core.remember import remembered_with_owners
from gdjax.core.types import Hyperparam, Mask, Params, Rule, T

Static = tuple[tuple[str, Hashable], ...]
Q = ParamSpec("Q")


# --- rules for one array --------------------------------------------------------------------------


@strict()
def leafwise(
    rule: Rule,
    slots: Callable[[Any], Any] | None = None,
    hyperparams: Mapping[str, Hyperparam | None] | None = None,
    *,
    name: str | None = None,
    needs_params: bool = False,
    map_rows: Callable[..., list[Any]] = map_blocks,
    over: Dealing | None = None,
    **static: Hashable,
) -> Optimizer:
    """Lift a rule for one array to an optimizer of trees.

    Args:
      rule: `rule(grad, slots, param, count, *, <hyperparams>, <static>, <extras>)` returns
        `(update, slots)`. All arrays come in at least float32; `param` is None if `update` was
        called without parameters; `count` is t = 1, 2, ... of the paper. A keyword that is neither
        a hyperparameter nor static is an extra: the user passes it to `update` by that name. A
        number that a `checked` factory declares as a decay comes as a `Decay`, an array for which
        `1 - decay` has all its digits.
      slots: `slots(param)` returns what the rule remembers of one parameter, a NamedTuple. If its
        annotation names that class, `update` refuses a state with other slots.
      hyperparams: name -> number, schedule or prefix tree, as the user gave it; None is "off".
      name: what the user called, for errors and traces, unless a `checked` factory is running,
        which has its own name; None is the name of the rule.
      needs_params: whether `update` raises an error if it is called without parameters.
      map_rows: how to go over the leaves: `map_blocks`, or `gdjax.linalg.buckets.map_buckets` for a
        rule that costs much to compile.
      over: devices over which the slots of a state may be dealt, see `init_dealt`.
      **static: booleans, strings and functions: the static part of the rule.

    Returns:
      An `Optimizer` with state `State(count, hyperparams, slots)`, where `slots` is the rule's
      NamedTuple with a tree, shaped like the parameters, in each field.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def _sign(grad, slots, param, count, *, learning_rate):
      ...     return -learning_rate * jnp.sign(grad), slots
      >>> opt = gdjax.leafwise(_sign, hyperparams=dict(learning_rate=0.5))
      >>> updates, state = opt.update({"w": jnp.array([3.0, -2.0])}, opt.init({"w": jnp.ones(2)}))
      >>> print(updates["w"])
      [-0.5  0.5]
    """
    given = as_given(hyperparams or {})
    return _lift(rule, slots, given, name, map_rows, over, static, needs_params, descends=False)


@strict()
def descend(
    rule: Rule,
    slots: Callable[[Any], Any] | None,
    hyperparams: Mapping[str, Hyperparam | None],
    learning_rate: Hyperparam | None,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
    *,
    name: str | None = None,
    map_rows: Callable[..., list[Any]] = map_blocks,
    over: Dealing | None = None,
    **static: Hashable,
) -> Optimizer:
    """Lift a rule that gives a direction to an optimizer that walks against it.

    update = -learning_rate * (direction + weight_decay * param)

    The same as `chain(leafwise(rule, ...), add_decayed_weights(...), scale_by_learning_rate(...))`
    in one pass over the leaves and with one flat state.

    Args:
      rule: as for `leafwise`.
      slots: as for `leafwise`.
      hyperparams: as for `leafwise`, without the two below.
      learning_rate: the step size, a hyperparameter. None returns the direction, uphill, as
        `leafwise` does; see `direction_of`.
      weight_decay: decoupled weight decay (Loshchilov & Hutter 2017), or None for no such term.
      mask: which leaves decay: a prefix tree of booleans, or a function of the parameters that
        gives one. None decays all.
      name: as for `leafwise`.
      map_rows: as for `leafwise`.
      over: as for `leafwise`. A rule gets no parameters on dealt leaves.
      **static: as for `leafwise`.
    """
    numbers: dict[str, Hyperparam | None] = dict(hyperparams)
    if learning_rate is not None:
        numbers["learning_rate"] = learning_rate
    if weight_decay is not None:
        numbers["weight_decay"] = weight_decay
    numbers = as_given(numbers)
    descends = learning_rate is not None
    optimizer = _lift(rule, slots, numbers, name, map_rows, over, static, False, descends)
    return mask_decay(optimizer, mask)


def direction_of(
    factory: Callable[Concatenate[Any, Q], Optimizer],
) -> Callable[[Callable[[], None]], Callable[Q, Optimizer]]:
    """Declare `scale_by_x`: the direction of the optimizer `x`, without its learning rate.

    The new factory takes the arguments of `factory` save the first one, the learning rate, with the
    same defaults and ranges; type checkers and `help` see them. `factory` is decorated by `checked`
    and passes its learning rate to `descend`. The decorated function gives name and docstring.

    Args:
      factory: an optimizer's factory, such as `gdjax.adam`.

    Example:
      >>> import gdjax, inspect
      >>> @direction_of(gdjax.signum)
      ... def scale_by_signum() -> None:
      ...     "Replace the gradient by the sign of its running mean."
      >>> list(inspect.signature(scale_by_signum).parameters)
      ['beta', 'accumulator_dtype']
      >>> scale_by_signum(beta=2.0)
      Traceback (most recent call last):
      ...
      ValueError: scale_by_signum(beta=...) must be in [0, 1), got 2.0.
    """
    whole, plain = inspect.signature(factory), inspect.unwrap(factory)
    signature = whole.replace(parameters=list(whole.parameters.values())[1:])

    def decorate(twin: Callable[[], None]) -> Callable[Q, Optimizer]:
        def build(*args: Q.args, **kwargs: Q.kwargs) -> Optimizer:
            return plain(None, *args, **kwargs)

        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(build, attribute, getattr(twin, attribute))
        vars(build)["__signature__"] = signature
        return checked(**vars(factory)["__ranges__"])(build)

    return decorate


def _lift(
    rule: Rule,
    slots: Callable[[Any], Any] | None,
    given: dict[str, Hyperparam | None],
    name: str | None,
    map_rows: Callable,
    over: Dealing | None,
    static: dict[str, Hashable],
    needs_params: bool,
    descends: bool,
) -> Optimizer:
    name, slots = called(name or rule_name(rule)), _as_node(slots)
    ranges = declared_ranges(given)

    def init(params: Params) -> State:
        leaves, treedef = as_float_leaves(f"{name}: the parameters", params)
        state = without_slots(name, given, ranges, params)
        for k, v in state.hyperparams.items():  # a pattern that does not fit is an error now
            leaf_values(f"{name}({k}=...)", v, params)
        if slots is None:
            return remember_ranges(state, ranges)
        rows = [slots(x) for x in leaves] or [slots(jnp.zeros(()))]
        kind = type(rows[0])
        if (fields := getattr(kind, "_fields", None)) is None:
            raise TypeError(
                f"{name}: slots(param) must return a NamedTuple of arrays, got {rows[0]!r}. Name "
                "what is remembered in a class, as in `class Slots(NamedTuple): mu: Array`."
            )
        columns = zip(*(rows if leaves else ()), strict=True)
        trees = [treedef.unflatten(c) for c in columns] if leaves else [params] * len(fields)
        slots_tree = replicated_like(kind(*trees), params)
        return remember_ranges(state._replace(slots=slots_tree), ranges)

    known = tuple(sorted(given)), slots_class(slots)
    fixed = frozen(static)
    update = _lifted_update(rule, fixed, map_rows, over, name, *known, needs_params, descends)
    return Optimizer(init, update)


@remembered_with_owners
def _lifted_update(
    rule: Callable,
    static: Static,
    map_rows: Callable,
    over: Dealing | None,
    name: str,
    numbers: tuple[str, ...],
    kind: type | None,
    needs_params: bool,
    descends: bool,
) -> Callable:
    fixed, keywords = dict(static), keywords_of(rule)

    def dtype_of(grad, param):
        return compute_dtype(*(x for x in (grad, param) if x is not None))

    def direction(row, count, hyper, extra, dtype):
        grad, slots, param = row
        real = real_dtype(dtype)
        wide = None if param is None else param.astype(dtype)
        own = {k: None if v is None else v.astype(real) for k, v in hyper.items()}
        for k in ("learning_rate", "weight_decay") if descends else ():
            own.pop(k, None)
        read = decoded(slots)
        out, new = rule(grad.astype(dtype), upcast(read), wide, count, **own, **extra, **fixed)
        check_avals(name, grad, new, read)
        return out, stored(new, slots, read)

    def descent(out, grad, param, hyper):
        dtype = dtype_of(grad, param)
        rate, decay = (
            None if not descends or (v := hyper.get(k)) is None else v.astype(real_dtype(dtype))
            for k in ("learning_rate", "weight_decay")
        )
        if decay is not None:
            if param is None:
                raise ValueError(f"{name} with weight_decay needs {NEEDS_PARAMS}")
            out = out + decay * param.astype(dtype)
        if rate is not None:
            out = -rate * out
        return out.astype(grad.dtype)

    @jax.jit  # nested in the trace of the tree: one trace and one lowering for each distinct leaf
    def leaf(row, count, hyper, extra):
        grad, _, param = row
        out, new = direction(row, count, hyper, extra, dtype_of(grad, param))
        return descent(out, grad, param, hyper), new

    @jax.jit
    def last(row, hyper):
        out, grad, param = row
        return descent(out, grad, param, hyper)

    @functools.lru_cache
    def dealt_leaf(dtype):
        def of_dealt(moved, slots, count, hyper, extra):
            grad, param, own = moved
            out, new = direction((grad, slots, param), count, hyper | own, extra, dtype)
            return out if descends else out.astype(grad.dtype), new

        return of_dealt

    def dealt_rows(buckets, rows, kept, shared, over: Dealing):
        """Return updates of the leaves in stacks, by index, and the new stacks."""
        found, stacks = {}, []
        for members, at, stack in zip(buckets.members, buckets.places, kept, strict=True):
            count, _, extra = shared[members[0]]
            hypers = [shared[i][1] for i in members]
            same = {k for k in hypers[0] if len({id(h[k]) for h in hypers}) == 1}
            stacked_in = functools.partial(stacked, at=at, over=over)
            grads = [rows[i][0] for i in members]
            params = [rows[i][2] for i in members]
            moved = (
                stacked_in(grads),
                None if descends or params[0] is None else stacked_in(params),
                jax.tree.map(
                    lambda *xs, put=stacked_in: put(xs),
                    *({k: v for k, v in h.items() if k not in same} for h in hypers),
                ),
            )
            function = dealt_leaf(dtype_of(grads[0], params[0]))
            common = count, {k: hypers[0][k] for k in same}, extra
            out, new = on_devices(function, moved, stack, common, at, over)
            stacks.append(new)
            back = unstacked(out, members, at, over)
            found |= dict(zip(members, back, strict=True))
        if descends:
            order = list(found)
            given = [(found[i], rows[i][0], rows[i][2]) for i in order]
            rates = [
                ({k: v for k, v in shared[i][1].items() if k in ("learning_rate", "weight_decay")},)
                for i in order
            ]
            keys = [
                (g.shape, g.dtype, *map(id, rate[0].values()))
                for (g, *_), rate in zip(given, rates, strict=True)
            ]
            found = dict(zip(order, map_blocks(last, given, keys, rates), strict=True))
        return found, stacks

    def update(grads, state, params=None, **extra):
        leaves, parts, treedef = checked_leaves(
            name, numbers, kind, needs_params, grads, state, params
        )
        known = {*state.hyperparams, *fixed}
        used = (
            used_extras(keywords, name, known, extra) if extra or keywords.required - known else {}
        )
        hyper = leaf_numbers(name, state, grads, state.count)
        count = safe_increment(state.count)
        try:
            buckets = buckets_in(state.slots, treedef)
            trees = state.slots if buckets is None else [tree.rest for tree in state.slots]
            columns = [treedef.flatten_up_to(tree) for tree in trees]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{name}: the gradients do not have the tree structure that the state was made "
                f"for. Call init with these parameters. {error}"
            ) from None
        kept = [type(state.slots)(*(c[i] for c in columns)) for i in range(len(leaves))]
        rows = list(zip(leaves, kept, parts or [None] * len(leaves), strict=True))
        values = list(hyper.values())
        keys = [(g.shape, g.dtype, *(id(v[i]) for v in values)) for i, g in enumerate(leaves)]
        shared = [(count, {k: c[i] for k, c in hyper.items()}, used) for i in range(len(leaves))]
        plain = range(len(leaves)) if buckets is None else buckets.rest
        stacks: list[Any] = []
        out: list[Any] = [None] * len(leaves)
        try:
            of_plain = ([x[i] for i in plain] for x in (rows, keys, shared))
            for i, result in zip(plain, map_rows(leaf, *of_plain), strict=True):
                out[i] = result
            if buckets is not None:
                here = check_dealing(name, state.slots, over)
                fields = zip(*(tree.stacks for tree in state.slots), strict=True)
                by_bucket = [type(state.slots)(*parts) for parts in fields]
                found, stacks = dealt_rows(buckets, rows, by_bucket, shared, here)
                for i, update in found.items():
                    out[i] = update, kept[i]
        except (TypeError, ValueError) as error:
            own = str(error).startswith(name)
            whole = kept if buckets is None else [()] * len(leaves)
            raise (None if own else misfit(name, grads, leaves, whole)) or error from None
        updates = treedef.unflatten([u for u, _ in out])
        slots = state.slots
        if out and isinstance(slots, tuple) and slots:
            trees: list[Any] = list(map(treedef.unflatten, zip(*(s for _, s in out), strict=True)))
            if buckets is not None:
                trees = [
                    DealtTree(of_slot, rest, buckets.places)
                    for of_slot, rest in zip(zip(*stacks, strict=True), trees, strict=True)
                ]
            slots = type(slots)(*trees)
        return updates, state._replace(count=count, slots=slots)

    return compiled(update, name)


def mask_decay(
    optimizer: Optimizer, mask: Mask, name: str = "weight_decay", argument: str = "mask"
) -> Optimizer:
    """Switch a hyperparameter of a leafwise optimizer off where `mask` is false.

    For rules that place the decay themselves; it reaches them as None where it is off. `argument`
    is what the factory calls the mask, for errors.
    """
    if mask is None:
        return optimizer
    what = f"{called(getattr(optimizer.update, '__name__', 'mask_decay'))}({argument}=...)"
    init = jax.tree_util.Partial(_init_masked, optimizer.init, what, mask, name)
    return Optimizer(init, optimizer.update)


def _init_masked(
    init: Callable[[Params], State], what: str, mask: Mask, name: str, params: Params
) -> State:
    state = init(params)
    if name not in state.hyperparams:
        raise ValueError(f"{what} says which leaves {name} is for, but {name} is None.")
    masked = Masked(state.hyperparams[name], mask_leaves(what, mask, params))
    return state._replace(hyperparams={**state.hyperparams, name: masked})


def mask_leaves(what: str, mask: Mask, params: Params) -> tuple[bool, ...]:
    """Return one boolean for each parameter.

    Args:
      what: names the mask in errors.
      mask: a prefix tree of booleans, a `by_path` of them, or a function of the parameters that
        gives one of these.
      params: the parameters.
    """
    if callable(mask) and type(mask) is not type(params):
        mask = mask(params)
    values = whole_leaf_values(what, mask, params)
    for i, on in enumerate(values):
        if not is_bool(on):
            raise TypeError(
                f"{what} must give True or False for each parameter, got {shown(on)} at "
                f"{leaf_name(params, i)!r}."
            )
    return tuple(map(bool, values))


# --- rules for whole trees ------------------------------------------------------------------------


@strict()
def treewise(
    rule: Rule,
    slots: Callable[[Any], Any] | None = None,
    hyperparams: Mapping[str, Hyperparam | None] | None = None,
    *,
    name: str | None = None,
    needs_params: bool = False,
    **static: Hashable,
) -> Optimizer:
    """Lift a rule that needs the whole tree (a global norm, another optimizer) to an optimizer.

    Args:
      rule: `rule(grads, slots, params, count, *, <hyperparams>, <static>, <extras>)` returns
        `(updates, slots)`. Gradients and parameters come in at least float32 and updates leave in
        the gradients' dtype; slots come as they are stored, those in
        codes (see `with_slot_dtypes`) as arrays. With `**extra` it gets every extra. A
        keyword `raw_params` is given the parameters in their own dtype, for functions of the user.
        If another optimizer in the slots takes no step in a call (see `took_step`), the count stays
        as it is.
      slots: `slots(params)` returns what the rule remembers: any pytree, also other states. If its
        annotation names a NamedTuple class, `update` refuses a state with other slots.
      hyperparams: name -> number or schedule for the whole tree; None is "off".
      name: as for `leafwise`.
      needs_params: as for `leafwise`.
      **static: booleans, strings and functions, also the `update` of other optimizers.

    Returns:
      An `Optimizer` with state `State(count, hyperparams, slots)`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def _longest(grads, slots, params, count, *, limit):
      ...     largest = jnp.max(jnp.array([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grads)]))
      ...     return jax.tree.map(lambda g: g * jnp.minimum(1, limit / largest), grads), slots
      >>> opt = gdjax.treewise(_longest, hyperparams=dict(limit=1.0))
      >>> updates, state = opt.update([jnp.array([1.0, 4.0])], opt.init([jnp.ones(2)]))
      >>> print(updates)
      [Array([0.25, 1.  ], dtype=float32)]
    """
    name, slots = called(name or rule_name(rule)), _as_node(slots)
    given = as_given(hyperparams or {})
    ranges = declared_ranges(given)

    def init(params: Params) -> State:
        leaves, treedef = as_float_leaves(f"{name}: the parameters", params)
        params = treedef.unflatten(leaves)
        state = without_slots(name, given, ranges, params)
        for k, v in state.hyperparams.items():
            if not (v is None or isinstance(v, Schedule) or jax.tree_util.all_leaves([v])):
                raise ValueError(
                    f"{name}({k}=...) is one number for the whole tree, got {v!r}. To treat parts "
                    "of the parameters differently, give each part an optimizer of its own."
                )
        if slots is not None:
            state = state._replace(slots=replicated_like(slots(params), params))
        return remember_ranges(state, ranges)

    known = tuple(sorted(given)), slots_class(slots)
    update = _treewise_update(rule, frozen(static), name, *known, needs_params)
    return Optimizer(init, update)


@remembered_with_owners
def _treewise_update(
    rule: Callable,
    static: Static,
    name: str,
    numbers: tuple[str, ...],
    kind: type | None,
    needs_params: bool,
) -> Callable:
    fixed, keywords = dict(static), keywords_of(rule)

    def update(grads, state, params=None, **extra):
        leaves, parts, treedef = checked_leaves(
            name, numbers, kind, needs_params, grads, state, params
        )
        if "raw_params" in keywords.names:
            extra = {**extra, "raw_params": None if parts is None else treedef.unflatten(parts)}
        params = None if parts is None else treedef.unflatten(upcast(parts))
        hyper = numbers_at(state, state.count, name)
        used = used_extras(keywords, name, {*hyper, *fixed}, extra)
        count = safe_increment(state.count)
        up = treedef.unflatten(upcast(leaves))
        read = own_decoded(state.slots)
        try:
            updates, slots = rule(up, read, params, count, **hyper, **fixed, **used)
        except (TypeError, ValueError) as error:
            own = str(error).startswith(name) or jax.tree_util.treedef_is_leaf(treedef)
            raise (None if own else tree_misfit(name, grads, read)) or error from None
        check_avals(name, None, slots, read)
        took = took_step(slots)  # counts and schedules are those of steps, not of calls
        count = count if took is None else jnp.where(took, count, state.count)
        new = treedef.unflatten(
            [cast(u, g.dtype) for u, g in zip(treedef.flatten_up_to(updates), leaves, strict=True)]
        )
        return new, state._replace(count=count, slots=stored(slots, state.slots, read))

    return compiled(update, name)


def own_decoded(slots: T) -> T:
    """Return slots decoded; those of other optimizers in them as they are, for these."""
    return jax.tree.map(
        lambda x: x if is_state(x) else decoded(x),
        slots,
        is_leaf=lambda x: is_state(x) or is_encoded(x),
    )


def _as_node(function: T) -> T:
    """Return a `functools.partial` as a node, whose parts libraries compare; see `Compiled`."""
    if type(function) is not functools.partial:
        return function
    args, kwargs = function.args, function.keywords
    return jax.tree_util.Partial(function.func, *args, **kwargs)  # pyright: ignore[reportReturnType]


# --- what both share ------------------------------------------------------------------------------


def without_slots(
    name: str, given: dict[str, Hyperparam | None], ranges: dict[str, Range], params: Params
) -> State:
    """Return the first state of an optimizer, with count and numbers only.

    Args:
      name: what the user called.
      given: its numbers as the user gave them.
      ranges: their ranges, as far as they are declared.
      params: the parameters.
    """
    tell_flax()
    hyper = {k: as_hyper(f"{name}({k}=...)", v, params) for k, v in given.items()}
    decays = (k for k, v in hyper.items() if v is not None and k in ranges and ranges[k].decay)
    rounding = {rounding_key(k): rounding_of(given[k], params) for k in decays}
    state = replicated_like(State(jnp.zeros((), jnp.int32), hyper, (), rounding), params)
    if (names := _names.get()) is not None:
        names.append((state.count, name))
    return state


_names: ContextVar[list[tuple[Array, str]] | None] = ContextVar("_names", default=None)


@contextlib.contextmanager
def noting_names() -> Iterator[Callable[[State], str | None]]:
    """While this is open, note who makes states, which have no name themselves.

    The value is a function of a state that is made inside, before it leaves a trace.
    """
    names: list[tuple[Array, str]] = []
    token = _names.set(names)
    try:
        yield lambda state: next((name for count, name in names if count is state.count), None)
    finally:
        _names.reset(token)


def rule_name(rule: Rule) -> str:
    """Return the name of a rule in errors and traces: that of its function, without "_rule"."""
    return getattr(rule, "__name__", type(rule).__name__).strip("_").removesuffix("_rule")


def slots_class(slots: Callable[[Any], Any] | None) -> type | None:
    """Return the NamedTuple or dataclass that the annotation of `slots` names, or None.

    Example:
      >>> from gdjax.optimizers.adam import adam_moments
      >>> slots_class(functools.partial(adam_moments, mu_dtype=jnp.bfloat16)).__name__
      'AdamMoments'
    """
    while isinstance(slots, functools.partial):
        slots = slots.func
    kind = slots
    if slots is not None and not isinstance(slots, type):
        kind = getattr(slots, "__annotations__", {}).get("return")
        if isinstance(kind, str):
            kind = getattr(slots, "__globals__", {}).get(kind)
    if not isinstance(kind, type):
        return None
    return kind if issubclass(kind, tuple) or dataclasses.is_dataclass(kind) else None


def frozen(static: dict[str, Hashable]) -> Static:
    """Return the static arguments of a rule, sorted, as a hashable key."""
    for key, value in static.items():
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{key}={value!r} is a static argument of an optimizer and must be hashable; a "
                "number or an array belongs into hyperparams."
            ) from None
    return tuple(sorted(static.items()))


class Keywords(NamedTuple):
    """The keyword-only arguments of a rule."""

    names: set[str]
    required: set[str]  # those without a default
    takes_all: bool  # whether there is **extra


def used_extras(
    keywords: Keywords, name: str, known: set[str], extra: dict[str, Any]
) -> dict[str, Any]:
    """Return the extras that a rule asks for by keyword, or all for a rule with `**extra`.

    Args:
      keywords: those of the rule.
      name: what the user called, for errors.
      known: keywords that the state or the static arguments give.
      extra: what `update` was called with.
    """
    if keywords.takes_all:
        return extra
    for key in keywords.required - known - extra.keys():
        raise TypeError(
            f"{name} needs {key}=...: call update(grads, state, params, {key}=...). "
            f"It got {', '.join(extra) or 'no extra argument'}."
        )
    return {k: v for k, v in extra.items() if k in keywords.names - known}


def keywords_of(rule: Rule) -> Keywords:
    """Return the keywords of a rule."""
    parameters = inspect.signature(rule).parameters.values()
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    required = {p.name for p in keyword if p.default is p.empty}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Keywords({p.name for p in keyword}, required, takes_all)


def off_numbers(name: str, state: State, params: Params) -> list[tuple[bool, ...]]:
    """Return for each parameter which numbers are off, for `init_dealt`."""
    columns = leaf_numbers(name, state, params).values()
    leaves = range(len(jax.tree.leaves(params)))
    return [tuple(column[i] is None for column in columns) for i in leaves]
