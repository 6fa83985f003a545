"""The step of proximal gradient methods, with or without momentum and backtracking.

Beck & Teboulle (2009), https://doi.org/10.1137/080716542, with the restart of O'Donoghue & Candes
(2015), https://arxiv.org/abs/1204.3982 (gradient scheme), and the step sizes that may grow of
Scheinberg, Goldfarb & Bai (2014), https://doi.org/10.1007/s10208-014-9189-9.
Paper -> here: t_k -> momentum, mu_k or 1 / L -> learning_rate, y_k -> the parameters that one
trains, x_k -> `gdjax.eval_params(state, params)`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.lift import NEEDS_PARAMS
from gdjax.core.numerics import cast_like
from gdjax.core.trees import inner_product, total, zero


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["point", "momentum", "learning_rate", "evals", "failed"],
    meta_fields=["prox", "parts"],
)
@dataclasses.dataclass(frozen=True)
class Proximal:
    """What proximal gradient methods remember."""

    point: Any  # x, the last result of the operator, at least float32; None if not accelerated
    momentum: Array  # t, 1 without momentum
    learning_rate: Array  # the step size found by backtracking
    evals: Array  # evaluations of the objective in the last update, int32
    failed: Array  # whether no step size was short enough
    prox: Callable  # structure: the operator
    parts: int  # structure: how many numbers it takes

    def optimality(self, params, grads, hyperparams):
        """Return x - prox(x - grads), with a step size of 1."""
        ahead = jax.tree.map(lambda x, g: x - g, params, grads)
        near = self.apply(ahead, hyperparams, 1.0)
        return jax.tree.map(lambda x, y: x - y, params, near)

    def eval_params(self, params, count, hyperparams):
        """Return x in place of the point at which the next gradient is taken."""
        return params if self.point is None else cast_like(self.point, params)

    def apply(self, x, hyperparams, scaling):
        """Return prox(x) with the numbers in force."""
        names = reg_names(self.parts)
        reg = tuple(hyperparams[name] for name in names)
        return self.prox(x, reg[0] if self.parts == 1 else (reg or None), scaling)


def reg_names(parts: int) -> tuple[str, ...]:
    """Return the names under which the operator's numbers are hyperparameters."""
    return ("reg",) if parts == 1 else tuple(f"reg_{i}" for i in range(parts))


def _dot(a: Any, b: Any) -> Array:
    return total(jax.tree.map(inner_product, a, b))


def _moved(y: Any, grads: Any, eta: Array) -> Any:
    return jax.tree.map(lambda y, g: y - eta.astype(y.real.dtype) * g, y, grads)


def _minus(a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: x - y, a, b)


def _backtracked(slots, grads, y, count, numbers, shrink, grow, max_tries, value, value_fn, raw):
    """Return the step size for which the quadratic upper bound of f holds, and how that went."""
    value = jnp.asarray(value).astype(zero().dtype)
    slack = 10 * jnp.finfo(jnp.result_type(*jax.tree.leaves(y), jnp.float32)).eps * jnp.abs(value)
    before = slots.learning_rate

    def attempt(carry):
        eta, tries, _, _ = carry
        eta = jnp.where(tries == 0, eta, eta * shrink)
        d = _minus(slots.apply(_moved(y, grads, eta), numbers, eta), y)
        new = value_fn(cast_like(jax.tree.map(jnp.add, y, d), raw)).astype(value.dtype)
        bound = (_dot(d, d) / (2 * eta)).astype(value.dtype)
        fits = new - value - _dot(grads, d).astype(value.dtype) <= bound
        blind = jnp.isfinite(new) & (bound <= slack)  # the values are all rounding
        return eta, tries + 1, fits | blind, blind & ~fits

    def unfinished(carry):
        return ~carry[2] & (carry[1] < max_tries)

    eta = jnp.where(count == 1, before, before * grow)
    no = jnp.zeros((), bool)
    end = jax.lax.while_loop(unfinished, attempt, (eta, jnp.zeros((), jnp.int32), no, no))
    eta, evals, accepted, blind = end
    return jnp.where(blind, jnp.minimum(before, eta), eta), evals, ~accepted


def proximal_step(
    grads, slots, params, count, *, learning_rate=None, shrink=None, grow=None, max_tries=None,
    accelerated, value=None, value_fn=None, raw_params, **numbers,
):  # fmt: skip
    """Return the update and the slots: the rule of all methods of this kind."""
    if params is None:
        raise ValueError(f"proximal_gradient needs {NEEDS_PARAMS}")
    evals, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    if learning_rate is None:
        if value is None or value_fn is None:
            raise TypeError(
                "proximal_gradient with learning_rate=None needs value=... and value_fn=...: call "
                "update(grads, state, params, value=value, value_fn=value_fn)."
            )
        learning_rate, evals, failed = _backtracked(
            slots, grads, params, count, numbers, shrink, grow, max_tries, value, value_fn,
            raw_params,
        )  # fmt: skip
    x = slots.apply(_moved(params, grads, learning_rate), numbers, learning_rate)
    x = jax.tree.map(lambda x, y: jnp.where(failed, y, x), x, params)
    new = dict(learning_rate=learning_rate, evals=evals, failed=failed)
    if not accelerated:
        return _minus(x, params), dataclasses.replace(slots, **new)
    ratio = slots.learning_rate / jnp.where(learning_rate > 0, learning_rate, 1)
    last = jnp.where(count == 1, 0, slots.momentum)
    momentum = (1 + jnp.sqrt(1 + 4 * ratio * last**2)) / 2
    ahead = _minus(x, slots.point)
    uphill = _dot(_minus(params, x), ahead) > 0
    momentum = jnp.where(uphill, 1, momentum)
    following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    beta = jnp.where(uphill, 0, (momentum - 1) / following)
    y = jax.tree.map(lambda x, d: x + beta.astype(x.real.dtype) * d, x, ahead)
    new |= dict(point=x, momentum=momentum)
    return _minus(y, params), dataclasses.replace(slots, **new)
