"""How the slots of an optimizer take part in what reads a state from outside, and who asks them.

A slots class takes part in a protocol by having its members; nothing is registered. `states_in`
is the one walk over the states of a tree: whoever reads a protocol uses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import State, is_state
from gdjax.core.types import OptState, Params, PyTree


@runtime_checkable
class HoldsEvalParams(Protocol):
    """Holds other weights to evaluate with than those that are trained; see `eval_params`."""

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return them after `count` updates, whose last one used `hyperparams`."""
        ...


@runtime_checkable
class HasDiagonal(Protocol):
    """Divides its step element by element; see `with_prox`.

    `uniform`, if true, says that the divisor is one number for a whole array.
    """

    def diagonal(self, count: Array, **hyperparams: Any) -> Array:
        """Return the divisor for one array after `count` updates."""
        ...


@runtime_checkable
class SkipsSteps(Protocol):
    """Leaves out some steps; see `skipped_steps`."""

    def skipped_steps(self) -> Array:
        """Return how many were left out so far, int32."""
        ...


@runtime_checkable
class ReportsStep(Protocol):
    """Takes no step in some calls of `update`; see `took_step`, whose search ends here.

    The state of the optimizer that it wraps, if any, is its member `inner`.
    """

    def stepped(self) -> Array | None:
        """Return whether the last call took a step; None if every call takes one."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """Measures while it runs; see `metrics`."""

    def metrics(self) -> dict[str, Array]:
        """Return name -> number, of the last step."""
        ...


@runtime_checkable
class HasOptimality(Protocol):
    """Solves something other than gradient = 0: has constraints, or a nonsmooth term."""

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return the tree that vanishes at a solution."""
        ...


@runtime_checkable
class HasFeasibleSet(Protocol):
    """Keeps the parameters in a set."""

    def feasible(self, params: Params) -> Params:
        """Return the parameters, put back into the set."""
        ...


@runtime_checkable
class HasFixed(Protocol):
    """Keeps some parameters at one value; see `LeastSquaresResult.covariance`, which asks."""

    def fixed(self) -> PyTree:
        """Return which, a tree of booleans like the parameters."""
        ...


@runtime_checkable
class KeepsIterates(Protocol):
    """Keeps parameters, or sums of all steps, which few bits would not hold.

    See `with_slot_dtypes`, which asks.
    """

    @property
    def iterates(self) -> tuple[str, ...]:
        """The names of these slots."""
        ...


@runtime_checkable
class KeepsGradient(Protocol):
    """Knows objective and gradient at the new parameters, as line searches do."""

    @property
    def value(self) -> Array:
        """The objective, inf before the first update."""
        ...

    @property
    def grad(self) -> PyTree:
        """Its gradient, uphill, shaped like the parameters."""
        ...


@runtime_checkable
class ReportsSearch(Protocol):
    """Says how its last update went, as line searches and trust regions do."""

    @property
    def evals(self) -> Array:
        """How often the objective was evaluated, int32."""
        ...

    @property
    def failed(self) -> Array:
        """Whether no better point was found; the update was then 0."""
        ...


@runtime_checkable
class ReportsNonfinite(Protocol):
    """Says whether its last update met a value that was not finite."""

    @property
    def nonfinite(self) -> Array:
        """Whether a value was not finite."""
        ...


@runtime_checkable
class ReportsFit(Protocol):
    """Says how close its last update was to a minimum of a sum of squares |r|^2, free of units.

    With J the Jacobian of r before the update, and D the norms of its columns.
    """

    @property
    def cosine(self) -> Array:
        """Largest |cosine| of the angle between r and a column of J, before the update."""
        ...

    @property
    def reduction(self) -> Array:
        """Largest of two reductions of |r|^2, relative to it.

        By the update, and as the linear model predicts it for the Gauss-Newton step; 0 where both
        are below the rounding error of |r|^2, inf where the model was wrong.
        """
        ...

    @property
    def step_size(self) -> Array:
        """The length of the Gauss-Newton step d, |D d| / |D x|.

        0 where it changes r by no more than the rounding error of x, or nothing does; inf where it
        is not known.
        """
        ...


@runtime_checkable
class HasBranches(Protocol):
    """Treats some parameters in another way than the others; see `summary`."""

    def branch(self, hyperparams: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the name of the way, and the numbers it uses, for the slots of one parameter.

        `hyperparams` are all that the state has for this parameter.
        """
        ...


@runtime_checkable
class HasGroups(Protocol):
    """Gives each parameter to one of several optimizers, or to none; see `summary`."""

    @property
    def inner_states(self) -> dict[Any, OptState]:
        """The states of the groups that have an optimizer."""
        ...

    @property
    def labels(self) -> Any:
        """Has `names`, the group of each parameter, and `frozen`, the groups without updates."""
        ...


def states_in(tree: PyTree, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], State]]:
    """Yield path and state of every optimizer in a tree, the outer before the inner."""
    for where, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_state)[0]:
        if is_state(node):
            yield path + where, node
            yield from states_in(node.slots, path + where)


# --- steps and calls ------------------------------------------------------------------------------


def took_step(state: OptState) -> Array | None:
    """Return whether the last call of `update` took a step; None if every call takes one.

    A call takes none if a guard skips it, if an accumulation waits for more gradients, or if SAM
    climbs. In a chain all members must take their step; of groups, one is enough. optax's
    `MultiSteps` and `apply_if_finite` are recognized by the members of their states; what other
    libraries' wrappers leave out is not known.
    """
    nodes = (x for x in jax.tree.leaves(state, is_leaf=_reports_step) if _reports_step(x))
    return _all(map(_stepped, nodes))


def also_took_step(own: Array, inner: OptState) -> Array:
    """Return whether `own` holds and the optimizer with the state `inner` took a step."""
    took = took_step(inner)
    return own if took is None else own & took


def _all(answers: Iterator[Array | None]) -> Array | None:
    known = [x for x in answers if x is not None]
    return functools.reduce(jnp.logical_and, known) if known else None


def _reports_step(node: object) -> bool:
    if not isinstance(node, tuple) or is_state(node):  # it is the slots of a state that report
        return False
    return hasattr(node, "stepped") or hasattr(node, "inner_opt_state") or _optax_guard(node)


def _optax_guard(node: object) -> bool:
    return hasattr(node, "last_finite") and hasattr(node, "inner_state")


def _stepped(node: Any) -> Array | None:
    if isinstance(node, ReportsStep):
        return node.stepped()
    if _optax_guard(node):
        return also_took_step(jnp.asarray(node.last_finite), node.inner_state)
    if not hasattr(node, "mini_step"):
        return took_step(node.inner_opt_state)
    own = jnp.asarray(node.mini_step) == 0
    if isinstance(node.skip_state, dict) and "should_skip" in node.skip_state:
        own &= ~jnp.asarray(node.skip_state["should_skip"])
    return also_took_step(own, node.inner_opt_state)
