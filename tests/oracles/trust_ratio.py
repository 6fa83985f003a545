"""You et al. (2017), Algorithm 1 (LARS); You et al. (2019), Algorithm 2 (LAMB); Fromage (2020)."""

from functools import partial

import numpy as np

import gdjax
from oracles.adam import adam
from oracles.case import ADAM, Case


def _norm(x):
    return np.sqrt(np.sum(np.square(x)))


def trust_ratio(learning_rate, min_norm, trust_coefficient, eps):
    def step(w, g, t):
        new = {}
        for k in w:
            large, small = max(_norm(w[k]), min_norm), max(_norm(g[k]), min_norm)
            new[k] = w[k] - learning_rate * trust_coefficient * large / (small + eps) * g[k]
        return new

    return step


def lars(learning_rate, weight_decay, trust_coefficient, eps, momentum, nesterov=False):
    v = {}

    def step(w, g, t):
        new = {}
        for k in w:
            d = g[k] + weight_decay * w[k]
            local = 1.0
            if _norm(w[k]) > 0 and _norm(d) > 0:
                local = trust_coefficient * _norm(w[k]) / (_norm(d) + eps)
            u = learning_rate * local * d
            v[k] = momentum * v.get(k, 0.0) + u
            new[k] = w[k] - (u + momentum * v[k] if nesterov else v[k])
        return new

    return step


def lamb(learning_rate, b1, b2, eps, eps_root, weight_decay):
    inner = adam(1.0, b1, b2, eps, eps_root)

    def step(x, g, t):
        moved = inner({k: 0.0 * x[k] for k in x}, g, t)
        new = {}
        for k in x:
            r = -moved[k] + weight_decay * x[k]
            ratio = _norm(x[k]) / _norm(r) if _norm(x[k]) > 0 and _norm(r) > 0 else 1.0
            new[k] = x[k] - learning_rate * ratio * r
        return new

    return step


def fromage(learning_rate, min_norm):
    def step(w, g, t):
        new = {}
        for k in w:
            ratio = max(_norm(w[k]), min_norm) / max(_norm(g[k]), min_norm)
            new[k] = (w[k] - learning_rate * ratio * g[k]) / np.sqrt(1 + learning_rate**2)
        return new

    return step


LARS = dict(learning_rate=0.5, weight_decay=0.1, trust_coefficient=0.1, eps=1e-3, momentum=0.7)

CASES = [
    Case("lars", gdjax.lars, LARS, lars),
    Case(
        "lars_nesterov",
        partial(gdjax.lars, nesterov=True),
        LARS,
        partial(lars, nesterov=True),
    ),
    Case("lamb", gdjax.lamb, ADAM | dict(weight_decay=0.1), lamb),
    Case(
        "fromage",
        gdjax.fromage,
        dict(learning_rate=0.05, min_norm=0.5),
        fromage,
    ),
]

CASES += [
    Case(
        "scale_by_trust_ratio",
        lambda learning_rate, **numbers: gdjax.chain(
            gdjax.scale_by_trust_ratio(**numbers), gdjax.scale_by_learning_rate(learning_rate)
        ),
        dict(learning_rate=0.05, min_norm=0.5, trust_coefficient=0.3, eps=1e-3),
        trust_ratio,
    ),
]
