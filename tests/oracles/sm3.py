"""Anil et al. (2019), SM3-II, written with covers as sets of indices."""

import itertools

import numpy as np

import gdjax
from oracles.case import Case


def _covers(shape, index):
    """Return the names of the sets that an element lies in."""
    if len(shape) < 2:
        return [index]
    return [(axis, index[axis]) for axis in range(len(shape))]


def sm3(learning_rate, momentum, b2, eps):
    mu, m = {}, {}

    def step(w, g, t):
        new = {}
        for k in w:
            fresh, direction = {}, np.zeros_like(g[k])
            for index in itertools.product(*map(range, g[k].shape)):
                sets = [(k, *cover) for cover in _covers(g[k].shape, index)]
                nu = b2 * min(mu.get(s, 0.0) for s in sets)
                nu += (1 - b2 if b2 < 1 else 1.0) * g[k][index] ** 2
                direction[index] = g[k][index] / np.sqrt(nu + eps) if nu > 0 else 0.0
                for s in sets:
                    fresh[s] = max(fresh.get(s, 0.0), nu)
            mu.update(fresh)
            m[k] = momentum * m.get(k, 0.0) + (1 - momentum) * direction
            new[k] = w[k] - learning_rate * m[k]
        return new

    return step


SM3 = dict(learning_rate=0.1, momentum=0.8, b2=0.9, eps=1e-3)

CASES = [
    Case("sm3", gdjax.sm3, SM3, sm3),
    Case("sm3_sums", gdjax.sm3, SM3 | dict(b2=1.0), sm3, not_differentiable=("b2",)),
]

CASES += [
    Case(
        "scale_by_sm3",
        lambda learning_rate, **numbers: gdjax.chain(
            gdjax.scale_by_sm3(**numbers), gdjax.scale_by_learning_rate(learning_rate)
        ),
        dict(learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3),
        lambda b1, **numbers: sm3(momentum=b1, **numbers),
    ),
]
