"""One number times another: a learning rate with a multiplier for each parameter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import strict
from gdjax.core.flax_details import serialized
from gdjax.core.hyper import (
    FunctionSchedule,
    PerLeaf,
    PlainFunction,
    Schedule,
    leaf_values,
    path_name,
    schedule,
    spread,
)
from gdjax.core.numerics import scalar_dtype
from gdjax.core.types import Hyperparam, Number, PyTree


@schedule
class Product(Schedule):
    """The product of two numbers, of which each may be a schedule; see `times`."""

    lengths: ClassVar[tuple[str, ...]] = ()
    value: Any
    multiplier: Any

    def __call__(self, count: Number) -> Array:
        """Return the product at `count`."""
        return value_of(self.value, count) * value_of(self.multiplier, count)


@serialized
@jax.tree_util.register_pytree_with_keys_class
class Times(PerLeaf):
    """A number, schedule or tree, times another one; see `times`."""

    def __init__(self, value: Hyperparam, multipliers: Hyperparam):
        self.value, self.multipliers = value, multipliers

    def tree_flatten_with_keys(self):
        """Return both factors as children."""
        keys = jax.tree_util.GetAttrKey("value"), jax.tree_util.GetAttrKey("multipliers")
        return tuple(zip(keys, (self.value, self.multipliers), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild from both factors."""
        return cls(*children)

    def over(self, what: str, tree: PyTree) -> list[Any]:
        """Return the product for each leaf of a tree; leaves with equal factors share it."""
        pairs = zip(
            leaf_values(what, self.value, tree),
            leaf_values(what, self.multipliers, tree),
            strict=True,
        )
        once: dict[tuple[int, int], Any] = {}
        products = []
        for pair in pairs:
            key = id(pair[0]), id(pair[1])
            if key not in once:
                once[key] = _product(*pair)
            products.append(once[key])
        return products

    def check_used(self, what: str, tree: PyTree) -> None:
        """Raise if a factor does not fit the parameters."""
        for part in (self.value, self.multipliers):
            if isinstance(part, PerLeaf):
                part.check_used(what, tree)
            elif not _is_one(part):
                spread(what, part, tree)

    def __repr__(self) -> str:
        """Show both factors."""
        return f"times({self.value!r}, {self.multipliers!r})"


_other_shapes: ContextVar[bool] = ContextVar("_other_shapes", default=False)


@contextlib.contextmanager
def other_shapes() -> Iterator[None]:
    """Let `init` take other shapes than the parameters', to see which those of the state follow."""
    token = _other_shapes.set(True)
    try:
        yield
    finally:
        _other_shapes.reset(token)


@serialized
@jax.tree_util.register_pytree_with_keys_class
class ByGroup(PerLeaf):
    """Group -> value, and which parameters each group has.

    Args:
      groups: the names of the groups.
      values: a value for each of them.
      members: for each parameter its path, the name of its group, and its shape.
      made_by: the function whose result this is, for errors.
    """

    def __init__(
        self,
        groups: tuple[str, ...],
        values: tuple[Any, ...],
        members: tuple[tuple[str, str, tuple[int, ...]], ...],
        made_by: str,
    ):
        self.groups, self.values, self.members, self.made_by = groups, values, members, made_by

    def tree_flatten_with_keys(self):
        """Return the values as children, the rest as static data."""
        keys = map(jax.tree_util.DictKey, self.groups)
        static = self.groups, self.members, self.made_by
        return tuple(zip(keys, self.values, strict=True)), static

    @classmethod
    def tree_unflatten(cls, static, values):
        """Rebuild from static data and children."""
        groups, members, made_by = static
        return cls(groups, tuple(values), members, made_by)

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return the value of its group for each path."""
        group_of = {name: group for name, group, _ in self.members}
        value_of_group = dict(zip(self.groups, self.values, strict=True))
        for name in names:
            if name not in group_of:
                raise ValueError(
                    f"{self.made_by}: there was no parameter {name!r}, only "
                    f"{', '.join(map(repr, group_of))}. Call it with the parameters that are "
                    "optimized."
                )
        return [value_of_group[group_of[name]] for name in names]

    def check_used(self, what: str, tree: PyTree) -> None:
        """Raise if a parameter has another shape than that which the values are for."""
        manual = getattr(jax.sharding.get_abstract_mesh(), "manual_axes", ())
        if manual or _other_shapes.get():  # in shard_map, parameters are parts
            return
        shapes = {name: shape for name, _, shape in self.members}
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name, shape = path_name(path), jnp.shape(x)
            if shapes.get(name, shape) != shape:
                raise ValueError(
                    f"{self.made_by}: the parameter {name!r} had the shape {shapes[name]}, and now "
                    f"has {shape}. Call it with the parameters that are optimized."
                )

    def __repr__(self) -> str:
        """Show groups and values as a dict."""
        return f"{self.made_by}({dict(zip(self.groups, self.values, strict=True))})"


def value_of(part: Any, count: Number) -> Array:
    """Return a number, for each of several counts, or what a schedule gives at `count`."""
    part = jnp.asarray(part(count) if isinstance(part, Schedule) else part, scalar_dtype())
    return part if part.ndim else jnp.broadcast_to(part, jnp.shape(count))


def as_factor(part: Any) -> Any:
    """Return a function as a schedule, and anything else as it is."""
    if isinstance(part, (Schedule, PerLeaf)) or not callable(part):
        return part
    plain = jax.tree_util.all_leaves([part])
    return PlainFunction(part) if plain else FunctionSchedule(part)


def _is_one(part: Any) -> bool:
    return isinstance(part, Schedule) or jax.tree_util.all_leaves([part])


def _product(value: Any, multiplier: Any) -> Any:
    if value is None or multiplier is None:
        return None
    if isinstance(value, Schedule) or isinstance(multiplier, Schedule):
        return Product(value, multiplier)
    return value * multiplier


@strict()
def times(value: Hyperparam, multipliers: Hyperparam) -> Schedule | PerLeaf:
    r"""Multiply a hyperparameter by another one, where both stay numbers of the state.

    .. math::

       \eta_{t, i} = s(t)\, f_i

    for the parameter i: one rate or schedule :math:`s` for all parameters, which can be swept, set
    and logged as one number, and a multiplier :math:`f_i` for each. A learning rate that falls from
    layer to layer is `times(schedule, by_path({r"layers/0/.*": 0.25, r".*": 1.0}))`.

    Args:
      value: :math:`s`, a number, schedule, prefix tree or `by_path`. None in a tree switches the
        term off there.
      multipliers: :math:`f`, likewise.

    Returns:
      A `Schedule` if neither is a tree, for any hyperparameter; else a tree for those that take
      one. `value` keeps the name of the hyperparameter in `hyperparams` and `with_hyperparams`, so
      that `with_hyperparams(state, learning_rate=0.1)` leaves the multipliers of a tree as they
      are; these are found as "learning_rate.multipliers...".

    Raises:
      ValueError: at `init`, if a tree does not fit the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
      >>> rates = gdjax.times(gdjax.linear_schedule(1.0, 0.0, 4), {"body": 0.1, "head": 1.0})
      >>> opt = gdjax.sgd(rates)
      >>> updates, state = opt.update(params, opt.init(params))
      >>> updates, state = opt.update(params, state)
      >>> print(updates["body"], updates["head"])
      [-0.075 -0.075] [-0.75 -0.75]
      >>> print(gdjax.hyperparams(state)["learning_rate"])
      0.5
    """
    value, multipliers = as_factor(value), as_factor(multipliers)
    if _is_one(value) and _is_one(multipliers):
        return Product(value, multipliers)
    return Times(value, multipliers)
