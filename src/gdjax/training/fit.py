"""Train one model: `fit` runs the whole loop as one compiled program."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_choice
from gdjax.training.drive import execute
from gdjax.training.loop import Carry, Run
from gdjax.training.pictures import draw_loss
from gdjax.training.plan import make_plan
from gdjax.training.report import Bar


class Report(NamedTuple):
    """What a callback sees between chunks; the arrays are its own copies."""

    step: int
    loss: float  # mean over the steps since the last report
    params: Any
    state: Any
    metrics: dict[str, float]  # held-out metrics, empty without held-out data


class NonfiniteError(FloatingPointError):
    """A step would have made the parameters nonfinite; `result` holds everything before it."""

    result: FitResult


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
      params: the trained parameters.
      state: the optimizer's state; pass it to `fit(state=...)` to go on.
      history: name -> array. "loss" has one entry for each step; "aux" is the tree that the loss
        function gave besides, stacked; "step" and each held-out metric have one for each report.
      steps: the number of steps taken.
      seconds: wall time, compilation included.
      first_nonfinite: the first step (0 is the first) with a nonfinite loss or update, or None.
    """

    params: Any
    state: Any
    history: dict[str, Any]
    steps: int
    seconds: float
    first_nonfinite: int | None

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the step; return the matplotlib axes."""
        return draw_loss(self.history["loss"], ax)


def fit(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
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
    state: Any = None,
    callbacks: Iterable[Callable[[Report], Any]] = (),
    report_every: int | None = None,
    progress: bool = False,
    on_nonfinite: str = "raise",
) -> FitResult:
    """Minimize a loss over data with any optimizer, as one compiled program.

    The loop is a `lax.scan` over steps in chunks with a donated carry; Python is entered only
    between chunks, for the progress bar, held-out metrics and callbacks. A second call with the
    same functions and shapes compiles nothing, whatever the optimizer's numbers are.

    Args:
      loss_fn: `loss_fn(params, batch)` returns the loss, a real scalar; with `has_aux`, a pair
        `(loss, aux)`. The optimizer is given `value`, `grad`, `value_fn` and `key` as extras.
      params: a tree of float or complex arrays; they are copied, not donated.
      optimizer: an `(init, update)` pair, of gdjax or another library.
      data: a tree of arrays with the examples along axis 0, or an iterable of batches (for streams
        that do not fit into memory).
      batch_size: examples in a step, drawn without replacement: each epoch is a new shuffle, and
        what is left over after its last full batch is not seen in it. None takes all data in every
        step; 1 is stochastic gradient descent. Not for an iterable, which has its own.
      steps: number of updates; with an iterable None runs it to its end.
      epochs: passes over the data, instead of `steps`.
      key: a PRNG key, or an integer seed, for the shuffles and the loss. None is seed 0.
      has_aux: whether the loss function returns `(loss, aux)`.
      needs_key: whether to call `loss_fn(params, batch, key)`, with a new key for each step.
      held_out: data for `metric_fn`, evaluated at each report.
      metric_fn: `metric_fn(params, held_out)` returns a scalar or a dict of scalars; None is
        `loss_fn` (without aux).
      state: the optimizer's state to start from; None is `optimizer.init(params)`.
      callbacks: functions of a `Report`, called between chunks; a true result ends the run.
      report_every: steps in a chunk. None is about a twentieth of the run if anything is reported.
      progress: whether to show a bar (needs tqdm: `pip install "gdjax[progress]"`).
      on_nonfinite: what to do when a step would make the parameters nonfinite; it is never taken.
        "raise" raises `NonfiniteError`, "warn" warns and returns what was reached before it, "stop"
        only returns it.

    Returns:
      A `FitResult`.

    Raises:
      NonfiniteError: see `on_nonfinite`; its `result` is the `FitResult` so far.
      TypeError: for a loss that is no real scalar, data that is no tree of arrays, or traced values
        (see `unroll`).
      ValueError: for data of unequal lengths or with NaN, or a batch larger than the data.

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
    init, update = with_extra_args_support(optimizer)
    state = init(params) if state is None else state
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, state))):
        raise TypeError(
            "fit cannot be traced (jit, grad, vmap, hypergradient), as it talks to the host. Use "
            "unroll inside of such functions."
        )
    callbacks = tuple(callbacks)
    plan = make_plan(
        "fit",
        Run(loss_fn, update, has_aux, needs_key, batch_size),
        params,
        data,
        steps=steps,
        epochs=epochs,
        key=key,
        held_out=held_out,
        metric_fn=metric_fn,
        report_every=report_every,
        reports=bool(progress or callbacks),
    )
    params, state = _copied((params, state))  # what is donated is not the caller's
    with Bar(plan.total, progress) as bar:

        def on_chunk(done, carry, log, report):
            if not (progress or callbacks):
                return False
            loss = float(log[0].mean())
            values = {k: float(v) for k, v in report.items() if k != "step"}
            bar.show(done, loss=loss, **values)
            if not callbacks:
                return False
            own_params, own_state = jax.tree.map(jnp.copy, (carry.params, carry.state))
            seen = Report(done, loss, own_params, own_state, values)
            return any([callback(seen) for callback in callbacks])

        outcome = execute(plan, Carry(params, state, jnp.asarray(-1, jnp.int32)), on_chunk)
    diverged_at = int(outcome.carry.diverged_at)
    taken = outcome.done if diverged_at < 0 else diverged_at
    seen = outcome.done if diverged_at < 0 else diverged_at + 1
    history = {"loss": outcome.loss[:seen], **outcome.reports}
    if has_aux:
        history["aux"] = jax.tree.map(lambda x: x[:seen], outcome.aux)
    bad = np.flatnonzero(~np.isfinite(history["loss"]))
    first = int(bad[0]) if bad.size else (diverged_at if diverged_at >= 0 else None)
    seconds = time.perf_counter() - started
    result = FitResult(outcome.carry.params, outcome.carry.state, history, taken, seconds, first)
    _tell_nonfinite(result, diverged_at, on_nonfinite)
    return result


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def _tell_nonfinite(result: FitResult, diverged_at: int, on_nonfinite: str) -> None:
    if result.first_nonfinite is None or on_nonfinite == "stop":
        return
    if diverged_at < 0:
        warnings.warn(
            f"fit: the loss was not finite at step {result.first_nonfinite}; the parameters stayed "
            "finite.",
            stacklevel=3,
        )
        return
    message = (
        f"fit: step {diverged_at} would have made the parameters nonfinite (loss "
        f"{result.history['loss'][-1]}, first nonfinite at step {result.first_nonfinite}). The run "
        "ends with the parameters before it. Lower the learning rate, clip the gradients, or check "
        "the loss for logarithms and divisions of zero."
    )
    if on_nonfinite == "warn":
        warnings.warn(message, stacklevel=3)
        return
    error = NonfiniteError(message + " They are in this error's `result`.")
    error.result = result
    raise error
