"""The registry: one row for each optimizer; the contract and oracle tests run over all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from oracles import adam as adam_oracles
from oracles import sgd as sgd_oracles

import gdjax


class Case(NamedTuple):
    """One optimizer as the tests run it.

    Attributes:
      name: unique, what pytest shows.
      make: `make(**numbers)` builds the optimizer.
      numbers: the hyperparameters that are numbers, by the factory's argument names, all given.
      oracle: `oracle(**numbers)` returns `step(thetas, grads, t) -> thetas` on dicts of float64
        arrays, in the paper's notation; None where a test of its own file covers it.
      extras: `extras(params, grads, t)` returns what `update` needs besides, as a dict.
      x_tol: tolerance against the oracle; say why where it is not the default.
      not_differentiable: numbers whose hypergradient is no use (they only pass through a sign).
      dtypes: the dtypes of parameters that it supports.
      lane_rtol: how close a vmapped or scanned run must come to a single one in float32.
    """

    name: str
    make: Callable[..., Any]
    numbers: dict[str, float]
    oracle: Callable[..., Any] | None = None
    extras: Callable[..., dict] = lambda params, grads, t: {}
    x_tol: float = 1e-12
    not_differentiable: tuple[str, ...] = ()
    dtypes: tuple[Any, ...] = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64)
    lane_rtol: float = 1e-6


def _with(factory, **static):
    return lambda **numbers: factory(**numbers, **static)


ADAM = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, eps_root=1e-9)

CASES = [
    Case("gradient_descent", gdjax.gradient_descent, dict(learning_rate=0.05), sgd_oracles.sgd),
    Case("momentum", gdjax.sgd, dict(learning_rate=0.05, momentum=0.8), sgd_oracles.sgd),
    Case(
        "nesterov",
        _with(gdjax.sgd, nesterov=True),
        dict(learning_rate=0.05, momentum=0.8),
        sgd_oracles.nesterov,
    ),
    Case("adam", gdjax.adam, ADAM, adam_oracles.adam),
    Case("adamw", gdjax.adamw, ADAM | dict(weight_decay=0.1), adam_oracles.adam),
]

BY_NAME = {case.name: case for case in CASES}
