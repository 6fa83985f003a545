"""Several transformations as one: in turn, or each for a group of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    with_extra_args_support,
)
from gdjax.core.hyper import Placeholder
from gdjax.core.types import PyTree


def chain(*args: GradientTransformation) -> GradientTransformationExtraArgs:
    """Apply transformations in turn; the state is the tuple of their states.

    Extra arguments of `update` go to those transformations that take some.

    Raises:
      ValueError: if `update` gets a state of another length.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
      >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0])
      [-0.06 -0.08]
    """
    members = [with_extra_args_support(tx) for tx in args]

    def init(params: Params) -> tuple[OptState, ...]:
        return tuple(member.init(params) for member in members)

    def update(updates, state, params=None, **extra_args: Any):
        if len(state) != len(members):
            raise ValueError(
                f"update of a chain of {len(members)} transformations got a state with "
                f"{len(state)} parts. Make it with this chain's init."
            )
        new = []
        for member, part in zip(members, state, strict=True):
            updates, part = member.update(updates, part, params, **extra_args)
            new.append(part)
        return updates, tuple(new)

    return GradientTransformationExtraArgs(init, update)


def named_chain(
    *transforms: tuple[str, GradientTransformation],
) -> GradientTransformationExtraArgs:
    """Apply transformations in turn; the state is a dict of their states by name.

    Raises:
      ValueError: if two names are the same.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.named_chain(("clip", optax.clip(1.0)), ("descend", optax.sgd(0.1)))
      >>> sorted(tx.init(jnp.zeros(2)))
      ['clip', 'descend']
    """
    names = [name for name, _ in transforms]
    if len(set(names)) != len(names):
        raise ValueError(f"named_chain(*transforms) must have distinct names, got {names}.")
    init_all, update_all = chain(*(tx for _, tx in transforms))

    def init(params: Params) -> dict[str, OptState]:
        return dict(zip(names, init_all(params), strict=True))

    def update(updates, state, params=None, **extra_args: Any):
        parts = [state[name] for name in names]
        updates, parts = update_all(updates, parts, params, **extra_args)
        return updates, dict(zip(names, parts, strict=True))

    return GradientTransformationExtraArgs(init, update)


class PartitionState(NamedTuple):
    """The states of the groups, by label; each is a `MaskedState`."""

    inner_states: Mapping[Hashable, OptState]


MultiTransformState = PartitionState


def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: PyTree | Callable[[Params], PyTree],
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformationExtraArgs:
    """Apply to each group of the parameters its own transformation.

    Args:
      transforms: label -> transformation; a label that no parameter has is allowed.
      param_labels: a tree of labels, the parameters' tree or a prefix of it, or a function of the
        parameters (of the updates, in `update`) that gives one.
      mask_compatible_extra_args: see `masked`.

    Raises:
      ValueError: in `init`, if a label has no transformation.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
      >>> labels = {"bias": "slow", "kernel": "fast"}
      >>> tx = optax.partition({"slow": optax.sgd(0.1), "fast": optax.sgd(1.0)}, labels)
      >>> updates, state = tx.update(params, tx.init(params))
      >>> print(updates["bias"], updates["kernel"])
      [-0.1] [-1.]
    """
    from gdjax.compat.optax.masking import masked, tree_given_by

    members = {label: with_extra_args_support(tx) for label, tx in transforms.items()}

    def parts(labels: PyTree) -> dict[Hashable, GradientTransformationExtraArgs]:
        def mask(label: Hashable) -> PyTree:
            return jax.tree.map(lambda x: x == label, labels)

        return {
            label: masked(tx, mask(label), mask_compatible_extra_args=mask_compatible_extra_args)
            for label, tx in members.items()
        }

    def init(params: Params) -> PartitionState:
        if isinstance(params, Placeholder):  # of tree_map_params
            return PartitionState({k: tx.init(params) for k, tx in parts(()).items()})
        labels = tree_given_by(param_labels, params)
        unknown = dict.fromkeys(x for x in jax.tree.leaves(labels) if x not in members)
        if unknown:
            raise ValueError(
                f"partition(param_labels=...) gives the labels {', '.join(map(repr, unknown))}, "
                f"but transforms has {', '.join(map(repr, members))}. Add a transformation for "
                "each label; set_to_zero() freezes parameters."
            )
        return PartitionState({k: tx.init(params) for k, tx in parts(labels).items()})

    def update(updates, state, params=None, **extra_args: Any):
        new = {}
        for label, tx in parts(tree_given_by(param_labels, updates)).items():
            updates, new[label] = tx.update(
                updates, state.inner_states[label], params, **extra_args
            )
        return updates, PartitionState(new)

    return GradientTransformationExtraArgs(init, update)


multi_transform = partition
