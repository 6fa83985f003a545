"""Train many models at once: a grid of hyperparameters is data, so a sweep is one program."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.training.board import Board
from gdjax.training.drive import (
    Outcome,
    Past,
    Programs,
    compile_plan,
    execute,
    run_together,
    to_host,
)
from gdjax.training.gather import gathered
from gdjax.training.interrupt import Interrupt
from gdjax.training.lanes import Group, make_groups
from gdjax.training.loop import Carry, chunk_program
from gdjax.training.points import Point, columns, words
from gdjax.training.report import Bar
from gdjax.training.result import SweepResult
from gdjax.training.space import as_points
from gdjax.training.store import Store


def sweep(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    data: Any,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    key: Any = None,
    has_aux: bool = False,
    needs_key: bool = False,
    held_out: Any = None,
    metric_fn: Callable | None = None,
    report_every: int | None = None,
    progress: bool = False,
    seeds: int | Sequence[int] | None = None,
    lanes_per_program: int | None = None,
    vectorize: bool | None = None,
    directory: Any = None,
) -> SweepResult:
    """Train one model for each point of a space of hyperparameters, all in one compiled program.

    Each point is a lane of one compiled training loop. All lanes start at the same parameters and
    see the same batches, unless they have seeds of their own. A lane that diverges is frozen at its
    last finite parameters and reported; the others do not notice. Lanes are sharded over all
    devices of all hosts (`jax.distributed`: call `sweep` alike in each process); on a CPU that is
    one device, groups of lanes run in a thread for each core. Ctrl-C ends the sweep after the
    chunks in progress and returns what is done.

    Args:
      loss_fn: as in `fit`.
      params: as in `fit`, where every lane starts; or a function of a key, such as `model.init`,
        which is called with the key of each lane's "init_seed" or "seed" (0 if it has none).
      optimizer: a factory, called with a point's values by name (`gdjax.adam`, or any function that
        builds an optimizer), or an optimizer whose hyperparameters are then replaced by qualified
        name, as `with_hyperparams` does (`{"learning_rate.peak_value": ...}`, `"head.b1"`).
      space: name -> values, for all combinations of them (see `grid`); or a list of points, each a
        dict, as `grid` and `sample` give. Values that are no numbers (booleans, strings, functions)
        are structure: each combination is a program of its own, one after the other; under the
        name "optimizer" they replace the argument. Three names are not the optimizer's:
        "init_seed" seeds `params`, "batch_seed" the lane's own batches and keys (the key is
        `fold_in(key, batch_seed)`), "seed" both.
      data: as in `fit`; a batch goes to all lanes that share a key.
      batch_size: as in `fit`.
      steps: as in `fit`.
      epochs: as in `fit`.
      key: as in `fit`.
      has_aux: as in `fit`.
      needs_key: as in `fit`.
      held_out: as in `fit`.
      metric_fn: as in `fit`, for one lane.
      report_every: as in `fit`.
      progress: whether to show a bar, with the lanes alive, the best loss and steps per second.
      seeds: runs of each point: a number of them or a list of integers, the values of "seed".
      lanes_per_program: lanes that share a program and are in memory together; the program is
        compiled once for all groups of lanes. None is as many as fit, by XLA's count of the memory
        that the compiled program needs.
      vectorize: whether lanes step together (`vmap`) or one after the other within the program.
        None vectorizes unless on a CPU a lane has 4096 parameters or more (then it keeps a core
        busy by itself, and alone it stays in the cache) or its loss has convolutions (those by many
        kernels at once are slow there).
      directory: where finished chunks are kept, on a file system that all hosts share. The same
        call goes on from them after it was killed, and loses at most one chunk (`report_every`
        steps of the groups in progress).

    Returns:
      A `SweepResult`. Memory: lanes in a program * (parameters + state + gradients), on the host
      all parameters, states and losses.

    Raises:
      ValueError: for an empty space, a value out of range, a name that the optimizer does not have,
        a directory with another sweep in it.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": jnp.array([1e-3, 0.1, 1e12]), "momentum": jnp.array([0.0, 0.9])}
      >>> result = gdjax.sweep(loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=50)
      >>> best = result.best()
      >>> print({k: round(v, 3) for k, v in best.point.items()}, len(result.diverged()))
      {'learning_rate': 0.1, 'momentum': 0.0} 2
    """
    points = as_points(space, seeds)
    started = time.perf_counter()
    groups, where = make_groups(
        "sweep", loss_fn, params, optimizer, points, data,
        lanes_per_program=lanes_per_program, vectorize=vectorize,
        has_aux=has_aux, needs_key=needs_key, batch_size=batch_size,
        steps=steps, epochs=epochs, key=key, held_out=held_out, metric_fn=metric_fn,
        report_every=report_every, reports=progress or directory is not None,
    )  # fmt: skip
    if directory is not None and not groups[0].plan.examples:
        raise ValueError("sweep(directory=...) needs arrays: an iterable cannot be gone on with.")
    store = Store(directory, {} if directory is None else _identity(points, groups))
    outcomes: list[Outcome | None] = []
    with Bar(groups[0].plan.total, progress) as bar, Interrupt() as interrupt:
        board = Board(bar, [len(group.lanes) for group in groups])

        def run(index: int, programs: Programs | None) -> Outcome | None:
            group = groups[index]
            if interrupt.asked:
                return None
            carry, past = _resumed(store, index, group)

            def on_chunk(done, carry, log, report):
                store.save(index, done, carry, log, report)
                board.show(index, done, carry.diverged_at, log[0])
                return interrupt.asked

            return execute(group.plan, carry, on_chunk, past, programs)

        for kind in range(groups[-1].structure + 1):  # one structure after the other
            inside = [i for i, group in enumerate(groups) if group.structure == kind]
            programs = None
            if where.in_threads(len(inside)):
                programs = compile_plan(groups[inside[0]].plan, groups[inside[0]].avals)
            tasks = [lambda i=i, p=programs: run(i, p) for i in inside]
            outcomes += run_together(tasks, where.workers)
    if all(outcome is None for outcome in outcomes):
        raise KeyboardInterrupt
    return gathered(points, groups, outcomes, has_aux, time.perf_counter() - started)


def _resumed(store: Store, index: int, group: Group) -> tuple[Carry, Past]:
    """Return where a group stands: at its start, or where an earlier call was killed."""
    found = None
    if store.path is not None:
        plan = group.plan
        _, log = jax.eval_shape(
            lambda c: chunk_program(plan.run)(c, plan.data, plan.key, np.int32(0), 1), group.avals
        )
        found = store.load(index, group.avals, log)
    if found is None:
        return group.start(), Past()
    carry = jax.tree.map(lambda x, like: _placed(x, like.sharding), found.carry, group.avals)
    return carry, Past(found.done, tuple(found.logs), tuple(found.reports))


def _placed(x: Any, sharding: Any) -> Any:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _identity(points: Sequence[Point], groups: Sequence[Group]) -> dict[str, Any]:
    """Return what must be the same for a sweep to go on from a directory."""
    plan = groups[0].plan
    key = plan.key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return {
        "points": {k: words(v).tolist() for k, v in columns(points).items()},
        "steps": plan.total,
        "report_every": plan.length,
        "batch_size": plan.run.batch_size,
        "key": to_host(key).tolist(),
        "data": _digest(plan.data),
        "groups": [g.lanes for g in groups],
        "leaves": [f"{x.dtype}{list(x.shape)}" for g in groups for x in jax.tree.leaves(g.avals)],
    }


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for x in jax.tree.leaves(to_host(tree)):
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
