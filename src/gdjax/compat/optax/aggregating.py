"""From the gradients of single examples to one step: `optax.experimental.aggregating`.

Means and variances over batches of equal size are combined as by Chan, Golub & LeVeque (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import gdjax
from gdjax.compat.optax.base import (
    ArrayTree,
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    identity,
    init_empty_state,
    with_extra_args_support,
)
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.conditionality import run_if
from gdjax.core.checks import check_integer
from gdjax.core.numerics import bias_correction, safe_increment, scalar_dtype
from gdjax.core.trees import zeros_like

PerElementUpdates: TypeAlias = ArrayTree
AggregatedUpdates: TypeAlias = ArrayTree
MaybeAxis: TypeAlias = int | Sequence[int] | None


class AggregatorUpdateFn(Protocol):
    """Makes one update of those of single examples."""

    def __call__(
        self,
        per_elt_updates: PerElementUpdates,
        state: OptState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[AggregatedUpdates, OptState]:
        """Return updates shaped like the parameters, and the next state."""
        ...


class Aggregator(GradientTransformationExtraArgs):
    """A pair whose `update` takes the gradients of single examples, with axes for these.

    `jax.vmap(jax.grad(loss), in_axes=(None, 0))` gives them.
    """

    __slots__ = ()


def process(
    preprocessor: GradientTransformation,
    aggregator: GradientTransformation | Aggregator,
    postprocessor: GradientTransformation,
    aggregator_has_aux: bool = False,
) -> GradientTransformationExtraArgs | Aggregator:
    """Apply a transformation to each example's gradient, aggregate, and apply an optimizer.

    Args:
      preprocessor: sees the gradients of single examples.
      aggregator: makes one update of them. While its state has `ready` and that is false, the
        optimizer takes no step, and updates are zero.
      postprocessor: the optimizer.
      aggregator_has_aux: whether the aggregator returns `(updates, extra arguments)` in place of
        updates; these are passed to the optimizer.

    Returns:
      An `Aggregator` if `aggregator` is one. Its state is the tuple of the three states.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> from gdjax.compat.optax.experimental import aggregating
      >>> average = aggregating.average_per_element_updates()
      >>> tx = aggregating.process(optax.clip(1.0), average, optax.scale(-0.5))
      >>> gradients = jnp.array([[3.0, 0.5], [1.0, 0.5]])  # of two examples
      >>> print(tx.update(gradients, tx.init(jnp.zeros(2)))[0])
      [-0.5  -0.25]
    """
    members = [with_extra_args_support(tx) for tx in (preprocessor, aggregator, postprocessor)]
    before, between, after = members

    def init(params: Params) -> tuple[OptState, OptState, OptState]:
        return before.init(params), between.init(params), after.init(params)

    def update(updates, state, params=None, **extra_args):
        first, second, third = state
        updates, first = before.update(updates, first, params, **extra_args)
        updates, second = between.update(updates, second, params, **extra_args)
        if aggregator_has_aux:
            updates, aux = updates
            extra_args = extra_args | aux
        ready = jnp.asarray(gdjax.tree.get(second, "ready", True))
        updates, third = run_if(ready, after.update, updates, third, params, extra_args)
        return updates, (first, second, third)

    kind = Aggregator if isinstance(aggregator, Aggregator) else GradientTransformationExtraArgs
    return kind(init, update)


# --- means ----------------------------------------------------------------------------------------


def _axes(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    return axis if isinstance(axis, int) else tuple(axis)


def _mean(updates: PerElementUpdates, axis: int | Sequence[int]) -> Updates:
    return jax.tree.map(lambda x: jnp.mean(x, _axes(axis)), updates)


def average_per_element_updates(per_elt_axis: int | Sequence[int] = 0) -> Aggregator:
    """Return the mean over the examples, which are along one or more axes."""

    def update(updates, state, params=None, **extra_args):
        return _mean(updates, per_elt_axis), state

    return Aggregator(init_empty_state, update)


class AccumulateAvgUpdatesState(NamedTuple):
    """What `accumulate_avg_updates` remembers.

    Attributes:
      micro_step: updates accumulated for the next step.
      ready: whether the last update completed a step.
      avg_grad: their mean.
    """

    micro_step: Array
    ready: Array
    avg_grad: Updates


def accumulate_avg_updates(accumulation_steps: int) -> GradientTransformation:
    """Return the mean over several calls in the last of them, and zeros in the others.

    Args:
      accumulation_steps: how many; 1 is the identity.

    Raises:
      ValueError: if it is no integer >= 1.
    """
    check_integer("accumulate_avg_updates(accumulation_steps=...)", accumulation_steps)
    if accumulation_steps == 1:
        return identity()

    def init(params: Params) -> AccumulateAvgUpdatesState:
        return AccumulateAvgUpdatesState(_no_steps(), jnp.array(False), zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        n = state.micro_step + 1
        mean = jax.tree.map(lambda x, a: a + (x - a) / n, updates, state.avg_grad)
        ready = n == accumulation_steps
        kept = AccumulateAvgUpdatesState(jnp.where(ready, 0, n), ready, _unless(ready, mean))
        return _unless(~ready, mean), kept

    return GradientTransformation(init, update)


def _no_steps() -> Array:
    return jnp.zeros((), jnp.int32)


def _unless(condition: Array, tree: ArrayTree) -> ArrayTree:
    """Return the tree, or zeros if the condition holds."""
    return jax.tree.map(lambda x: jnp.where(condition, jnp.zeros_like(x), x), tree)


def average_incrementally_updates(
    per_elt_axis: MaybeAxis, accumulation_steps: int
) -> Aggregator | GradientTransformation:
    """Return the mean over the examples of several calls.

    Args:
      per_elt_axis: the axes of the examples; None if the updates are means already.
      accumulation_steps: see `accumulate_avg_updates`.
    """
    accumulate = accumulate_avg_updates(accumulation_steps)
    if per_elt_axis is None:
        return accumulate
    return Aggregator(*chain(average_per_element_updates(per_elt_axis), accumulate))


# --- variances ------------------------------------------------------------------------------------


def get_batch_size_from_per_elt_updates(
    per_elt_updates: Updates, per_elt_axis: int | Sequence[int]
) -> int:
    """Return the number of examples.

    Raises:
      ValueError: if it differs between leaves.
    """
    axes = (per_elt_axis,) if isinstance(per_elt_axis, int) else per_elt_axis
    leaves = jax.tree.leaves(per_elt_updates)
    sizes = [math.prod(x.shape[axis] for axis in axes) for x in leaves]
    if len(set(sizes)) > 1:
        raise ValueError(
            "the updates of single examples must have the same number of examples in all leaves, "
            f"got {sizes} along the axes {tuple(axes)}."
        )
    return sizes[0]


class PerElementMeanAndSumSqDiffGradsState(NamedTuple):
    """What `get_per_element_mean_and_sum_sq_diff_grads` remembers.

    Attributes:
      micro_step: calls accumulated for the next step, int32.
      ready: whether the last call completed a step.
      mean_grads: the mean over the examples.
      sum_sq_diff_grads: the sum of the squared differences from it.
    """

    micro_step: Array
    ready: Array
    mean_grads: Updates
    sum_sq_diff_grads: Updates


def get_per_element_mean_and_sum_sq_diff_grads(
    per_elt_axis: int | Sequence[int] = 0, accumulation_steps: int = 1
) -> Aggregator:
    """Return the mean over the examples and, as extra arguments, what their variance needs.

    These are `sum_sq_diff_grads`, the sum of the squared differences from the mean, and
    `sample_size`, the number of examples.

    Args:
      per_elt_axis: the axes of the examples.
      accumulation_steps: over how many calls; in all but the last, what is returned is zero.

    Raises:
      ValueError: if `accumulation_steps` is no integer >= 1; in `update`, see
        `get_batch_size_from_per_elt_updates`.
    """
    what = "get_per_element_mean_and_sum_sq_diff_grads(accumulation_steps=...)"
    check_integer(what, accumulation_steps)
    axes = _axes(per_elt_axis)

    def of_batch(updates):
        def spread(x):
            return jnp.sum((x - jnp.mean(x, axes, keepdims=True)) ** 2, axes)

        size = get_batch_size_from_per_elt_updates(updates, per_elt_axis)
        return _mean(updates, axes), jax.tree.map(spread, updates), size

    def update_alone(updates, state, params=None, **extra_args) -> tuple[Any, OptState]:
        mean, squares, size = of_batch(updates)
        return (mean, dict(sum_sq_diff_grads=squares, sample_size=size)), state

    def init(params: Params) -> PerElementMeanAndSumSqDiffGradsState:
        return PerElementMeanAndSumSqDiffGradsState(
            _no_steps(), jnp.array(False), zeros_like(params), zeros_like(params)
        )

    def update(updates, state, params=None, **extra_args):
        mean, squares, size = of_batch(updates)
        before, n = state.micro_step, state.micro_step + 1
        apart = jax.tree.map(jnp.subtract, mean, state.mean_grads)
        mean = jax.tree.map(lambda a, d: a + d / n, state.mean_grads, apart)
        squares = jax.tree.map(
            lambda a, s, d: a + s + d**2 * (before * size / n),
            state.sum_sq_diff_grads,
            squares,
            apart,
        )
        ready = n == accumulation_steps
        aux = dict(sum_sq_diff_grads=squares, sample_size=size * n)
        kept = PerElementMeanAndSumSqDiffGradsState(
            jnp.where(ready, 0, n), ready, _unless(ready, mean), _unless(ready, squares)
        )
        return _unless(~ready, (mean, aux)), kept

    if accumulation_steps == 1:
        return Aggregator(init_empty_state, update_alone)
    return Aggregator(init, update)


class PerElementMeanAndVarianceEMAState(NamedTuple):
    """What `track_per_element_mean_and_variance_with_ema` remembers.

    Attributes:
      count: number of updates so far, int32.
      ema_decay: the decay of both running means.
      mean_grads_ema: running mean of the mean over the examples, from 0.
      variance_grads_ema: that of their variance.
    """

    count: Array
    ema_decay: Array
    mean_grads_ema: Updates
    variance_grads_ema: Updates


def track_per_element_mean_and_variance_with_ema(
    ema_decay: ArrayLike = 0.9,
) -> GradientTransformationExtraArgs:
    """Return the updates as they are, and keep running means of the examples' mean and variance.

    `get_unbiased_mean_and_variance_ema` reads them. `update` needs the extra arguments that
    `get_per_element_mean_and_sum_sq_diff_grads` gives.
    """

    def init(params: Params) -> PerElementMeanAndVarianceEMAState:
        decay = jnp.asarray(ema_decay, scalar_dtype())
        mean, variance = zeros_like(params), zeros_like(params)
        return PerElementMeanAndVarianceEMAState(_no_steps(), decay, mean, variance)

    def update(updates, state, params=None, *, sum_sq_diff_grads, sample_size, **extra_args):
        def mix(old, new):
            return jax.tree.map(lambda a, x: (1 - ema_decay) * x + ema_decay * a, old, new)

        variance = jax.tree.map(lambda x: x / (sample_size - 1), sum_sq_diff_grads)
        return updates, state._replace(
            count=safe_increment(state.count),
            mean_grads_ema=mix(state.mean_grads_ema, updates),
            variance_grads_ema=mix(state.variance_grads_ema, variance),
        )

    return GradientTransformationExtraArgs(init, update)


def get_unbiased_mean_and_variance_ema(state: OptState) -> tuple[Updates, Updates]:
    """Return the running means of mean and variance, corrected for their start at zero.

    Raises:
      ValueError: if the state has no `PerElementMeanAndVarianceEMAState`.
    """
    found = gdjax.tree.get(state, "PerElementMeanAndVarianceEMAState", None)
    if found is None:
        raise ValueError(
            "get_unbiased_mean_and_variance_ema(state=...) has no "
            "PerElementMeanAndVarianceEMAState. Make the optimizer with add_mean_variance_to_opt."
        )
    weight = bias_correction(found.ema_decay, found.count)
    means = found.mean_grads_ema, found.variance_grads_ema
    return jax.tree.map(lambda x: x / weight, means)


def add_mean_variance_to_opt(
    opt: GradientTransformation,
    ema_decay: ArrayLike = 0.9,
    per_elt_axis: int | Sequence[int] = 0,
    accumulation_steps: int = 1,
) -> GradientTransformationExtraArgs | Aggregator:
    """Let an optimizer take the gradients of single examples, and keep their mean and variance.

    Args:
      opt: the optimizer, which sees the mean over the examples.
      ema_decay: decay of the running means.
      per_elt_axis: the axes of the examples.
      accumulation_steps: calls of `update` for each step of the optimizer.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> from gdjax.compat.optax.experimental import aggregating
      >>> tx = aggregating.add_mean_variance_to_opt(optax.scale(-1.0))
      >>> gradients = jnp.array([[1.0], [3.0]])  # of two examples
      >>> updates, state = tx.update(gradients, tx.init(jnp.zeros(1)))
      >>> mean, variance = aggregating.get_unbiased_mean_and_variance_ema(state)
      >>> print(updates, mean, variance)
      [-2.] [2.] [2.]
    """
    return process(
        identity(),
        get_per_element_mean_and_sum_sq_diff_grads(per_elt_axis, accumulation_steps),
        chain(track_per_element_mean_and_variance_with_ema(ema_decay), opt),
        aggregator_has_aux=True,
    )
