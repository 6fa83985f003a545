"""Beck & Teboulle (2009), ISTA and FISTA, section 4, with the gradient scheme of restarts."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def _soft(z, by):
    return np.sign(z) * np.maximum(np.abs(z) - by, 0.0)


def ista(learning_rate, reg):
    def step(theta, g, t):
        return {k: _soft(theta[k] - learning_rate * g[k], learning_rate * reg) for k in theta}

    return step


def fista(learning_rate, reg):
    last, counter = {}, [0.0]

    def following(t):
        return (1 + np.sqrt(1 + 4 * t**2)) / 2

    def step(y, g, t):
        x = {k: _soft(y[k] - learning_rate * g[k], learning_rate * reg) for k in y}
        ahead = {k: x[k] - last.get(k, y[k]) for k in y}
        uphill = sum(np.sum((y[k] - x[k]) * ahead[k]) for k in y) > 0
        now = 1.0 if uphill else following(counter[0])
        last.update(x)
        counter[0] = now
        return {k: x[k] + (now - 1) / following(now) * ahead[k] for k in y}

    return step


CASES = [
    Case(
        "proximal_gradient",
        partial(gdjax.proximal_gradient, gdjax.proximal.prox_lasso),
        dict(learning_rate=0.05, reg=0.1),
        ista,
    ),
    Case(
        "fista",
        partial(gdjax.fista, gdjax.proximal.prox_lasso),
        dict(learning_rate=0.05, reg=0.1),
        fista,
    ),
]
