"""The host's side of a run: feed chunks to the device, gather what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gdjax.training.loop import Carry, chunk_program, evaluate_program, stream_program
from gdjax.training.plan import Plan, check_loss

T = TypeVar("T")


class Outcome(NamedTuple):
    """What a run gives: the last carry and the host's copies of everything recorded."""

    carry: Carry
    done: int
    loss: np.ndarray  # (steps,) or (lanes, steps)
    aux: Any
    reports: dict[str, np.ndarray]  # "step" (reports,); the metrics likewise or (lanes, reports)


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
    if done and _all_diverged(carry):
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
            if x.is_fully_addressable:
                return x
            return jax.random.wrap_key_data(
                one(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        if getattr(x, "is_fully_addressable", True):
            return np.asarray(x)
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
