"""The learning-rate range test: one run whose rate grows exponentially until the loss blows up.

Smith (2015), section 3.3, https://arxiv.org/abs/1506.01186
The suggestion follows fastai: the steepest descent of the smoothed loss, and a tenth of the rate
at its minimum; the lower of the two is `low`. Deviations: none.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from gdjax.core.base import Optimizer, short
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import UNIT, check_integer, check_range, strict
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.reading import with_hyperparams
from gdjax.core.remember import functions_in
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.engine import Run, execute, first_carry, recorded
from gdjax.training.epochs import steps_per_epoch, with_epochs
from gdjax.training.inputs import Program, make_plan
from gdjax.training.lanes import is_pair, make_start
from gdjax.training.meshes import on_the_mesh
from gdjax.training.plotting import new_axes


@schedule
class _Ramp(Schedule):
    """low (high / low)^(count / last)."""

    low: float
    high: float
    last: float

    def __call__(self, count: Any) -> Any:
        return self.low * (self.high / self.low) ** (count / self.last)


@dataclasses.dataclass(frozen=True, repr=False)
class RangeTest:
    """What `lr_find` returns.

    Attributes:
      rates: (steps,), the learning rate of each step.
      losses: (steps,), the loss before that step.
      smooth: (steps,), its bias-corrected running mean.
      low: the lower end of the suggested range, whose ends are the rate where the smoothed loss
        falls fastest per decade and a tenth of the rate where it is least.
      high: its upper end.
      suggestion: the geometric mean of the two.
    """

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    low: float
    high: float
    suggestion: float

    def __repr__(self) -> str:
        """Show the numbers; of the arrays, how large they are."""
        return (
            f"RangeTest(low={self.low:.3g}, high={self.high:.3g}, "
            f"suggestion={self.suggestion:.3g}, losses={short(self.losses)})"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the rate, with the suggested range; return the axes."""
        ax = new_axes(ax)
        ax.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss")
        ax.plot(self.rates, self.smooth, label="smoothed")
        ax.axvspan(self.low, self.high, color="tab:green", alpha=0.15, label="suggested range")
        ax.axvline(self.suggestion, color="tab:green", label=f"suggestion: {self.suggestion:.2g}")
        finite = self.smooth[np.isfinite(self.smooth)]
        low, high = self.losses.min(), finite[: max(1, len(finite) // 10)].max()
        ax.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
        ax.legend(fontsize="small")
        return ax


@strict()
def lr_find(
    loss_fn: LossFn,
    params: Params,
    optimizer: Pair | Callable[..., Pair],
    data: PyTree,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 200,
    name: str = "learning_rate",
    decay: float = 0.95,
    batch_size: int | None = None,
    key: Key | None = None,
    has_aux: bool = False,
    needs_key: bool = False,
    model_state: PyTree = None,
) -> RangeTest:
    """Find a range of good learning rates by one short run in which the rate grows.

    rate(i) = low (high / low)^(i / (steps - 1)). All steps are one compiled scan; a step that would
    make the parameters nonfinite ends the test.

    Args:
      loss_fn: as in `fit`.
      params: as in `fit`; they are not changed.
      optimizer: as in `sweep`: a factory, which is called with the rate by name (`gdjax.adam`), or
        an optimizer, whose hyperparameter of that name is replaced, whatever its value.
      data: as in `fit`.
      low: the first rate > 0.
      high: the last rate > low.
      steps: >= 10.
      name: the qualified name of the hyperparameter, as in `with_hyperparams`.
      decay: of the running mean, in [0, 1).
      batch_size: as in `fit`.
      key: as in `fit`.
      has_aux: as in `fit`.
      needs_key: as in `fit`.
      model_state: as in `fit`, where the run starts; it is not changed.

    Returns:
      A `RangeTest`.

    Raises:
      ValueError: for a bad range; for a name that no or several hyperparameters have; if the loss
        is not finite at the start; if an iterable ends early.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> test = gdjax.lr_find(loss_fn, jnp.zeros(()), gdjax.sgd, jnp.ones(4), steps=100)
      >>> bool(1e-3 < test.low <= test.suggestion <= test.high < 1.0)
      True
    """
    if not 0 < low < high < np.inf:
        raise ValueError(f"lr_find(low, high) must be 0 < low < high, got {low}, {high}.")
    check_integer("lr_find(steps=...)", steps, 10)
    check_range("lr_find(decay=...)", decay, UNIT)
    if not is_pair(optimizer):
        factory = cast(Callable[..., Pair], optimizer)
        _, update = make_start("lr_find", optimizer, {}, [{name: low}])
        optimizer = Optimizer(factory(**{name: low})[0], update)
    init, update = with_extra_args_support(cast(Pair, optimizer))
    trees = {"params": params, "model_state": model_state}
    params, model_state = on_the_mesh("lr_find", trees, {"data": data})
    try:
        state = with_hyperparams(init(params), **{name: _Ramp(low, high, steps - 1.0)})
    except ValueError as error:
        raise ValueError(f"lr_find(name={name!r}) must be one hyperparameter. {error}") from error
    state = with_epochs("lr_find", state, steps_per_epoch(data, batch_size))
    run = Run(first_carry("lr_find", params, state, model_state))
    program = Program(
        loss_fn, update, has_aux, needs_key, model_state is not None, batch_size,
        functions=functions_in(state),
    )  # fmt: skip
    plan = make_plan(
        "lr_find", program, params, data, model_state=run.carry.model_state, steps=steps, key=key
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lr_find: the iterator ended")  # it is an error below
        execute(plan, run)
    diverged_at = int(run.carry.diverged_at)
    losses = recorded(plan, run)[0][: diverged_at + 1 if diverged_at >= 0 else None]
    losses = losses.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(losses))
    losses = losses[: bad[0]] if bad.size else losses
    if not bad.size and run.done < steps and diverged_at < 0:
        raise ValueError(
            f"lr_find(data=...): the iterable ended after {run.done} of {steps} steps. Give more "
            "batches, or fewer steps=... ."
        )
    if not losses.size:
        raise ValueError("lr_find: the loss is not finite at the start.")
    rates = low * (high / low) ** (np.arange(len(losses)) / (steps - 1))
    smooth = running_mean(losses, decay)
    least = int(np.argmin(smooth))
    slope = np.gradient(smooth[: least + 1], np.log(rates[: least + 1])) if least > 1 else [0.0]
    ends = rates[int(np.argmin(slope))], rates[least] / 10
    middle = float(np.sqrt(ends[0] * ends[1]))
    return RangeTest(rates, losses, smooth, float(min(ends)), float(max(ends)), middle)


def running_mean(values: np.ndarray, decay: float) -> np.ndarray:
    """Return the bias-corrected exponential running mean.

    Example:
      >>> print(running_mean(np.array([1.0, 3.0]), 0.5))
      [1.     2.3333]
    """
    out, mean = np.empty_like(values), 0.0
    for i, value in enumerate(values):
        mean = decay * mean + (1 - decay) * value
        out[i] = mean / (1 - decay ** (i + 1))
    return out
