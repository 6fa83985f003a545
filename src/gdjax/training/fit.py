"""Train one model: `fit` runs the whole loop as one compiled program."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import short
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_choice, leaf_name, strict
from gdjax.core.evaluation import eval_params
from gdjax.core.host import is_on_host
from gdjax.core.kinds import is_state_leaf, shown
from gdjax.core.remember import functions_in
from gdjax.core.types import Key, LossFn, OptState, Pair, Params, PyTree
from gdjax.training.checkpoint import Checkpoints, digest_by_sums, digest_of_steps, identity_of
from gdjax.training.engine import Carry, Run, execute, first_carry, recorded
from gdjax.training.epochs import steps_per_epoch, with_epochs
from gdjax.training.files import as_arrays, from_arrays, nested, part_of, read_record, write_record
from gdjax.training.inputs import RESERVED, Plan, Program, make_plan
from gdjax.training.lanes import Group
from gdjax.training.meshes import on_the_mesh
from gdjax.training.page import fit_page, fit_view, shown_in_notebook
from gdjax.training.plotting import draw_fit
from gdjax.training.progress import Bar, Interrupt, learning_rates
from gdjax.training.reports import Callbacks, Carrying, Report
from gdjax.training.streams import Stream, first_batch


class NonfiniteError(FloatingPointError):
    """A step would have made the parameters nonfinite; `result` holds everything before it."""

    result: FitResult


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """What `fit` returns; `fit(start=result)` continues from it.

    Attributes:
      params: the trained parameters.
      state: the optimizer's state.
      history: name -> array. "loss" has one entry for each step; "aux" is the tree that the loss
        function also returned, stacked; "step" and each held-out metric have one for each report.
      steps: the number of steps taken, with those of the result that it continued.
      seconds: wall time, compilation included; likewise.
      diverged_at: the step (0 is the first) that would have made the parameters nonfinite and was
        not taken, or None.
      first_nonfinite: the first step with a nonfinite loss or update, or None; at most
        `diverged_at`.
      model_state: the state of the model, None without one.
      key: the key or the seed of the shuffles and of the loss.
      interrupted: whether Ctrl-C ended the run.
      position: where an iterable of batches stands, as JSON, see `fit(data=...)`; None for arrays.
      best_params: see `gdjax.callbacks.keep_best`; None without it, as all below.
      best_model_state: the state of the model that belongs to them.
      best_step: the steps that they have taken.
      best_value: their metric.
    """

    params: Params
    state: OptState
    history: dict[str, Any]
    steps: int
    seconds: float
    diverged_at: int | None
    first_nonfinite: int | None
    model_state: PyTree
    key: Any
    interrupted: bool
    position: str | None = None
    best_params: Params = None
    best_model_state: PyTree = None
    best_step: int | None = None
    best_value: float | None = None

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate with: averaged, schedule-free or lookahead weights."""
        return eval_params(self.state, self.params)

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        losses = self.history["loss"]
        loss = f"loss {losses[0]:.6g} -> {losses[-1]:.6g}" if len(losses) else "no loss"
        return (
            f"FitResult({self.steps} steps in {self.seconds:.3g} s, {loss},\n"
            f"  diverged_at={self.diverged_at}, first_nonfinite={self.first_nonfinite},\n"
            f"  params={short(self.params)}, state={short(self.state)},\n"
            f"  history: {', '.join(self.history)})"
        )

    def _repr_html_(self) -> str | None:
        return shown_in_notebook(fit_view, self)

    def report(self, path: str | os.PathLike[str], title: str | None = None) -> None:
        """Write a page of the run: one HTML file that opens without network.

        It has a chart of the loss, with its running mean, of each metric and of each number in aux,
        and the hyperparameters that the next step would use. It needs Plotly: `pip install
        "gdjax[report]"`. About 5 MB, nearly all of it plotly.js.

        Args:
          path: the file, in a folder that exists; it is written completely or not at all.
          title: of the page.
        """
        fit_page(path, self, title)

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the step, and held-out metrics in panels below it.

        Args:
          ax: matplotlib axes, for the loss alone; None makes a figure with all.

        Returns:
          The axes of the loss.
        """
        metrics = [name for name in self.history if name not in RESERVED]
        return draw_fit(self.history, metrics, ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file: arrays by name, no Python objects."""
        about = {k: getattr(self, k) for k in NUMBERS}
        about["has_model_state"] = self.model_state is not None  # it may have no arrays
        typed = jnp.issubdtype(self.key.dtype, jax.dtypes.prng_key)
        about["key"] = str(jax.random.key_impl(self.key)) if typed else "seed"
        names = ("params", "state", "model_state", "history", "key", *BEST)
        trees = {k: getattr(self, k) for k in names}
        write_record(Path(path), about, as_arrays(jax.tree.map(jnp.asarray, trees)))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        params: Params = None,
        state: OptState = None,
        model_state: PyTree = None,
    ) -> FitResult:
        """Read what `save` wrote.

        Args:
          path: the file.
          params: a tree with the structure of the parameters, such as `fit` was given; None gives
            nested dicts.
          state: a tree with the structure of the state, such as `optimizer.init(params)`; None
            gives nested dicts. `fit(start=...)` needs it.
          model_state: likewise.

        Raises:
          ValueError: if the file is damaged, or the trees have another structure than it.
        """
        about, arrays = read_record(Path(path))
        trees = {}
        likes = {"params": params, "state": state, "model_state": model_state}
        likes |= {"best_params": params, "best_model_state": model_state}
        for name, like in likes.items():
            part = part_of(arrays, name)
            if like is not None and (part or name not in BEST):
                trees[name] = from_arrays(part, like, f"FitResult.load({name}=...)")
            else:
                known = bool(part) or name == "model_state" and about["has_model_state"]
                trees[name] = part[""] if "" in part else nested(part) if known else None
        del about["has_model_state"]
        key: Any = part_of(arrays, "key")[""]
        if (impl := about.pop("key")) != "seed":
            key = jax.random.wrap_key_data(jnp.asarray(key), impl=impl)
        return cls(**trees, history=nested(part_of(arrays, "history")), key=key, **about)


NUMBERS = (
    "steps", "seconds", "diverged_at", "first_nonfinite", "interrupted", "position", "best_step",
    "best_value",
)  # fmt: skip
BEST = ("best_params", "best_model_state")  # trees that are None without `keep_best`


@strict()
def fit(
    loss_fn: LossFn,
    params: Params,
    optimizer: Pair,
    data: PyTree,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    key: Key | None = None,
    has_aux: bool = False,
    needs_key: bool = False,
    model_state: PyTree = None,
    held_out: PyTree = None,
    held_out_batch_size: int | None = None,
    metric_fn: Callable[..., Any] | None = None,
    start: FitResult | None = None,
    state: OptState = None,
    callbacks: Iterable[Callable[[Report], object]] = (),
    report_every: int | None = None,
    progress: bool = False,
    on_nonfinite: str = "raise",
    directory: str | os.PathLike[str] | None = None,
    resume: bool = True,
) -> FitResult:
    """Minimize a loss over data with any optimizer, as one compiled program.

    The loop is a `lax.scan` over steps in chunks with a donated carry; Python is entered only
    between chunks, for the progress bar, held-out metrics and callbacks. A second call with the
    same functions and shapes compiles nothing, whatever the optimizer's numbers are.

    Args:
      loss_fn: `loss_fn(params, batch)` returns the loss, a real scalar; with `has_aux`, a pair
        `(loss, aux)`. The optimizer is given the extras `value`, `grad`, `value_fn`, `key` and
        `batch`.
      params: a tree of float or complex arrays; they are copied, not donated. With `start` they
        and `model_state` only give the structure.
      optimizer: an `(init, update)` pair, of gdjax or another library.
      data: a tree of arrays with the examples along axis 0; or an iterable of batches, trees of
        arrays, for what does not fit into memory: a loader (of PyTorch, Grain, ...), a list of
        tuples or dicts, an iterator. It is read in a thread while steps run, see `batches`. Batches
        must agree in structure and dtypes; for each new shape the step is compiled once more.
      batch_size: examples in a step, drawn without replacement: each epoch is a new shuffle, and
        what is left over after its last full batch is not seen in it. None takes all data in every
        step; 1 is stochastic gradient descent. Not for an iterable, which has its own.
      steps: number of updates. An iterable is read as often as that needs; an iterator, which can
        be read only once, to its end if this is None. A warning says if it ends before.
      epochs: passes over the data, instead of `steps`; not for an iterator.
      key: a PRNG key, or an integer seed, for the shuffles and the loss. None is that of `start`,
        or seed 0.
      has_aux: whether the loss function returns `(loss, aux)`.
      needs_key: whether to call `loss_fn(params, batch, key)`, with a new key for each step.
      model_state: a tree of arrays that the model carries from step to step, such as the batch
        statistics of batch normalization. The loss is then `loss_fn(params, model_state, batch)`
        and returns `(loss, model_state)`, or `(loss, (model_state, aux))` with `has_aux`. A step
        whose loss is not finite leaves it as it was.
      held_out: data for `metric_fn`, evaluated at each report: a tree of arrays, or an iterable of
        batches that can be read again and again (a list, a loader).
      held_out_batch_size: examples at a time, for held-out arrays whose evaluation does not fit
        into memory. Metrics of batches are averaged, weighted by their numbers of examples, so they
        must be means over examples. None evaluates arrays at once.
      metric_fn: `metric_fn(params, held_out)`, or `metric_fn(params, model_state, held_out)`,
        returns a scalar or a dict of scalars. The parameters are `eval_params(state, params)`:
        averaged, schedule-free or lookahead weights if the optimizer has such. If it has a further
        parameter `state`, it is given the optimizer's state under that name. None is `loss_fn`
        (without aux), which must then need no key and no `model_state`.
      start: a `FitResult` to continue from, with its parameters, states, step count, place in the
        shuffles, keys and history. The optimizer's numbers and schedules are those in its state,
        whatever `optimizer` is built from: change them by `with_hyperparams(start.state, ...)`,
        put into `dataclasses.replace(start, state=...)`. `steps` and `epochs` are then further
        ones: eight runs of 8 steps are one run of 64, bit for bit, with the same `data`,
        `batch_size` and `key`. A loader
        with `state_dict` (torchdata) or `get_state` (Grain) continues where it was; the first
        batches of another one are read and left out; an iterator is read on.
      state: the optimizer's state to start from, in a run whose steps and shuffles begin anew; None
        is `optimizer.init(params)`.
      callbacks: functions of a `Report`, called between chunks; a true result ends the run. Those
        of `gdjax.callbacks` stop early, keep the best parameters, and write logs.
      report_every: steps in a chunk. None is about a twentieth of the run if anything is reported.
      progress: whether to show a bar, with the time left, the loss, the metrics and the learning
        rate (needs tqdm: `pip install "gdjax[progress]"`); where stderr is no screen, a few lines.
      on_nonfinite: what to do when a step would make the parameters nonfinite; it is never taken.
        "raise" raises `NonfiniteError`, "warn" warns and returns what was reached before it, "stop"
        only returns it.
      directory: where finished chunks are kept; see `sweep`. After it was killed, the same call
        continues from them and gives the same bits; with more `steps` or `epochs` it continues
        after its end. Parameters may be on another mesh. A callback continues too if it has
        `state_dict()`, which gives dicts, lists, arrays and what JSON can hold, and
        `load_state_dict(dict)`. Of an iterable of batches one batch is read first, to see its
        shapes; an iterator must have `get_state` and `set_state`.
      resume: whether to go on from what is in `directory`; see `sweep`.

    Returns:
      A `FitResult`. Ctrl-C ends the run after the chunk in progress, and what is done is returned.

    Raises:
      NonfiniteError: see `on_nonfinite`; its `result` is the `FitResult` so far. So has any other
        exception that ends a run which has begun, such as one of a callback or of an iterable.
      TypeError: for a loss that is no real scalar, data that is no tree of arrays, or traced values
        (see `unroll`).
      ValueError: for data of unequal lengths or with NaN, a batch larger than the data, or a
        directory with another run in it.
      RuntimeError: if another process is using the directory.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.linspace(-1, 1, 32)
      >>> def loss_fn(params, batch):
      ...     x, y = batch
      ...     return jnp.mean((params["w"] * x + params["b"] - y) ** 2)
      >>> start = {"w": jnp.zeros(()), "b": jnp.zeros(())}
      >>> data = x, 3 * x + 1
      >>> result = gdjax.fit(loss_fn, start, gdjax.adam(0.1), data, batch_size=8, steps=300)
      >>> print(result.params["w"].round(2), result.params["b"].round(2))
      3.0 1.0
    """
    started = time.perf_counter()
    check_choice("fit(on_nonfinite=...)", on_nonfinite, ("raise", "warn", "stop"))
    optimizer = with_extra_args_support(optimizer)
    if start is not None:
        _check_start(start, params, state, model_state, has_aux)
        params, state, model_state = start.params, start.state, start.model_state
        key = start.key if key is None else key
    if not all(map(is_state_leaf, jax.tree.leaves(state))):
        raise TypeError(
            "fit(state=...) must be a state of this optimizer, a tree of arrays, got "
            f"{shown(state)}."
        )
    params, state, model_state = on_the_mesh(
        "fit",
        {"params": params, "state": state, "model_state": model_state},
        {"data": data, "held_out": held_out},
    )
    starts_at = "optimizer" if state is None else "state"
    state = optimizer.init(params) if state is None else state
    state = with_epochs("fit", state, steps_per_epoch(data, batch_size))
    program = Program(
        loss_fn, optimizer.update, has_aux, needs_key, model_state is not None, batch_size,
        functions=functions_in(state),
    )  # fmt: skip
    run = Run(first_carry("fit", params, state, model_state), start.steps if start else 0)
    watchers = Callbacks("fit", callbacks)
    plan = make_plan(
        "fit", program, params, data, model_state=run.carry.model_state, state=lambda: state,
        steps=steps, epochs=epochs, done=run.done, key=key, held_out=held_out,
        held_out_batch_size=held_out_batch_size, metric_fn=metric_fn, report_every=report_every,
        reports=progress or bool(watchers) or directory is not None,
    )  # fmt: skip
    if start is not None and start.position is not None and isinstance(plan.data, Stream):
        plan.data.go_to(start.position, further=True)

    def result(interrupted: bool = False) -> FitResult:
        seconds = time.perf_counter() - started
        return watchers.finish(_result(plan, run, start, seconds, interrupted))

    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Bar(plan.total, progress, "fit"))
        interrupt = stack.enter_context(Interrupt())
        store = group = None
        ended = False
        if directory is not None:
            batch = first_batch(plan.data) if isinstance(plan.data, Stream) else plan.data
            group = Group([0], 0, plan._replace(data=batch), _places(run.carry), lambda: run.carry)
            identity = _identity(group, run, start, starts_at, report_every)
            store = Checkpoints("fit", directory, resume, identity, 1, plan, run.done)
        stack.enter_context(Carrying("fit", result))
        if store is not None and group is not None:
            stack.callback(store.close)
            plan = plan._replace(length=store.length)
            if store.done[0] > run.done:
                run.carry = group.shapes  # the arrays are not needed any more
                run = store.load(group, run.done) or run
                watchers.load_state_dicts(store.beside["callbacks"])
                ended = store.beside["ended"]
                if isinstance(plan.data, Stream):
                    plan.data.go_to(store.beside["position"])
        watchers.begin(plan.metrics, run.done)
        tell = watchers.of() if watchers else None

        def on_chunk(run: Run) -> bool:
            ends = _report(run, bar, tell)
            if store is not None and group is not None:
                place = plan.data.position if isinstance(plan.data, Stream) else None
                beside = {"ended": ends, "callbacks": watchers.state_dicts(), "position": place}
                store.save(group, run, beside)
            return ends or interrupt.asked

        bar.begin(run.done)
        if not ended:
            execute(plan, run, on_chunk)
    reached = result(interrupt.asked)
    if reached.interrupted:
        warnings.warn(
            f"fit: Ctrl-C ended the run after step {reached.steps} of {plan.total}. "
            "fit(start=result) continues from there.",
            stacklevel=2,
        )
    new_losses = reached.history["loss"][start.steps if start else 0 :]
    bad = reached.diverged_at is not None or not np.isfinite(new_losses).all()
    if bad and on_nonfinite != "stop":
        _tell_nonfinite(reached, on_nonfinite)
    return reached


def _places(carry: Carry) -> Carry:
    """Return the shapes of a run's arrays, with their shardings where somebody chose them."""

    def one(x):
        chosen = x.committed or is_on_host(x)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if chosen else None)

    return jax.tree.map(one, carry)


def _identity(
    group: Group, run: Run, start: FitResult | None, starts_at: str, report_every: int | None
) -> dict[str, Any]:
    """Return what decides the numbers of a run that is to begin."""
    params, state, model_state, *_ = run.carry
    begun = None if start is None else [run.done, digest_by_sums((params, state, model_state))]
    parts = {
        "params": params,
        "model_state": model_state,
        starts_at: state,
    }
    digests = {k: digest_by_sums(v) if start is None else None for k, v in parts.items()}
    program = digest_of_steps(group.plan, run.carry)
    more = {"start": begun, "program": program, **digests}
    return identity_of(group.plan, run.carry, report_every, more)


def _check_start(
    start: FitResult, params: Params, state: OptState, model_state: PyTree, has_aux: bool
) -> None:
    """Raise unless a run can continue from a result."""
    if state is not None:
        raise ValueError("fit(start=..., state=...): the start has a state already.")
    for name, given, known in (
        ("params", params, start.params),
        ("model_state", model_state, start.model_state),
    ):
        if name == "model_state" and given is None:
            continue
        here, there = jax.tree.structure(given), jax.tree.structure(known)
        if here != there:
            raise ValueError(
                f"fit(start=...) has {name} of another structure than {name}=...: {there}, and "
                f"{here}."
            )
        shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (given, known)]
        for i, (of_given, of_known) in enumerate(zip(*shapes, strict=True)):
            if of_given != of_known:
                raise ValueError(
                    f"fit(start=...) has the shape {of_known} at {leaf_name(given, i)!r}, and "
                    f"{name}=... has {of_given}. With a start, {name}=... only gives the "
                    "structure, so it must be of the same model."
                )
    if len(start.history["loss"]) and has_aux != ("aux" in start.history):
        raise ValueError(
            f"fit(start=..., has_aux={has_aux}): the history of the start has "
            f"{'no ' if has_aux else ''}aux."
        )


def _report(run: Run, bar: Bar, tell: Callable[[Run], object] | None) -> bool:
    """Tell the bar and the callbacks about a chunk; return whether one of them stops the run."""
    if bar.shown:
        metrics = run.reports[-1] if run.reports else {}
        metrics = {k: float(v) for k, v in metrics.items() if k != "step"}
        loss = float(run.logs[-1][0].mean())
        bar.show(run.done, loss=loss, **learning_rates(run.carry.state) | metrics)
    return tell is not None and bool(tell(run))


def _result(
    plan: Plan, run: Run, start: FitResult | None, seconds: float, interrupted: bool
) -> FitResult:
    at = int(run.carry.diverged_at)
    diverged_at = at if at >= 0 else None
    steps, before = run.done if diverged_at is None else diverged_at, start.steps if start else 0
    seen = (run.done if diverged_at is None else diverged_at + 1) - before
    history: dict[str, Any] = {"loss": np.zeros(0, np.float32)}
    if run.logs:
        losses, aux, reports = recorded(plan, run)
        history = {"loss": losses[:seen], **reports}
        if plan.program.has_aux:
            history["aux"] = jax.tree.map(lambda x: x[:seen], aux)
    if start is not None:
        history = _joined(start, history) if run.logs else start.history
        seconds += start.seconds
    bad = np.flatnonzero(~np.isfinite(history["loss"]))
    return FitResult(
        params=run.carry.params,
        state=run.carry.state,
        history=history,
        steps=steps,
        seconds=seconds,
        diverged_at=diverged_at,
        first_nonfinite=int(bad[0]) if bad.size else diverged_at,
        model_state=run.carry.model_state,
        key=plan.key,
        interrupted=interrupted,
        position=plan.data.position_after(steps) if isinstance(plan.data, Stream) else None,
    )


def _joined(start: FitResult, new: dict[str, Any]) -> dict[str, Any]:
    """Return the history of a run that continued; NaN where a metric was not recorded."""

    def join(*parts):
        return np.concatenate(parts)

    old, out = start.history, {}
    for name in ("loss", "aux"):
        if name in new:
            taken = jax.tree.map(lambda x: x[: start.steps], old.get(name, new[name]))
            out[name] = jax.tree.map(join, taken, new[name]) if name in old else new[name]
    reports = [len(history.get("step", ())) for history in (old, new)]
    for name in [k for k in {**old, **new} if k not in ("loss", "aux")]:
        parts = [
            history.get(name, np.full(count, np.nan, np.float32))
            for history, count in zip((old, new), reports, strict=True)
            if count
        ]
        out[name] = np.concatenate(parts)
    return out


def _tell_nonfinite(result: FitResult, on_nonfinite: str) -> None:
    if result.diverged_at is None:
        warnings.warn(
            f"fit: the loss was not finite at step {result.first_nonfinite}; the parameters stayed "
            "finite.",
            stacklevel=3,
        )
        return
    message = (
        f"fit: step {result.diverged_at} would have made the parameters nonfinite (loss "
        f"{result.history['loss'][-1]}, first nonfinite at step {result.first_nonfinite}). The run "
        "ends with the parameters before it. Lower the learning rate (in the state, to continue), "
        "clip the gradients, or check the loss for logarithms and divisions of zero."
    )
    if on_nonfinite == "warn":
        warnings.warn(message, stacklevel=3)
        return
    error = NonfiniteError(message + " They are in this error's `result`.")
    error.result = result
    raise error
