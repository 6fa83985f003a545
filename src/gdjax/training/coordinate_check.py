"""Coordinate check: how the sizes of activations, and of their changes, depend on the width.

Yang & Hu et al. (2022), "Tensor Programs V", appendix D.1, https://arxiv.org/abs/2203.03466
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import short
from gdjax.core.chain import apply_updates, with_extra_args_support
from gdjax.core.checks import check_integer, strict
from gdjax.core.hyper import check_distinct, path_name
from gdjax.core.kinds import shown
from gdjax.core.numerics import root_mean_sq, upcast
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.plotting import new_axes


@dataclasses.dataclass(frozen=True, repr=False)
class CoordinateCheck:
    """What `coordinate_check` returns; printed, it is a table of the slopes.

    Attributes:
      widths: the widths, in ascending order.
      sizes: name of an activation -> (widths, steps + 1), its root mean square before the first
        step and after each, the geometric mean over seeds.
      changes: name of an activation -> (widths, steps), the root mean square of its difference from
        that before the first step, likewise.
    """

    widths: tuple[int, ...]
    sizes: dict[str, np.ndarray]
    changes: dict[str, np.ndarray]

    def slopes(self, step: int = -1) -> dict[str, float]:
        """Return name -> slope of log(change) against log(width), by least squares.

        It is 0 for changes that do not depend on the width, as in the maximal update
        parametrization, 1 for those that are proportional to it, and NaN if one is 0 or not finite.

        Args:
          step: the step after which the changes are compared; -1 is the last.
        """
        return {name: _slope(self.widths, x[:, step]) for name, x in self.changes.items()}

    def __repr__(self) -> str:
        """Show the changes by the last step for each width, and their slopes."""
        slopes = self.slopes()
        head = ["change of", *map(str, self.widths), "slope"]
        rows = [
            [name, *(f"{x:.3g}" for x in changes[:, -1]), f"{slopes[name]:.2f}"]
            for name, changes in self.changes.items()
        ]
        columns = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = (zip(row, columns, strict=True) for row in (head, *rows))
        return "\n".join("  ".join(x.ljust(n) for x, n in line).rstrip() for line in lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the changes by the last step against the width; return the axes."""
        ax = new_axes(ax)
        for name, slope in self.slopes().items():
            changes = self.changes[name][:, -1]
            ax.plot(self.widths, changes, "o-", label=f"{name}, slope {slope:.2f}")
        ax.set(xscale="log", yscale="log", xlabel="width", ylabel="change of the activation")
        ax.legend(fontsize="small")
        return ax


def _slope(widths: Sequence[int], values: np.ndarray) -> float:
    if not (np.isfinite(values).all() and (values > 0).all()):
        return float("nan")
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])


@strict()
def coordinate_check(
    setup: Callable[..., tuple[LossFn, Params, Pair]],
    widths: Sequence[int],
    batch: PyTree,
    *,
    steps: int = 4,
    seeds: int = 2,
    key: Key = 0,
) -> CoordinateCheck:
    r"""Train models of several widths for a few steps, and compare how much activations change.

    With :math:`h_t` an activation after t steps, and root mean squares over all its elements:

    .. math::

       c(n) = \operatorname{rms}(h_t - h_0) \propto n^{s}

    at the width n. In the maximal update parametrization the slope s of every activation tends to
    0. Where it is positive, a wider model diverges at a rate that a narrow one can use; where it is
    negative, a layer learns less the wider it is. The slope of the outputs' first change is the
    most reliable: in later steps all are mixed.

    Args:
      setup: `setup(width, key)` returns `loss_fn, params, optimizer`, where
        `loss_fn(params, batch)` returns the loss and a tree of activations, by name.
      widths: two or more widths, each at least 1.
      batch: the batch of each step.
      steps: number of steps >= 1.
      seeds: number of repeats >= 1, with other keys.
      key: of `jax.random`, split for the repeats.

    Returns:
      A `CoordinateCheck`: `slopes()`, a table when it is printed, and `plot()`.

    Raises:
      ValueError: if there are fewer than two widths, if a number is too small, or if models of
        different widths have different activations.
      TypeError: if `loss_fn` does not return a loss and activations.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def setup(width, key):
      ...     def init(width):
      ...         keys = jax.random.split(key)
      ...         wide = jax.random.normal(keys[0], (4, width))
      ...         return {"in": wide, "out": jax.random.normal(keys[1], (width, 1)) / width}
      ...     def loss_fn(params, batch):
      ...         hidden = jnp.tanh(batch @ params["in"])
      ...         out = hidden @ params["out"]
      ...         return jnp.mean((out - 1.0) ** 2), {"hidden": hidden, "out": out}
      ...     return loss_fn, init(width), gdjax.adam(0.05)
      >>> check = gdjax.coordinate_check(setup, [16, 256], jnp.eye(4), steps=1, seeds=1)
      >>> bool(check.slopes()["out"] > 0.8)  # one rate for all parameters is too large when wide
      True

    References:
      Yang, Hu et al. (2022), "Tensor Programs V: tuning large neural networks via zero-shot
      hyperparameter transfer".
    """
    check_integer("coordinate_check(steps=...)", steps)
    check_integer("coordinate_check(seeds=...)", seeds)
    sorted_widths = tuple(sorted(set(widths)))
    if len(sorted_widths) < 2 or sorted_widths[0] < 1:
        raise ValueError(
            f"coordinate_check(widths=...) must be two or more widths >= 1, got {list(widths)}."
        )
    key = jax.random.key(key) if isinstance(key, int) else key
    keys = jax.random.split(key, seeds)
    found = [[_run(setup(width, key), batch, steps) for key in keys] for width in sorted_widths]
    names = list(found[0][0])
    for width, runs in zip(sorted_widths, found, strict=True):
        if list(runs[0]) != names:
            raise ValueError(
                f"coordinate_check(setup=...): the activations at width {width} are "
                f"{list(runs[0])}, at {sorted_widths[0]} {names}."
            )

    def mean(i: int, name: str) -> np.ndarray:
        values = [[run[name][i] for run in runs] for runs in found]
        with np.errstate(divide="ignore"):
            return np.exp(np.mean(np.log(np.asarray(values, np.float64)), 1))

    return CoordinateCheck(
        sorted_widths, {n: mean(0, n) for n in names}, {n: mean(1, n) for n in names}
    )


def _run(
    parts: tuple[LossFn, Params, Pair], batch: PyTree, steps: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> sizes and changes of the activations of one model."""
    if not (isinstance(parts, tuple) and len(parts) == 3):
        raise TypeError(
            "coordinate_check(setup=...): setup(width, key) must return (loss_fn, params, "
            f"optimizer), got {shown(parts)}."
        )
    loss_fn, params, optimizer = parts
    init, update = with_extra_args_support(optimizer)

    def evaluated(params):
        returned = loss_fn(params, batch)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise TypeError(
                "coordinate_check(setup=...): loss_fn(params, batch) must return (loss, "
                f"activations), got {short(returned)}."
            )
        return returned

    @jax.jit
    def train(params, state):
        _, first = evaluated(params)

        def measured(aux):
            aux, start = jax.tree.map(upcast, (aux, first))
            change = jax.tree.map(lambda x, x0: root_mean_sq(x - x0), aux, start)
            return jax.tree.map(root_mean_sq, aux), change

        def step(carry, _):
            params, state = carry
            (value, aux), grads = jax.value_and_grad(evaluated, has_aux=True)(params)
            updates, state = update(grads, state, params, value=value)
            return (apply_updates(params, updates), state), measured(aux)

        (params, _), before = jax.lax.scan(step, (params, state), length=steps)
        last = measured(evaluated(params)[1])
        return jax.tree.map(lambda x, end: jnp.append(x, end), before, last)

    sizes, changes = train(params, init(params))
    rows = jax.tree_util.tree_flatten_with_path(sizes)[0]
    names = [path_name(path) or "activation" for path, _ in rows]
    check_distinct("coordinate_check(setup=...): the activations", names)
    return {
        name: (np.asarray(size), np.asarray(change)[1:])
        for name, (_, size), change in zip(names, rows, jax.tree.leaves(changes), strict=True)
    }
