"""The progress bar of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gdjax.training.drive import to_host
from gdjax.training.report import Bar


class Board:
    """What the bar shows of all groups of lanes: steps, lanes alive, the best loss."""

    def __init__(self, bar: Bar, sizes: Sequence[int]):
        self.bar, self.sizes, self.alive = bar, sizes, list(sizes)
        self.done = [0] * len(sizes)
        self.best = [np.inf] * len(sizes)

    def show(self, group: int, done: int, diverged_at: Any, losses: Any) -> None:
        """Note what a group has reached and show the whole."""
        if self.bar.bar is None:
            return
        size = self.sizes[group]
        alive, last = to_host(diverged_at)[:size] < 0, to_host(losses)[:size, -1]
        self.done[group], self.alive[group] = done, int(alive.sum())
        self.best[group] = float(np.min(last, where=alive & np.isfinite(last), initial=np.inf))
        steps = sum(self.done) // len(self.done)
        self.bar.show(steps, lanes=sum(self.alive), best_loss=min(self.best))
