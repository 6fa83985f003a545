"""Repeats: runs of one config that differ only in their seeds, and what they say together.

A point is a config without its seeds. Its repeats are a sample of what the config gives, so a point
is judged by their mean, whose standard error is the sample's standard deviation / sqrt(repeats).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gdjax.core.checks import check_choice
from gdjax.training.trials import SEEDS, Config, words


class Point(NamedTuple):
    """A config of a sweep without its seeds, and what its repeats reached.

    Attributes:
      config: the hyperparameters, without "seed", "init_seed" and "batch_seed".
      lanes: (repeats,), the lanes that run it, in ascending order.
      values: (repeats,), what each of them reached: infinite if it diverged (minus infinity where
        more is better), NaN if it never started.
      mean: of the values of the repeats that started; so infinite if one of them diverged, and NaN
        if none started.
      error: the standard error of the mean, NaN unless at least two repeats started and none
        diverged.
      diverged: how many repeats diverged.
      steps: the most steps that a repeat took part in.
      kept: whether the result has parameters of a repeat.
    """

    config: Config
    lanes: np.ndarray
    values: np.ndarray
    mean: float
    error: float
    diverged: int
    steps: int
    kept: bool


class Curve(NamedTuple):
    """What repeats recorded during the run; their mean and its standard error.

    Attributes:
      step: (times,), the number of steps taken.
      mean: (times,), NaN from where the first repeat diverged, stopped or was dropped.
      error: (times,), the standard error of the mean, NaN for a single repeat.
    """

    step: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def lanes_of_points(configs: Mapping[str, np.ndarray], seeds: str = "mean") -> list[np.ndarray]:
    """Return the lanes of each point, in the order of their first lanes.

    A lane that has the seeds of an earlier one, too, is no repeat of it but the same run again; it
    counts as another point.

    Args:
      configs: name -> (lanes,), as in `SweepResult`.
      seeds: "mean", or "each" for a point of every lane.

    Example:
      >>> table = {"rate": np.array([1.0, 1.0, 2.0, 1.0]), "seed": np.array([0, 1, 0, 0])}
      >>> print(lanes_of_points(table))
      [array([0, 1]), array([2]), array([3])]
    """
    lanes = len(next(iter(configs.values())))
    if seeds == "each":
        return [np.array([lane]) for lane in range(lanes)]
    named = {k: _comparable(v) for k, v in configs.items()}
    runs: collections.Counter = collections.Counter()
    found: dict[object, list[int]] = {}
    for lane in range(lanes):
        point = tuple(v[lane] for k, v in named.items() if k not in SEEDS)
        run = tuple(v[lane] for v in named.values())
        runs[run] += 1
        found.setdefault((point, runs[run]), []).append(lane)
    return [np.array(point) for point in found.values()]


def _comparable(values: np.ndarray) -> list[object]:
    """Return something hashable for each value, equal where the values are."""
    if values.dtype != object:
        return values.tolist()
    return [(type(value).__name__, value) for value in words(values)]


def without_seeds(config: Config) -> Config:
    """Return a config without the names that only seed it."""
    return {k: v for k, v in config.items() if k not in SEEDS}


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means over axis 0 and their standard errors.

    Example:
      >>> print(*mean_and_error(np.array([1.0, 2.0, 6.0])))
      3.0 1.5275252316519468
    """
    count = len(values)
    with np.errstate(invalid="ignore"):  # infinite values have a mean, but no deviation from it
        mean = values.mean(0)
        if count < 2:
            return mean, np.full_like(mean, np.nan)
        return mean, values.std(0, ddof=1) / math.sqrt(count)


def rank(points: Sequence[np.ndarray]) -> list[int]:
    """Return which points are best, first to last, by the scores of their repeats.

    Args:
      points: (repeats,) for each point, where less is better: infinite if a repeat failed, NaN if
        it never started.

    Points without a failed repeat come first, ordered by their mean; then those with some, by the
    share of them and the mean of the others; then those that never started.
    """

    def place(scores: np.ndarray) -> tuple[float, float]:
        scores = scores[~np.isnan(scores)]
        good = scores[np.isfinite(scores)]
        failed = 1 - good.size / scores.size if scores.size else 2.0
        return failed, float(good.mean()) if good.size else math.inf

    places = [place(scores) for scores in points]
    return sorted(range(len(places)), key=places.__getitem__)


def checked_mode(caller: str, by: str, mode: str | None) -> str:
    """Return "min" or "max"; None is "min" for the loss, and an error for a metric."""
    if mode is None:
        if by == "loss":
            return "min"
        raise ValueError(
            f"{caller}(by={by!r}) needs mode='min' or mode='max': whether more of a metric is "
            "better cannot be known from its name. Give mode='max' for an accuracy, mode='min' for "
            "an error or a loss."
        )
    check_choice(f"{caller}(mode=...)", mode, ("min", "max"))
    return mode
