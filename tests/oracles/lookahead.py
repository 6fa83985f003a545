"""Zhang et al. (2019), Algorithm 1, and SNOO (Kallusky et al. 2025), around SGD with momentum."""

from functools import partial

import gdjax
from oracles import sgd
from oracles.case import Case


def lookahead(learning_rate, momentum, sync_period, slow_step_size, forget=False):
    fast = sgd.sgd(learning_rate, momentum)
    phi = {}

    def step(theta, g, t):
        nonlocal fast
        for k in theta:
            phi.setdefault(k, theta[k])
        theta = fast(theta, g, t)
        if t % sync_period:
            return theta
        for k in theta:
            phi[k] = phi[k] + slow_step_size * (theta[k] - phi[k])
        if forget:
            fast = sgd.sgd(learning_rate, momentum)
        return dict(phi)

    step.phi = phi
    return step


def snoo(learning_rate, momentum, outer_rate, outer_momentum, sync_period):
    fast = sgd.sgd(learning_rate, momentum)
    w, b = {}, {}

    def step(theta, g, t):
        for k in theta:
            w.setdefault(k, theta[k])
        theta = fast(theta, g, t)
        if t % sync_period:
            return theta
        for k in theta:
            s = w[k] - theta[k]
            b[k] = outer_momentum * b.get(k, 0.0) + s
            w[k] = w[k] - outer_rate * (outer_momentum * b[k] + s)
        return dict(w)

    return step


def _snoo(learning_rate, momentum, outer_rate, outer_momentum, sync_period):
    outer = gdjax.sgd(outer_rate, momentum=outer_momentum, nesterov=True)
    return gdjax.lookahead(gdjax.sgd(learning_rate, momentum), sync_period, outer_optimizer=outer)


CASES = [
    Case(
        "lookahead",
        lambda learning_rate, momentum, **numbers: gdjax.lookahead(
            gdjax.sgd(learning_rate, momentum), **numbers
        ),
        dict(learning_rate=0.05, momentum=0.8, sync_period=3.0, slow_step_size=0.4),
        lookahead,
        not_differentiable=("sync_period",),
    ),
    Case(
        "lookahead_reset",
        lambda learning_rate, momentum, **numbers: gdjax.lookahead(
            gdjax.sgd(learning_rate, momentum), reset_state=True, **numbers
        ),
        dict(learning_rate=0.05, momentum=0.8, sync_period=3.0, slow_step_size=0.4),
        partial(lookahead, forget=True),
        not_differentiable=("sync_period",),
    ),
    Case(
        "lookahead_outer",
        _snoo,
        dict(learning_rate=0.05, momentum=0.8, outer_rate=0.7, outer_momentum=0.5, sync_period=3.0),
        snoo,
        not_differentiable=("sync_period",),
        of="lookahead",
    ),
]
