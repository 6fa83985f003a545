"""Defazio & Jelassi (2021), Algorithm 1, with eps added to gamma as in the authors' code."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def madgrad(learning_rate, momentum, eps, weight_decay, decoupled=False):
    s, nu, x0 = {}, {}, {}
    c, gamma = 1 - momentum, learning_rate + eps

    def step(x, g, t):
        lam = gamma * np.sqrt(t)
        new = {}
        for k in x:
            x0.setdefault(k, x[k])
            d = g[k] if decoupled else g[k] + weight_decay * x[k]
            s[k] = s.get(k, 0.0) + lam * d
            nu[k] = nu.get(k, 0.0) + lam * d * d
            z = x0[k] - s[k] / (np.cbrt(nu[k]) + eps)
            new[k] = (1 - c) * x[k] + c * z
            if decoupled:
                new[k] = new[k] - gamma * weight_decay * x[k]
        return new

    return step


MADGRAD = dict(learning_rate=0.05, momentum=0.8, eps=1e-3, weight_decay=0.1)

CASES = [
    Case("madgrad", gdjax.madgrad, MADGRAD, madgrad),
    Case(
        "madgrad_decoupled",
        partial(gdjax.madgrad, decoupled=True),
        MADGRAD,
        partial(madgrad, decoupled=True),
    ),
]

CASES += [
    Case(
        "scale_by_madgrad",
        gdjax.scale_by_madgrad,
        {k: v for k, v in MADGRAD.items() if k != "weight_decay"},
        partial(madgrad, weight_decay=0.0),
    ),
]
