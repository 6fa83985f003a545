"""The host's side of a run: check the input, feed chunks to the device, gather the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.training.data import as_key, check_arrays, count_steps, is_stream, key_or_seed
from gdjax.training.loop import (
    Carry,
    Run,
    chunk_program,
    evaluate_program,
    plain_loss,
    stream_program,
)

T = TypeVar("T")
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


class Outcome(NamedTuple):
    """What a run gives: the last carry and the host's copies of everything recorded."""

    carry: Carry
    done: int
    loss: np.ndarray  # (steps,) or (lanes, steps)
    aux: Any
    reports: dict[str, np.ndarray]  # "step" (reports,); the metrics likewise or (lanes, reports)


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
    else:
        data, examples = check_arrays(caller, data, run.batch_size)
        total = count_steps(caller, steps, epochs, examples, run.batch_size)
        length = chunk_length(total, report_every, reports or held_out is not None)
        length = min(length, max(1, DRAWN // (run.batch_size or 1)))
        batch = data
        if run.batch_size is not None:
            batch = jax.tree.map(lambda x: x[: run.batch_size], data)
        check_loss(caller, run, params, batch)
    if held_out is not None:
        held_out, _ = check_arrays(f"{caller}(held_out=...)", held_out, None)
    metric_fn = metric_fn or plain_loss(run.loss_fn, run.has_aux)
    return Plan(run, data, examples, key, total, length, held_out, metric_fn)


class Programs(NamedTuple):
    """Executables, for a run that goes on in another thread.

    What `jax.jit` would look up there depends on settings of that thread, such as `enable_x64`.
    """

    chunks: dict[int, Any]  # by length
    evaluate: Any


def compile_plan(plan: Plan, carry: Any, stop: int | None = None, start: int = 0) -> Programs:
    """Compile what `execute` needs; `carry` may consist of `jax.ShapeDtypeStruct`."""
    stop = plan.total if stop is None else stop
    if not plan.examples or stop is None:
        return Programs({}, None)
    steps = stop - start
    lengths = {min(plan.length, steps), steps % plan.length} - {0}
    chunks = {n: lower_chunk(plan, carry, n).compile() for n in lengths}
    evaluate = None
    if plan.held_out is not None:
        metric = evaluate_program(plan.metric_fn, bool(plan.run.lanes))
        evaluate = metric.lower(carry.params, plan.held_out).compile()
    return Programs(chunks, evaluate)


def lower_chunk(plan: Plan, carry: Any, length: int) -> Any:
    """Return the program of a chunk, lowered; `.compile()` is remembered by JAX."""
    return chunk_program(plan.run).lower(carry, plan.data, plan.key, np.int32(0), length)


class Past(NamedTuple):
    """What was done before, in the form in which `execute` gathers it."""

    done: int = 0
    logs: tuple = ()  # (losses, aux) of each chunk
    reports: tuple = ()  # {"step": ..., metric: ...} of each


def execute(
    plan: Plan,
    carry: Carry,
    on_chunk: Callable[[int, Carry, Any, dict[str, Any]], Any],
    past: Past = Past(),  # noqa: B008  (immutable)
    programs: Programs | None = None,
) -> Outcome:
    """Run the plan to its end; `on_chunk(done, carry, (losses, aux), report)` may stop it."""
    evaluate = programs and programs.evaluate
    evaluate = evaluate or evaluate_program(plan.metric_fn, bool(plan.run.lanes))
    done, logs, reports = past.done, list(past.logs), list(past.reports)
    chunks = _chunks(plan, carry, done, programs) if plan.examples else _stream(plan, carry)
    if _all_diverged(carry):
        chunks = iter(())
    for done, carry, log in chunks:  # noqa: B020  (a generator, which has its own carry)
        logs.append(log)
        report = {}
        if plan.held_out is not None:
            value = evaluate(carry.params, plan.held_out)
            metrics = dict(value) if isinstance(value, dict) else {"held_out": value}
            report = {"step": done, **metrics}
            reports.append(report)
        if on_chunk(done, carry, log, report) or _all_diverged(carry):
            break
    if not logs:
        raise ValueError("data=...: the iterable gave no batch.")
    axis = 1 if plan.run.lanes else 0
    loss, aux = jax.tree.map(lambda *x: np.concatenate(to_host(x), axis), *logs)
    columns = {}
    for name in (reports or [{}])[0]:
        column = to_host([jnp.asarray(r[name]) for r in reports])
        columns[name] = np.stack(column, 0 if name == "step" else axis)
    return Outcome(carry, done, loss, aux, columns)


def _all_diverged(carry: Carry) -> bool:
    return bool((to_host(carry.diverged_at) >= 0).all())


def to_host(tree: Any) -> Any:
    """Return NumPy arrays of what may be spread over devices and hosts; PRNG keys stay."""

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if getattr(x, "is_fully_addressable", True):
            return np.asarray(x)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(one, tree)


def _chunks(
    plan: Plan, carry: Carry, done: int, programs: Programs | None
) -> Iterator[tuple[int, Carry, Any]]:
    """Yield (steps done, carry, (losses, aux)); a carry that was yielded is used up by the next."""
    total = plan.total or 0
    while done < total:
        now = min(plan.length, total - done)
        if programs is None:
            program = chunk_program(plan.run)
            carry, logs = program(carry, plan.data, plan.key, np.int32(done), now)
        else:
            carry, logs = programs.chunks[now](carry, plan.data, plan.key, np.int32(done))
        done += now
        yield done, carry, logs


def _stream(plan: Plan, carry: Carry) -> Iterator[tuple[int, Carry, Any]]:
    """Yield as `_chunks` does, from an iterable of batches, which may end early."""
    program, done, logs = stream_program(plan.run), 0, []
    axis = 1 if plan.run.lanes else 0

    def stacked(logs):
        return jax.tree.map(lambda *x: jnp.stack(x, axis), *logs)

    for batch in plan.data:
        batch = jax.tree.map(jnp.asarray, batch)
        if not done:
            sample = carry.params
            if plan.run.lanes:
                sample = jax.tree.map(lambda x: x[0], sample)
            check_loss("data=...", plan.run, sample, batch)
        carry, log = program(carry, batch, plan.key, np.int32(done))
        logs.append(log)
        done += 1
        if done % plan.length == 0 or done == plan.total:
            yield done, carry, stacked(logs)
            logs = []
        if done == plan.total:
            return
    if logs:
        yield done, carry, stacked(logs)


def chunk_length(steps: int, report_every: int | None, reports: bool) -> int:
    """Return the steps in a chunk, chosen so that the last one need not be shorter, if possible."""
    if report_every is not None:
        return min(report_every, steps)
    least = -(-steps // 20) if reports else min(steps, 10_000)
    for length in range(least, min(2 * least, steps) + 1):
        if steps % length == 0:
            return length
    return least


def check_loss(caller: str, run: Run, params: Any, batch: Any) -> None:
    """Raise unless the loss function gives one real number (and aux, if it should)."""
    more = (as_key(0),) if run.needs_key else ()
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


def run_together(tasks: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """Return what the tasks give, in their order; some run at the same time."""
    if workers == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(min(workers, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
