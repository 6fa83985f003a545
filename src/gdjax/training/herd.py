"""Lanes that are judged on the way: run to a rung, look at the scores, gather who goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.checks import check_choice
from gdjax.training.board import Board
from gdjax.training.drive import Past, Programs, compile_plan, execute, run_together, to_host
from gdjax.training.gather import carried, final_losses
from gdjax.training.interrupt import Interrupt
from gdjax.training.lanes import Group, make_groups
from gdjax.training.loop import Carry
from gdjax.training.points import Point, columns
from gdjax.training.report import Bar
from gdjax.training.result import SweepResult

# What races hand on to `make_groups`, besides what they have themselves.
OPTIONS = ("batch_size", "has_aux", "needs_key", "lanes_per_program", "vectorize")


class Herd:
    """All lanes of a race, where each stands, and what was recorded."""

    def __init__(
        self,
        caller: str,
        loss_fn: Callable,
        params: Any,
        optimizer: Any,
        points: Sequence[Point],
        data: Any,
        *,
        steps: int,
        length: int,
        by: str,
        mode: str,
        key: Any = None,
        held_out: Any = None,
        metric_fn: Callable | None = None,
        progress: bool = False,
        **options: Any,
    ):
        for name in options:
            check_choice(f"{caller}: an option", name, OPTIONS)
        check_choice(f"{caller}(mode=...)", mode, ("min", "max"))
        if by != "loss" and held_out is None:
            raise ValueError(f"{caller}(by={by!r}) needs held_out=... to evaluate it on.")
        groups, self.where = make_groups(
            caller, loss_fn, params, optimizer, points, data, steps=steps, epochs=None, key=key,
            held_out=held_out, metric_fn=metric_fn, report_every=length, reports=True, **options,
        )  # fmt: skip
        if not groups[0].plan.examples:
            raise ValueError(f"{caller}(data=...) must be arrays; lanes that race reread them.")
        self.caller, self.points, self.groups = caller, points, groups
        self.structures = groups[-1].structure + 1
        self.carries: list[Carry] = [group.start() for group in groups]
        self.by, self.sign, self.done = by, (1 if mode == "min" else -1), 0
        self.losses = np.full((len(points), steps), np.nan, np.float32)
        self.reports: list[dict[str, np.ndarray]] = []
        self.steps = np.zeros(len(points), int)
        self.diverged_at = np.full(len(points), -1)
        self.bar, self.interrupt = Bar(steps, progress), Interrupt()

    def __enter__(self) -> Herd:
        self.interrupt.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.interrupt.__exit__()
        self.bar.__exit__()

    @property
    def lanes(self) -> list[int]:
        """The lanes that are still running."""
        return [lane for group in self.groups for lane in group.lanes]

    def advance(self, stop: int) -> bool:
        """Run every lane to step `stop`; return whether to end: Ctrl-C, or no lane is alive."""
        board, start = Board(self.bar, [len(g.lanes) for g in self.groups]), self.done

        def run(index):
            group, carry = self.groups[index], self.carries[index]
            plan = group.plan._replace(total=stop)

            def on_chunk(done, carry, log, report):
                board.show(index, done, carry.diverged_at, log[0])
                return self.interrupt.asked

            programs = compiled.get(group.structure)
            return execute(plan, carry, on_chunk, Past(start), programs)

        compiled: dict[int, Programs] = {}
        if self.where.in_threads(len(self.groups)):
            for group, carry in zip(self.groups, self.carries, strict=True):
                if group.structure not in compiled:
                    shapes = _shapes(carry)
                    compiled[group.structure] = compile_plan(group.plan, shapes, stop, start)
        outcomes = run_together(
            [functools.partial(run, i) for i in range(len(self.groups))], self.where.workers
        )
        for group, outcome in zip(self.groups, outcomes, strict=True):
            n = len(group.lanes)
            self.losses[group.lanes, start : start + outcome.loss.shape[1]] = outcome.loss[:n]
            self._record(group.lanes, outcome.reports)
            at = to_host(outcome.carry.diverged_at)[:n]
            self.diverged_at[group.lanes] = at
            self.steps[group.lanes] = np.where(at >= 0, at, outcome.done)
        self.carries = [outcome.carry for outcome in outcomes]
        self.done = max(outcome.done for outcome in outcomes)
        return self.interrupt.asked or bool((self.diverged_at[self.lanes] >= 0).all())

    def _record(self, lanes: list[int], reports: dict[str, np.ndarray]) -> None:
        for i, step in enumerate(reports.get("step", ())):
            known = next((r for r in self.reports if r["step"] == step), None)
            if known is None:
                known = {"step": step}
                self.reports.append(known)
            for name, values in reports.items():
                if name != "step":
                    column = known.setdefault(name, np.full(len(self.points), np.nan, values.dtype))
                    column[lanes] = values[: len(lanes), i]

    def scores(self) -> np.ndarray:
        """Return one number for each lane, less is better: inf if diverged, NaN if dropped."""
        out = np.full(len(self.points), np.nan)
        lanes = self.lanes
        if self.by == "loss":
            values = final_losses(self.losses, self.diverged_at, self.steps)
        else:
            known = [k for k in self.reports[-1] if k != "step"]
            check_choice(f"{self.caller}(by=...)", self.by, ["loss", *known])
            values = self.reports[-1][self.by]
        values = self.sign * values.astype(float)
        bad = (self.diverged_at >= 0) | ~np.isfinite(values)
        out[lanes] = np.where(bad, np.inf, values)[lanes]
        return out

    def keep(self, lanes: Sequence[int]) -> None:
        """Gather some lanes on the device, in one program for each structure; drop the rest.

        Lanes that diverged are dropped too, but one lane always stays.
        """
        wanted = {lane for lane in lanes if self.diverged_at[lane] < 0} or {self.lanes[0]}
        groups, carries = [], []
        for kind in sorted({g.structure for g in self.groups}):
            old = [i for i, g in enumerate(self.groups) if g.structure == kind]
            rows, names, offset = [], [], 0
            for i in old:
                for row, lane in enumerate(self.groups[i].lanes):
                    if lane in wanted:
                        rows.append(offset + row)
                        names.append(lane)
                offset += len(self.carries[i].diverged_at)
            if not rows:
                continue
            parts = [(self.carries[i], self._own_keys(i)) for i in old]
            plan = self.groups[old[0]].plan
            size = self.where.share(len(rows))
            for at in range(0, len(rows), size):
                index = np.minimum(np.arange(at, at + size), len(rows) - 1)
                carry, own = _gather(self.where.sharding)(parts, np.array(rows)[index])
                new = plan if own is None else plan._replace(key=own)
                first = self.groups[old[0]]
                groups.append(Group(names[at : at + size], kind, new, first.start, first.avals))
                carries.append(carry)
        self.groups, self.carries = groups, carries

    def _own_keys(self, i: int) -> Any:
        plan = self.groups[i].plan
        return plan.key if plan.run.own_keys else None

    def result(self, seconds: float, points: dict | None = None, **history: Any) -> SweepResult:
        """Return what was reached; `points` and `history` replace or add to what is recorded."""
        recorded: dict[str, Any] = {"loss": self.losses[:, : self.done]}
        for name in (self.reports or [{}])[0]:
            recorded[name] = np.stack([r[name] for r in self.reports], 0 if name == "step" else 1)
        return SweepResult(
            points=columns(self.points) if points is None else points,
            **carried(self.groups, self.carries, self.structures),
            history=recorded | history,
            diverged_at=self.diverged_at,
            final_loss=final_losses(self.losses, self.diverged_at, self.steps),
            seconds=seconds,
            steps=self.steps,
        )


def _shapes(carry: Carry) -> Carry:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=x.sharding if len(x.sharding.device_set) > 1 else None
        ),
        carry,
    )


@functools.lru_cache(maxsize=8)
def _gather(sharding: Any) -> Callable:
    def gather(parts, index):
        return jax.tree.map(lambda *x: jnp.concatenate(x)[index], *parts)

    return jax.jit(gather, out_shardings=sharding)
