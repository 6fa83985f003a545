"""A run that has been checked: what to train on, for how long, and what to report."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.training.data import as_key, check_arrays, count_steps, is_stream, key_or_seed
from gdjax.training.loop import Run, plain_loss

RESERVED = ("loss", "aux", "step", "exchanges")  # entries of a history that are no metrics
STREAM_CHUNK = 100  # steps between two looks at a stream's losses
DRAWN = 2**24  # most examples that one chunk may draw, four bytes each


class Plan(NamedTuple):
    """A run that has been checked and can start."""

    run: Run
    data: Any
    examples: int  # 0 for a stream
    key: Any
    total: int | None  # None: to the end of the stream
    length: int  # steps in a chunk
    held_out: Any
    metric_fn: Callable
    convolves: bool  # whether the loss has a convolution; False for a stream


def make_plan(
    caller: str,
    run: Run,
    params: Any,
    data: Any,
    *,
    steps: int | None,
    epochs: int | None,
    key: Any,
    held_out: Any,
    metric_fn: Callable | None,
    report_every: int | None,
    reports: bool,
) -> Plan:
    """Check the arguments of `fit` or `sweep`, which `caller` names in errors."""
    key = key_or_seed(key)
    if report_every is not None and report_every < 1:
        raise ValueError(f"{caller}(report_every=...) must be >= 1, got {report_every}.")
    if is_stream(data):
        if epochs is not None or run.batch_size is not None:
            raise ValueError(
                f"{caller}: epochs and batch_size go with arrays; an iterable has its own batches."
            )
        examples, total, length = 0, steps, report_every or STREAM_CHUNK
        convolves = False
    else:
        data, examples = check_arrays(caller, data, run.batch_size)
        total = count_steps(caller, steps, epochs, examples, run.batch_size)
        length = chunk_length(total, report_every, reports or held_out is not None)
        length = min(length, max(1, DRAWN // (run.batch_size or 1)))
        batch = data
        if run.batch_size is not None:
            batch = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((run.batch_size, *x.shape[1:]), x.dtype), data
            )
        convolves = _has(check_loss(caller, run, params, batch), "conv_general_dilated")
    if held_out is not None:
        held_out, _ = check_arrays(f"{caller}(held_out=...)", held_out, None)
        if metric_fn is None and run.needs_key:
            raise ValueError(
                f"{caller}(metric_fn=...) must be given: loss_fn needs a key, and held-out data "
                "are evaluated without one."
            )
    metric_fn = metric_fn or plain_loss(run.loss_fn, run.has_aux)
    if held_out is not None:
        _check_metric(caller, metric_fn, params, held_out)
    return Plan(run, data, examples, key, total, length, held_out, metric_fn, convolves)


def chunk_length(steps: int, report_every: int | None, reports: bool) -> int:
    """Return the steps in a chunk, chosen so that the last one need not be shorter, if possible."""
    if report_every is not None:
        return min(report_every, steps)
    least = -(-steps // 20) if reports else min(steps, 10_000)
    for length in range(least, min(2 * least, steps) + 1):
        if steps % length == 0:
            return length
    return least


def check_loss(caller: str, run: Run, params: Any, batch: Any) -> Any:
    """Return the loss function's jaxpr; raise unless it gives one real number (and maybe aux)."""
    more = (jax.eval_shape(as_key, 0),) if run.needs_key else ()
    traced = _jitted(run.loss_fn).trace(params, batch, *more)
    jaxpr, out = traced.jaxpr, traced.out_info
    if run.has_aux:
        if not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(
                f"{caller}: with has_aux=True loss_fn must return (loss, aux), got {out}."
            )
        out = out[0]
    if isinstance(out, tuple):
        raise TypeError(f"{caller}: loss_fn returned a tuple; is it (loss, aux)? Use has_aux=True.")
    if out.shape or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"{caller}: loss_fn must return one real number, got {out.dtype}{list(out.shape)}. "
            "Reduce it, for example by jnp.mean."
        )
    return jaxpr


@functools.lru_cache(maxsize=64)
def _jitted(loss_fn: Callable) -> Any:
    return jax.jit(loss_fn)


def _has(jaxpr: Any, primitive: str) -> bool:
    """Return whether a jaxpr, or one inside of it, has this primitive; its text takes longer."""
    return any(
        eqn.primitive.name == primitive
        or any(_has(x, primitive) for x in jax.tree.leaves(eqn.params) if hasattr(x, "eqns"))
        for eqn in jaxpr.eqns
    )


def _check_metric(caller: str, metric_fn: Callable, params: Any, held_out: Any) -> None:
    """Raise unless the metric is a number, or a dict of them under names that are free."""
    out = jax.eval_shape(metric_fn, params, held_out)
    metrics = out if isinstance(out, dict) else {"held_out": out}
    for name, value in metrics.items():
        if name in RESERVED:
            raise ValueError(
                f"{caller}(metric_fn=...): {name!r} is what the history calls its own; name the "
                f"metric otherwise, such as 'held_out_{name}'."
            )
        if getattr(value, "shape", None) != ():
            raise TypeError(
                f"{caller}: metric_fn must return a number or a dict of them, got {value} at "
                f"{name!r}."
            )
