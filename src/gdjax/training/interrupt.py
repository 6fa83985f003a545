"""Ctrl-C ends a run between two chunks, so that what is done can be returned."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupt:
    """While this is open, the first Ctrl-C only sets `asked`; the second raises as usual.

    Outside of the main thread, where Python handles no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)
