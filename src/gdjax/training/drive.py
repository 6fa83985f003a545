"""The host's side of a run: check the input, feed chunks to the device, gather the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.training.data import as_key, check_arrays, count_steps, is_stream
from gdjax.training.loop import (
    Carry,
    Run,
    chunk_program,
    evaluate_program,
    plain_loss,
    stream_program,
)

STREAM_CHUNK = 100  # steps between two looks at a stream's losses


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


class Outcome(NamedTuple):
    """What a run gives: the last carry and the host's copies of everything recorded."""

    carry: Carry
    done: int
    loss: np.ndarray  # (steps,) or (steps, lanes)
    aux: Any
    reports: dict[str, np.ndarray]  # "step" and the metrics, (reports,) or (reports, lanes)


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
    key = as_key(key)
    if report_every is not None and report_every < 1:
        raise ValueError(f"{caller}(report_every=...) must be >= 1, got {report_every}.")
    if is_stream(data):
        if epochs is not None or run.batch_size is not None:
            raise ValueError(
                f"{caller}: epochs and batch_size go with arrays; an iterable has its own batches."
            )
        examples, total, length = 0, steps, report_every or STREAM_CHUNK
    else:
        data, examples = check_arrays(caller, data, run.batch_size)
        total = count_steps(caller, steps, epochs, examples, run.batch_size)
        length = chunk_length(total, report_every, reports or held_out is not None)
        batch = data
        if run.batch_size is not None:
            batch = jax.tree.map(lambda x: x[: run.batch_size], data)
        check_loss(caller, run, params, batch, key)
    if held_out is not None:
        held_out, _ = check_arrays(f"{caller}(held_out=...)", held_out, None)
    metric_fn = metric_fn or plain_loss(run.loss_fn, run.has_aux)
    return Plan(run, data, examples, key, total, length, held_out, metric_fn)


def execute(
    plan: Plan,
    params: Any,
    state: Any,
    diverged_at: Any,
    on_report: Callable[[int, Carry, Any, dict[str, Any]], Any],
) -> Outcome:
    """Run the plan; `on_report(done, carry, losses, metrics)` may end it by a true result."""
    carry = Carry(params, state, diverged_at, jnp.zeros(plan.examples, jnp.int32))
    evaluate = evaluate_program(plan.metric_fn, plan.run.lanes)
    logs, reports, done = [], [], 0
    chunks = (_chunks if plan.examples else _stream_chunks)(plan, carry)
    for done, carry, log in chunks:
        logs.append(log)
        metrics = {}
        if plan.held_out is not None:
            value = evaluate(carry.params, plan.held_out)
            metrics = dict(value) if isinstance(value, dict) else {"held_out": value}
            reports.append({"step": done, **metrics})
        stop = on_report(done, carry, log[0], metrics)
        if stop or bool((np.asarray(carry.diverged_at) >= 0).all()):
            break
    if not logs:
        raise ValueError("data=...: the iterable gave no batch.")
    loss, aux = jax.tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x]), *logs)
    columns = {k: np.stack([np.asarray(r[k]) for r in reports]) for k in (reports or [{}])[0]}
    return Outcome(carry, done, loss, aux, columns)


def _chunks(plan: Plan, carry: Carry) -> Iterator[tuple[int, Carry, Any]]:
    """Yield (steps done, carry, (losses, aux)); a carry that was yielded is used up by the next."""
    program, done = chunk_program(plan.run), 0
    total = plan.total or 0
    while done < total:
        now = min(plan.length, total - done)
        carry, logs = program(carry, plan.data, plan.key, jnp.asarray(done, jnp.int32), now)
        done += now
        yield done, carry, logs


def _stream_chunks(plan: Plan, carry: Carry) -> Iterator[tuple[int, Carry, Any]]:
    """Yield as `_chunks` does, from an iterable of batches, which may end early."""
    program, done, logs = stream_program(plan.run), 0, []
    for batch in plan.data:
        batch = jax.tree.map(jnp.asarray, batch)
        if not done:
            sample = carry.params
            if plan.run.lanes:
                sample = jax.tree.map(lambda x: x[0], sample)
            check_loss("data=...", plan.run, sample, batch, plan.key)
        carry, log = program(carry, batch, plan.key, np.int32(done))
        logs.append(log)
        done += 1
        if done % plan.length == 0 or done == plan.total:
            yield done, carry, jax.tree.map(lambda *x: jnp.stack(x), *logs)
            logs = []
        if done == plan.total:
            return
    if logs:
        yield done, carry, jax.tree.map(lambda *x: jnp.stack(x), *logs)


def chunk_length(steps: int, report_every: int | None, reports: bool) -> int:
    """Return the steps in a chunk, chosen so that the last one need not be shorter, if possible."""
    if report_every is not None:
        return min(report_every, steps)
    least = -(-steps // 20) if reports else min(steps, 10_000)
    for length in range(least, min(2 * least, steps) + 1):
        if steps % length == 0:
            return length
    return least


def check_loss(caller: str, run: Run, params: Any, batch: Any, key: Any) -> None:
    """Raise unless the loss function gives one real number (and aux, if it should)."""
    more = (key,) if run.needs_key else ()
    out = jax.eval_shape(run.loss_fn, params, batch, *more)
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
