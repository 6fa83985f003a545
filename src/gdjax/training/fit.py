"""Train one model: `fit` runs the whole loop as one compiled program."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import short
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_choice, strict
from gdjax.core.kinds import is_state_leaf, shown
from gdjax.core.remember import functions_in
from gdjax.core.types import Key, LossFn, OptState, Pair, Params, PyTree
from gdjax.training.engine import Run, execute, first_carry, recorded
from gdjax.training.inputs import RESERVED, Plan, Program, make_plan
from gdjax.training.plotting import draw_fit
from gdjax.training.progress import Bar


class Report(NamedTuple):
    """What a callback is given between chunks; the arrays are its own copies."""

    step: int
    loss: float  # mean over the steps since the last report
    params: Params
    state: OptState
    metrics: dict[str, float]  # held-out metrics, empty without held-out data

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        sizes = f"params={short(self.params)}, state={short(self.state)}"
        return f"Report(step={self.step}, loss={self.loss:.6g}, {sizes}, metrics={self.metrics})"


class NonfiniteError(FloatingPointError):
    """A step would have made the parameters nonfinite; `result` holds everything before it."""

    result: FitResult


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """What `fit` returns.

    Attributes:
      params: the trained parameters.
      state: the optimizer's state; pass it to `fit(state=...)` to continue.
      history: name -> array. "loss" has one entry for each step; "aux" is the tree that the loss
        function also returned, stacked; "step" and each held-out metric have one for each report.
      steps: the number of steps taken.
      seconds: wall time, compilation included.
      diverged_at: the step (0 is the first) that would have made the parameters nonfinite and was
        not taken, or None.
      first_nonfinite: the first step with a nonfinite loss or update, or None; at most
        `diverged_at`.
    """

    params: Params
    state: OptState
    history: dict[str, Any]
    steps: int
    seconds: float
    diverged_at: int | None
    first_nonfinite: int | None

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        losses = self.history["loss"]
        return (
            f"FitResult({self.steps} steps in {self.seconds:.3g} s, loss {losses[0]:.6g} -> "
            f"{losses[-1]:.6g},\n"
            f"  diverged_at={self.diverged_at}, first_nonfinite={self.first_nonfinite},\n"
            f"  params={short(self.params)}, state={short(self.state)},\n"
            f"  history: {', '.join(self.history)})"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the step, and held-out metrics in panels below it.

        Args:
          ax: matplotlib axes, for the loss alone; None makes a figure with all.

        Returns:
          The axes of the loss.
        """
        metrics = [name for name in self.history if name not in RESERVED]
        return draw_fit(self.history, metrics, ax)


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
    held_out: PyTree = None,
    metric_fn: Callable[..., Any] | None = None,
    state: OptState = None,
    callbacks: Iterable[Callable[[Report], object]] = (),
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
    optimizer = with_extra_args_support(optimizer)
    if not all(map(is_state_leaf, jax.tree.leaves(state))):
        raise TypeError(
            "fit(state=...) must be a state of this optimizer, a tree of arrays, got "
            f"{shown(state)}."
        )
    state = optimizer.init(params) if state is None else state
    program = Program(
        loss_fn, optimizer.update, has_aux, needs_key, batch_size, functions=functions_in(state)
    )
    run, callbacks = Run(first_carry("fit", params, state)), tuple(callbacks)
    plan = make_plan(
        "fit", program, params, data, steps=steps, epochs=epochs, key=key, held_out=held_out,
        metric_fn=metric_fn, report_every=report_every, reports=bool(progress or callbacks),
    )  # fmt: skip
    if progress or callbacks:
        with Bar(plan.total, progress) as bar:
            execute(plan, run, lambda run: _report(run, bar, callbacks))
    else:
        execute(plan, run)
    result = _result(plan, run, time.perf_counter() - started)
    if result.first_nonfinite is not None and on_nonfinite != "stop":
        _tell_nonfinite(result, on_nonfinite)
    return result


def _report(run: Run, bar: Bar, callbacks: tuple[Callable[[Report], object], ...]) -> bool:
    """Tell the bar and the callbacks about a chunk; return whether one of them stops the run."""
    loss = float(run.logs[-1][0].mean())
    metrics = (
        {k: float(v) for k, v in run.reports[-1].items() if k != "step"} if run.reports else {}
    )
    bar.show(run.done, loss=loss, **metrics)
    if not callbacks:
        return False
    params, state = jax.tree.map(jnp.copy, (run.carry.params, run.carry.state))
    seen = Report(run.done, loss, params, state, metrics)
    return any([callback(seen) for callback in callbacks])


def _result(plan: Plan, run: Run, seconds: float) -> FitResult:
    losses, aux, reports = recorded(plan, run)
    at = int(run.carry.diverged_at)
    diverged_at = at if at >= 0 else None
    seen = run.done if diverged_at is None else diverged_at + 1
    history = {"loss": losses[:seen], **reports}
    if plan.program.has_aux:
        history["aux"] = jax.tree.map(lambda x: x[:seen], aux)
    bad = np.flatnonzero(~np.isfinite(history["loss"]))
    return FitResult(
        params=run.carry.params,
        state=run.carry.state,
        history=history,
        steps=run.done if diverged_at is None else diverged_at,
        seconds=seconds,
        diverged_at=diverged_at,
        first_nonfinite=int(bad[0]) if bad.size else diverged_at,
    )


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
        "ends with the parameters before it. Lower the learning rate, clip the gradients, or check "
        "the loss for logarithms and divisions of zero."
    )
    if on_nonfinite == "warn":
        warnings.warn(message, stacklevel=3)
        return
    error = NonfiniteError(message + " They are in this error's `result`.")
    error.result = result
    raise error
