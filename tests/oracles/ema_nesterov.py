"""Yau et al. (2026): x and y = x + beta m both kept, around gradient descent with momentum."""

import gdjax
from oracles import sgd
from oracles.case import Case


def ema_nesterov(learning_rate, momentum, beta, decay):
    base, x, m = sgd.sgd(learning_rate, momentum), {}, {}
    beta_of = beta if callable(beta) else lambda t: beta

    def step(y, g, t):
        new = base(y, g, t)
        for k in y:
            m[k] = decay * m.get(k, 0.0) + (1 - decay) * (new[k] - x.get(k, y[k]))
            x[k] = new[k]
        return {k: x[k] + beta_of(t - 1) * m[k] for k in y}

    step.x = x  # what to evaluate with
    return step


CASES = [
    Case(
        "ema_nesterov",
        lambda learning_rate, momentum, **numbers: gdjax.ema_nesterov(
            gdjax.sgd(learning_rate, momentum), **numbers
        ),
        dict(learning_rate=0.05, momentum=0.5, beta=0.7, decay=0.9),
        ema_nesterov,
    ),
]
