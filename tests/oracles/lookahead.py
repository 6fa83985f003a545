"""Zhang et al. (2019), Algorithm 1, around gradient descent with momentum."""

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
]
