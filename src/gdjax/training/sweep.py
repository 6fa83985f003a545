"""Train many models together: a grid of hyperparameters is data, so a sweep is one program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from gdjax.core.checks import strict
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.pool import Pool
from gdjax.training.reports import Report
from gdjax.training.result import SweepResult
from gdjax.training.trials import as_configs


@strict()
def sweep(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    data: PyTree,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    key: Key | None = None,
    has_aux: bool = False,
    needs_key: bool = False,
    model_state: PyTree | Callable[..., PyTree] = None,
    held_out: PyTree = None,
    held_out_batch_size: int | None = None,
    metric_fn: Callable[..., Any] | None = None,
    callbacks: Iterable[Callable[[Report], object]] = (),
    report_every: int | None = None,
    progress: bool = False,
    seeds: int | Sequence[int] | None = None,
    lanes_per_program: int | None = None,
    vectorize: bool | None = None,
    directory: str | os.PathLike[str] | None = None,
    resume: bool = True,
    mesh: Mesh | None = None,
    lanes_axis: str | None = None,
) -> SweepResult:
    """Train one model for each config of a space of hyperparameters, all in one compiled program.

    Each config is a lane of one compiled training loop. All lanes start at the same parameters and
    see the same batches, unless they have seeds of their own. A lane that diverges is frozen at its
    last finite parameters and reported; the others are not affected. Lanes are sharded over all
    devices of all hosts (`jax.distributed`: call `sweep` with the same arguments in each process);
    on a CPU that is one device, groups of lanes run in a thread for each core. Ctrl-C ends the
    sweep after the chunks in progress and returns what is done.

    Args:
      loss_fn: as in `fit`.
      params: as in `fit`, where every lane starts; or a function of a key, such as `model.init`,
        which is called with the key of each lane's "init_seed" or "seed" (0 if it has none).
      optimizer: a factory, called with a config's values by name (`gdjax.adam`, or any function
        that builds an optimizer), or an optimizer whose hyperparameters are then replaced by
        qualified name, as `with_hyperparams` does (`{"learning_rate.peak_value": ...}`,
        `"head.b1"`).
      space: name -> values, for all combinations of them (see `grid`); or a list of configs, each a
        dict, as `grid` and `sample` give. Values that are not numbers (booleans, strings,
        functions) are static: each combination is a program of its own; under the name "optimizer"
        they replace the argument. Three names are not the optimizer's: "init_seed" seeds `params`,
        "batch_seed" the lane's own batches and keys (the key is `fold_in(key, batch_seed)`), "seed"
        both.
      data: as in `fit`; a batch goes to all lanes that share a key.
      batch_size: as in `fit`.
      steps: as in `fit`.
      epochs: as in `fit`.
      key: as in `fit`.
      has_aux: as in `fit`.
      needs_key: as in `fit`.
      model_state: as in `fit`, where every lane starts; or a function of a key, as `params`, which
        is given the same key.
      held_out: as in `fit`.
      held_out_batch_size: as in `fit`.
      metric_fn: as in `fit`, for one lane.
      callbacks: functions of a `Report`, called between chunks in the thread that called `sweep`,
        for one group of lanes at a time. A true result stops those lanes; an array of bools
        (lanes,), one for each lane of the report, stops some. A lane that is stopped is frozen.
      report_every: as in `fit`.
      progress: as in `fit`, with the lanes alive, and the loss, metrics and rate of the best lane.
      seeds: runs of each config: a number of them or a list of integers, the values of "seed".
      lanes_per_program: lanes that share a program and are in memory together; the program is
        compiled once for all groups of lanes. None is as many as fit, by XLA's count of the memory
        that the compiled program needs.
      vectorize: whether lanes step together (`vmap`) or one after the other within the program.
        None vectorizes, except on a CPU if a lane has at least 4096 parameters (then it uses a
        whole core, and alone it stays in the cache) or its loss has convolutions (which are slow
        there with many kernels together).
      directory: where finished chunks are kept, on a file system that all hosts share. The same
        call resumes from them after it was killed, also on other devices or with other
        `lanes_per_program`, and loses at most one chunk (`report_every` steps of the groups in
        progress, and those that were being written). With more `steps` it continues after its end.
        A call with anything else that decides numbers is an error that names it. One process at a
        time can use a directory. Files that are damaged or lost cost a warning, and the steps since
        the last ones that are whole.
      resume: whether to go on from what is in `directory`. False deletes the sweep that is there,
        whatever it is, and starts anew.
      mesh: a mesh with an axis for lanes; its other axes are for the arrays of each lane. Params,
        model_state, data and held-out data that lie on it stay split along these other axes, and
        the optimizer's state as the parameters are; all else is whole on their devices. All axes
        are automatic in the loss, as in `jax.make_mesh(..., axis_types=(AxisType.Auto,) * n)`,
        whatever they are in the mesh. None spreads lanes over all devices, each a whole lane.
      lanes_axis: the name of the axis that lanes lie along. Lanes in a program are a multiple of
        its size.

    Returns:
      A `SweepResult`. Memory: lanes in a program * (parameters + state + gradients), on the host
      all parameters, states and losses.

    Raises:
      Exception: what a callback or the evaluation raised; its `result` is the `SweepResult` so far.
      ValueError: for an empty space, a value out of range, a name that the optimizer does not have,
        a directory with another sweep, or files of one, in it; for arrays on another mesh than
        `mesh`, or split along its `lanes_axis`.
      RuntimeError: if another process is using the directory.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": jnp.array([1e-3, 0.1, 1e12]), "momentum": jnp.array([0.0, 0.9])}
      >>> result = gdjax.sweep(loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=50)
      >>> best = result.best()
      >>> print({k: round(v, 3) for k, v in best.config.items()}, len(result.diverged()))
      {'learning_rate': 0.1, 'momentum': 0.0} 2
    """
    with Pool(
        "sweep", loss_fn, params, optimizer, as_configs("sweep", space, seeds), data,
        batch_size=batch_size, steps=steps, epochs=epochs, key=key, has_aux=has_aux,
        needs_key=needs_key, model_state=model_state, held_out=held_out,
        held_out_batch_size=held_out_batch_size, metric_fn=metric_fn, callbacks=callbacks,
        report_every=report_every, progress=progress, lanes_per_program=lanes_per_program,
        vectorize=vectorize, directory=directory, resume=resume, mesh=mesh, lanes_axis=lanes_axis,
    ) as pool:  # fmt: skip
        pool.advance()
    return pool.result()
