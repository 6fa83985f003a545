"""The pool of trials behind `sweep` and the races: run all lanes to a step, record, keep some."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gdjax.core.checks import check_choice
from gdjax.core.kinds import shown
from gdjax.core.remember import weak_functions
from gdjax.core.types import LossFn, Params, PyTree
from gdjax.training.checkpoint import Checkpoints, identity_of_lanes
from gdjax.training.devices import CallingThread
from gdjax.training.engine import Carry, Run, compile_plan, execute, recorded, stop_lanes, to_host
from gdjax.training.inputs import RESERVED
from gdjax.training.jax_details import calls_lapack
from gdjax.training.lanes import Group, devices_for, make_kinds, padded_rows
from gdjax.training.progress import Bar, Interrupt, LaneDisplay, learning_rates
from gdjax.training.reports import Callbacks, Carrying, Report
from gdjax.training.result import SweepResult, final_losses
from gdjax.training.trials import Config, columns


class Pool:
    """All lanes of a sweep or a race: where each stands, and what it recorded.

    Attributes:
      groups: the lanes that are still running.
      done: the step that the lanes have reached.
      history: as in `SweepResult`, up to that step.
      steps: (lanes,), the steps that each lane took part in.
      diverged_at: (lanes,), -1 while all is well.
      stopped_at: (lanes,), the steps of a lane that was told to stop, or -1.
    """

    def __init__(
        self,
        caller: str,
        loss_fn: LossFn,
        params: Params | Callable[..., Params],
        optimizer: Any,
        configs: Sequence[Config],
        data: PyTree,
        *,
        progress: bool = False,
        directory: Any = None,
        resume: bool = True,
        callbacks: Iterable[Callable[[Report], object]] = (),
        rules: Mapping[str, Any] | None = None,
        together: bool = False,
        mesh: Mesh | None = None,
        lanes_axis: str | None = None,
        **options: Any,
    ):
        """Check and compile everything; `options` are those of `make_kinds`.

        Args:
          caller: the function that the user called.
          loss_fn: see `sweep`.
          params: see `sweep`.
          optimizer: see `sweep`.
          configs: one for each lane.
          data: see `sweep`.
          progress: see `sweep`.
          directory: see `sweep`.
          resume: see `sweep`.
          callbacks: see `sweep`.
          rules: those of a race, by argument: they decide numbers, too.
          together: whether a lane may copy another, so that all must resume from one step.
          mesh: see `sweep`.
          lanes_axis: see `sweep`.
          **options: see `make_kinds`.
        """
        self.started = time.perf_counter()
        self.watchers, self.here = Callbacks(caller, callbacks), CallingThread()
        self.devices = devices_for(caller, mesh, lanes_axis)
        self.within = contextlib.ExitStack()  # the mesh of the lanes, while they run
        self.caller, self.configs = caller, configs
        self.checkpoints: Checkpoints | None = None
        with self.devices.context():
            self.kinds = kinds = make_kinds(
                caller, loss_fn, params, optimizer, configs, data, self.devices,
                reports=progress or directory is not None or bool(self.watchers), **options,
            )  # fmt: skip
            plan, self.reached = kinds[0].plan, np.zeros(len(configs), int)
            if directory is not None:
                if not plan.examples:
                    raise ValueError(f"{caller}(directory=...) needs arrays, not an iterable.")
                every = options.get("report_every")
                self.checkpoints = Checkpoints(
                    caller,
                    directory,
                    resume,
                    identity_of_lanes(configs, kinds, every, rules or {}),
                    len(configs),
                    plan,
                    workers=self.devices.workers,
                    together=together,
                )
                self.reached = self.checkpoints.done
                for kind in kinds:
                    kind.plan = kind.plan._replace(length=self.checkpoints.length)
            self.groups = [group for kind in kinds for group in kind.groups(self.reached)]
        self.done = 0
        self.history: dict[str, Any] = {}
        self.steps = np.zeros(len(configs), int)
        self.diverged_at, self.stopped_at = np.full(len(configs), -1), np.full(len(configs), -1)
        self.so_far: Callable[[], SweepResult] = self.result  # what an exception carries
        self.bar, self.interrupt = Bar(plan.total, progress, caller), Interrupt()
        self.carrying = Carrying(caller, lambda: self.so_far())
        forgetful = self.watchers.without_lanes
        if self.reached.any() and forgetful:
            warnings.warn(
                f"{caller}(directory=...) continues, but does not keep what {shown(forgetful[0])} "
                "remembers: it has state_dict, but not lanes_state and load_lanes_state.",
                stacklevel=3,
            )
        try:
            self.watchers.begin(plan.metrics, self.reached)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Pool:
        self.interrupt.__enter__()
        self.within.enter_context(self.devices.context())
        return self

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        self.interrupt.__exit__()
        self.bar.__exit__()
        if self.checkpoints is not None:
            self.checkpoints.close()
        self.carrying.__exit__(kind, error, trace)
        self.within.close()

    @property
    def lanes(self) -> list[int]:
        """The lanes that are still running."""
        return [lane for group in self.groups for lane in group.lanes]

    def advance(self, stop: int | None = None) -> bool:
        """Run every lane to step `stop`, or to the end.

        Lanes that had gone further before the run was killed stay on disk; what they recorded up to
        this step is read.

        Returns:
          Whether to stop: after Ctrl-C, or if no lane is alive.

        Raises:
          KeyboardInterrupt: if Ctrl-C came before anything ran.
        """
        start, reported = self.done, len(self.history.get("step", ()))
        display = LaneDisplay(self.bar, [len(group.lanes) for group in self.groups], start)
        compiled: dict[int, Any] = {}
        if self.devices.in_threads(len(self.groups)):
            for group in self.groups:
                if group.kind not in compiled and not self._is_ahead(group, stop):
                    compiled[group.kind] = compile_plan(group.plan, group.shapes, start, stop)

        def run(index: int) -> None:
            group = self.groups[index]
            if group.run is None:
                if self._is_ahead(group, stop):
                    return
                group.run = self.checkpoints and self.checkpoints.load(group, start)
                if group.run is not None:
                    give = self.watchers.load_lanes_state
                    self.here.run(functools.partial(give, group.lanes, group.run.memory))
                    group.run.memory = None
                if self.interrupt.asked:
                    return
                group.run = group.run or Run(group.start())
                display.begin(index, group.run.done)

            tell = self.watchers.of(group.lanes, columns(self.configs)) if self.watchers else None

            def on_chunk(run: Run) -> bool:
                if tell is not None:
                    _stop(group, run, self.here.run(functools.partial(tell, run)))
                if self.checkpoints:
                    if tell is not None:
                        remembered = functools.partial(self.watchers.lanes_state, group.lanes)
                        run.memory = self.here.run(remembered)
                    self.checkpoints.save(group, run)
                    run.memory = None
                if self.bar.shown:
                    metrics = run.reports[-1] if run.reports else {}
                    values = learning_rates(run.carry.state) | metrics
                    values.pop("step", None)
                    ended_at = jnp.maximum(run.carry.diverged_at, run.carry.stopped_at)
                    rows = to_host((run.logs[-1][0], ended_at, values))
                    display.show(index, run.done, *rows)
                return self.interrupt.asked or self.here.closed

            execute(group.plan, group.run, on_chunk, stop, compiled.get(group.kind))

        tasks = [functools.partial(run, i) for i in range(len(self.groups))]
        programs = [x for by_length in compiled.values() for x in by_length.values()]
        in_turn = any(map(calls_lapack, programs))
        try:
            (self.devices._replace(workers=1) if in_turn else self.devices).run(tasks, self.here)
        except BaseException:
            self._record_what_is_there(start, reported)
            raise
        for group in self.groups:
            if group.run is not None:
                self._record(group, group.run, start, reported)
            elif stop is not None and self.checkpoints and self._is_ahead(group, stop):
                self._record(group, self.checkpoints.recorded(group, start, stop), start, reported)
        if not self.history:
            raise KeyboardInterrupt
        ended = (self.diverged_at >= 0) | (self.stopped_at >= 0)
        return self.interrupt.asked or bool(ended[self.lanes].all())

    def _record_what_is_there(self, start: int, reported: int) -> None:
        """Record the groups after an error; one whose step failed has nothing left."""
        there = []
        for group in self.groups:
            if group.run is not None and group.run.logs:
                with contextlib.suppress(RuntimeError):
                    self._record(group, group.run, start, reported)
                    there.append(group)
        self.groups = there

    def _is_ahead(self, group: Group, stop: int | None) -> bool:
        """Return whether a group is on disk, at a step after `stop`."""
        return group.run is None and stop is not None and self.reached[group.lanes[0]] > stop

    def _record(self, group: Group, run: Run, start: int, reported: int) -> None:
        """Move what a group recorded since step `start` into the history."""
        if run.logs:
            losses, aux, reports = recorded(group.plan, run)
            run.logs, run.reports = [], []
            new = {"loss": losses, **reports}
            if group.plan.program.has_aux:
                new["aux"] = aux
            for name, rows in new.items():
                if name == "step":
                    known = self.history.get("step", np.zeros(0, rows.dtype))
                    if reported + len(rows) > len(known):
                        self.history["step"] = np.concatenate([known[:reported], rows])
                    continue
                at = start if name in ("loss", "aux") else reported
                write = functools.partial(_write, len(self.configs), group.lanes, at)
                known = (self.history[name],) if name in self.history else ()
                self.history[name] = jax.tree.map(write, rows, *known)
        ends = to_host((run.carry.diverged_at, run.carry.stopped_at))
        diverged_at, stopped_at = (x[: len(group.lanes)] for x in ends)
        self.diverged_at[group.lanes], self.stopped_at[group.lanes] = diverged_at, stopped_at
        steps = np.where(stopped_at >= 0, stopped_at, run.done)
        self.steps[group.lanes] = np.where(diverged_at >= 0, diverged_at, steps)
        self.done = max(self.done, run.done)

    def note(self, notes: dict[str, np.ndarray]) -> None:
        """Keep name -> (lanes,) on disk together with the chunks from here on."""
        if self.checkpoints:
            self.checkpoints.notes = notes

    def noted(self) -> dict[str, np.ndarray] | None:
        """Return what was noted here before the run was killed, or None."""
        return self.checkpoints and self.checkpoints.noted(self.done)

    def final_losses(self) -> np.ndarray:
        """Return what `SweepResult.final_loss` would be now."""
        return final_losses(self.history["loss"], self.diverged_at, self.steps)

    def scores(self, by: str, mode: str) -> np.ndarray:
        """Return (lanes,), where less is better: infinite if diverged, NaN if dropped.

        Args:
          by: "loss", or the name of a held-out metric.
          mode: "min" or "max".
        """
        if by == "loss":
            values = self.final_losses()
        else:
            metrics = [name for name in self.history if name not in RESERVED]
            check_choice(f"{self.caller}(by=...)", by, ["loss", *metrics])
            values = self.history[by][:, -1]
        values = values.astype(float) * (1 if mode == "min" else -1)
        bad = (self.diverged_at >= 0) | ~np.isfinite(values)
        out = np.full(len(values), np.nan)
        out[self.lanes] = np.where(bad, np.inf, values)[self.lanes]
        return out

    def keep(self, lanes: Sequence[int], sizes: Sequence[int] | None = None) -> None:
        """Merge some lanes, at least one, on the device, a program for each kind; drop the rest.

        A group gets the least of `sizes` that is enough; None is as many rows as there are lanes.
        Lanes that are on disk stay there, in groups of the size that they had when they ran.
        """
        wanted, groups = set(lanes), []
        for kind in self.kinds:
            old = [group for group in self.groups if group.kind == kind.index]
            on_disk = [lane for g in old if g.run is None for lane in g.lanes if lane in wanted]
            old = [group for group in old if group.run is not None]
            row_of = {lane: row for lane, row in rows_of(old).items() if lane in wanted}
            if not on_disk and not row_of:
                continue
            kept, rows = list(row_of), np.array(list(row_of.values()))
            size = self.devices.share(len(kept) + len(on_disk))
            if sizes is not None:
                size = min((n for n in sizes if n >= size), default=max(sizes))
            groups += kind.groups(self.reached, sorted(on_disk), size)
            parts = [(carry_of(group), group.own_keys) for group in old]
            places = kind.shardings(bool(old) and old[0].own_keys is not None)
            if on_host := bool(parts) and self.devices.workers > 1:  # without a program to compile
                parts = _joined(to_host(parts))
            for at in range(0, len(kept), size):
                part = padded_rows(at, size, len(kept))
                with weak_functions():
                    if on_host:
                        carry, keys = jax.device_put(_rows(parts, rows[part]))
                    else:
                        leaves = _take(places)(list(map(jax.tree.leaves, parts)), rows[part])
                        carry, keys = jax.tree.unflatten(jax.tree.structure(parts[0]), leaves)
                plan = old[0].plan if keys is None else old[0].plan._replace(key=keys)
                groups.append(
                    Group(
                        kept[at : at + size], kind.index, plan, _shapes(carry), old[0].start,
                        Run(carry, self.done),
                    )
                )  # fmt: skip
        self.groups = groups

    def result(self, configs: dict[str, np.ndarray] | None = None, **history: Any) -> SweepResult:
        """Return what was reached; `configs` and `history` replace or add to what is recorded."""
        groups = [group for group in self.groups if group.run is not None]
        order = np.array([lane for group in groups for lane in group.lanes])
        carries = [_rows(to_host(carry_of(g)), slice(len(g.lanes))) for g in groups]
        kinds = np.concatenate([[group.kind] * len(group.lanes) for group in groups])
        states = [
            _rows(_joined(states), np.argsort(order[kinds == kind])) if states else None
            for kind in range(len(self.kinds))
            for states in [
                [c.state for g, c in zip(groups, carries, strict=True) if g.kind == kind]
            ]
        ]
        rows = np.argsort(order)
        result = SweepResult(
            configs=columns(self.configs) if configs is None else configs,
            params=_rows(_joined([carry.params for carry in carries]), rows),
            model_state=_rows(_joined([carry.model_state for carry in carries]), rows),
            state=states[0] if len(self.kinds) == 1 else tuple(states),
            history=self.history | history,
            diverged_at=self.diverged_at,
            stopped_at=self.stopped_at,
            final_loss=self.final_losses(),
            seconds=time.perf_counter() - self.started,
            steps=self.steps,
            kept=np.sort(order),
        )
        return self.watchers.finish(result)


def _stop(group: Group, run: Run, stop: np.ndarray) -> None:
    """Let the lanes of a group at which `stop`, (lanes,), is true take no more steps."""
    if stop.any():
        rows = padded_rows(0, group.shapes.diverged_at.shape[0], len(group.lanes))
        run.carry = stop_lanes(run.carry, stop[rows], run.done)


def carry_of(group: Group) -> Carry:
    """Return where a group stands."""
    assert group.run is not None, "a pool advances before its lanes are looked at"
    return group.run.carry


def rows_of(groups: Sequence[Group]) -> dict[int, int]:
    """Return lane -> its row, with the rows of all groups one after the other."""
    rows, offset = {}, 0
    for group in groups:
        rows |= {lane: offset + i for i, lane in enumerate(group.lanes)}
        offset += group.shapes.diverged_at.shape[0]
    return rows


def _write(
    lanes: int, at: Sequence[int], start: int, rows: np.ndarray, known: np.ndarray | None = None
) -> np.ndarray:
    """Return (lanes, length, ...) with some lanes' rows from `start` on.

    It is longer than before if it must be, NaN (or 0) where there is nothing.
    """
    stop = start + rows.shape[1]
    length = 0 if known is None else known.shape[1]
    if length < stop:
        empty = np.nan if np.issubdtype(rows.dtype, np.inexact) else 0
        longer = np.full((lanes, stop, *rows.shape[2:]), empty, rows.dtype)
        if known is not None:
            longer[:, :length] = known
        known = longer
    assert known is not None
    known[at, start:stop] = rows[: len(at)]
    return known


def _rows(tree: PyTree, rows: slice | np.ndarray) -> PyTree:
    return jax.tree.map(lambda x: x[rows], tree)


def _joined(trees: Sequence[PyTree]) -> PyTree:
    """Return the rows of several trees, one after the other."""

    def join(*parts):
        if jnp.issubdtype(parts[0].dtype, jax.dtypes.prng_key):
            return jnp.concatenate(parts)
        return np.concatenate(parts)

    return jax.tree.map(join, *trees)


def _shapes(carry: Carry) -> Carry:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=x.sharding if len(x.sharding.device_set) > 1 else None
        ),
        carry,
    )


@functools.lru_cache(maxsize=8)
def _take(places: tuple[NamedSharding | None, ...]) -> Any:
    """Return the program that takes rows of arrays, the leaves of several trees."""

    def take(parts, rows):
        return [jnp.concatenate(x)[rows] for x in zip(*parts, strict=True)]

    return jax.jit(take, out_shardings=list(places))
