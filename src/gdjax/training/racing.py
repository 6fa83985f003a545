"""Races: lanes that do badly are dropped on the way, so that the step budget goes to the others.

Jamieson & Talwalkar (2016), successive halving, https://arxiv.org/abs/1502.07943
Li et al. (2018), Hyperband, https://arxiv.org/abs/1603.06560
Golovin et al. (2017), section 3.2.2 of Vizier, the median rule,
https://doi.org/10.1145/3097983.3098043
Deviations: all lanes run in step, so a rung compares lanes at the same step; Hyperband's brackets
run side by side in one program, not one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gdjax.training.herd import Herd
from gdjax.training.result import SweepResult
from gdjax.training.space import as_points, sample


def successive_halving(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Any,
    data: Any,
    *,
    steps: int,
    eta: int = 3,
    min_steps: int | None = None,
    by: str = "loss",
    mode: str = "min",
    seeds: Any = None,
    **options: Any,
) -> SweepResult:
    """Sweep a space, but keep only the best of every `eta` lanes at each rung.

    Rungs lie at min_steps, eta min_steps, eta² min_steps, ... and `steps`. Survivors are gathered
    on the device and the others dropped.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: as in `sweep`.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that the last survivors get.
      eta: an integer >= 2; a share of 1 / eta survives each rung.
      min_steps: updates >= 1 to the first rung; None is such that about one lane survives all.
      by: what decides: "loss", the mean over the last tenth of a lane's steps, or the name of a
        held-out metric ("held_out" if `metric_fn` gives one number).
      mode: "min" or "max".
      seeds: as in `sweep`.
      **options: of `sweep`: batch_size, key, has_aux (the aux is not kept), needs_key, held_out,
        metric_fn, progress, vectorize, lanes_per_program.

    Returns:
      A `SweepResult`; `kept` are the survivors, `steps` says how far each lane got, and
      `steps.sum()` is the budget that was spent.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.95, 2.0]}
      >>> data = jnp.ones(4)
      >>> race = gdjax.successive_halving(loss_fn, jnp.zeros(()), gdjax.sgd, space, data, steps=27)
      >>> print(race.best().point, race.steps, race.steps.sum() / (9 * 27))
      {'learning_rate': 0.3} [ 3  3  3  3  9  9 27  3  3] 0.25925925925925924
    """
    points = as_points(space, seeds)
    _check("successive_halving", steps, eta)
    if min_steps is None:
        min_steps = max(1, steps // eta ** _log(len(points), eta))
    if not 1 <= min_steps <= steps:
        raise ValueError(
            f"successive_halving(min_steps=...) must be in [1, {steps}], got {min_steps}."
        )
    rungs = [min_steps * eta**i for i in range(_log(steps // min_steps, eta) + 1)]
    rungs = [r for r in rungs if r * eta <= steps]

    def survivors(rung: int, herd: Herd) -> list[int]:
        return _top(herd.scores(), herd.lanes, eta)

    return _race(
        "successive_halving", loss_fn, params, optimizer, points, data, rungs, survivors,
        steps=steps, by=by, mode=mode, **options,
    )  # fmt: skip


def hyperband(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Any,
    data: Any,
    *,
    steps: int,
    eta: int = 3,
    min_steps: int | None = None,
    by: str = "loss",
    mode: str = "min",
    seed: int = 0,
    method: str = "sobol",
    **options: Any,
) -> SweepResult:
    """Race brackets of points side by side, from many short runs to a few long ones.

    Bracket s = 0 ... S starts ceil((S + 1) / (s + 1) eta^s) points and has its first rung at
    steps / eta^s, so no single guess of how early losses can be trusted decides.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: name -> `uniform`, `log_uniform`, `choice`, list or array, to `sample` from.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that the last survivors get.
      eta: an integer >= 2; a share of 1 / eta of each bracket survives its rungs.
      min_steps: updates >= 1 to the first rung of the widest bracket; None is steps / eta³.
      by: as in `successive_halving`.
      mode: as in `successive_halving`.
      seed: of the sampling.
      method: of the sampling, see `sample`.
      **options: as in `successive_halving`.

    Returns:
      A `SweepResult` with the bracket of each lane in `points["bracket"]`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": gdjax.log_uniform(1e-3, 1.0)}
      >>> race = gdjax.hyperband(
      ...     loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=9, min_steps=1,
      ...     method="random")
      >>> print(np.bincount(race.points["bracket"]), np.bincount(race.steps)[[1, 3, 9]])
      [3 5 9] [6 6 5]
    """
    _check("hyperband", steps, eta)
    if min_steps is None:
        min_steps = max(1, steps // eta**3)
    widest = _log(steps // min_steps, eta)
    sizes = [-(-((widest + 1) * eta**s) // (s + 1)) for s in range(widest + 1)]
    drawn = sample(space, sum(sizes), seed=seed, method=method)
    brackets = np.repeat(np.arange(widest + 1), sizes)
    rungs = [max(1, steps // eta**k) for k in range(widest, 0, -1)]

    def survivors(rung: int, herd: Herd) -> list[int]:
        scores, kept = herd.scores(), []
        for bracket in range(widest + 1):
            lanes = [lane for lane in herd.lanes if brackets[lane] == bracket]
            kept += _top(scores, lanes, eta) if bracket >= widest - rung else lanes
        return kept

    result = _race(
        "hyperband", loss_fn, params, optimizer, drawn, data, rungs, survivors,
        steps=steps, by=by, mode=mode, **options,
    )  # fmt: skip
    result.points["bracket"] = brackets
    return result


def median_stop(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Any,
    data: Any,
    *,
    steps: int,
    every: int | None = None,
    grace: int | None = None,
    seeds: Any = None,
    **options: Any,
) -> SweepResult:
    """Sweep a space, but stop a lane whose best loss is worse than the median lane's mean so far.

    Every `every` steps a lane's best mean loss over such an interval is compared with the median,
    over all lanes, of the mean loss since the start. A lane that was stopped counts with the mean
    it had, one that diverged as infinite.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: as in `sweep`.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that a lane gets if it is not stopped.
      every: steps between two looks; None is a tenth of the run.
      grace: steps before the first look; None is one interval.
      seeds: as in `sweep`.
      **options: as in `successive_halving`.

    Returns:
      A `SweepResult`; `kept` are the lanes that were never stopped.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": [1e-4, 1e-3, 0.05, 0.1, 0.2, 2.0]}
      >>> race = gdjax.median_stop(
      ...     loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=100)
      >>> print(race.steps, race.kept)
      [ 10  10 100 100 100  10] [2 3 4]
    """
    points = as_points(space, seeds)
    _check("median_stop", steps, 2)
    every = max(1, steps // 10) if every is None else every
    grace = every if grace is None else grace
    if every < 1 or grace < 1:
        raise ValueError(f"median_stop(every, grace) must be >= 1, got {every}, {grace}.")
    rungs = [r for r in range(every, steps, every) if r >= grace]

    def survivors(rung: int, herd: Herd) -> list[int]:
        means = np.array([loss[:n].mean() for loss, n in zip(herd.losses, herd.steps, strict=True)])
        means = np.where((herd.diverged_at >= 0) | ~np.isfinite(means), np.inf, means)
        intervals = herd.losses[:, : herd.done // every * every].reshape(len(means), -1, every)
        best = np.where(herd.diverged_at >= 0, np.inf, np.min(intervals.mean(2), 1))
        return [lane for lane in herd.lanes if best[lane] <= np.median(means)]

    return _race(
        "median_stop", loss_fn, params, optimizer, points, data, rungs, survivors,
        steps=steps, by="loss", mode="min", length=every, **options,
    )  # fmt: skip


def _race(
    caller: str,
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    points: Sequence[dict],
    data: Any,
    rungs: Sequence[int],
    survivors: Callable[[int, Herd], list[int]],
    *,
    steps: int,
    length: int | None = None,
    **options: Any,
) -> SweepResult:
    started = time.perf_counter()
    first = rungs[0] if rungs else steps
    with Herd(
        caller, loss_fn, params, optimizer, points, data,
        steps=steps, length=length or first, **options,
    ) as herd:  # fmt: skip
        for i, rung in enumerate([*rungs, steps]):
            if rung > herd.done and herd.advance(rung):
                break
            if rung < steps:
                herd.keep(survivors(i, herd))
    return herd.result(time.perf_counter() - started)


def _top(scores: np.ndarray, lanes: Sequence[int], eta: int) -> list[int]:
    """Return the best of every `eta` lanes, at least one."""
    return sorted(lanes, key=lambda lane: scores[lane])[: max(1, len(lanes) // eta)]


def _log(x: float, base: int) -> int:
    """Return the whole part of log_base(x), without rounding errors."""
    return max((k for k in range(64) if base**k <= x), default=0)


def _check(caller: str, steps: Any, eta: Any) -> None:
    for name, value, least in (("steps", steps, 1), ("eta", eta, 2)):
        if not isinstance(value, (int, np.integer)) or value < least or math.isnan(value):
            raise ValueError(f"{caller}({name}=...) must be an integer >= {least}, got {value!r}.")
