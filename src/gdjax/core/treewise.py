"""From a rule for a whole tree to an optimizer: `treewise`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import as_float_leaves, called, check_like, check_state
from gdjax.core.hyper import as_hyper, is_schedule, value_at
from gdjax.core.lift import (
    NEEDS_PARAMS,
    Static,
    compiled,
    frozen,
    keywords_of,
    rule_name,
    slots_class,
    used_extras,
)
from gdjax.core.numerics import cast, cast_like, safe_increment, upcast
from gdjax.core.types import Hyperparam, Params, Rule


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
        the gradients' dtype; slots come as they are stored. With `**extra` it gets every extra. A
        keyword `raw_params` is given the parameters in their own dtype, for functions of the user.
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
    name = called(name or rule_name(rule))
    given = dict(hyperparams or {})

    def init(params: Params) -> State:
        hyper = {k: as_hyper(f"{name}({k}=...)", v, params) for k, v in given.items()}
        for k, v in hyper.items():
            if not (v is None or is_schedule(v) or jax.tree_util.all_leaves([v])):
                raise ValueError(
                    f"{name}({k}=...) is one number for the whole tree, got {v!r}. To treat parts "
                    "of the parameters differently, give each part an optimizer of its own."
                )
        return State(jnp.zeros((), jnp.int32), hyper, () if slots is None else slots(params))

    known = tuple(sorted(given)), slots_class(slots)
    update = _treewise_update(rule, frozen(static), name, *known, needs_params)
    return Optimizer(init, update)


@functools.lru_cache(maxsize=1024)
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
        leaves, treedef = as_float_leaves(f"{name}: the gradients", grads)
        check_state(name, state, numbers, kind)
        if "raw_params" in keywords.names:
            extra = {**extra, "raw_params": params}
        if params is None and needs_params:
            raise ValueError(f"{name} needs {NEEDS_PARAMS}")
        if params is not None:
            parts = check_like("the gradients", leaves, treedef, f"{name}: the parameters", params)
            params = treedef.unflatten(upcast(parts))
        hyper = {k: value_at(v, state.count) for k, v in state.hyperparams.items()}
        used = used_extras(keywords, name, {*hyper, *fixed}, extra)
        count = safe_increment(state.count)
        up = treedef.unflatten(upcast(leaves))
        updates, slots = rule(up, state.slots, params, count, **hyper, **fixed, **used)
        new = treedef.unflatten(
            [cast(u, g.dtype) for u, g in zip(treedef.flatten_up_to(updates), leaves, strict=True)]
        )
        return new, State(count, state.hyperparams, cast_like(slots, state.slots))

    return compiled(update, name)
