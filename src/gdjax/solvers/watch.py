"""Progress of a compiled loop: the callback is data, so that another one does not recompile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import Array

from gdjax.solvers.result import Result
from gdjax.training.progress import Bar

_callbacks: dict[int, Callable] = {}  # by their id, while a run is active
_ids = itertools.count()


class Watch:
    """Registers a progress callback while a run is active; permanently if the run is traced."""

    def __init__(self, progress: bool | Callable, max_steps: Any):
        if not (progress is True or callable(progress)):
            raise TypeError(
                f"minimize(progress=...) must be True, False or a function of (steps, value, "
                f"grad_norm), got {progress!r}."
            )
        self.result: Result | None = None  # of the run, to wait for
        self.bar: Bar | None = None
        if not callable(progress):
            total = None if isinstance(max_steps, jax.core.Tracer) else int(max_steps)
            self.bar = Bar(total, True)
            progress = self._show
        number = next(_ids)
        _callbacks[number] = progress
        self.callback_id: Array = jnp.asarray(number, jnp.int32)
        self._number = number

    def _show(self, steps: Any, value: Any, grad_norm: Any) -> None:
        assert self.bar is not None
        self.bar.show(int(steps), value=float(value), grad_norm=float(grad_norm))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: Any) -> None:
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self.result)):
            return  # the program that is being traced calls it whenever it runs
        try:
            jax.block_until_ready(self.result)
            jax.effects_barrier()
        finally:
            del _callbacks[self._number]
            if self.bar is not None:
                self.bar.__exit__()


def tell(callback_id: Any, steps: Any, value: Any, grad_norm: Any) -> None:
    """Call the callback of a run, on the host, with what one step found."""
    _callbacks[int(callback_id)](steps, value, grad_norm)
