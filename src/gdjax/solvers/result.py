"""The result of a run to convergence: its status, what it found, and the error for `throw=True`."""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
from typing import Any

import jax
import jax.core
import numpy as np
from jax import Array

from gdjax.core.base import short
from gdjax.core.remember import register_node
from gdjax.core.types import OptState, Params


class Status(enum.IntEnum):
    """How a run to convergence ended."""

    CONVERGED = 0
    STEP_LIMIT = 1
    LINE_SEARCH_FAILED = 2
    NONFINITE = 3
    NO_SIGN_CHANGE = 4
    INFEASIBLE = 5
    UNBOUNDED = 6
    NOT_CONVEX = 7
    SMALL_REDUCTION = 8
    SMALL_STEP = 9


SOLVED = (Status.CONVERGED, Status.SMALL_REDUCTION, Status.SMALL_STEP)


MEANING = {
    Status.STEP_LIMIT: "max_steps was reached before the gradient was small; raise it, or tol",
    Status.LINE_SEARCH_FAILED: "no better point was found along a descent direction; the gradient "
    "may be wrong, the objective not smooth, or tol below what the dtype can resolve",
    Status.NONFINITE: "the objective or its gradient is not finite, at the start or wherever a "
    "step may lead; it may be unbounded below",
    Status.NO_SIGN_CHANGE: "the function has the same sign at both ends of the bracket, between "
    "which it may have no root; widen it, or look at the function",
    Status.INFEASIBLE: "no point satisfies all constraints; result.state has the multipliers that "
    "prove it",
    Status.UNBOUNDED: "the objective decreases without limit along result.params, within the "
    "constraints; add a bound, or curvature",
    Status.NOT_CONVEX: "Q has a negative eigenvalue; minimize(...) finds a local minimum",
}


class MinimizeError(RuntimeError):
    """A minimization did not converge; `result` is what it reached."""

    result: Result


@functools.partial(
    register_node,
    data_fields=[
        "params", "value", "grad_norm", "steps", "evaluations", "status", "state", "aux", "trace"
    ],
)  # fmt: skip
@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What `minimize` returns: a pytree of arrays, with a leading axis of lanes under `vmap`.

    Printed, it is a few lines: the status by name (under `vmap` how many lanes have which), the
    numbers, and the sizes of the trees.

    Attributes:
      params: the best parameters; never worse than the last finite ones.
      value: the objective there.
      grad_norm: the largest magnitude in the gradient there, with constraints in the generalized
        gradient x - prox(x - grad): zero at a solution.
      steps: updates done, int32.
      evaluations: of the objective, most with its gradient, int32.
      status: a `Status`, int32.
      state: the optimizer's last state.
      aux: the auxiliary output of `fun` at `params`; None without `has_aux`.
      trace: with `trace=True` a dict of "value" and "grad_norm" before each update, (max_steps,),
        NaN after the last; else None.
    """

    params: Params
    value: Array
    grad_norm: Array
    steps: Array
    evaluations: Array
    status: Array
    state: OptState
    aux: Any
    trace: dict[str, Array] | None

    @property
    def converged(self) -> Array:
        """Whether the status is CONVERGED, or SMALL_REDUCTION or SMALL_STEP of least squares."""
        return functools.reduce(operator.or_, [self.status == solved for solved in SOLVED])

    def __repr__(self) -> str:
        """Name the status and show the numbers; of the trees, how large they are."""
        status = _named(self.status)
        steps, evaluations = _span(self.steps), _span(self.evaluations)
        value, norm = _span(self.value), _span(self.grad_norm)
        trees = [f"params={short(self.params)}"]
        trees += [
            f"{name}={short(tree)}"
            for name, tree in (("state", self.state), ("aux", self.aux), ("trace", self.trace))
            if tree is not None
        ]
        return (
            f"Result({status}, steps={steps}, evaluations={evaluations},\n"
            f"       value={value}, grad_norm={norm},\n       {', '.join(trees)})"
        )


def _numbers(x: Any) -> np.ndarray | None:
    """Return concrete numbers, or None under a trace."""
    known = isinstance(x, (jax.Array, np.ndarray, np.generic)) and not isinstance(
        x, jax.core.Tracer
    )
    return np.asarray(x) if known else None


def _named(status: Any) -> str:
    """Return a status by its name; of lanes, how many have which."""
    codes = _numbers(status)
    if codes is None:
        return f"status={short(status)}"
    if not codes.ndim:
        return Status(int(codes)).name
    found, counts = np.unique(codes, return_counts=True)
    lanes = [f"{n} {Status(int(code)).name}" for code, n in zip(found, counts, strict=True)]
    return f"{codes.size} lanes: {', '.join(lanes) or 'none'}"


def _span(x: Any) -> str:
    """Return a number; of lanes, the least and the largest."""
    numbers = _numbers(x)
    if numbers is None or not numbers.ndim or not numbers.size:
        return short(x)
    low, high = numbers.min().item(), numbers.max().item()
    return f"{low} to {high}" if isinstance(low, int) else f"{low:.6g} to {high:.6g}"


def checked_result(result: Result, name: str) -> Result:
    """Return the result, or raise an error if a lane did not converge."""
    if isinstance(result.status, jax.core.Tracer):
        raise TypeError(
            f"{name}(throw=True) cannot raise under jit, vmap or grad: look at result.status there."
        )
    status = np.ravel(np.asarray(result.status))
    bad = np.flatnonzero(~np.isin(status, SOLVED))
    if bad.size:
        first = Status(int(status[bad[0]]))
        lanes = (
            f"{bad.size} of {status.size} lanes; the first, lane {bad[0]}: "
            if result.status.ndim
            else ""
        )
        error = MinimizeError(f"{name}: {lanes}{first.name}: {MEANING[first]}.")
        error.result = result
        raise error
    return result
