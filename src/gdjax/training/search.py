"""Search a space of hyperparameters with Optuna, many trials at a time as one compiled program.

Optuna's samplers say what to try (ask) and learn what came out (tell); trials run in rounds, each a
`Pool` of lanes. The rule "halving" is that of asynchronous successive halving, Li et al. (2020),
https://arxiv.org/abs/1810.05934, section 3: a trial continues if it is in the best 1 / eta of all
that have reached the rung. Deviation: the trials of a round reach it together.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import numpy as np

from gdjax.core.checks import check_choice, check_integer, strict
from gdjax.core.kinds import shown
from gdjax.core.remember import weak_functions
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.checkpoint import identity_of_lanes
from gdjax.training.engine import Carry, metric_program, to_host
from gdjax.training.inputs import (
    check_arrays,
    check_batch_size,
    count_steps,
    is_stream,
    refuse_tracers,
)
from gdjax.training.lanes import Kind, devices_for, make_kinds, make_start
from gdjax.training.pool import Pool, carry_of
from gdjax.training.progress import Bar
from gdjax.training.racing import LaneOptions, check_judge, with_options
from gdjax.training.repeats import mean_and_error
from gdjax.training.search_result import BestTrial, SearchResult, as_trials, best_of
from gdjax.training.study import (
    Asking,
    Dimensions,
    as_dimensions,
    check_sampler,
    open_storage,
    optuna_for,
)
from gdjax.training.trials import Config, Space, as_configs, column, static_parts, words

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

CHUNKS = 5  # in which a trial without rungs runs; after each, Ctrl-C can stop it
RUNGS = 3  # by default


@strict()
@with_options(LaneOptions)
def search(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Space,
    data: PyTree,
    *,
    trials: int,
    lanes: int = 16,
    sampler: str | BaseSampler = "tpe",
    steps: int | None = None,
    epochs: int | None = None,
    by: str = "loss",
    mode: str | None = None,
    key: Key | None = None,
    seeds: int | Sequence[int] | None = None,
    pruner: str | BasePruner | None = None,
    eta: int = 3,
    rungs: Sequence[int] | None = None,
    storage: str | os.PathLike[str] | BaseStorage | None = None,
    study_name: str | None = None,
    resume: bool = True,
    **options: Unpack[LaneOptions],
) -> SearchResult:
    """Search a space of hyperparameters with a sampler of Optuna (`pip install "gdjax[search]"`).

    Trials run in rounds: the sampler gives `lanes` configs, which are trained together as the lanes
    of one compiled program, and learns what came out. All rounds use the same program, whatever is
    sampled. A trial that diverges is told as pruned, with the step in its user attribute
    "diverged_at", and never counts as the best.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`.
      space: name -> `uniform`, `log_uniform`, `choice`, list or array, a function of the config so
        far, or a distribution of Optuna. Lists are choices, without an order for the sampler.
        Values that are not numbers are static, as in `sweep`: each combination of them is a
        program.
      data: as in `sweep`; arrays only.
      trials: how many to finish, with those that a stored study has already.
      lanes: trials of a round >= 1. More of them use the device better; with fewer, the sampler
        learns more often.
      sampler: "tpe" (tree-structured Parzen estimator), "gp" (Gaussian process; needs torch),
        "cmaes", "qmc" (Sobol points), "random" or "grid" (all combinations of lists, then the
        search ends), with a seed that follows from `key`; or a sampler of Optuna.
      steps: updates >= 1 of each trial; either this or `epochs`.
      epochs: as in `fit`.
      by: what decides: "loss", the mean over the last tenth of the steps, or the name of a held-out
        metric at the end ("held_out" if `metric_fn` gives one number).
      mode: "min" or "max"; None is "min" for the loss, and an error for a metric.
      key: as in `fit`; it also seeds the sampler, so that a search is reproducible.
      seeds: repeats of each trial, as in `sweep`. The value of a trial is their mean; the user
        attributes "values" and "error" keep the repeats and the standard error of the mean.
        Repeats are pruned together, and a trial diverges if one of them does.
      pruner: which trials stop early. None is none. "halving": at each rung, those that are not
        among the best 1 / eta of all trials of the study that have reached it; or a pruner of
        Optuna, which is asked at each rung. Trials that stop are dropped on the device.
      eta: an integer >= 2, for "halving" and for `rungs`.
      rungs: the steps at which trials are compared, in ascending order and less than `steps`; None
        is about steps / eta³, steps / eta² and steps / eta.
      storage: where the study is kept, so that the same call resumes after it was killed, and
        several processes and machines can share the study: the path of a file (an SQLite database,
        or a journal if it ends in .journal or .log, which also works on network file systems), a
        URL such as "postgresql://...", or a storage of Optuna. None is memory.
      study_name: of the study in the storage; None is "search".
      resume: whether to go on from a stored study. False deletes it and starts anew.
      **options: of `sweep`: batch_size, has_aux, needs_key, model_state, held_out,
        held_out_batch_size, metric_fn, progress, vectorize, lanes_per_program.

    Returns:
      A `SearchResult`, with Optuna's study. Ctrl-C ends the search and returns what is finished.
      Memory: that of a sweep of `lanes` * repeats lanes, and on the host the parameters and state
      of the best trial so far. If that was run by another process or an earlier call, it is trained
      once more at the end, since studies keep no parameters.

    Raises:
      ValueError: for a value out of range, a name that the optimizer does not have, or a stored
        study of another search: another loss function, optimizer, space, data, `by`, ...
      ImportError: without Optuna.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": gdjax.log_uniform(1e-3, 1.0)}
      >>> result = gdjax.search(
      ...     loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), trials=12, lanes=4, steps=5,
      ...     sampler="random")
      >>> best = result.best
      >>> print(len(result.trials), best.value < 0.5, best.value == result.history[-1])
      12 True True
    """
    optuna_for("search")
    check_integer("search(trials=...)", trials)
    check_integer("search(lanes=...)", lanes)
    if jax.process_count() > 1:
        raise ValueError(
            "search runs in one process of JAX, not over several hosts (jax.distributed). Let "
            "each host run a search of its own, and share the study: storage=..."
        )
    if is_stream(data):
        raise ValueError("search(data=...) must be arrays; a search reads them in every round.")
    mode = check_judge("search", by, mode, options)
    refuse_tracers("search", space)
    dimensions = as_dimensions("search", space)
    check_sampler("search", sampler, dimensions)
    if sampler == "grid":
        trials = min(trials, int(dimensions.size()))
    rounds = _Rounds(
        dimensions, min(lanes, trials), (loss_fn, params, optimizer), data,
        steps=steps, epochs=epochs, by=by, mode=mode, key=key, seeds=seeds,
        pruner=pruner, eta=eta, rungs=rungs, options=options,
    )  # fmt: skip
    place = open_storage("search", storage)
    study = Asking(
        dimensions, None if place is None else rounds.identity(), storage=place,
        study_name=study_name, sampler=sampler, pruner=rounds.pruner, mode=mode, key=key,
        resume=resume,
    )  # fmt: skip
    interrupted = False
    try:
        with Bar(trials, bool(options.get("progress")), "search", "trial") as bar:
            while asked := study.ask(lanes, trials):
                rounds.run(study, asked)
                table = as_trials(dimensions, study.finished(), mode)
                best = best_of(table, mode)
                bar.show(len(table), best=math.nan if best is None else best.value)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        study.close()
    table = as_trials(dimensions, study.finished(), mode)
    if interrupted and not table:
        raise KeyboardInterrupt
    best, found = best_of(table, mode), rounds.best
    if best is not None and (found is None or found.number != best.number):
        found = BestTrial(*best[:4], params=None, state=None, model_state=None)
        found = found if interrupted else rounds.again(found)
    return SearchResult(
        study=study.study, trials=table, by=by, mode=mode, found=found,
        seconds=time.perf_counter() - rounds.started,
    )  # fmt: skip


class _Rounds:
    """How trials are trained: the same program in every round.

    Attributes:
      best: the best trial that ran here, with its parameters.
      pruner: Optuna's, or None.
      size: lanes of a group.
    """

    def __init__(
        self,
        dimensions: Dimensions,
        lanes: int,
        task: tuple[LossFn, Params | Callable[..., Params], Any],
        data: PyTree,
        *,
        steps: int | None,
        epochs: int | None,
        by: str,
        mode: str,
        key: Key | None,
        seeds: int | Sequence[int] | None,
        pruner: str | BasePruner | None,
        eta: int,
        rungs: Sequence[int] | None,
        options: Mapping[str, Any],
    ):
        """Check everything, with the least and the greatest values of the space, and compile."""
        self.started = time.perf_counter()
        self.by, self.mode, self.eta = by, mode, check_integer("search(eta=...)", eta, 2)
        self.dimensions, self.seeds = dimensions, seeds
        self.best: BestTrial | None = None
        self.pruner = _optunas_pruner(pruner)
        data, examples = check_arrays("search(data=...)", data)
        batch_size = options.get("batch_size")
        if batch_size is not None:
            check_batch_size("search", batch_size, examples)
        self.total = count_steps("search", steps, epochs, examples // (batch_size or examples))
        if pruner is None and rungs is not None:
            raise ValueError(
                "search(rungs=...) has no effect without a pruner. Give pruner='halving', or a "
                "pruner of Optuna."
            )
        self.rungs = [] if pruner is None else _rungs(self.total, eta, rungs)
        length = self.rungs[0] if self.rungs else _chunk(self.total)
        self.options = {k: v for k, v in options.items() if k != "progress"} | {
            "steps": self.total, "report_every": length, "key": key
        }  # fmt: skip
        loss_fn, params, optimizer = task
        corners = dimensions.corners()
        for pair in corners:
            rows = as_configs("search", pair, seeds)
            for static, at in static_parts(rows):
                make_start("search", optimizer, static, [rows[i] for i in at])
        self.rows = [corners[0][i % 2] for i in range(-(-lanes // len(corners)))]
        self.rows = as_configs("search", self.rows, seeds)
        axes = {name: self.options.get(name) for name in ("mesh", "lanes_axis")}
        self.devices = devices = devices_for("search", **axes)
        with devices.context():
            self.kinds = self._kinds(task, data)
        self.is_static, self.optimizer = len(corners) + len(self.kinds) > 2, optimizer
        kind = self.kinds[0]
        if by != "loss" and not is_stream(kind.plan.held_out):
            carry = kind.shapes
            with weak_functions(), devices.context():
                names = jax.eval_shape(
                    metric_program(kind.plan), carry.params, carry.state, carry.model_state,
                    kind.plan.held_out,
                )  # fmt: skip
            check_choice("search(by=...)", by, ["loss", *names])
        self.size = kind.size
        self.sizes = [self.size]
        if kind.plan.program.lanes == "vmap":
            smaller = [-(-self.size // eta**k) for k in range(len(self.rungs) + 1)]
            self.sizes = sorted(set(map(devices.padded, smaller)))
        # From now on everything is on the device.
        start, model_state = kind.given
        self.task = loss_fn, params if start is None else start, optimizer
        self.data = kind.plan.data
        self.options |= {"held_out": kind.plan.held_out, "lanes_per_program": self.size}
        if model_state is not None:
            self.options["model_state"] = model_state

    def _kinds(self, task: Any, data: PyTree) -> list[Kind]:
        """Return lanes with extreme values, as many as a round has of a combination.

        Lanes that run in turn and may be pruned are in small groups, so that those that are left
        need no smaller program.
        """
        options = {k: v for k, v in self.options.items() if k not in ("mesh", "lanes_axis")}
        make = functools.partial(make_kinds, "search", *task, self.rows, data, self.devices)
        if self.rungs and options.get("lanes_per_program") is None:
            small = -(-self.devices.share(len(self.rows)) // self.eta ** (len(self.rungs) - 1))
            kinds = make(**options | {"lanes_per_program": small})
            if kinds[0].plan.program.lanes == "map":
                return kinds
        return make(**options)

    def identity(self) -> dict[str, Any]:
        """Return what decides the values of trials, by the arguments' names."""
        rules = {
            "steps": self.kinds[0].plan.total,
            "space": self.dimensions.described(),
            "by": [self.by, self.mode],
            "seeds": sorted({row["seed"] for row in self.rows if "seed" in row}),
        }
        with self.devices.context():
            identity = identity_of_lanes(self.rows, self.kinds, None, rules)
        if self.is_static:  # which programs there are is not known before all have been tried
            del identity["program"]
            identity["optimizer"] = str(words(column([self.optimizer]))[0])
        return identity

    def run(self, study: Asking, asked: Sequence[Trial]) -> None:
        """Train trials together, and tell the study what came out."""
        configs = self.dimensions.configs([trial.params for trial in asked])
        lanes_of, pool = self._pool(configs)
        running, sign = list(range(len(asked))), 1 if self.mode == "min" else -1

        def tell(i: int, values: np.ndarray, at: int | None = None, pruned: bool = False) -> None:
            steps = int(pool.steps[lanes_of[i]].max())
            _, error = mean_and_error(values)
            study.tell(asked[i], steps, values, float(error), at, pruned)

        with pool:
            for step in [*self.rungs, self.total]:
                pool.advance(step)
                scores = pool.scores(self.by, self.mode)
                values = [sign * scores[lanes] for lanes in lanes_of]
                if pool.interrupt.asked and pool.done < self.total:
                    raise KeyboardInterrupt
                for i in list(running):
                    if not np.isfinite(values[i]).all():
                        at = pool.diverged_at[lanes_of[i]]
                        at = int(at[at >= 0].min()) if (at >= 0).any() else pool.done
                        tell(i, values[i], at)
                        running.remove(i)
                if step < self.total and running:
                    for i in running:
                        asked[i].report(float(values[i].mean()), step)
                    promoted = self._promoted(study, asked, running, step)
                    for i in set(running) - set(promoted):
                        tell(i, values[i], pruned=True)
                    running = promoted
                    if running:
                        kept = [int(lane) for i in running for lane in lanes_of[i]]
                        pool.keep(kept, self.sizes)
                if not running:
                    break
            for i in running:
                mean, error = mean_and_error(values[i])
                if self.best is None or sign * mean < sign * self.best.value:
                    trained = _lane(pool, lanes_of[i][np.argmin(scores[lanes_of[i]])])
                    self.best = BestTrial(
                        asked[i].number, configs[i], float(mean), float(error),
                        trained.params, trained.state, trained.model_state,
                    )  # fmt: skip
                tell(i, values[i])
        if pool.interrupt.asked:
            raise KeyboardInterrupt

    def again(self, trial: BestTrial) -> BestTrial:
        """Train a trial that another process ran, to have its parameters."""
        (lanes,), pool = self._pool([trial.config])
        with pool:
            pool.advance()
            scores = pool.scores(self.by, self.mode)
            trained = _lane(pool, lanes[np.argmin(scores[lanes])])
        return trial._replace(
            params=trained.params, state=trained.state, model_state=trained.model_state
        )

    def _pool(self, configs: Sequence[Config]) -> tuple[list[np.ndarray], Pool]:
        """Return the lanes of each config, and a pool of them.

        Each combination of static values fills a group at least: smaller ones are other programs.
        """
        rows = as_configs("search", configs, self.seeds)
        lanes_of = np.split(np.arange(len(rows)), len(configs))
        for _, at in static_parts(rows):
            rows = rows + [rows[at[-1]]] * (self.size - len(at))
        loss_fn, params, optimizer = self.task
        pool = Pool("search", loss_fn, params, optimizer, rows, self.data, **self.options)
        return lanes_of, pool

    def _promoted(
        self, study: Asking, asked: Sequence[Trial], running: Sequence[int], step: int
    ) -> list[int]:
        """Return the trials that go on after a rung."""
        if self.pruner is not None:
            return [i for i in running if not asked[i].should_prune()]
        sign = 1 if self.mode == "min" else -1
        reached = {
            trial.number: sign * trial.intermediate_values[step]
            for trial in study.study.get_trials(deepcopy=False)
            if step in trial.intermediate_values
        }
        last = sorted(reached.values())[max(1, len(reached) // self.eta) - 1]
        return [i for i in running if reached[asked[i].number] <= last]


def _optunas_pruner(pruner: str | BasePruner | None) -> BasePruner | None:
    """Return the pruner if it is one of Optuna."""
    if isinstance(pruner, str):
        check_choice("search(pruner=...)", pruner, ("halving",))
        return None
    if pruner is None or isinstance(pruner, optuna_for("search").pruners.BasePruner):
        return pruner
    raise TypeError(
        f"search(pruner=...) must be 'halving' or a pruner of Optuna, got {shown(pruner)}."
    )


def _rungs(total: int, eta: int, rungs: Sequence[int] | None) -> list[int]:
    """Return the steps at which trials are compared.

    By default the first one divides the steps of a trial, if possible, so that all chunks are
    equally long, and one program.

    Example:
      >>> _rungs(300, 3, None)
      [10, 30, 90]
    """
    if rungs is None:
        first = max(1, total // eta**RUNGS)
        first = next((n for n in range(first, first // 2, -1) if total % n == 0), first)
        rungs = [first * eta**k for k in range(RUNGS)]
        return [rung for rung in rungs if rung < total]
    rungs = [check_integer("search(rungs=...)", rung) for rung in rungs]
    if not rungs or sorted(set(rungs)) != rungs or rungs[-1] >= total:
        raise ValueError(
            f"search(rungs=...) must be ascending and less than the {total} steps of a trial, got "
            f"{rungs}."
        )
    return rungs


def _chunk(total: int) -> int:
    """Return the steps of a chunk, so that all are equally long.

    Example:
      >>> print(_chunk(300), _chunk(98), _chunk(97))
      60 49 97
    """
    least = -(-total // CHUNKS)
    return next((n for n in range(least, 3 * least) if total % n == 0), total)


def _lane(pool: Pool, lane: int) -> Carry:
    """Return where one lane stands, on the host."""
    for group in pool.groups:
        if lane in group.lanes:
            with weak_functions():
                return to_host(_row(carry_of(group), group.lanes.index(lane)))
    raise AssertionError(f"lane {lane} was dropped")


@jax.jit
def _row(tree: PyTree, row: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: x[row], tree)
