"""The one training loop: a scan over steps, in chunks, for one run or for many lanes of runs.

Whatever goes wrong with a lane stays in that lane: a step that would make its parameters nonfinite
is not taken, and the lane stays where it was while the others continue; so does a lane that is told
to stop. The state of the model is that after the last step with a finite loss.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from gdjax.core.chain import apply_updates
from gdjax.core.checks import leaf_name
from gdjax.core.evaluation import eval_params
from gdjax.core.kinds import is_state_leaf, shown
from gdjax.core.remember import remembered, weak_functions
from gdjax.core.types import OptState, Params, PyTree
from gdjax.training.inputs import (
    Measure,
    Plan,
    Program,
    as_key,
    by_name,
    check_loss,
    loss_inputs,
    rebuilt,
    refuse_tracers,
)
from gdjax.training.jax_details import is_unchanged
from gdjax.training.meshes import rows_of
from gdjax.training.streams import Batch, is_stream, stacked
from gdjax.wrappers.loss_scale import loss_scale

SHUFFLE = 2**31 - 1  # folded into a run's key, it gives the key of its shuffles


class Carry(NamedTuple):
    """What one step passes to the next; donated to each chunk."""

    params: Params
    state: OptState
    model_state: PyTree  # None if the loss function has none
    diverged_at: Array  # the step that was not taken, int32; -1 while all is well
    stopped_at: Array  # the steps that were taken when the lane was told to stop, int32, or -1


@dataclasses.dataclass
class Run:
    """A run in progress: where it stands, and the host's record of each chunk."""

    carry: Carry
    done: int = 0  # steps
    logs: list[tuple[Array, PyTree]] = dataclasses.field(default_factory=list)  # losses, aux
    reports: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # "step" and metrics
    memory: Any = None  # of callbacks, a row for each lane; only while it is kept or loaded


def first_carry(caller: str, params: Params, state: OptState, model_state: PyTree = None) -> Carry:
    """Return the carry of a single run, in copies: a chunk may overwrite what it is given."""
    for i, x in enumerate(jax.tree.leaves(model_state)):
        if not is_state_leaf(x):
            raise TypeError(
                f"{caller}(model_state=...) must be a tree of arrays, got {shown(x)} at "
                f"{leaf_name(model_state, i)!r}."
            )
    trees = params, state, model_state
    refuse_tracers(caller, trees)
    leaves, treedef = jax.tree.flatten(trees)
    *copies, diverged_at, stopped_at = _copied([*leaves, np.int32(-1), np.int32(-1)])
    params, state, model_state = treedef.unflatten(copies)
    return Carry(params, state, model_state, diverged_at, stopped_at)


@jax.jit
def _copied(leaves):  # without a structure, which this program would keep
    # A dtype that is stated is not weak, so later chunks have the types of the first one.
    return [jnp.array(x, x.dtype, copy=True) for x in leaves]


# --- on the host: feed chunks to the device, record what comes out --------------------------------


def execute(
    plan: Plan,
    run: Run,
    on_chunk: Callable[[Run], object] | None = None,
    stop: int | None = None,
    compiled: Mapping[Any, Any] | None = None,
) -> None:
    """Advance a run in place, to step `stop` or to its end.

    Args:
      plan: what to run.
      run: where it stands; after a chunk its arrays must not be used any more.
      on_chunk: called after each chunk; a true result stops the run.
      stop: the step to stop at; None is the end of the plan.
      compiled: of `compile_plan`, for a run in another thread.
    """
    if run.done and all_ended(run):
        return
    compiled, stop = compiled or {}, plan.total if stop is None else stop
    make = _from_arrays if plan.examples else _from_stream
    with contextlib.closing(make(plan, run, stop, compiled)) as chunks:
        for carry, done, log in chunks:
            run.carry, run.done = carry, done
            run.logs.append(log)
            if plan.held_out is not None:
                program = compiled.get("metric") or metric_program(plan)
                run.reports.append({"step": done, **evaluate(plan, carry, program)})
            if on_chunk is not None and on_chunk(run) or all_ended(run):
                break


def all_ended(run: Run) -> bool:
    """Return whether no lane of a run takes steps any more."""
    diverged_at, stopped_at = to_host((run.carry.diverged_at, run.carry.stopped_at))
    return bool(((diverged_at >= 0) | (stopped_at >= 0)).all())


def evaluate(plan: Plan, carry: Carry, program: Any) -> dict[str, Array]:
    """Return the metrics by name, each a number or (lanes,), on the weights that would be used.

    Args:
      plan: what to evaluate on.
      carry: the lanes, or the single run.
      program: of `metric_program`, compiled or not.
    """
    trained = carry.params, carry.state, carry.model_state
    if not is_stream(plan.held_out):
        with weak_functions():
            return by_name(program(*trained, plan.held_out))
    total, examples = {}, 0
    with plan.held_out.reading(0, None) as reading:
        while taken := reading.take(1):
            with weak_functions():
                values = by_name(program(*trained, plan.held_out.on_devices(taken[0].tree)))
            size = len(taken[0].leaves[0])
            total = {k: size * v + total.get(k, 0.0) for k, v in values.items()}
            examples += size
    return {k: v / examples for k, v in total.items()}


def stop_lanes(carry: Carry, stop: np.ndarray, done: int) -> Carry:
    """Return a carry in which some lanes (lanes,) take no more steps after `done`."""
    return carry._replace(stopped_at=_stopped(carry.diverged_at, carry.stopped_at, stop, done))


@jax.jit
def _stopped(diverged_at, stopped_at, stop, done):
    return jnp.where(stop & (diverged_at < 0) & (stopped_at < 0), done, stopped_at)


Chunk = tuple[Carry, int, tuple[Array, PyTree]]  # the carry, steps done, (losses, aux)


def _from_arrays(
    plan: Plan, run: Run, stop: int | None, compiled: Mapping[Any, Any]
) -> Generator[Chunk, None, None]:
    assert stop is not None
    carry, done = run.carry, run.done
    while done < stop:
        length = min(plan.length, stop - done)
        inputs = (carry, plan.data, plan.key, np.int32(done))
        if length in compiled:
            carry, log = compiled[length](*inputs)
        else:
            with weak_functions():
                carry, log = chunk_program(plan.program)(*inputs, length)
        done += length
        yield carry, done, log
        carry = run.carry  # lanes may have been stopped


def _from_stream(
    plan: Plan, run: Run, stop: int | None, compiled: Mapping[Any, Any]
) -> Generator[Chunk, None, None]:
    """Yield after as many batches as a chunk has steps, at the end, and before an error."""
    stream, carry, done, failure = plan.data, run.carry, run.done, None
    stop = stop if stream.epochs is None else None  # the loader may not know how long a pass is
    running: collections.deque[Any] = collections.deque()  # losses, at most of two calls
    with stream.reading(done, stop) as reading:
        while done != stop and failure is None:
            wanted = plan.length if stop is None else min(plan.length, stop - done)
            reading.allow(wanted)
            logs, count, places = [], 0, {done: stream.place}
            while count < wanted:
                try:
                    if len(running) == 2:
                        jax.block_until_ready(running.popleft())
                    taken = reading.take(wanted - count)
                except BaseException as error:  # such as Ctrl-C; the steps before it are kept
                    failure = error
                    break
                if not taken:
                    break
                if done + count == run.done:
                    _check_first(plan, carry, stream.on_devices(taken[0].tree))
                carry, log = _take_steps(plan, carry, taken, done + count)
                running.append(log[0])
                logs.append((log, len(taken)))
                places |= {done + count + i: x.place for i, x in enumerate(taken, 1)}
                count += len(taken)
            if count:
                done += count
                stream.place, stream.places = places[done], places
                try:
                    yield carry, done, _joined(plan.program, logs)
                except GeneratorExit:  # the run ends here; Ctrl-C has wanted just that
                    if failure is None or isinstance(failure, KeyboardInterrupt):
                        raise
                    raise failure from None
                carry = run.carry  # lanes may have been stopped
            if count < wanted:
                break
    if failure is not None:
        raise failure
    if stream.ended:
        aim = f"steps={stop}" if stream.epochs is None else f"epochs={stream.epochs}"
        warnings.warn(
            f"{plan.caller}: {stream.ended}, before {aim}. What it returns has done {done} steps.",
            stacklevel=2,
        )


def _check_first(plan: Plan, carry: Carry, batch: PyTree) -> None:
    params, model_state = carry.params, carry.model_state
    if plan.program.lanes:
        params, model_state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (params, model_state)
        )
    check_loss(plan.caller, plan.program, params, model_state, batch)


def _take_steps(plan: Plan, carry: Carry, taken: list[Batch], done: int) -> tuple[Carry, Any]:
    """Run one call of a program on batches of equal shapes; the logs have steps along an axis."""
    one = taken[0].together == 1
    program = stream_program(plan.program, one)
    batches = plan.data.on_devices(taken[0].tree if one else stacked(taken), stacked=not one)
    with weak_functions():
        return program(carry, batches, plan.key, np.int32(done), np.int32(len(taken)))


def _joined(program: Program, logs: list[tuple[PyTree, int]]) -> PyTree:
    """Return the logs of a chunk, on the host: each call's first steps, one after the other."""
    axis = 1 if program.lanes else 0
    parts = [
        jax.tree.map(lambda x, n=count: x[(slice(None),) * axis + (slice(n),)], to_host(log))
        for log, count in logs
    ]
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def recorded(plan: Plan, run: Run) -> tuple[np.ndarray, PyTree, dict[str, np.ndarray]]:
    """Return what a run recorded, on the host: losses, aux, and name -> reports.

    All are (steps,) or (lanes, steps), with reports in place of steps for "step" and the metrics.
    """
    axis = 1 if plan.program.lanes else 0
    losses, aux = jax.tree.map(lambda *x: np.concatenate(to_host(x), axis), *run.logs)
    reports = {}
    for name in run.reports[0] if run.reports else ():
        column = to_host([jnp.asarray(r[name]) for r in run.reports])
        reports[name] = np.stack(column, 0 if name == "step" else axis)
    return losses, aux, reports


def to_host(tree: PyTree) -> PyTree:
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


def compile_plan(plan: Plan, carry: Carry, start: int, stop: int | None) -> dict[Any, Any]:
    """Return the executables of a run in another thread: chunks by length, and "metric".

    What `jax.jit` would look up there depends on settings of that thread, such as `enable_x64`.

    Args:
      plan: what to run.
      carry: where it starts, of `jax.ShapeDtypeStruct`.
      start: the step at which it starts.
      stop: the step at which it stops; None is the end of the plan.
    """
    stop = plan.total if stop is None else stop
    if not plan.examples or stop is None:
        return {}
    lengths = {min(plan.length, stop - start), (stop - start) % plan.length} - {0}
    compiled: dict[Any, Any] = {n: lower_chunk(plan, carry, n).compile() for n in lengths}
    if plan.held_out is not None and not is_stream(plan.held_out):
        compiled["metric"] = lower_metric(plan, carry).compile()
    return compiled


# --- on the device --------------------------------------------------------------------------------


@remembered
def chunk_program(program: Program) -> Any:
    """Return the jitted `chunk(carry, data, key, start, length)`: `length` steps in one loop."""
    move, batch_size, own_keys = make_move(program), program.batch_size, program.own_keys
    steps = guarded_steps if program.lanes == "vmap" else replayed_steps

    def chunk(carry, data, key, start, length):
        examples = len(jax.tree.leaves(data)[0])
        shared = None
        if batch_size is not None and not own_keys:
            shared = draw(as_key(key), start, length, examples, batch_size)

        def train(carry, key):
            key, drawn = as_key(key), shared
            if batch_size is not None and own_keys:
                drawn = draw(key, start, length, examples, batch_size)

            def one(trained, i):
                batch = data
                if drawn is not None:
                    rows = jax.lax.dynamic_index_in_dim(drawn, i, keepdims=False)
                    batch = rows_of(data, rows, program.places)
                return move(trained, batch, jax.random.fold_in(key, start + i))

            return steps(one, carry, start, length)

        return over_lanes(program, train, carry, key) if program.lanes else train(carry, key)

    return jax.jit(chunk, static_argnums=4, donate_argnums=0)


def lower_chunk(plan: Plan, carry: Carry, length: int) -> Any:
    """Return the program of a chunk, lowered; `.compile()` is remembered by JAX."""
    with weak_functions():
        return chunk_program(plan.program).lower(carry, plan.data, plan.key, np.int32(0), length)


@remembered
def stream_program(program: Program, one: bool) -> Any:
    """Return the jitted `some(carry, batches, key, start, count)`, steps on batches from outside.

    If `one`, it is a single step on a batch, else `count` steps on the first of stacked batches.
    The numbers do not depend on how many a call takes: the same loop takes them all.
    """
    move = make_move(program)

    def some(carry, batches, key, start, count):
        def train(carry, key):
            key = as_key(key)

            def step(carry, batch, i):
                new, log = move(carry[:3], batch, jax.random.fold_in(key, i))
                return guarded(carry, new, log, i)

            if one:
                carry, log = step(carry, batches, start)
                return carry, jax.tree.map(lambda x: jnp.expand_dims(x, 0), log)

            def now(carry, i):
                return step(carry, jax.tree.map(lambda x: x[i], batches), start + i)

            def body(i, carry_and_logs):
                carry, log = now(carry_and_logs[0], i)
                return carry, put_in_row(carry_and_logs[1], log, i)

            logs = rows_for(jax.eval_shape(now, carry, 0)[1], len(jax.tree.leaves(batches)[0]))
            return jax.lax.fori_loop(0, count, body, (carry, logs))

        return over_lanes(program, train, carry, key) if program.lanes else train(carry, key)

    return jax.jit(some, donate_argnums=0)


def metric_program(plan: Plan) -> Any:
    """Return the jitted `metric(params, state, model_state, data)`, over lanes if there are."""
    assert plan.measure is not None, "a plan with held-out data has a metric"
    program = plan.program
    return _metric_program(plan.measure, bool(program.lanes), program.lanes_axis, program.functions)


def lower_metric(plan: Plan, carry: Carry) -> Any:
    """Return the program of the metric, lowered."""
    with weak_functions():
        return metric_program(plan).lower(
            carry.params, carry.state, carry.model_state, plan.held_out
        )


@remembered
def _metric_program(measure: Measure, lanes: bool, lanes_axis: str | None, functions: tuple) -> Any:
    def metric(params, state, model_state, data):
        params = eval_params(state, params)
        more = {"state": state} if measure.takes_state else {}

        def on(batch):
            given = (params, rebuilt(model_state)) if measure.takes_model_state else (params,)
            return by_name(measure.function(*given, batch, **more))

        def rows(data, numbers):
            return rows_of(data, numbers, measure.places)

        examples = len(jax.tree.leaves(data)[0])
        size = min(measure.batch_size or examples, examples)
        if size == examples:
            return on(data)
        whole = examples // size * size
        if measure.places:
            starts = jnp.arange(0, whole, size)
            values = jax.lax.map(lambda at: on(rows(data, at + jnp.arange(size))), starts)
        else:
            parts = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), data)
            values = jax.lax.map(on, parts)
        sums = jax.tree.map(lambda x: size * jnp.sum(x), values)
        if whole < examples:
            last = jnp.arange(whole, examples)
            rest = rows(data, last) if measure.places else jax.tree.map(lambda x: x[whole:], data)
            rest = on(rest)
            sums = jax.tree.map(lambda x, y: x + (examples - whole) * y, sums, rest)
        return jax.tree.map(lambda x: x / examples, sums)

    if lanes:
        return jax.jit(jax.vmap(metric, in_axes=(0, 0, 0, None), spmd_axis_name=lanes_axis))
    return jax.jit(metric)


def draw(key: Array, start: Array, length: int, examples: int, batch_size: int) -> Array:
    """Return the examples of each step, int32 (length, batch_size), every epoch a new shuffle."""
    per_epoch = examples // batch_size
    first = start // per_epoch
    key = jax.random.fold_in(key, SHUFFLE)

    def shuffled(number):
        order = jax.random.permutation(jax.random.fold_in(key, number), examples)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    def unread(number):
        return jnp.zeros((per_epoch, batch_size), int)

    def epoch(number):
        return jax.lax.cond(number <= last, shuffled, unread, number)

    last = (start + length - 1) // per_epoch
    epochs = 1 + (length + per_epoch - 2) // per_epoch  # that the steps can extend over
    rows = jax.lax.map(epoch, first + jnp.arange(epochs)).reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(rows, start - first * per_epoch, length)


Trained = tuple[Params, OptState, PyTree]  # the first three entries of a carry
Log = tuple[Array, PyTree]  # loss, aux


def make_move(program: Program) -> Callable[[Trained, PyTree, Array], tuple[Trained, Log]]:
    """Return `move(trained, batch, key)`, one step of one lane, whatever comes of it."""

    def move(trained, batch, key):
        params, state, model_state = trained
        more = (key,) if program.needs_key else ()

        def loss_and_rest(p):
            """Return loss, (model_state, aux)."""
            out = program.loss_fn(*loss_inputs(program, p, model_state), batch, *more)
            match program.has_model_state, program.has_aux:
                case True, True:
                    return out
                case True, False:
                    return out[0], (out[1], ())
                case False, True:
                    return out[0], (None, out[1])
            return out, (None, ())

        def scaled(p):
            loss, rest = loss_and_rest(p)
            return loss * scale, (loss, rest)

        scale = loss_scale(state)  # 1.0 unless the optimizer has one
        (_, (loss, rest)), grads = jax.value_and_grad(scaled, has_aux=True)(params)
        new_model_state, aux = rest
        updates, new_state = program.update(
            grads,
            state,
            params,
            value=loss,
            grad=grads,
            value_fn=lambda p: loss_and_rest(p)[0],
            key=key,
            batch=batch,
        )
        if program.has_model_state:
            model_state = either(jnp.isfinite(loss), new_model_state, model_state)
        return (apply_updates(params, updates), new_state, model_state), (loss, aux)

    return move


def guarded(carry: Carry, new: Trained, log: Log, i: Array) -> tuple[Carry, Log]:
    """Return the new carry and log, or the old carry if step `i` must not be taken."""
    diverged_at, stopped_at = carry.diverged_at, carry.stopped_at
    alive = (diverged_at < 0) & (stopped_at < 0)
    ok = alive & all_finite(new[0])
    params, state, model_state = either(ok, new, carry[:3])
    diverged_at = jnp.where(ok | ~alive, diverged_at, i)
    carry = Carry(params, state, model_state, diverged_at, stopped_at)
    return carry, (jnp.where(alive, log[0], jnp.nan), log[1])


def guarded_steps(
    one: Callable[[Trained, Array], tuple[Trained, Log]], carry: Carry, start: Array, length: int
) -> tuple[Carry, Log]:
    """Take `length` steps; look at each result before it is taken.

    Args:
      one: `one(trained, i)`, step i of these.
      carry: where they begin.
      start: the number of the first step in the run.
      length: the number of steps.
    """

    def body(carry, i):
        new, log = one(carry[:3], i)
        return guarded(carry, new, log, start + i)

    return jax.lax.scan(body, carry, jnp.arange(length, dtype=jnp.int32))


def replayed_steps(
    one: Callable[[Trained, Array], tuple[Trained, Log]], carry: Carry, start: Array, length: int
) -> tuple[Carry, Log]:
    """Take `length` steps; look at the parameters at the end only.

    The same as `guarded_steps`, without a copy of everything in every step. Parameters that are not
    finite never become finite again, since updates are added to them. So if they are finite at the
    end, they always were. Otherwise the steps are taken again up to the first bad one, which shows
    how many are good, and then only those.
    """
    begin, diverged_at, stopped_at = carry[:3], carry.diverged_at, carry.stopped_at
    alive = (diverged_at < 0) & (stopped_at < 0)
    one = jax.jit(one, inline=True)  # so that it is traced once, for its shapes and in the loop
    shapes = jax.eval_shape(lambda: one(begin, jnp.zeros((), jnp.int32))[1])
    blank = rows_for(shapes, length)
    blank = jnp.full_like(blank[0], jnp.nan), blank[1]
    unchanged: list[bool] = []

    def taken(stop, look, logs):
        def body(now):
            i, _, trained, logs = now
            trained, log = one(trained, i)
            good = jax.lax.cond(look, all_finite, lambda _: jnp.asarray(True), trained[0])
            return i + 1, good, trained, put_in_row(logs, log, i)

        now = jnp.zeros((), jnp.int32), jnp.asarray(True), begin, logs
        return jax.lax.while_loop(lambda now: (now[0] < stop) & now[1], body, now)

    def again(now):
        turn, stop, _, logs = now
        i, _, trained, logs = taken(stop, turn == 1, logs)
        unchanged[:] = map(is_unchanged, *map(jax.tree.leaves, (trained, begin)))
        turn = jnp.where(all_finite(trained[0]), 3, turn + 1)
        return turn, jnp.where(turn == 2, i - 1, stop), trained, logs

    turn, stop = jnp.where(alive, 0, 3), jnp.asarray(length, jnp.int32)
    _, stop, trained, logs = jax.lax.while_loop(
        lambda now: now[0] < 3, again, (turn, stop, begin, blank)
    )
    leaves, treedef = jax.tree.flatten(trained)
    olds = jax.tree.leaves(begin)
    kept = [x if same else y for same, x, y in zip(unchanged, olds, leaves, strict=True)]
    params, state, model_state = treedef.unflatten(kept)
    diverged_at = jnp.where(alive & (stop < length), start + stop, diverged_at)
    return Carry(params, state, model_state, diverged_at, stopped_at), logs


def rows_for(log: Log, length: int) -> Log:
    """Return zeros for a number of logs, given the shapes of one."""
    return jax.tree.map(lambda x: jax.lax.broadcast(jnp.zeros_like(x), (length,)), log)


def put_in_row(logs: Log, log: Log, i: Array) -> Log:
    """Return logs with one of them in row i."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, i, 0), logs, log)


def all_finite(tree: PyTree) -> Array:
    """Return whether every number is finite: 0 * x is, and then so is the sum of such zeros.

    It compiles and runs faster than a reduction of booleans, and the sum cannot overflow.
    """
    return jnp.isfinite(sum(jnp.sum(x * 0) for x in jax.tree.leaves(tree)))


def either(ok: Array, new: PyTree, old: PyTree) -> PyTree:
    """Return the new tree if `ok`, else the old one.

    On a CPU, XLA runs more than 8 independent copies in other threads, and waking these takes
    longer than copying small arrays. So for small trees on a CPU, a branch has at most 8 copies.
    """
    news, treedef = jax.tree.flatten(new)
    olds, size = jax.tree.leaves(old), max(1, len(news))
    if jax.default_backend() == "cpu" and size <= 8 * 8 and sum(map(jnp.size, news)) < 2**20:
        size = 8
    chosen = []
    for i in range(0, len(news), size):
        part = slice(i, i + size)
        chosen += jax.lax.cond(ok, lambda p=part: news[p], lambda p=part: olds[p])
    return treedef.unflatten(chosen)


def over_lanes(program: Program, function: Callable, carry: Carry, key: Any) -> tuple[Carry, Any]:
    """Return `(carry, logs)` of `function(carry, key)` for every lane."""
    if not program.own_keys:
        key, function = None, functools.partial(_with_key, function, key)
    if program.lanes == "vmap":
        return jax.vmap(function, spmd_axis_name=program.lanes_axis)(carry, key)
    if program.shards == 1:
        return _one_by_one(function, carry, key)

    def split(x):
        return x.reshape(program.shards, len(x) // program.shards, *x.shape[1:])

    parts = jax.vmap(functools.partial(_one_by_one, function), spmd_axis_name=program.lanes_axis)
    out = parts(*jax.tree.map(split, (carry, key)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def _with_key(function: Callable, key: Any, carry: Carry, _: None) -> Any:
    return function(carry, key)


def _one_by_one(function: Callable, carry: Carry, key: Any) -> tuple[Carry, Any]:
    """Run the lanes in turn; each writes its carry over its old one, so there is only one copy."""

    def row(tree, i):
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)

    def put(x, i, old, new):
        if is_unchanged(new, old):  # such as a learning rate
            return x
        return jax.lax.dynamic_update_index_in_dim(x, new, i, 0)

    def lane(carry, one):
        i, key = one
        old = row(carry, i)
        new, log = function(old, key)
        return jax.tree.map(lambda x, a, b: put(x, i, a, b), carry, old, new), log

    return jax.lax.scan(lane, carry, (jnp.arange(len(carry.diverged_at)), key))
