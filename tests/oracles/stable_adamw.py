"""Wortsman et al. (2023), Algorithm 2: the decay rates themselves are debiased."""

import numpy as np

import gdjax
from oracles.case import ADAM_PLAIN, Case


def stable_adamw(learning_rate, b1, b2, eps, weight_decay):
    v, u = {}, {}

    def step(theta, g, t):
        beta1 = b1 * (1 - b1 ** (t - 1)) / (1 - b1**t)
        beta2 = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
        new = {}
        for k in theta:
            v[k] = beta1 * v.get(k, 0.0) + (1 - beta1) * g[k]
            u[k] = beta2 * u.get(k, 0.0) + (1 - beta2) * g[k] ** 2
            rms = np.sqrt(np.mean(g[k] ** 2 / np.maximum(u[k], eps**2)))
            eta = learning_rate / max(1.0, rms)
            new[k] = theta[k] - eta * weight_decay * theta[k] - eta * v[k] / (np.sqrt(u[k]) + eps)
        return new

    return step


CASES = [
    Case("stable_adamw", gdjax.stable_adamw, ADAM_PLAIN, stable_adamw),
]
