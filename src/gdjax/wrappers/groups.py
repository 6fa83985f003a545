"""Groups of parameters, each with an optimizer of its own, or with none.

Which leaf is in which group is decided once, at `init`, and kept in the state as structure, so that
`update` depends on the optimizers only. A group's optimizer sees the whole tree with None in place
of the other groups' leaves: paths and prefix trees mean there what they mean outside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import leaf_name
from gdjax.core.hyper import by_path, leaf_values
from gdjax.core.lift import compiled

FROZEN, KEPT = "frozen", "kept"  # in place of an optimizer: updates are 0; are the gradients


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Labels:
    """The group of each parameter leaf: structure, without leaves."""

    names: tuple[Hashable, ...]


class Groups(NamedTuple):
    """The state: that of each group, which may be replaced alone, for example by a fresh one."""

    inner_states: dict[
        Hashable, Any
    ]  # group -> plain state of its optimizer; frozen ones have none
    labels: Labels


def leaf_labels(what: str, labels: Any, params: Any) -> tuple[Any, ...]:
    """Return the label of each leaf from a `by_path`, a prefix tree, or a function giving one.

    A pytree of the parameters' own type is a tree of labels, also where that type is callable.
    """
    if callable(labels) and type(labels) is not type(params):
        labels = labels(params)
    return tuple(leaf_values(what, labels, params))


def _init(members: dict, names_of: Callable, params: Any) -> Groups:
    leaves, treedef = jax.tree.flatten(params)
    names = names_of(params)
    for i, name in enumerate(names):
        if name not in members:
            raise ValueError(
                f"groups: the parameter {leaf_name(params, i)!r} has the label {name!r}, which is "
                f"none of the groups {', '.join(map(repr, members))}. Give it one of these, or add "
                "a group; None in place of an optimizer freezes its parameters."
            )
    states = {
        name: member.init(_part(treedef, leaves, names, name))
        for name, member in members.items()
        if isinstance(member, Optimizer)
    }
    return Groups(states, Labels(names))


def _part(treedef: Any, leaves: list, names: tuple, name: Hashable) -> Any:
    return treedef.unflatten([x if n == name else None for x, n in zip(leaves, names, strict=True)])


@functools.lru_cache(maxsize=1024)
def _update(members: tuple[tuple[Hashable, Any], ...], mask_extras: bool) -> Callable:
    def groups(updates, state, params=None, **extra):
        grads, treedef = jax.tree.flatten(updates)
        names = state.labels.names
        if len(grads) != len(names):
            raise ValueError(
                f"groups: the state was made for {len(names)} parameters, the gradients have "
                f"{len(grads)} leaves. Call init with these parameters."
            )
        whole = None if params is None else treedef.flatten_up_to(params)
        new, states = list(grads), {}
        for name, member in members:
            mine = [i for i, n in enumerate(names) if n == name]
            part = functools.partial(_part, treedef, names=names, name=name)
            if member == FROZEN:
                for i in mine:
                    new[i] = jnp.zeros_like(grads[i])
            elif member != KEPT:
                given = _extras_for(part, treedef, whole, mask_extras, extra)
                parameters = None if whole is None else part(whole)
                out, states[name] = member(
                    part(grads), state.inner_states[name], parameters, **given
                )
                out = treedef.flatten_up_to(out)
                for i in mine:
                    new[i] = out[i]
        return treedef.unflatten(new), Groups(states, state.labels)

    return compiled(groups, "groups")


def _extras_for(part, treedef, whole, mask_extras, extra):
    """Return the extras as one group's optimizer can use them."""

    def convert(x):
        if mask_extras and jax.tree.structure(x) == treedef:
            return part(jax.tree.leaves(x))
        function = callable(x) and jax.tree_util.all_leaves([x])
        if function and whole is not None and not jax.tree_util.treedef_is_leaf(treedef):
            return _of_part(x, part, treedef, whole)
        return x

    return {name: convert(x) for name, x in extra.items()}


def _of_part(function, part, treedef, whole):
    """Let a function of all parameters, such as `value_fn`, be called with those of one group.

    The others are as they are now; of a result shaped like the parameters, the group gets its part.
    """
    own = jax.tree.structure(part(whole))

    def fill(x):
        if jax.tree.structure(x) != own:
            return x
        mine = treedef.flatten_up_to(x)
        return treedef.unflatten([w if m is None else m for m, w in zip(mine, whole, strict=True)])

    def of_part(*args, **kwargs):
        out = function(*map(fill, args), **kwargs)
        return jax.tree.map(
            lambda x: part(jax.tree.leaves(x)) if jax.tree.structure(x) == treedef else x,
            out, is_leaf=lambda x: jax.tree.structure(x) == treedef,
        )  # fmt: skip

    return functools.wraps(function)(of_part)


def grouped(members: Mapping, names_of: Callable, mask_extras: bool = False) -> Optimizer:
    """Return the optimizer of groups whose leaves' names `names_of(params)` gives."""
    members = {
        name: member if member in (FROZEN, KEPT) else with_extra_args_support(member)
        for name, member in members.items()
    }
    updates = tuple((k, getattr(m, "update", m)) for k, m in members.items())
    return Optimizer(functools.partial(_init, members, names_of), _update(updates, mask_extras))


def groups(
    optimizers: Mapping[Any, Any],
    labels: Any = None,
    *,
    mask_compatible_extra_args: bool = False,
) -> Optimizer:
    r"""Give each group of parameters an optimizer of its own; None freezes a group.

    A frozen parameter's update is exactly zero, and it takes no memory in the state.

    Args:
      optimizers: group -> `(init, update)` pair, or None. Without `labels` the groups' names are
        regular expressions, matched with the parameters' paths as by `by_path`: the first that
        matches the whole path wins.
      labels: which parameter is in which group: `by_path({pattern: group})`, a prefix tree of
        groups, or a function of the parameters that gives one. It is called by `init` only.
      mask_compatible_extra_args: whether an extra argument that is a tree like the parameters is
        cut down to the group's part, as the gradients are. A function among the extras
        (`value_fn=`) can be called with a group's part in any case.

    Returns:
      An `Optimizer`. The state's `inner_states[group]` is the plain state of the group's optimizer,
      and can be replaced alone, as by `opt.init(params).inner_states[group]`, to start it anew. In
      `hyperparams(state)` the names are `head.learning_rate` and so on.

    Raises:
      ValueError: at `init`, if a parameter is in no group; it is named by its path.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones(2), "head": {"bias": jnp.ones(1), "kernel": jnp.ones(2)}}
      >>> opt = gdjax.groups({r"embed": None, r".*bias": gdjax.sgd(1.0), r".*": gdjax.sgd(0.1)})
      >>> updates, state = opt.update(params, opt.init(params), params)
      >>> print(updates["embed"], updates["head"]["bias"], updates["head"]["kernel"])
      [0. 0.] [-1.] [-0.1 -0.1]
      >>> opt = gdjax.groups(
      ...     {"body": gdjax.sgd(0.1), "head": gdjax.sgd(1.0)}, {"embed": "body", "head": "head"})
      >>> gdjax.hyperparams(opt.init(params))["head.learning_rate"].item()
      1.0
    """
    if not optimizers:
        raise ValueError("groups(optimizers=...) must have at least one group, got {}.")
    if labels is None:
        labels = by_path({pattern: pattern for pattern in optimizers})
    members = {name: FROZEN if opt is None else opt for name, opt in optimizers.items()}
    names_of = functools.partial(leaf_labels, "groups(labels=...)", labels)
    return grouped(members, names_of, mask_compatible_extra_args)


def partition(
    transforms: Mapping[Any, Any],
    param_labels: Any,
    *,
    mask_compatible_extra_args: bool = False,
) -> Optimizer:
    """Apply to each parameter the optimizer that its label names: `groups` under optax's name.

    Args:
      transforms: see `groups`, like all arguments.
      param_labels: the `labels` of `groups`.
      mask_compatible_extra_args: see `groups`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> opt = gdjax.partition({"slow": gdjax.sgd(0.1), "fast": gdjax.sgd(1.0)},
      ...                       {"w": "slow", "b": "fast"})
      >>> print(opt.update(params, opt.init(params))[0]["b"])
      [-1.]
    """
    return groups(transforms, param_labels, mask_compatible_extra_args=mask_compatible_extra_args)


multi_transform = partition
