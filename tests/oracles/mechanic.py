"""Cutkosky, Defazio & Mehta (2023), Algorithm 1, around gradient descent, with h clipped."""

import numpy as np

import gdjax
from oracles.case import Case


def mechanic(
    learning_rate, weight_decay, eps, s_init, betas=(0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
):
    x_ref, delta = {}, {}
    n = len(betas)
    s, r, m, v = [s_init] * n, [0.0] * n, [0.0] * n, [0.0] * n

    def norm(tree):
        return np.sqrt(sum(np.sum(x**2) for x in tree.values()))

    def step(x, g, t):
        h = 0.0
        for k in x:
            x_ref.setdefault(k, x[k])
            decay = weight_decay * sum(s) * norm(g) / (norm(x) + eps) * x[k]
            h -= np.sum((g[k] + decay) * delta.get(k, 0.0))
        for k in x:
            delta[k] = delta.get(k, 0.0) - learning_rate * g[k]
        for i, beta in enumerate(betas):
            r[i] = beta * r[i] + min(max(h, -m[i]), m[i]) * s[i]
            m[i] = max(beta * m[i], abs(h) + eps)
            v[i] = beta**2 * v[i] + h**2
            wealth = s_init / n * m[i] + max(0.0, r[i])
            s[i] = wealth / (np.sqrt(v[i]) + eps)
        return {k: x_ref[k] + sum(s) * delta[k] for k in x}

    return step


CASES = [
    Case(
        "mechanize",
        lambda learning_rate, **numbers: gdjax.mechanize(gdjax.sgd(learning_rate), **numbers),
        dict(learning_rate=0.1, weight_decay=0.1, eps=1e-4, s_init=0.1),
        mechanic,
    ),
]
