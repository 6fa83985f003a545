"""Races: lanes that do badly are dropped during the run, so the step budget goes to the others.

Jamieson & Talwalkar (2016), successive halving, https://arxiv.org/abs/1502.07943
Li et al. (2018), Hyperband, https://arxiv.org/abs/1603.06560
Golovin et al. (2017), section 3.2.2 of Vizier, the median rule,
https://doi.org/10.1145/3097983.3098043
Deviations: all lanes run in step, so a rung compares lanes at the same step; Hyperband's brackets
run side by side in one program, not one after the other. What races are points: configs without
their seeds, judged by the mean over their repeats, which survive or leave together.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack

import numpy as np
from jax.sharding import Mesh

from gdjax.core.checks import bound_arguments, check_integer, strict
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.pool import Pool
from gdjax.training.repeats import checked_mode, lanes_of_points, rank
from gdjax.training.reports import Report
from gdjax.training.result import SweepResult
from gdjax.training.streams import is_stream
from gdjax.training.sweep import sweep
from gdjax.training.trials import Config, Space, as_configs, columns, sampled

A = ParamSpec("A")
R = TypeVar("R")


class LaneOptions(TypedDict, total=False):
    """The options of `sweep` that whatever trains lanes has, too."""

    batch_size: int | None
    has_aux: bool
    needs_key: bool
    model_state: PyTree | Callable[..., PyTree]
    held_out: PyTree
    held_out_batch_size: int | None
    metric_fn: Callable[..., Any] | None
    progress: bool
    vectorize: bool | None
    lanes_per_program: int | None
    mesh: Mesh | None
    lanes_axis: str | None


class RaceOptions(LaneOptions, total=False):
    """The options of `sweep` that every race has, too."""

    callbacks: Iterable[Callable[[Report], object]]
    directory: str | os.PathLike[str] | None
    resume: bool


def with_options(options: type) -> Callable[[Callable[A, R]], Callable[A, R]]:
    """Name `LaneOptions` or `RaceOptions` in a signature, and check calls against it."""

    def decorate(race: Callable[A, R]) -> Callable[A, R]:
        signature = inspect.signature(race)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        of_sweep = inspect.signature(sweep).parameters
        named += [of_sweep[name] for name in options.__annotations__]
        signature = signature.replace(parameters=named)

        @functools.wraps(race)
        def checked(*args: A.args, **kwargs: A.kwargs) -> R:
            bound_arguments(race.__name__, signature, args, kwargs)
            return race(*args, **kwargs)

        vars(checked)["__signature__"] = signature
        return checked

    return decorate


@strict()
@with_options(RaceOptions)
def successive_halving(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Space | Sequence[Space],
    data: PyTree,
    *,
    steps: int,
    eta: int = 3,
    min_steps: int | None = None,
    by: str = "loss",
    mode: str | None = None,
    key: Key | None = None,
    seeds: int | Sequence[int] | None = None,
    **options: Unpack[RaceOptions],
) -> SweepResult:
    """Sweep a space, but keep only the best of every `eta` points at each rung.

    A point is a config without its seeds. It is judged by the mean over its repeats, the lanes that
    differ only in "seed", "init_seed" and "batch_seed"; they survive or leave together. Rungs lie
    at min_steps, eta min_steps, eta² min_steps, ... and `steps`. Survivors are merged on the device
    and the others dropped. A point with a diverged repeat leaves at the next rung, unless there is
    no other.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: as in `sweep`.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that the last survivors get.
      eta: an integer >= 2; a share of 1 / eta survives each rung.
      min_steps: updates >= 1 to the first rung; by default about one point survives all rungs.
      by: what decides: "loss", the mean over the last tenth of a lane's steps, or the name of a
        held-out metric ("held_out" if `metric_fn` gives one number).
      mode: "min" or "max"; None is "min" for "loss", and an error for a metric, as it cannot be
        known whether more of it is better.
      key: as in `fit`.
      seeds: as in `sweep`.
      **options: of `sweep`: batch_size, has_aux, needs_key, model_state, held_out,
        held_out_batch_size, metric_fn, callbacks, progress, vectorize, lanes_per_program, mesh,
        lanes_axis, directory, resume.

    Returns:
      A `SweepResult`; `kept` are the survivors' lanes, `steps` says how far each lane got, and
      `steps.sum()` is the budget that was spent.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.95, 2.0]}
      >>> data = jnp.ones(4)
      >>> race = gdjax.successive_halving(loss_fn, jnp.zeros(()), gdjax.sgd, space, data, steps=27)
      >>> print(race.best().config, race.steps, race.steps.sum() / (9 * 27))
      {'learning_rate': 0.3} [ 3  3  3  3  9  9 27  3  3] 0.25925925925925924
    """
    configs = as_configs("successive_halving", space, seeds)
    points = lanes_of_points(columns(configs))
    min_steps = _first_rung("successive_halving", steps, eta, min_steps, _log(len(points), eta))
    rungs = [min_steps * eta**i for i in range(_log(steps // min_steps, eta) + 1)]
    rungs = [r for r in rungs if r * eta <= steps]
    mode = check_judge("successive_halving", by, mode, options)

    def survivors(rung: int, pool: Pool) -> list[np.ndarray]:
        return _top(pool.scores(by, mode), _running(points, pool), eta)

    return _race(
        "successive_halving", loss_fn, params, optimizer, configs, data, steps, rungs, survivors,
        rules={"eta": eta, "min_steps": min_steps, "by": by, "mode": mode}, key=key, **options,
    )  # fmt: skip


@strict()
@with_options(RaceOptions)
def hyperband(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Space | Sequence[Space],
    data: PyTree,
    *,
    steps: int,
    eta: int = 3,
    min_steps: int | None = None,
    by: str = "loss",
    mode: str | None = None,
    key: Key | None = None,
    seeds: int | Sequence[int] | None = None,
    method: str = "sobol",
    **options: Unpack[RaceOptions],
) -> SweepResult:
    """Race brackets of points side by side, from many short runs to a few long ones.

    Bracket s = 0 ... S starts ceil((S + 1) / (s + 1) eta^s) configs and has its first rung at
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
      key: as in `fit`; it also decides what is sampled.
      seeds: as in `sweep`; repeats of each sampled config, judged together as in
        `successive_halving`.
      method: of the sampling, see `sample`.
      **options: as in `successive_halving`.

    Returns:
      A `SweepResult` with the bracket of each lane in `configs["bracket"]`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": gdjax.log_uniform(1e-3, 1.0)}
      >>> race = gdjax.hyperband(
      ...     loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=9, min_steps=1,
      ...     method="random")
      >>> print(np.bincount(race.configs["bracket"]), np.bincount(race.steps)[[1, 3, 9]])
      [3 5 9] [6 6 5]
    """
    min_steps = _first_rung("hyperband", steps, eta, min_steps, 3)
    widest = _log(steps // min_steps, eta)
    sizes = [-(-((widest + 1) * eta**s) // (s + 1)) for s in range(widest + 1)]
    if not isinstance(space, Mapping):
        raise TypeError(f"hyperband(space=...) must be a dict to sample from, got {space!r}.")
    configs = as_configs("hyperband", sampled("hyperband", space, sum(sizes), key, method), seeds)
    brackets = np.repeat(np.arange(widest + 1), np.array(sizes) * (len(configs) // sum(sizes)))
    points = lanes_of_points(columns(configs) | {"bracket": brackets})
    rungs = [max(1, steps // eta**k) for k in range(widest, 0, -1)]
    mode = check_judge("hyperband", by, mode, options)

    def survivors(rung: int, pool: Pool) -> list[np.ndarray]:
        scores, running, kept = pool.scores(by, mode), _running(points, pool), []
        for bracket in range(widest + 1):
            part = [lanes for lanes in running if brackets[lanes[0]] == bracket]
            kept += _top(scores, part, eta) if bracket >= widest - rung else part
        return kept

    result = _race(
        "hyperband", loss_fn, params, optimizer, configs, data, steps, rungs, survivors,
        rules={"eta": eta, "min_steps": min_steps, "by": by, "mode": mode}, key=key, **options,
    )  # fmt: skip
    result.configs["bracket"] = brackets
    return result


@strict()
@with_options(RaceOptions)
def median_stop(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Space | Sequence[Space],
    data: PyTree,
    *,
    steps: int,
    every: int | None = None,
    grace: int | None = None,
    key: Key | None = None,
    seeds: int | Sequence[int] | None = None,
    **options: Unpack[RaceOptions],
) -> SweepResult:
    """Sweep a space, but stop a point whose best loss is worse than the median of the means so far.

    Every `every` steps a point's best mean loss over such an interval is compared with the median,
    over all points, of the mean loss since the start. A point's losses are the means over its
    repeats, which go on or stop together, see `successive_halving`. A point that was stopped counts
    with the mean it had, one with a diverged repeat as infinite.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: as in `sweep`.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that a point's lanes get if it is not stopped.
      every: steps between two looks; None is a tenth of the run.
      grace: steps before the first look; None is one interval.
      key: as in `fit`.
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
    configs = as_configs("median_stop", space, seeds)
    points = lanes_of_points(columns(configs))
    check_integer("median_stop(steps=...)", steps)
    every = max(1, steps // 10) if every is None else every
    check_integer("median_stop(every=...)", every)
    grace = every if grace is None else check_integer("median_stop(grace=...)", grace)
    rungs = [r for r in range(every, steps, every) if r >= grace]

    def survivors(rung: int, pool: Pool) -> list[np.ndarray]:
        losses = pool.history["loss"].astype(float)
        done = np.maximum(pool.steps, 1)  # a lane that diverged at once counts as infinite below
        means = np.array([loss[:n].mean() for loss, n in zip(losses, done, strict=True)])
        means = np.where((pool.diverged_at >= 0) | ~np.isfinite(means), np.inf, means)
        median = np.median([means[lanes].mean() for lanes in points])
        intervals = losses[:, : pool.done // every * every].reshape(len(means), -1, every).mean(2)
        intervals[pool.diverged_at >= 0] = np.inf
        running = _running(points, pool)
        return [lanes for lanes in running if intervals[lanes].mean(0).min() <= median] or _top(
            means, running, len(running)
        )

    return _race(
        "median_stop", loss_fn, params, optimizer, configs, data, steps, rungs, survivors,
        rules={"every": every, "grace": grace}, report_every=every, key=key, **options,
    )  # fmt: skip


def _race(
    caller: str,
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Any,
    configs: Sequence[Config],
    data: PyTree,
    steps: int,
    rungs: Sequence[int],
    survivors: Callable[[int, Pool], list[np.ndarray]],
    *,
    rules: Mapping[str, Any],
    report_every: int | None = None,
    **options: Any,
) -> SweepResult:
    check_rereadable(caller, data)
    with Pool(
        caller, loss_fn, params, optimizer, configs, data,
        steps=steps, report_every=report_every or (*rungs, steps)[0],
        rules={"steps": steps, **rules}, **options,
    ) as pool:  # fmt: skip
        for i, rung in enumerate([*rungs, steps]):
            if rung > pool.done and pool.advance(rung):
                break
            if rung < steps:
                pool.keep(_able(survivors(i, pool), pool))
    return pool.result()


def _running(points: Sequence[np.ndarray], pool: Pool) -> list[np.ndarray]:
    lanes = set(pool.lanes)
    return [point for point in points if point[0] in lanes]


def _top(scores: np.ndarray, points: Sequence[np.ndarray], eta: int) -> list[np.ndarray]:
    """Return the best of every `eta` points, at least one, if there are any."""
    order = rank([scores[lanes] for lanes in points])
    return [points[i] for i in order[: max(1, len(points) // eta)]]


def _able(points: Sequence[np.ndarray], pool: Pool) -> list[int]:
    """Return the lanes of the points that can still be the best: those without a diverged repeat.

    If there is none, those of all points with a repeat that did not diverge.
    """
    failed = [(pool.diverged_at[lanes] >= 0).mean() for lanes in points]
    least = min(failed)
    able = [share == 0 if least == 0 else share < 1 for share in failed]
    return [int(lane) for i, lanes in enumerate(points) if able[i] for lane in lanes]


def _log(x: float, base: int) -> int:
    """Return the whole part of log_base(x), without rounding errors."""
    return max((k for k in range(64) if base**k <= x), default=0)


def _first_rung(caller: str, steps: int, eta: int, min_steps: int | None, cuts: int) -> int:
    """Return the step of the first rung, by default the first of `cuts` rungs."""
    check_integer(f"{caller}(steps=...)", steps)
    check_integer(f"{caller}(eta=...)", eta, 2)
    if min_steps is None:
        return max(1, steps // eta**cuts)
    if check_integer(f"{caller}(min_steps=...)", min_steps) > steps:
        raise ValueError(f"{caller}(min_steps=...) must be in [1, {steps}], got {min_steps}.")
    return min_steps


def check_judge(caller: str, by: str, mode: str | None, options: Mapping[str, Any]) -> str:
    """Return the mode, "min" or "max"; raise unless there is something to compare points by."""
    if by != "loss" and options.get("held_out") is None:
        raise ValueError(f"{caller}(by={by!r}) needs held_out=... to evaluate it on.")
    return checked_mode(caller, by, mode)


def check_rereadable(caller: str, data: PyTree) -> None:
    """Raise for a stream: it can be read only once, and a race reads data again after a rung."""
    if is_stream(data):
        raise ValueError(
            f"{caller}(data=...) must be arrays, as a race reads them more than once; got an "
            "iterable of batches. (A list is batches, a tuple is arrays.)"
        )
