"""What a row of the registry is, and what several rows share."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import problems

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
      of: the public function that the row is for, where `name` and `make` do not say it.
      valley: what it must reach on Rosenbrock's function, which is 24.2 at the start.
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
    valley: float = 2.5
    of: str = ""


def loss_value(params, grads, t):
    return dict(value=problems.value({k: np.abs(x) for k, x in params.items()}))


def _betas(factory):  # `make.factory` is what docs/extensions/factories.py names
    def make(b1, b2, **numbers):
        return factory(betas=(b1, b2), **numbers)

    make.factory = factory
    return make


ADAM = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, eps_root=1e-9)

ADAM_PLAIN = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-4, weight_decay=0.1)

ADAM_DECAY = ADAM_PLAIN | dict(eps_root=1e-9)

PRODIGY = dict(learning_rate=0.9, b1=0.8, b2=0.95, eps=1e-6, estim_lr0=0.01, weight_decay=0.1)


def curved(params):
    """A function whose Hessian is diagonal, so that every estimate of the diagonal is exact."""
    parts = (jnp.sum(0.35 * x**2 + 0.3 * jnp.sin(1.7 * x)) for x in jax.tree.leaves(params))
    return sum(parts, jnp.zeros(()))


def curvature(theta):
    return 0.7 - 0.3 * 1.7**2 * np.sin(1.7 * theta)


def curved_extras(params, grads, t):
    return {"obj_fn": curved}


REAL = (jnp.float32, jnp.bfloat16, jnp.float16)

SOAP = dict(learning_rate=0.02, b1=0.85, b2=0.95, shampoo_beta=0.9, eps=1e-4, weight_decay=0.1)


def direction(case, factory, *, rate="learning_rate"):
    """Return the row of `scale_by_x` from that of `x`: the direction, then a learning rate.

    The oracle is that of `x`, with zero for the numbers that `scale_by_x` does not have.

    Args:
      case: the row of `x`.
      factory: `scale_by_x`, its options set by `partial`.
      rate: the name of what the direction is multiplied by in the numbers of `x`.
    """
    whole = factory
    while isinstance(whole, partial):
        whole = whole.func
    whole = getattr(whole, "factory", whole)
    taken = (
        inspect.signature(factory).parameters.keys() | inspect.signature(whole).parameters.keys()
    )
    own = {k for k in case.numbers if k in taken}

    def make(**numbers):
        by = numbers.pop(rate)
        return gdjax.chain(factory(**numbers), gdjax.scale_by_learning_rate(by))

    return case._replace(
        name=whole.__name__,
        make=make,
        numbers={k: v for k, v in case.numbers.items() if k in own | {rate}},
        oracle=partial(case.oracle, **{k: 0.0 for k in case.numbers.keys() - own - {rate}}),
        not_differentiable=tuple(k for k in case.not_differentiable if k in own),
    )
