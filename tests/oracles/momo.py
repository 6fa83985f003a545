"""Schaipp et al. (2023), Algorithms 1 and 2, with Appendix D's estimate of the lower bound.

The step is the minimizer of max(model, bound) + |y - x|_D^2 / (2 alpha) + lambda |y|_D^2 / 2.
"""

import numpy as np

import gdjax
from oracles.case import Case, loss_value


def _dot(a, b):
    return sum(np.sum(a[k] * b[k]) for k in a)


def momo(learning_rate, beta, lower_bound, weight_decay, adapt=False):
    alpha, lam = learning_rate, weight_decay
    d, f_bar, gamma, bound = {}, 0.0, 0.0, lower_bound

    def step(x, g, t, value):
        nonlocal d, f_bar, gamma, bound
        b = 0.0 if t == 1 else beta
        f_bar = b * f_bar + (1 - b) * value
        gamma = b * gamma + (1 - b) * _dot(g, x)
        d = {k: b * d.get(k, 0.0) + (1 - b) * g[k] for k in x}
        size, now = _dot(d, d), _dot(d, x)
        if adapt:
            cap = (1 + alpha * lam) * (f_bar - gamma) + now
            if cap < (1 + alpha * lam) * bound:
                bound = max(cap / (2 * (1 + alpha * lam)), lower_bound)
        polyak = max((1 + alpha * lam) * (f_bar - gamma - bound) + now, 0) / size
        tau = min(alpha, polyak)
        if adapt:
            bound = max(f_bar + now - gamma - tau * size / 2, lower_bound)
        return {k: (x[k] - tau * d[k]) / (1 + alpha * lam) for k in x}

    return step


def momo_adam(learning_rate, b1, b2, eps, lower_bound, weight_decay, adapt=False):
    alpha, lam = learning_rate, weight_decay
    d, v, f_bar, gamma, bound = {}, {}, 0.0, 0.0, lower_bound

    def step(x, g, t, value):
        nonlocal d, v, f_bar, gamma, bound
        f_bar = b1 * f_bar + (1 - b1) * value
        gamma = b1 * gamma + (1 - b1) * _dot(g, x)
        d = {k: b1 * d.get(k, 0.0) + (1 - b1) * g[k] for k in x}
        v = {k: b2 * v.get(k, 0.0) + (1 - b2) * g[k] ** 2 for k in x}
        scaled = {k: d[k] / (eps + np.sqrt(v[k] / (1 - b2**t))) for k in x}
        size, now, rho = _dot(d, scaled), _dot(d, x), 1 - b1**t
        if adapt:
            cap = (1 + alpha * lam) * (f_bar - gamma) + now
            if cap < (1 + alpha * lam) * rho * bound:
                bound = max(cap / (2 * (1 + alpha * lam) * rho), lower_bound)
        polyak = max((1 + alpha * lam) * (f_bar - gamma - rho * bound) + now, 0) / size
        tau = min(alpha / rho, polyak)
        if adapt:
            bound = max((f_bar + now - gamma - tau * size / 2) / rho, lower_bound)
        return {k: (x[k] - tau * scaled[k]) / (1 + alpha * lam) for k in x}

    return step


MOMO = dict(lower_bound=0.5, weight_decay=0.1)

CASES = [
    Case("momo", gdjax.momo, MOMO | dict(learning_rate=0.4, beta=0.8), momo, loss_value),
    Case(
        "momo_adam",
        gdjax.momo_adam,
        MOMO | dict(learning_rate=0.3, b1=0.8, b2=0.95, eps=1e-3),
        momo_adam,
        loss_value,
    ),
]
