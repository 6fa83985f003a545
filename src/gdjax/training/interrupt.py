"""Ctrl-C ends a run between two chunks, so that what is done can be returned."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupt:
    """While this is open, the first Ctrl-C only sets `asked`; the second raises as usual.

    Outside of the main thread, where Python handles no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    @property
    def asked(self) -> bool:
        """Whether to end; hosts that run together must ask together, and end together."""
        if jax.process_count() == 1:
            return self._asked
        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._before)
