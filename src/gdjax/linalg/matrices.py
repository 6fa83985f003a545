"""Which axes of a parameter make matrices, and the parameter viewed as these matrices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.hyper import PerLeaf, path_name
from gdjax.core.kinds import shown
from gdjax.core.remember import register_node
from gdjax.core.types import Params, PrefixTree

# an axis or several, for all matrices or by path
AxesSpec: TypeAlias = int | tuple[int, ...] | PerLeaf | None


class DimensionNumbers(NamedTuple):
    """Which axes of a parameter are the two sides of a matrix; those not named are a batch.

    Attributes:
      reduction_axis: the axis or axes of the inputs.
      output_axis: the axis or axes of the outputs.
      splits: into how many equal parts the outputs are cut, each a matrix of its own (3 for a fused
        query, key and value), or the sizes of the parts.
    """

    reduction_axis: int | tuple[int, ...] = 0
    output_axis: int | tuple[int, ...] = 1
    splits: int | tuple[int, ...] = 1


# which leaves are matrices, and how: one for all leaves, a prefix tree, or a function giving one
MatrixSpec: TypeAlias = DimensionNumbers | PrefixTree | Callable[[Params], Any] | None


@functools.partial(
    register_node,
    data_fields=[],
    meta_fields=["batch", "rows", "columns", "splits"],
)
@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of a matrix, made nonnegative, with the views of an array as matrices.

    They are static: a pytree without leaves, so that they can be kept in a state.
    """

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    splits: tuple[int, ...] = ()  # the sizes of the parts of the columns; none for a single part

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape (*batch, m, n) of x as matrices."""
        sides = (math.prod(x.shape[i] for i in axes) for axes in (self.rows, self.columns))
        return (*(x.shape[i] for i in self.batch), *sides)

    @property
    def along(self) -> tuple[int, ...]:
        """For each axis of the matrices the first of the array's axes that make it."""
        return (*self.batch, self.rows[0], self.columns[0])

    def matrices(self, x: Array) -> Array:
        """Return x as matrices."""
        return x.transpose(self.batch + self.rows + self.columns).reshape(self.shape(x))

    def array(self, matrices: Array, like: Array) -> Array:
        """Return matrices in the shape of `like`: the inverse of `matrices`."""
        order = self.batch + self.rows + self.columns
        back = sorted(range(like.ndim), key=order.__getitem__)
        return matrices.reshape([like.shape[i] for i in order]).transpose(back)

    def pieces(self, x: Array) -> list[Array]:
        """Return x as matrices, cut into its parts: arrays [*batch, m, n_i]."""
        if not self.splits:
            return [self.matrices(x)]
        ends = list(itertools.accumulate(self.splits[:-1]))
        return jnp.split(self.matrices(x), ends, axis=-1)

    def joined(self, pieces: list[Array], like: Array) -> Array:
        """Return parts in the shape of `like`: the inverse of `pieces`."""
        whole = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, -1)
        return self.array(whole, like)

    def map(self, function: Callable[[Array], Array], x: Array) -> Array:
        """Return `function` of each part of x, in the shape of x."""
        return self.joined([function(piece) for piece in self.pieces(x)], x)


def matrix_axes(
    what: str, spec: MatrixSpec, params: Params, splits: bool = False
) -> list[Axes | None]:
    """Return for each leaf the axes of its matrices, or None if it is not a matrix.

    Args:
      what: the argument's name, for errors.
      spec: `DimensionNumbers` for all leaves of two and more dimensions, `by_path` or a
        prefix tree of them and None, or a function of the parameters that gives one. None takes
        the leaves of two dimensions.
      params: the parameters. Leaves without elements are never matrices.
      splits: whether the caller can treat the parts of a cut matrix.
    """
    named = jax.tree_util.tree_flatten_with_path(params)[0]
    if callable(spec):
        spec = spec(params)
    specs: list[Any] = []
    if spec is None:
        specs = [DimensionNumbers() if x.ndim == 2 else None for _, x in named]
    elif isinstance(spec, DimensionNumbers):
        specs = [spec if x.ndim > 1 else None for _, x in named]
    elif isinstance(spec, PerLeaf):
        spec.check_used(what, params)
        specs = spec.per_leaf(tuple(path_name(path) for path, _ in named))
    else:
        try:
            jax.tree.map(
                lambda one, part: specs.extend([one] * len(jax.tree.leaves(part))),
                spec,
                params,
                is_leaf=lambda s: s is None or isinstance(s, DimensionNumbers),
            )
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{what} is a tree that is no prefix of the parameters. {error}"
            ) from None
    return [
        _axes(f"{what} for {path_name(path)!r}", one, x, splits)
        for (path, x), one in zip(named, specs, strict=True)
    ]


def _axes(what: str, spec: DimensionNumbers | None, x: Array, splits: bool) -> Axes | None:
    if not isinstance(spec, DimensionNumbers | None):
        raise TypeError(f"{what} must be MuonDimensionNumbers or None, got {shown(spec)}.")
    if spec is None or not math.prod(x.shape):
        return None
    sides = [side if isinstance(side, tuple) else (side,) for side in spec[:2]]
    named = sides[0] + sides[1]
    if not all(isinstance(i, int) and -x.ndim <= i < x.ndim for i in named) or len(
        {i % x.ndim for i in named}
    ) < len(named):
        raise ValueError(f"{what} must name distinct axes of the shape {x.shape}, got {spec}.")
    rows, columns = (tuple(i % x.ndim for i in side) for side in sides)
    axes = Axes(tuple(i for i in range(x.ndim) if i not in rows + columns), rows, columns)
    if spec.splits in (1, (1,)):
        return axes
    n, parts = axes.shape(x)[-1], spec.splits
    if isinstance(parts, int) and parts > 0 and n % parts == 0:
        parts = (n // parts,) * parts
    if not splits or not isinstance(parts, tuple) or sum(parts) != n or min(parts) < 1:
        raise ValueError(
            f"{what}: splits={spec.splits} cannot cut {n} outputs"
            + ("." if splits else "; this optimizer takes matrices whole.")
        )
    return dataclasses.replace(axes, splits=parts)


def axes_per_leaf(
    what: str, spec: AxesSpec, params: Params, default: tuple[int, ...] = ()
) -> list[tuple[int, ...]]:
    """Return the axes that a specification names, for each leaf.

    Args:
      what: the argument's name, for errors.
      spec: an axis or a tuple of axes, for the leaves of two and more dimensions; the others get
        none. Or `by_path` of those, which names leaves of any kind.
      params: the parameters.
      default: what None means for a leaf of two and more dimensions, outside `by_path`.
    """
    named = jax.tree_util.tree_flatten_with_path(params)[0]
    if isinstance(spec, PerLeaf):
        spec.check_used(what, params)
        values = spec.per_leaf(tuple(path_name(path) for path, _ in named))
    else:
        spec = default if spec is None else spec
        values = [spec if jnp.ndim(x) > 1 else () for _, x in named]
    axes = []
    for (path, x), value in zip(named, values, strict=True):
        value = () if value is None else value if isinstance(value, tuple) else (value,)
        if not all(isinstance(i, int) and -x.ndim <= i < x.ndim for i in value):
            raise ValueError(
                f"{what} must name axes of the parameters, got {value} for {path_name(path)!r} of "
                f"shape {x.shape}. Name them by parameter with gdjax.by_path."
            )
        axes.append(tuple(i % x.ndim for i in value))
    return axes
