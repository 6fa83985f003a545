"""Proximal and projected steps with any optimizer, for a smooth loss plus penalty or constraint.

param <- prox_{eta h}(param + update), Parikh & Boyd (2014), section 4.2. An optimizer that divides
by D takes its steps in the metric D, and the operator is, element by element, that of h with the
step eta / D (Duchi, Hazan & Singer 2011, section 1.3). With another step the fixed points would not
be the solutions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax import projections, proximal
from gdjax.core.base import InitFn, Optimizer, State
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.evaluation import eval_params
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.hyper import as_hyper, leaf_values, value_at
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_divide, safe_increment
from gdjax.core.protocols import HasDiagonal, states_in
from gdjax.core.reading import the_only
from gdjax.core.types import Hyperparam, OptState, Pair, Params
from gdjax.wrappers.shared.metric import diagonal_metric
from gdjax.wrappers.shared.skipping import at_steps

Prox: TypeAlias = Callable[..., Params]  # (params, hyperparams_prox, scaling) -> params
Metric: TypeAlias = Callable[[OptState, Params], list[Array | None]]

SEPARABLE: set[Any] = {  # they treat each element by itself
    proximal.prox_none,
    proximal.prox_lasso,
    proximal.prox_non_negative_lasso,
    proximal.prox_elastic_net,
    proximal.prox_non_negative_elastic_net,
    proximal.prox_ridge,
    proximal.prox_non_negative_ridge,
    projections.projection_non_negative,
    projections.projection_box,
    projections.projection_hypercube,
    projections.projection_linf_ball,
}
TOGETHER: set[Any] = {proximal.prox_group_lasso} | {
    getattr(projections, f"projection_{name}")
    for name in "simplex l1_sphere l1_ball l2_sphere l2_ball vector hyperplane halfspace".split()
}


class Proximal(NamedTuple):
    """What the wrapper remembers."""

    prox: State  # the operator's numbers
    inner: OptState  # state of the optimizer

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the weights that the optimizer evaluates with."""
        return eval_params(self.inner, params)


def _with_prox(grads, slots, params, count, *, prox, metric, inner, **extra):
    if params is None:
        raise ValueError(f"with_prox needs {NEEDS_PARAMS}")
    rate, rate_count = the_only("with_prox", slots.inner, "learning_rate")
    updates, state = inner(grads, slots.inner, params, **extra)
    rates = leaf_values("learning_rate", value_at(rate, rate_count), params)

    def step():
        prox_state = slots.prox._replace(count=safe_increment(slots.prox.count))
        return _moved(params, updates, rates, slots.prox, state, prox, metric), Proximal(
            prox_state, state
        )

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _moved(params, updates, rates, numbers, state, prox, metric):
    """Return the updates to where the operator takes the parameters after their step."""
    leaves, treedef = jax.tree.flatten(params)
    diagonal = [None] * len(leaves) if metric is None else metric(state, params)
    pairs = {(id(eta), id(d)): (eta, d) for eta, d in zip(rates, diagonal, strict=True)}
    step = {
        key: eta if d is None else safe_divide(eta.astype(d.dtype), d)
        for key, (eta, d) in pairs.items()
    }
    steps = [step[id(eta), id(d)] for eta, d in zip(rates, diagonal, strict=True)]
    if len(step) == 1 or not steps:  # one number, as operators of the whole tree want it
        scaling = steps[0] if steps else jnp.ones(())
    else:
        scaling = treedef.unflatten(steps)
    given = value_at(numbers.hyperparams.get("hyperparams_prox"), numbers.count)
    moved = jax.tree.map(jnp.add, params, updates)
    new = prox(moved, given, scaling)
    return jax.tree.map(jnp.subtract, new, params)


def _check(state: OptState, prox: Prox, separable: bool | None, metric: Metric | None) -> None:
    """Raise if the steps would not converge to the solutions."""
    if metric is None:
        return
    slots = [node.slots for _, node in states_in(state)]
    if metric is diagonal_metric and (unknown := [x for x in slots if not _is_known(x)]):
        raise ValueError(
            f"with_prox: it is not known what an optimizer with the slots "
            f"{type(unknown[0]).__name__} divides its step by. Use gradient descent, Adam, NAdam, "
            "AdaBelief or Adagrad, or pass metric=..., None for the Euclidean one."
        )
    each = (isinstance(x, HasDiagonal) and not getattr(x, "uniform", False) for x in slots)
    divides = metric is not diagonal_metric or any(each)
    if divides and not separable:
        name = getattr(prox, "__name__", repr(prox))
        raise ValueError(
            f"with_prox: the optimizer divides each element by a number of its own, but {name} "
            "treats them together. Use gradient descent."
            if separable is False
            else f"with_prox: pass separable=True if {name} treats each element by itself."
        )


def _is_known(slots: object) -> bool:
    return slots == () or isinstance(slots, HasDiagonal) or any(True for _ in states_in(slots))


def _fresh(
    init: InitFn,
    prox: Prox,
    separable: bool | None,
    metric: Metric | None,
    given: Hyperparam | None,
    params: Params,
) -> Proximal:
    state = init(params)
    the_only("with_prox", state, "learning_rate")
    _check(state, prox, separable, metric)
    what = "with_prox(hyperparams_prox=...)"
    if isinstance(given, tuple):
        given = tuple(as_hyper(what, x, params) for x in given)
    else:
        given = as_hyper(what, given, params)
    numbers = {} if given is None else dict(hyperparams_prox=given)
    return Proximal(State(jnp.zeros((), jnp.int32), numbers, ()), state)


@strict()
def with_prox(
    optimizer: Pair,
    prox: Prox,
    hyperparams_prox: Hyperparam | None = None,
    *,
    separable: bool | None = None,
    metric: Metric | None = diagonal_metric,
) -> Optimizer:
    r"""Minimize a loss plus a penalty, or under a constraint, by an optimizer for the loss alone.

    With :math:`u_t` the optimizer's update and :math:`h` the penalty, or the indicator of a set:

    .. math::

       x_t &= \operatorname{prox}_{(\eta_t / D)\, h}(x_{t-1} + u_t) \\
       \operatorname{prox}_{\eta h}(z) &= \arg\min_x \tfrac12 \lVert x - z \rVert^2 + \eta\, h(x)

    D is what the optimizer divides its step by: with Adam :math:`\sqrt{\hat v_t} + \epsilon`, with
    momentum, which sums up the gradients, :math:`1 - \mu`.

    With `prox_lasso` this gives exact zeros, where adding the penalty to the loss gives small
    numbers. The gradients are those of the loss alone. The operator moves all parameters, also
    those that `groups` inside it freezes: to exclude some, wrap the optimizers of the other groups.

    Args:
      optimizer: an `(init, update)` pair with one `learning_rate` in its state: gradient descent
        with or without momentum, or one whose metric is known: Adam, AdamW, NAdam, AdaBelief,
        Adagrad, also in chains and wrappers that do not rescale the updates. For others, pass
        `metric`, which says what they divide by.
      prox: `prox(params, hyperparams_prox, scaling)`: an operator of `gdjax.proximal`, or a
        projection by `make_prox_from_projection`.
      hyperparams_prox: the operator's numbers, leaves of the state: one number, schedule, tree or
        `by_path`, or a tuple of those for an operator of several.
      separable: whether `prox` treats each element by itself, which a metric D requires. None
        is right for gdjax's own operators.
      metric: a function of the optimizer's state and the parameters that gives D for each leaf of
        the parameters, as a list; or None for 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: the operator's numbers in addition to the optimizer's.

    Raises:
      ValueError: at `init`, if there is not one learning rate, the metric is unknown, or an
        operator that is not separable meets a metric.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> target = jnp.array([3.0, 0.3, -2.0])  # min |x - target|^2 / 2 + |x|_1
      >>> opt = gdjax.with_prox(gdjax.adam(0.05), gdjax.proximal.prox_lasso, 1.0)
      >>> params = jnp.ones(3)
      >>> state = opt.init(params)
      >>> for _ in range(300):
      ...     updates, state = opt.update(params - target, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      [ 2.  0. -1.]
    """
    projection = getattr(prox, "projection", prox)
    if separable is None and (projection in SEPARABLE or projection in TOGETHER):
        separable = projection in SEPARABLE
    init, update = with_extra_args_support(optimizer)
    slots = functools.partial(_fresh, init, prox, separable, metric, hyperparams_prox)
    return treewise(_with_prox, slots, prox=prox, metric=metric, inner=update)
