"""Reddi, Kale & Kumar (2018), Algorithm 2, and the two orders of maximum and bias correction."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def amsgrad(learning_rate, b1, b2, eps, eps_root=0.0, correct=True, corrected_first=False):
    m, v, top = {}, {}, {}

    def step(theta, g, t):
        c1, c2 = (1 - b1**t, 1 - b2**t) if correct else (1.0, 1.0)
        new = {}
        for k in theta:
            zero = np.zeros_like(g[k])
            m[k] = b1 * m.get(k, zero) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, zero) + (1 - b2) * g[k] ** 2
            if corrected_first:
                v_hat = top[k] = np.maximum(top.get(k, zero), v[k] / c2)
            else:
                top[k] = np.maximum(top.get(k, zero), v[k])
                v_hat = top[k] / c2
            new[k] = theta[k] - learning_rate * m[k] / c1 / (np.sqrt(v_hat + eps_root) + eps)
        return new

    return step


CASES = [
    Case("amsgrad", gdjax.amsgrad, ADAM, amsgrad),
    Case(
        "amsgrad_optax",
        partial(gdjax.amsgrad, max_corrected=True),
        ADAM,
        partial(amsgrad, corrected_first=True),
    ),
    Case(
        "amsgrad_paper",
        partial(gdjax.amsgrad, bias_correction_mu=False, bias_correction_nu=False),
        ADAM,
        partial(amsgrad, correct=False),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_amsgrad),
]
