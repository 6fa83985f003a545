"""Dozat (2016), Algorithm 2, with a constant and a warmed-up momentum; the AlgoPerf baseline."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def _moments(beta1, beta2):
    m, v = {}, {}

    def gather(k, g):
        m[k] = beta1 * m.get(k, 0.0) + (1 - beta1) * g
        v[k] = beta2 * v.get(k, 0.0) + (1 - beta2) * g * g
        return m[k], v[k]

    return gather


def constant(learning_rate, b1, b2, eps, eps_root=0.0, weight_decay=0.0):
    gather = _moments(b1, b2)

    def step(theta, g, t):
        new = {}
        for k in theta:
            m, v = gather(k, g[k])
            m_bar = b1 * (m / (1 - b1 ** (t + 1))) + (1 - b1) * (g[k] / (1 - b1**t))
            direction = m_bar / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
            new[k] = theta[k] - learning_rate * (direction + weight_decay * theta[k])
        return new

    return step


def warmed(learning_rate, b1, b2, eps, momentum_decay, eps_root=0.0, weight_decay=0.0):
    gather = _moments(b1, b2)

    def mu(i):
        return b1 * (1 - 0.5 * 0.96 ** (i * momentum_decay))

    def step(theta, g, t):
        upto = np.prod([mu(i) for i in range(1, t + 1)])
        new = {}
        for k in theta:
            m, v = gather(k, g[k])
            m_bar = mu(t + 1) * m / (1 - upto * mu(t + 1)) + (1 - mu(t)) * g[k] / (1 - upto)
            direction = m_bar / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
            new[k] = theta[k] - learning_rate * (direction + weight_decay * theta[k])
        return new

    return step


def algoperf(learning_rate, b1, b2, eps, eps_root=0.0, weight_decay=0.0, power=0.5):
    gather = _moments(b1, b2)

    def step(theta, g, t):
        new = {}
        for k in theta:
            m, v = gather(k, g[k])
            m_hat = (b1 * m + (1 - b1) * g[k]) / (1 - b1**t)
            direction = m_hat / ((v / (1 - b2**t) + eps_root) ** power + eps)
            new[k] = theta[k] - learning_rate * (direction + weight_decay * theta[k])
        return new

    return step


CASES = [
    Case("nadam", gdjax.nadam, ADAM, constant),
    Case(
        "nadam_torch",
        partial(gdjax.nadam, formula="torch"),
        ADAM | dict(momentum_decay=0.01),
        warmed,
    ),
    Case(
        "nadamw_algoperf",
        partial(gdjax.nadamw, formula="algoperf"),
        ADAM | dict(weight_decay=0.1, power=0.4),
        algoperf,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_nadam),
]
