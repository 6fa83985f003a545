"""What callbacks are given between chunks, and who calls them; for `fit`, sweeps and races.

Next to being called, a callback may have these methods:

- `begin(names, done)`, before the run: what is reported ("loss" and the held-out metrics), and the
  steps that were done before, an array of shape (), or (lanes,) in sweeps;
- `finish(result)`, after the run, also after Ctrl-C or an exception: returns the result, maybe with
  more in it;
- `state_dict()` and `load_state_dict(d)`: what it must remember when a run continues in another
  process; arrays and values that JSON can hold. `load_state_dict` comes before `begin`;
- `lanes_state(lanes)` and `load_lanes_state(lanes, state)`: the same of some lanes of a sweep or a
  race, nested dicts of arrays with a row for each of them. `load_lanes_state` comes after `begin`.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import short
from gdjax.core.evaluation import eval_params
from gdjax.core.kinds import shown
from gdjax.core.reading import hyperparams_in_use
from gdjax.core.types import OptState, Params, PyTree
from gdjax.training.engine import Carry, Run, to_host
from gdjax.wrappers.monitor import metrics as recorded_metrics

R = TypeVar("R")


class Report:
    """What a callback is given between chunks: of a run, or of some lanes of a sweep.

    Numbers below are of shape () in `fit`; in sweeps and races they are arrays (lanes,), and trees
    have a leading axis of lanes. Groups of lanes report one by one. All arrays are copies, made
    when they are first read: a callback that reads none costs no memory.

    Attributes:
      step: the number of steps done.
      loss: the mean over the steps since the last report; NaN if a lane did not take them all.
      metrics: name -> held-out metric; empty without held-out data.
      seconds: wall time since the run began, compilation included.
      steps_per_second: since the last report; in the first one with compilation.
      lanes: which of the sweep's lanes these are, int (lanes,); None in `fit`.
      running: whether the lane took a step since the last report, bool (lanes,): not if it had
        diverged or was stopped before; True in `fit`.
      configs: name -> (lanes,), their hyperparameters, as in `SweepResult`; empty in `fit`.
    """

    def __init__(
        self,
        step: int,
        loss: Any,
        metrics: dict[str, Any],
        carry: Carry,
        seconds: float,
        steps_per_second: float,
        running: Any = True,
        lanes: np.ndarray | None = None,
        configs: Mapping[str, np.ndarray] | None = None,
    ):
        """Take what the engine has; rows of the carry after `lanes` are left out."""
        self.step, self.loss, self.metrics = step, loss, metrics
        self.seconds, self.steps_per_second = seconds, steps_per_second
        self.running, self.lanes, self.configs = running, lanes, dict(configs or {})
        self._live: Carry | None = carry  # its arrays end with the next chunk

    @functools.cached_property
    def params(self) -> Params:
        """The parameters that are trained."""
        return self._copied(self._carry.params)

    @functools.cached_property
    def state(self) -> OptState:
        """The optimizer's state."""
        return self._copied(self._carry.state)

    @functools.cached_property
    def model_state(self) -> PyTree:
        """The state of the model, None without one."""
        return self._copied(self._carry.model_state)

    @functools.cached_property
    def eval_params(self) -> Params:
        """The parameters that the metrics are of, see `gdjax.eval_params`."""
        if self._live is None:
            state, params = self.state, self.params
        else:
            state, params = self._live.state, self._live.params
        used = eval_params(state, params) if self.lanes is None else _by_lane(state, params)
        return used if self._live is None else self._copied(used)

    @functools.cached_property
    def hyperparams(self) -> dict[str, Any]:
        """Name -> the number that the last step used, see `gdjax.hyperparams_in_use`."""
        return self._numbers(hyperparams_in_use(self._any_state))

    @functools.cached_property
    def measurements(self) -> dict[str, Any]:
        """Name -> what `gdjax.monitor` and `gdjax.snapshot` recorded of the last step, numbers.

        With a monitored optimizer these are "grad_norm", "update_norm", "update_ratio",
        "skipped_steps" and the learning rates.
        """
        return self._numbers(recorded_metrics(self._any_state))

    def values(self) -> dict[str, Any]:
        """Return everything that can be logged, name -> float; in sweeps arrays (lanes,).

        That is the loss, the metrics, hyperparameters and measurements, "seconds" and
        "steps_per_second". Where a metric has the name of another number, that number is named
        "optimizer.name".
        """
        own = {"loss": self.loss, **self.metrics}
        others = {
            **self.measurements,
            **self.hyperparams,
            "seconds": self.seconds,
            "steps_per_second": self.steps_per_second,
        }
        if self.lanes is not None:
            others = {k: np.broadcast_to(v, self.lanes.shape) for k, v in others.items()}
        return own | {f"optimizer.{k}" if k in own else k: v for k, v in others.items()}

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        lanes = "" if self.lanes is None else f", lanes={self.lanes.tolist()}"
        loss = f"{self.loss:.6g}" if self.lanes is None else np.array2string(self.loss, precision=6)
        sizes = f"params={short(self._any('params'))}, state={short(self._any_state)}"
        return f"Report(step={self.step}{lanes}, loss={loss}, metrics={self.metrics}, {sizes})"

    def keep(self) -> None:
        """Copy all trees before the arrays that they are read from end."""
        _ = self.params, self.state, self.model_state
        self._live = None

    @property
    def _carry(self) -> Carry:
        assert self._live is not None, "a report that is kept has its copies"
        return self._live

    @property
    def _any_state(self) -> OptState:
        return self._any("state")

    def _any(self, name: str) -> PyTree:
        """Return a tree, copied or not; of lanes maybe with more rows."""
        return getattr(self, name) if self._live is None else getattr(self._live, name)

    def _copied(self, tree: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(tree)
        rows = None if self.lanes is None else len(self.lanes)
        return treedef.unflatten(_copies(leaves, rows))

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the real numbers among arrays, on the host."""
        axes = 0 if self.lanes is None else 1
        found = {
            k: v
            for k, v in values.items()
            if hasattr(v, "dtype") and v.ndim == axes and _is_real(v.dtype)
        }
        found = to_host(found)
        if self.lanes is None:
            return {k: float(v) for k, v in found.items()}
        return {k: v[: len(self.lanes)].astype(float) for k, v in found.items()}


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _by_lane(state: OptState, params: Params) -> Params:
    return jax.vmap(eval_params)(state, params)


@functools.partial(jax.jit, static_argnums=1)
def _copies(leaves: list[jax.Array], rows: int | None) -> list[jax.Array]:
    return [jnp.array(x if rows is None else x[:rows], copy=True) for x in leaves]


class Callbacks:
    """The callbacks of one call of `fit` or its relatives."""

    def __init__(self, caller: str, functions: Iterable[Callable[[Report], object]]):
        """Check that they go together; `caller` is named in errors."""
        self.caller, self.functions = caller, tuple(functions)
        self.started = time.perf_counter()
        twice = [f for f in self.functions if hasattr(f, "begin") and self.functions.count(f) > 1]
        if twice:
            raise ValueError(f"{caller}(callbacks=...) has {shown(twice[0])} in it twice.")
        adds = Counter(name for f in self.functions for name in getattr(f, "adds", ()))
        for name, count in adds.items():
            if count > 1:
                raise ValueError(
                    f"{caller}(callbacks=...): {count} of them give the result its {name}, which "
                    "can hold only that of one. Use one of them, or one run for each."
                )

    def __bool__(self) -> bool:
        return bool(self.functions)

    @property
    def without_lanes(self) -> list[Any]:
        """Those that keep what they remember in single runs only."""
        return [f for f in self._with("state_dict") if not hasattr(f, "lanes_state")]

    def begin(self, names: Iterable[str], done: Any) -> None:
        """Tell all of them what will be reported, and the steps that are done."""
        names, done = ("loss", *names), np.asarray(done)
        for function in self._with("begin"):
            function.begin(names, done)

    def state_dicts(self) -> list[Any]:
        """Return what they must remember when the run continues in another process."""
        return [f.state_dict() if hasattr(f, "state_dict") else None for f in self.functions]

    def load_state_dicts(self, states: Iterable[Any]) -> None:
        """Give them back what `state_dicts` returned."""
        for function, state in zip(self.functions, states, strict=False):
            if state is not None and hasattr(function, "load_state_dict"):
                function.load_state_dict(state)

    def lanes_state(self, lanes: list[int]) -> dict[str, Any]:
        """Return what they remember of some lanes: arrays with a row for each."""
        return {name: f.lanes_state(np.array(lanes)) for name, f in self._of_lanes().items()}

    def load_lanes_state(self, lanes: list[int], states: Mapping[str, Any]) -> None:
        """Give them back what `lanes_state` returned."""
        for name, function in self._of_lanes().items():
            if name in states:
                function.load_lanes_state(np.array(lanes), states[name])

    def _of_lanes(self) -> dict[str, Any]:
        """Return those with a memory of lanes, by a name that others between them do not change."""
        found: dict[str, Any] = {}
        kinds: Counter[str] = Counter()
        for function in self._with("lanes_state"):
            kind = type(function).__name__
            found[f"{kind} {kinds[kind]}"] = function
            kinds[kind] += 1
        return found

    def finish(self, result: R) -> R:
        """Return the result with what they add to it; an error of one carries it."""
        try:
            for function in self._with("finish"):
                new = function.finish(result)
                if type(new) is not type(result):
                    raise TypeError(
                        f"{self.caller}(callbacks=...): finish(result) of {shown(function)} must "
                        f"return the {type(result).__name__}, got {shown(new)}."
                    )
                result = new
        except Exception as error:
            _give(error, self.caller, result)
            raise
        return result

    def _with(self, method: str) -> list[Any]:
        return [function for function in self.functions if hasattr(function, method)]

    def of(
        self, lanes: list[int] | None = None, configs: Mapping[str, np.ndarray] | None = None
    ) -> Callable[[Run], Any]:
        """Return `report(run)`, called after each chunk of a run or of a group of lanes.

        It returns whether to stop, a bool or (lanes,).
        """
        last = [self.started]
        which = None if lanes is None else np.array(lanes)
        mine = None if configs is None else {k: v[which] for k, v in configs.items()}

        def report(run: Run) -> Any:
            recorded = run.reports[-1] if run.reports else {}
            recorded = {k: v for k, v in recorded.items() if k != "step"}
            ends = run.carry.diverged_at, run.carry.stopped_at
            losses, values, ends = to_host((run.logs[-1][0], recorded, ends))
            rows = ... if which is None else slice(len(which))
            # In one order of summation, so that a lane stops where a run of its own would.
            loss = np.ascontiguousarray(losses[rows], np.float64).mean(-1)
            metrics = {k: np.float64(v[rows]) for k, v in values.items()}
            if which is None:
                loss, metrics = float(loss), {k: float(v) for k, v in metrics.items()}
            start = run.done - losses.shape[-1]
            running = ~((ends[1] >= 0) | (ends[0] >= 0) & (ends[0] < start))[rows]
            now = time.perf_counter()
            pace = losses.shape[-1] / (now - last[0])
            last[0] = now
            seen = Report(
                run.done, loss, metrics, run.carry, now - self.started, pace, running, which, mine
            )
            kept = weakref.ref(seen)
            stop = [self._checked(f, f(seen), which) for f in self.functions]
            del seen
            if (whole := kept()) is not None:  # a callback has put it somewhere
                whole.keep()
            return np.any(stop, 0)

        return report

    def _checked(self, function: Callable, answer: Any, lanes: np.ndarray | None) -> Any:
        """Return what a callback said as a bool, or (lanes,)."""
        if lanes is None:
            return bool(answer)
        if not np.ndim(answer):
            return np.full(lanes.shape, bool(answer))
        if np.shape(answer) != lanes.shape:
            raise ValueError(
                f"{self.caller}(callbacks=...): {shown(function)} must return a bool or an array "
                f"of bools {lanes.shape}, one for each lane of the report, got {np.shape(answer)}."
            )
        return np.asarray(answer, bool)


class Carrying:
    """Gives an exception that ends a run the result so far.

    No generator: one that is not ended would ask for the result when Python deletes it, at any
    time, and a result of several hosts is a collective operation.
    """

    def __init__(self, caller: str, result: Callable[[], Any]):
        self.caller, self.result = caller, result

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        try:
            reached = self.result()
        except Exception as other:
            # What a step was given is gone if the step failed, or Ctrl-C came twice.
            reached = getattr(other, "result", None)
        if reached is not None:
            _give(error, self.caller, reached)


def _give(error: BaseException, caller: str, result: Any) -> None:
    error.result = result  # pyright: ignore[reportAttributeAccessIssue]
    error.add_note(f"{caller}: what was reached before is this exception's `result`.")
