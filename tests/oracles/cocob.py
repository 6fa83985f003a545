"""Orabona & Tommasi (2017), Algorithm 2, one coordinate after the other."""

import numpy as np

import gdjax
from oracles.case import Case


def cocob(learning_rate, alpha, eps, weight_decay):
    w1, memory = {}, {}

    def coordinate(i, w, g):
        w1.setdefault(i, w)
        L, G, R, theta = memory.get(i, (eps, 0.0, 0.0, 0.0))
        L = max(L, abs(g))
        G = G + abs(g)
        R = max(R - g * (w - w1[i]), 0.0)
        theta = theta - g
        memory[i] = L, G, R, theta
        return w1[i] + theta / (L * max(G + L, alpha * L)) * (L + R)

    def step(w, g, t):
        out = {}
        for k in w:
            force = learning_rate * (g[k] + weight_decay * w[k])
            new = [
                coordinate((k, i), a, b)
                for i, (a, b) in enumerate(zip(w[k].ravel(), force.ravel(), strict=True))
            ]
            out[k] = np.array(new).reshape(w[k].shape)
        return out

    return step


CASES = [
    Case(
        "cocob",
        gdjax.cocob,
        dict(learning_rate=0.9, alpha=20.0, eps=1e-3, weight_decay=0.1),
        cocob,
        valley=3.5,
    ),
]

CASES += [
    Case(
        "scale_by_cocob",
        gdjax.scale_by_cocob,
        dict(alpha=20.0, eps=1e-3),
        lambda **numbers: cocob(learning_rate=1.0, weight_decay=0.0, **numbers),
        valley=3.5,
    ),
]
