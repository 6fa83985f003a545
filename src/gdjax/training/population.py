"""Running groups of lanes: together where there are threads for it, until done or interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.training.drive import Outcome, to_host
from gdjax.training.lanes import Group, joined, rows_of
from gdjax.training.report import Bar
from gdjax.training.result import SweepResult
from gdjax.training.space import Point, columns


class Board:
    """What the bar shows of all groups: steps per second, lanes alive, the best loss."""

    def __init__(self, bar: Bar, groups: Sequence[Group]):
        self.bar, self.groups = bar, groups
        self.done = [0] * len(groups)
        self.alive = [len(group.lanes) for group in groups]
        self.best = [np.inf] * len(groups)

    def show(self, group: int, done: int, carry: Any, losses: Any) -> None:
        """Note what a group has reached and show the whole."""
        if self.bar.bar is None:
            return
        lanes = len(self.groups[group].lanes)
        alive = to_host(carry.diverged_at)[:lanes] < 0
        last = to_host(losses)[:lanes, -1]
        self.done[group], self.alive[group] = done, int(alive.sum())
        self.best[group] = float(np.min(last, where=alive & np.isfinite(last), initial=np.inf))
        steps = sum(self.done) // len(self.groups)
        self.bar.show(steps, lanes=sum(self.alive), best_loss=min(self.best))


def gathered(
    points: Sequence[Point],
    groups: Sequence[Group],
    outcomes: Sequence[Outcome | None],
    has_aux: bool,
    seconds: float,
) -> SweepResult:
    """Put the groups' outcomes side by side, lanes in their order; None is a group left out."""
    there = [(g, o) for g, o in zip(groups, outcomes, strict=True) if o is not None]
    order = np.concatenate([g.lanes for g, _ in there])
    lanes, place = len(points), np.argsort(order)
    longest = max(o.loss.shape[1] for _, o in there)

    def column(pick: Callable[[Outcome], Any], length: int) -> Any:
        parts = [
            jax.tree.map(lambda x: _padded(x, length), rows_of(pick(o), range(len(g.lanes))))
            for g, o in there
        ]
        return jax.tree.map(lambda x: _spread(x[place], np.sort(order), lanes), joined(parts))

    history = {"loss": column(lambda o: o.loss, longest)}
    steps = max((o.reports.get("step", np.zeros(0)) for _, o in there), key=len)
    for name in there[0][1].reports:
        history[name] = steps
        if name != "step":
            history[name] = column(lambda o, name=name: o.reports[name], len(steps))
    if has_aux:
        history["aux"] = column(lambda o: o.aux, longest)
    carries = [rows_of(to_host(o.carry), range(len(g.lanes))) for g, o in there]
    diverged_at, done = np.full(lanes, -1), np.zeros(lanes, int)
    diverged_at[order] = np.concatenate([c.diverged_at for c in carries])
    done[order] = np.concatenate([np.full(len(g.lanes), o.done) for g, o in there])
    done = np.where(diverged_at >= 0, diverged_at, done)
    kinds = sorted({g.structure for g, _ in there})
    states = [
        joined([c.state for c, (g, _) in zip(carries, there, strict=True) if g.structure == kind])
        for kind in kinds
    ]
    return SweepResult(
        points=columns(points),
        params=rows_of(joined([c.params for c in carries]), place),
        state=states[0] if len({g.structure for g in groups}) == 1 else tuple(states),
        history=history,
        diverged_at=diverged_at,
        final_loss=final_losses(history["loss"], diverged_at, done),
        seconds=seconds,
        steps=done,
        kept=np.sort(order),
    )


def final_losses(losses: np.ndarray, diverged_at: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the mean loss over the last tenth of each lane's steps; infinite if it diverged."""
    out = np.full(len(losses), np.nan)
    for lane, (loss, done) in enumerate(zip(losses, steps, strict=True)):
        if done or diverged_at[lane] >= 0:
            tail = loss[max(0, done - max(1, done // 10)) : max(done, 1)]
            out[lane] = np.inf if diverged_at[lane] >= 0 or np.isnan(tail).any() else tail.mean()
    return out


def _padded(x: np.ndarray, length: int) -> np.ndarray:
    if x.shape[1] == length:
        return x
    empty = np.nan if np.issubdtype(x.dtype, np.inexact) else 0
    out = np.full((len(x), length, *x.shape[2:]), empty, x.dtype)
    out[:, : x.shape[1]] = x
    return out


def _spread(x: np.ndarray, lanes: np.ndarray, count: int) -> np.ndarray:
    """Return rows for all lanes, given those of some."""
    if len(x) == count:
        return x
    out = np.full((count, *x.shape[1:]), np.nan if np.issubdtype(x.dtype, np.inexact) else 0)
    out[lanes] = x
    return out.astype(x.dtype)
