"""Spaces of hyperparameters: what may vary, and how points are taken from it.

A space is a dict, name -> what the value may be: a list or array, a `uniform`, `log_uniform` or
`choice`, or a function of the point so far (a dependent value). A point is a dict of plain values.
Numbers become lanes of one program; anything else (booleans, strings, None, functions) is
structure, and every combination of it a program of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gdjax.core.checks import check_choice
from gdjax.training.points import Point, with_seeds
from gdjax.training.report import require


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, evenly spread in themselves or in their logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float:
        """Return the value at a share in [0, 1] of the way."""
        if self.log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        value = min(max(value, self.low), self.high)  # exp and log round
        return round(value) if self.whole else value

    def axis(self, resolution: int) -> list[float]:
        """Return evenly spread values, both ends included."""
        values = [self.at(i / max(resolution - 1, 1)) for i in range(resolution)]
        return list(dict.fromkeys(values))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Any of some values."""

    options: tuple

    def at(self, share: float) -> Any:
        """Return the option at a share in [0, 1) of the way."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def axis(self, resolution: int) -> list:
        """Return all options."""
        return list(self.options)


def _interval(name: str, low: Any, high: Any, log: bool, whole: bool) -> Interval:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name}(low, high) must be finite with low < high, got {low}, {high}.")
    if log and low <= 0:
        raise ValueError(f"{name}(low=...) must be > 0, got {low}. Use uniform for a range with 0.")
    return Interval(float(low), float(high), log, whole)


def uniform(low: float, high: float, *, whole: bool = False) -> Interval:
    """Say that a hyperparameter may be any number from `low` to `high`.

    Args:
      low: the least value, finite.
      high: the greatest value, finite and > low.
      whole: whether to round to whole numbers, as for a number of steps.

    Returns:
      A part of a space, for `grid`, `sample` or `sweep`.

    Example:
      >>> print(grid({"momentum": uniform(0.0, 1.0)}, resolution=3))
      [{'momentum': 0.0}, {'momentum': 0.5}, {'momentum': 1.0}]
    """
    return _interval("uniform", low, high, False, whole)


def log_uniform(low: float, high: float, *, whole: bool = False) -> Interval:
    """Say that a hyperparameter may be any number from `low` to `high`, all magnitudes alike.

    Args:
      low: the least value, finite and > 0.
      high: the greatest value, finite and > low.
      whole: whether to round to whole numbers.

    Returns:
      A part of a space, for `grid`, `sample` or `sweep`.

    Example:
      >>> points = grid({"learning_rate": log_uniform(1e-3, 1e-1)}, resolution=3)
      >>> print([round(p["learning_rate"], 6) for p in points])
      [0.001, 0.01, 0.1]
    """
    return _interval("log_uniform", low, high, True, whole)


def choice(*options: Any) -> Choice:
    """Say that a hyperparameter may be any of some values, of any type.

    Numbers are lanes of one program. Booleans, strings, None and functions are structure: `sweep`
    runs a program for each, one after the other, behind one call. Under the name "optimizer" the
    options are factories of optimizers.

    Args:
      *options: the values, at least one.

    Example:
      >>> print(grid({"nesterov": choice(False, True), "momentum": [0.9]}))
      [{'nesterov': False, 'momentum': 0.9}, {'nesterov': True, 'momentum': 0.9}]
    """
    if not options:
        raise ValueError("choice(*options) needs at least one option, got none.")
    return Choice(options)


def grid(space: Mapping[str, Any], resolution: int = 5) -> list[Point]:
    """Return all combinations of the values that a space allows.

    Args:
      space: name -> list, array, `uniform`, `log_uniform`, `choice`, or a function of the point so
        far, which is called with a dict of the values of the names before it.
      resolution: values >= 1 taken from each `uniform` and `log_uniform`, both ends included.

    Returns:
      A list of points; the last name varies fastest.

    Raises:
      ValueError: if there is no point.

    Example:
      >>> space = {"b1": [0.8, 0.9], "b2": lambda point: 1 - (1 - point["b1"]) ** 2}
      >>> print([round(p["b2"], 2) for p in grid(space)])
      [0.96, 0.99]
    """
    if resolution < 1:
        raise ValueError(f"grid(resolution=...) must be >= 1, got {resolution}.")
    axes = [
        [value] if callable(value) else _axis(name, value, resolution)
        for name, value in space.items()
    ]
    rows = list(itertools.product(*axes)) if axes else []
    return _points("grid", space, rows)


def sample(
    space: Mapping[str, Any], count: int, *, seed: int = 0, method: str = "sobol"
) -> list[Point]:
    """Return points spread over a space.

    Args:
      space: as in `grid`; lists and arrays are choices.
      count: number of points >= 1. Sobol points are most even when it is a power of two.
      seed: an integer; other seeds give other points.
      method: "sobol" (scrambled) or "halton" for quasi-random points, which leave no gaps (SciPy's
        `qmc`: `pip install "gdjax[sweeps]"`), or "random" for independent ones.

    Returns:
      A list of points.

    Example:
      >>> points = sample({"learning_rate": log_uniform(1e-4, 1.0)}, 64, method="random")
      >>> 25 < sum(p["learning_rate"] < 1e-2 for p in points) < 39
      True
    """
    check_choice("sample(method=...)", method, ("sobol", "halton", "random"))
    if count < 1:
        raise ValueError(f"sample(count=...) must be >= 1, got {count}.")
    varying = {k: _as_varying(k, v) for k, v in space.items()}
    size = sum(not callable(v) for v in varying.values())
    if method == "random" or not size:
        shares = np.random.default_rng(seed).random((count, max(size, 1)))
    else:
        qmc = require("scipy.stats.qmc", "sweeps", f"sample(method={method!r})")
        if method == "sobol":
            engine = qmc.Sobol(size, seed=seed)
            shares = engine.random_base2(max(count - 1, 0).bit_length())[:count]
        else:
            shares = qmc.Halton(size, seed=seed).random(count)
    rows = []
    for row in shares:
        share = iter(row)
        rows.append([v if callable(v) else v.at(next(share)) for v in varying.values()])
    return _points("sample", space, rows)


def _axis(name: str, value: Any, resolution: int) -> list:
    if isinstance(value, (Interval, Choice)):
        return value.axis(resolution)
    if isinstance(value, (list, tuple, range)):
        return list(value)
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(
            f"sweep(space=...): {name!r} must be a 1-d array of numbers, a list, a uniform, a "
            f"log_uniform, a choice or a function of the point, got {value!r}. A fixed value is a "
            "list of one."
        )
    return array.tolist()


def _as_varying(name: str, value: Any) -> Any:
    """Return an `Interval` or `Choice`, or a function of the point."""
    if isinstance(value, (Interval, Choice)) or callable(value):
        return value
    return Choice(tuple(_axis(name, value, 1)))


def as_points(space: Any, seeds: Any = None) -> list[Point]:
    """Return the points of a sweep: a space is crossed, a list of points is taken as it is."""
    if isinstance(space, Mapping):
        points = grid(space) if space or seeds is None else [{}]  # only seeds may vary
    else:
        points = [dict(point) for point in space]
    if not points or not points[0] and seeds is None:
        raise ValueError(f"sweep(space=...) has no points: the grid is empty, got {space!r}.")
    return with_seeds(points, seeds)


def _points(caller: str, space: Mapping[str, Any], rows: Sequence[Sequence]) -> list[Point]:
    points = []
    for row in rows:
        point: Point = {}
        for (name, what), value in zip(space.items(), row, strict=True):
            point[name] = _dependent(caller, name, what, point) if callable(what) else value
        points.append({k: v.item() if isinstance(v, np.generic) else v for k, v in point.items()})
    if not points:
        raise ValueError(f"{caller}: the space has no points: the grid is empty, got {space!r}.")
    return points


def _dependent(caller: str, name: str, function: Any, point: Point) -> Any:
    try:
        return function(dict(point))
    except KeyError as error:
        raise ValueError(
            f"{caller}: the function of {name!r} reads {error}, but the names before it are "
            f"{list(point)}. Put it after those that it depends on."
        ) from error
