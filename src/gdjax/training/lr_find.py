"""The learning-rate range test: one run whose rate grows exponentially until the loss blows up.

Smith (2015), section 3.3, https://arxiv.org/abs/1506.01186
The suggestion follows fastai: the steepest descent of the smoothed loss, and a tenth of the rate
at its minimum; the lower of the two is `low`. Deviations: none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.reading import with_hyperparams
from gdjax.training.fit import fit
from gdjax.training.pictures import new_axes
from gdjax.training.starts import is_pair, make_start


@schedule
class _Ramp(Schedule):
    """low (high / low)^(count / last)."""

    low: float
    high: float
    last: float

    def __call__(self, count: Any) -> Any:
        return self.low * (self.high / self.low) ** (count / self.last)


@dataclasses.dataclass(frozen=True)
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


def lr_find(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    data: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 200,
    name: str = "learning_rate",
    decay: float = 0.95,
    **options: Any,
) -> RangeTest:
    """Find a range of good learning rates by one short run with ever greater ones.

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
      **options: of `fit`: batch_size, key, has_aux, needs_key.

    Returns:
      A `RangeTest`.

    Raises:
      ValueError: for a bad range; for a name that is none or several; if the loss is not finite at
        the start; if an iterable ends early.

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
    if steps < 10:
        raise ValueError(f"lr_find(steps=...) must be >= 10, got {steps}.")
    if not 0 <= decay < 1:
        raise ValueError(f"lr_find(decay=...) must be in [0, 1), got {decay}.")
    if not is_pair(optimizer):
        _, update = make_start("lr_find", optimizer, {}, [{name: low}], None)
        optimizer = Optimizer(optimizer(**{name: low}).init, update)
    pair = with_extra_args_support(optimizer)
    ramp = _Ramp(low, high, steps - 1.0)
    try:
        state = with_hyperparams(pair.init(params), **{name: ramp})
    except ValueError as error:
        raise ValueError(f"lr_find(name={name!r}) must be one hyperparameter. {error}") from error
    result = fit(
        loss_fn, params, pair, data, steps=steps, state=state, on_nonfinite="stop", **options
    )
    losses = np.asarray(result.history["loss"], np.float64)
    bad = np.flatnonzero(~np.isfinite(losses))
    losses = losses[: bad[0]] if bad.size else losses
    if not bad.size and result.steps < steps and result.first_nonfinite is None:
        raise ValueError(
            f"lr_find(data=...): the iterable ended after {result.steps} of {steps} steps. Give "
            "more batches, or fewer steps=... ."
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
