"""How a run to convergence ended, and what it found."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any

import jax
import jax.core
import numpy as np
from jax import Array


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
    Status.UNBOUNDED: "the objective falls for ever along result.params, without leaving the "
    "constraints; add a bound, or curvature",
    Status.NOT_CONVEX: "Q has a negative eigenvalue; minimize(...) finds a local minimum",
}


class MinimizeError(RuntimeError):
    """A minimization did not converge; `result` is what it reached."""

    result: Result


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "params", "value", "grad_norm", "steps", "evaluations", "status", "state", "aux", "trace"
    ],
    meta_fields=[],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Result:
    """What `minimize` returns: a pytree of arrays, with a leading axis of lanes under `vmap`.

    Attributes:
      params: the best parameters; never worse than the last finite ones.
      value: the objective there.
      grad_norm: the largest magnitude in the gradient there, or in what stands for it with
        constraints: zero at a solution.
      steps: updates done, int32.
      evaluations: of the objective, most with its gradient, int32.
      status: a `Status`, int32.
      state: the optimizer's last state.
      aux: what `fun` returned besides, at `params`; None without `has_aux`.
      trace: with `trace=True` a dict of "value" and "grad_norm" before each update, (max_steps,),
        NaN after the last; else None.
    """

    params: Any
    value: Array
    grad_norm: Array
    steps: Array
    evaluations: Array
    status: Array
    state: Any
    aux: Any
    trace: Any

    @property
    def converged(self) -> Array:
        """Whether the status is `Status.CONVERGED`."""
        return self.status == Status.CONVERGED


def checked_result(result: Result, name: str) -> Result:
    """Return the result, or raise if a lane did not converge."""
    if isinstance(result.status, jax.core.Tracer):
        raise TypeError(
            f"{name}(throw=True) cannot raise under jit, vmap or grad: look at result.status there."
        )
    status = np.ravel(np.asarray(result.status))
    bad = np.flatnonzero(status != Status.CONVERGED)
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
