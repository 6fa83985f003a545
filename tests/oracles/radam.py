"""Liu et al. (2019), Algorithm 2, with the threshold as an argument."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def radam(learning_rate, b1, b2, eps, eps_root, threshold, nesterov=False):
    m, v = {}, {}
    rho_inf = 2 / (1 - b2) - 1

    def step(theta, g, t):
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, 0.0) + (1 - b2) * g[k] ** 2
            m_hat = m[k] / (1 - b1**t)
            if nesterov:
                m_hat = b1 * m[k] / (1 - b1 ** (t + 1)) + (1 - b1) * g[k] / (1 - b1**t)
            if rho >= threshold:
                top = (rho - 4) * (rho - 2) * rho_inf
                r = np.sqrt(top / ((rho_inf - 4) * (rho_inf - 2) * rho))
                m_hat = r * m_hat / (np.sqrt(v[k] / (1 - b2**t) + eps_root) + eps)
            new[k] = theta[k] - learning_rate * m_hat
        return new

    return step


CASES = [
    Case("radam", gdjax.radam, ADAM | dict(threshold=4.5), radam),
    Case(
        "radam_nesterov",
        partial(gdjax.radam, nesterov=True),
        ADAM | dict(threshold=5.0, b2=0.9),
        partial(radam, nesterov=True),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_radam),
]
