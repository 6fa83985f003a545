"""What a user sees and does during a run: a progress bar, and Ctrl-C."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional package, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise ImportError(f'{what} needs {name}: pip install "gdjax[{extra}]".') from error


class Bar:
    """A progress bar of steps, by tqdm (an optional extra); nothing if it is not shown."""

    def __init__(self, total: int | None, show: bool, unit: str = "step"):
        self.bar: Any = None
        if show:
            self.bar = require("tqdm.auto", "progress", "progress=True").tqdm(
                total=total, unit=unit, dynamic_ncols=True
            )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, **values: Any) -> None:
        """Move to `done` steps and show some numbers."""
        if self.bar is not None:
            texts = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
            self.bar.set_postfix(texts, refresh=False)
            self.bar.update(done - self.bar.n)


class LaneDisplay:
    """What a bar shows of all groups of lanes: mean steps, lanes alive, the best loss."""

    def __init__(self, bar: Bar, sizes: Sequence[int], start: int = 0):
        self.bar, self.alive = bar, list(sizes)
        self.done = [start] * len(sizes)
        self.best = [np.inf] * len(sizes)

    def show(self, group: int, done: int, alive: np.ndarray, losses: np.ndarray) -> None:
        """Note what a group has reached, and show the whole.

        Args:
          group: its index.
          done: the steps it has done.
          alive: (lanes,), whether each lane has not diverged.
          losses: (lanes,), each lane's last loss.
        """
        self.done[group], self.alive[group] = done, int(alive.sum())
        self.best[group] = float(np.min(losses, where=alive & np.isfinite(losses), initial=np.inf))
        steps = sum(self.done) // len(self.done)
        self.bar.show(steps, lanes=sum(self.alive), best_loss=min(self.best))


class Interrupt:
    """While this is open, the first Ctrl-C only sets `asked`; the second raises as usual.

    Outside of the main thread, where Python handles no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    @property
    def asked(self) -> bool:
        """Whether to stop; hosts that run together must ask together, and stop together."""
        if jax.process_count() == 1:
            return self._asked
        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._before)
