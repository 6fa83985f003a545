"""Progress of a compiled loop. Whom to tell is data: another bar is not another program."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import Array

from gdjax.training.progress import Bar

_watching: dict[int, Callable] = {}
_numbers = itertools.count()


class Watch:
    """Someone to tell about each step, from entering to leaving; a caller's program for good."""

    def __init__(self, progress: bool | Callable, max_steps: Any):
        if not (isinstance(progress, bool) or callable(progress)):
            raise TypeError(
                f"minimize(progress=...) must be True, False or a function of (steps, value, "
                f"grad_norm), got {progress!r}."
            )
        self.ticket: Array | None = None
        self.bar: Bar | None = None
        self.result: Any = None  # to wait for
        if progress is True:
            total = None if isinstance(max_steps, jax.core.Tracer) else int(max_steps)
            self.bar = Bar(total, True)
            progress = self._show
        if progress:
            number = next(_numbers)
            _watching[number] = progress
            self.ticket = jnp.asarray(number, jnp.int32)

    def _show(self, steps: Any, value: Any, grad_norm: Any) -> None:
        assert self.bar is not None
        self.bar.show(int(steps), value=float(value), grad_norm=float(grad_norm))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.ticket is None:
            return
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self.result)):
            return  # the program that is being traced will tell, whenever it runs
        try:
            jax.block_until_ready(self.result)
            jax.effects_barrier()
        finally:
            del _watching[int(self.ticket)]
            if self.bar is not None:
                self.bar.__exit__()


def tell(ticket: Any, steps: Any, value: Any, grad_norm: Any) -> None:
    """Hand on, on the host, what one step came to."""
    _watching[int(ticket)](steps, value, grad_norm)
