"""Proximal gradient descent and FISTA: f smooth, g with a proximal operator.

Beck & Teboulle (2009), https://doi.org/10.1137/080716542; the step, with deviations, is in
`gdjax.solvers.proximal_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import POSITIVE, Range, as_float_leaves, checked
from gdjax.core.hyper import as_hyper
from gdjax.core.trees import copied, zero
from gdjax.core.treewise import treewise
from gdjax.solvers.gauss_newton import INSIDE
from gdjax.solvers.levenberg_marquardt import COUNT
from gdjax.solvers.proximal_step import Proximal, proximal_step, reg_names

GROWTH = Range("finite and >= 1", lambda x: 1 <= x < float("inf"))


def _build(call, prox, learning_rate, reg, accelerated, search) -> Optimizer:
    if not callable(prox):
        raise TypeError(f"{call}(prox=...) must be a function prox(x, reg, scaling), got {prox!r}.")
    regs = () if reg is None else reg if isinstance(reg, tuple) else (reg,)
    numbers = dict(zip(reg_names(len(regs)), regs, strict=True)) if regs else {}
    first = 1.0
    if learning_rate is None:
        first = search.pop("init_learning_rate")
        numbers |= search
    else:
        numbers["learning_rate"] = learning_rate
    update = treewise(proximal_step, accelerated=accelerated).update

    def init(params: Any) -> State:
        as_float_leaves(f"{call}: the parameters", params)
        hyper = {k: as_hyper(f"{call}({k}=...)", v, params) for k, v in numbers.items()}
        slots = Proximal(
            copied(params) if accelerated else None,
            zero() + 1,
            zero() + first,
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
            prox,
            len(regs),
        )
        return State(jnp.zeros((), jnp.int32), hyper, slots)

    return Optimizer(init, update)


@checked(init_learning_rate=POSITIVE, shrink=INSIDE, grow=GROWTH, max_tries=COUNT)
def proximal_gradient(
    prox: Callable,
    learning_rate: Any = None,
    reg: Any = None,
    *,
    init_learning_rate: Any = 1.0,
    shrink: Any = 0.5,
    grow: Any = 1.2,
    max_tries: Any = 50,
) -> Optimizer:
    """Minimize f + g by gradient steps on f, each followed by the proximal operator of g (ISTA).

    Good for: penalties with a corner, such as lasso's, where each step must lead downhill.

    new = prox(params - learning_rate * grad f, reg, learning_rate)

    Args:
      prox: `prox(x, reg, scaling)`, as in `gdjax.proximal`, for a tree x: a function of a module.
      learning_rate: step size > 0, below 2 / L for an L-smooth f: a number or schedule. None finds
        it by backtracking: `update` then needs the extras `value=` and `value_fn=` (of f alone).
      reg: the operator's numbers: one number (strength of the penalty), a prefix tree of them, a
        tuple of them for an operator of several (`prox_elastic_net`), or None. They are
        hyperparameters, `reg`, or `reg_0`, `reg_1`, ...
      init_learning_rate: the first step size > 0 that is tried.
      shrink: what a step that is too long is multiplied with, in (0, 1).
      grow: what each update multiplies the last step size with at first, >= 1.
      max_tries: how many step sizes an update tries at most.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: a few numbers. Values are those of
      f alone, also in the `Result` of `gdjax.minimize`.

    Raises:
      ValueError: if a number is out of range, or a tree of them does not fit the parameters.
      TypeError: if an extra is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.proximal_gradient(gdjax.proximal.prox_lasso, 0.5, reg=1.0)
      >>> params = jnp.array([3.0, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(20):  # f = 0.5 |x - (2, 0.5)|^2
      ...     updates, state = opt.update(params - jnp.array([2.0, 0.5]), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(4))
      [1. 0.]
    """
    search = dict(
        init_learning_rate=init_learning_rate, shrink=shrink, grow=grow, max_tries=max_tries
    )
    return _build("proximal_gradient", prox, learning_rate, reg, False, search)


@checked(init_learning_rate=POSITIVE, shrink=INSIDE, grow=GROWTH, max_tries=COUNT)
def fista(
    prox: Callable,
    learning_rate: Any = None,
    reg: Any = None,
    *,
    init_learning_rate: Any = 1.0,
    shrink: Any = 0.5,
    grow: Any = 1.2,
    max_tries: Any = 50,
) -> Optimizer:
    """Minimize f + g by proximal gradient steps with momentum, which restarts when it goes uphill.

    Good for: penalties with a corner, such as lasso's: exact zeros.

    x = prox(y - learning_rate * grad f(y), reg, learning_rate);  y = x + beta (x - x_before)

    The parameters that one trains are y, at which the gradient is taken. The result is x, which for
    a lasso has exact zeros: `gdjax.eval_params(state, params)`.

    Args:
      prox: see `proximal_gradient`, like all arguments. A fixed rate must be at most 1 / L.
      learning_rate: see `proximal_gradient`.
      reg: see `proximal_gradient`.
      init_learning_rate: see `proximal_gradient`.
      shrink: see `proximal_gradient`.
      grow: see `proximal_gradient`.
      max_tries: see `proximal_gradient`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes per element (x).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.fista(gdjax.proximal.prox_lasso, 0.1, reg=1.0)
      >>> params = jnp.array([3.0, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(40):
      ...     updates, state = opt.update(params - jnp.array([2.0, 0.5]), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(gdjax.eval_params(state, params).round(3))
      [1. 0.]
    """
    search = dict(
        init_learning_rate=init_learning_rate, shrink=shrink, grow=grow, max_tries=max_tries
    )
    return _build("fista", prox, learning_rate, reg, True, search)
