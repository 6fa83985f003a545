"""Several transformations as one: in turn, or each for a group of the parameters."""

from __future__ import annotations

from typing import Any

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    with_extra_args_support,
)


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
