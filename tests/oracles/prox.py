"""Adam, then soft thresholding in its metric; Parikh & Boyd (2014), section 6.5.2."""

import numpy as np

import gdjax
from oracles.case import ADAM, Case


def lasso_adam(learning_rate, b1, b2, eps, eps_root, l1reg):
    m, v = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, 0.0) + (1 - b2) * g[k] ** 2
            eta = learning_rate / (np.sqrt(v[k] / (1 - b2**t) + eps_root) + eps)
            z = theta[k] - eta * m[k] / (1 - b1**t)
            new[k] = np.sign(z) * np.maximum(np.abs(z) - eta * l1reg, 0.0)
        return new

    return step


CASES = [
    Case(
        "with_prox",
        lambda l1reg, **numbers: gdjax.with_prox(
            gdjax.adam(**numbers), gdjax.proximal.prox_lasso, l1reg
        ),
        ADAM | dict(l1reg=0.02),
        lasso_adam,
    ),
]
