"""Groups of parameters, each with an optimizer of its own, or with none.

Which leaf is in which group is decided once, at `init`, and is a static part of the state, so that
`update` depends on the optimizers only. A group's optimizer sees the whole tree with None in place
of the other groups' leaves: paths and prefix trees have the same meaning inside and outside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import foreign_state, leaf_name, strict
from gdjax.core.compiled import compiled
from gdjax.core.flax_details import serialized
from gdjax.core.hyper import by_path, is_left_out, nearest, whole_leaf_values
from gdjax.core.kinds import check_kind
from gdjax.core.placement import replicated_like
from gdjax.core.protocols import took_step
from gdjax.core.remember import remembered_with_owners
from gdjax.core.types import OptState, Pair, Params, PrefixTree, PyTree, TreeDef, Updates

FROZEN, KEPT = "frozen", "kept"  # in place of an optimizer: updates are 0; are the gradients
Member: TypeAlias = Pair | Literal["frozen", "kept"]
LabelsLike: TypeAlias = PrefixTree | Hashable | Callable[[Any], Any]  # which leaf is in which group
NamesOf: TypeAlias = Callable[[Params], tuple[Any, ...]]


@serialized
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Labels:
    """The group of each parameter leaf: static, without leaves."""

    names: tuple[Hashable, ...]
    frozen: tuple[Hashable, ...] = ()  # the groups whose updates are 0


class Groups(NamedTuple):
    """The state: that of each group, which may be replaced alone, for example by a fresh one."""

    inner_states: dict[Hashable, OptState]  # of each group; frozen groups have none
    labels: Labels

    def stepped(self) -> jax.Array | None:
        """Return whether the optimizer of any group took a step in the last call."""
        took = [took_step(state) for state in self.inner_states.values()]
        known = [x for x in took if x is not None]
        return (
            functools.reduce(jnp.logical_or, known) if known and len(known) == len(took) else None
        )


def leaf_labels(what: str, labels: LabelsLike, params: Params) -> tuple[Any, ...]:
    """Return the label of each leaf from a `by_path`, a prefix tree, or a function giving one.

    A pytree of the parameters' own type is a tree of labels, also where that type is callable.
    """
    if callable(labels) and type(labels) is not type(params):
        labels = labels(params)
    return tuple(whole_leaf_values(what, labels, params))


def _init(
    what: str,
    members: dict[Hashable, Any],
    names_of: NamesOf,
    may_be_empty: bool,
    params: Params,
) -> Groups:
    leaves, treedef = jax.tree.flatten(params)
    names = names_of(params)
    for i, name in enumerate(names):
        if not isinstance(name, Hashable) or name not in members:
            raise ValueError(
                f"{what}: the parameter {leaf_name(params, i)!r} has the label {name!r}, which "
                f"is none of the groups {nearest(name, list(members))}. Give it one of these, or "
                "add a group; None in place of an optimizer freezes its parameters."
            )
    unused = [name for name in members if names and not may_be_empty and name not in names]
    if unused:  # what is left out counts, as in patterns: it may be a parameter of another group
        other = names_of(jax.tree.map(_filled, params, is_leaf=is_left_out))
        for name in unused:
            if name in other:
                continue
            paths = [leaf_name(params, i) for i in range(len(names))]
            raise ValueError(
                f"{what}: no parameter is in the group {name!r}. The groups that have some are "
                f"{', '.join(map(repr, dict.fromkeys(names)))}; the paths of the parameters are "
                f"{nearest(name, paths)}. Label some of them, leave the group out, or for a recipe "
                "that serves several models pass allow_unused=True."
            )
    states = {
        name: member.init(_part(treedef, leaves, names, name))
        for name, member in members.items()
        if isinstance(member, Optimizer)
    }
    frozen = tuple(name for name, member in members.items() if member == FROZEN)
    return Groups(replicated_like(states, params), Labels(names, frozen))  # also of no parameters


def _filled(x: Any) -> Any:
    return jax.ShapeDtypeStruct((), jnp.float32) if is_left_out(x) else x


def _part(treedef: TreeDef, leaves: list, names: tuple, name: Hashable) -> PyTree:
    return treedef.unflatten([x if n == name else None for x, n in zip(leaves, names, strict=True)])


@remembered_with_owners
def _update(
    called: str, members: tuple[tuple[Hashable, Any], ...], mask_extras: bool
) -> Callable[..., tuple[Updates, Groups]]:
    own = [name for name, member in members if member not in (FROZEN, KEPT)]

    def groups(updates, state, params=None, **extra):
        if not isinstance(state, Groups) or set(state.inner_states) != set(own):
            got = (
                f"one with {_groups_of(state.inner_states)}" if isinstance(state, Groups) else state
            )
            raise foreign_state(called, f"which has {_groups_of(own)}", got)
        grads, treedef = jax.tree.flatten(updates)
        names = state.labels.names
        if len(grads) != len(names):
            raise ValueError(
                f"{called}: the state was made for {len(names)} parameters, the gradients have "
                f"{len(grads)} leaves. Call init with these parameters."
            )
        whole = None if params is None else treedef.flatten_up_to(params)
        new, states = list(grads), {}
        for name, member in members:
            mine = [i for i, n in enumerate(names) if n == name]
            part = functools.partial(_part, treedef, names=names, name=name)
            if member == FROZEN:
                for i in mine:
                    new[i] = _zeros(grads[i])
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

    return compiled(groups, called)


def _zeros(grad: Array) -> Array:
    """Return zeros, for a gradient of integers too: it is zero, of a dtype without arithmetic."""
    return grad if grad.dtype == jax.dtypes.float0 else jnp.zeros_like(grad)


def _groups_of(names: Iterable[Hashable]) -> str:
    return f"optimizers for the groups {', '.join(map(repr, names)) or '(none)'}"


def _extras_for(part, treedef, whole, mask_extras, extra):
    """Return the extra arguments in the form that one group's optimizer can use."""

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

    The others keep their current values; of a result shaped like the parameters, the group gets its
    part.
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
            out,
            is_leaf=lambda x: jax.tree.structure(x) == treedef,
        )

    return functools.wraps(function)(of_part)


def grouped(
    called: str,
    members: Mapping[Any, Member],
    names_of: NamesOf,
    mask_extras: bool = False,
    may_be_empty: bool = True,
    argument: str = "mask",
) -> Optimizer:
    """Return the optimizer of groups.

    Args:
      called: what the user called, for errors.
      members: group -> `(init, update)` pair, `FROZEN` or `KEPT`.
      names_of: a function of the parameters that returns the group of each leaf.
      mask_extras: the `mask_compatible_extra_args` of `groups`.
      may_be_empty: whether a group may have no parameters.
      argument: the argument that `names_of` reads, for errors.
    """
    what = f"{called}({argument}=...)"
    pairs = {
        name: member if member in (FROZEN, KEPT) else with_extra_args_support(member)
        for name, member in members.items()
    }
    updates = tuple((k, m if isinstance(m, str) else m.update) for k, m in pairs.items())
    init = functools.partial(_init, what, pairs, names_of, may_be_empty)
    return Optimizer(init, _update(called, updates, mask_extras))


@strict()
def groups(
    optimizers: Mapping[Any, Pair | None],
    labels: LabelsLike | None = None,
    *,
    mask_compatible_extra_args: bool = False,
    allow_unused: bool = False,
) -> Optimizer:
    r"""Give each group of parameters an optimizer of its own; None freezes a group.

    A frozen parameter's update is exactly zero, and it takes no memory in the state.

    Args:
      optimizers: group -> `(init, update)` pair, or None. Without `labels` the groups' names are
        regular expressions, matched with the parameters' paths as by `by_path`: the first that
        matches the whole path wins.
      labels: which parameter is in which group: `by_path({pattern: group})`, a prefix tree of
        groups, or a function of the parameters that gives one. It is called by `init` only.
      mask_compatible_extra_args: whether a group gets only its part of an extra argument that is a
        tree like the parameters, as of the gradients. A function among the extra arguments
        (`value_fn=`) can be called with a group's part in any case.
      allow_unused: whether a pattern may match no parameter, and a group may have none, for a
        recipe that serves several models. If false, that is an error at `init`. Without `labels`
        the last pattern may be left with nothing if it matches every path, as r".*" does.

    Returns:
      An `Optimizer`. The state's `inner_states[group]` is the plain state of the group's optimizer,
      and can be replaced alone, for example by `opt.init(params).inner_states[group]` to restart
      it. In `hyperparams(state)` the names are `head.learning_rate` and so on.

    Raises:
      ValueError: at `init`, if a parameter is in no group, or a group has no parameter; with the
        paths that there are.

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
        rules = by_path({pattern: pattern for pattern in optimizers}, allow_unused=allow_unused)
        names_of = functools.partial(leaf_labels, "groups(optimizers=...)", rules)
        members = _members("groups(optimizers=...)", optimizers)
        return grouped(
            "groups", members, names_of, mask_compatible_extra_args, argument="optimizers"
        )
    names_of = functools.partial(leaf_labels, "groups(labels=...)", labels)
    members = _members("groups(optimizers=...)", optimizers)
    return grouped("groups", members, names_of, mask_compatible_extra_args, allow_unused, "labels")


def _members(what: str, optimizers: Mapping[Any, Pair | None]) -> dict[Any, Member]:
    for name, pair in optimizers.items():
        check_kind(f"{what}[{name!r}]", "Pair | None", pair)
    return {name: FROZEN if pair is None else pair for name, pair in optimizers.items()}


@strict()
def partition(
    transforms: Mapping[Any, Pair | None],
    param_labels: LabelsLike,
    *,
    mask_compatible_extra_args: bool = False,
    allow_unused: bool = False,
) -> Optimizer:
    """Apply to each parameter the optimizer of its label: `groups` under optax's name.

    Args:
      transforms: see `groups`, like all arguments.
      param_labels: the `labels` of `groups`.
      mask_compatible_extra_args: see `groups`.
      allow_unused: see `groups`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> opt = gdjax.partition({"slow": gdjax.sgd(0.1), "fast": gdjax.sgd(1.0)},
      ...                       {"w": "slow", "b": "fast"})
      >>> print(opt.update(params, opt.init(params))[0]["b"])
      [-1.]
    """
    if not transforms:
        raise ValueError("partition(transforms=...) must have at least one group, got {}.")
    names_of = functools.partial(leaf_labels, "partition(param_labels=...)", param_labels)
    members = _members("partition(transforms=...)", transforms)
    return grouped(
        "partition", members, names_of, mask_compatible_extra_args, allow_unused, "param_labels"
    )
