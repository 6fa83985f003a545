"""What groups of lanes give, put side by side: one result, lanes in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.training.drive import Outcome, to_host
from gdjax.training.lanes import Group
from gdjax.training.loop import Carry
from gdjax.training.points import Point, columns
from gdjax.training.result import SweepResult


def gathered(
    points: Sequence[Point],
    groups: Sequence[Group],
    outcomes: Sequence[Outcome | None],
    has_aux: bool,
    seconds: float,
) -> SweepResult:
    """Return the result of a sweep; an outcome that is None is a group left out."""
    there = [(g, o) for g, o in zip(groups, outcomes, strict=True) if o is not None]
    lanes = len(points)

    def column(pick: Callable[[Outcome], Any], length: int) -> Any:
        parts = [(g.lanes, pick(o)) for g, o in there]
        return jax.tree.map(
            lambda *rows: _spread(
                lanes, length, [(at, x) for (at, _), x in zip(parts, rows, strict=True)]
            ),
            *(tree for _, tree in parts),
        )

    longest = max(o.loss.shape[1] for _, o in there)
    history = {"loss": column(lambda o: o.loss, longest)}
    steps = max((o.reports.get("step", np.zeros(0)) for _, o in there), key=len)
    for name in there[0][1].reports:
        history[name] = steps
        if name != "step":
            history[name] = column(lambda o, name=name: o.reports[name], len(steps))
    if has_aux:
        history["aux"] = column(lambda o: o.aux, longest)
    diverged_at, done = np.full(lanes, -1), np.zeros(lanes, int)
    for group, outcome in there:
        diverged_at[group.lanes] = to_host(outcome.carry.diverged_at)[: len(group.lanes)]
        done[group.lanes] = outcome.done
    done = np.where(diverged_at >= 0, diverged_at, done)
    return SweepResult(
        points=columns(points),
        **carried([g for g, _ in there], [o.carry for _, o in there], groups[-1].structure + 1),
        history=history,
        diverged_at=diverged_at,
        final_loss=final_losses(history["loss"], diverged_at, done),
        seconds=seconds,
        steps=done,
    )


def carried(groups: Sequence[Group], carries: Sequence[Carry], structures: int) -> dict[str, Any]:
    """Return the fields of a result that come from the carries: params, state, kept."""
    order = np.concatenate([group.lanes for group in groups])
    pairs = zip(groups, carries, strict=True)
    carries = [_first_rows(to_host(c), len(g.lanes)) for g, c in pairs]  # the rest is padding
    states = [
        _joined([c.state for g, c in zip(groups, carries, strict=True) if g.structure == kind])
        for kind in range(structures)
    ]
    params = _joined([c.params for c in carries])
    return dict(
        params=jax.tree.map(lambda x: x[np.argsort(order)], params),
        state=states[0] if structures == 1 else tuple(states),
        kept=np.sort(order),
    )


def _first_rows(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: x[:count], tree)


def _joined(trees: Sequence[Any]) -> Any:
    """Return the rows of several trees, one after the other; None if there is no tree."""
    if not trees:
        return None

    def join(*parts):
        if jnp.issubdtype(parts[0].dtype, jax.dtypes.prng_key):
            return jnp.concatenate(parts)
        return np.concatenate(parts)

    return jax.tree.map(join, *trees)


def _spread(lanes: int, length: int, parts: Sequence[tuple[list[int], np.ndarray]]) -> np.ndarray:
    """Return (lanes, length, ...) with some lanes' rows, NaN (or 0) where there is nothing."""
    like = parts[0][1]
    empty = np.nan if np.issubdtype(like.dtype, np.inexact) else 0
    out = np.full((lanes, length, *like.shape[2:]), empty, like.dtype)
    for at, x in parts:
        out[at, : x.shape[1]] = x[: len(at)]
    return out


def final_losses(losses: np.ndarray, diverged_at: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the mean loss over the last tenth of each lane's steps; infinite if it diverged."""
    out = np.full(len(losses), np.nan)
    for done in np.unique(steps):
        lanes = np.flatnonzero((steps == done) & (diverged_at < 0))
        if done and lanes.size:
            tail = losses[lanes, done - max(1, done // 10) : done].mean(1)
            out[lanes] = np.where(np.isnan(tail), np.inf, tail)
    return np.where(diverged_at >= 0, np.inf, out)
