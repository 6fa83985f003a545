"""Mishchenko & Defazio (2023), Algorithm 4, with the authors' factor k_t."""

import numpy as np

import gdjax
from oracles.case import PRODIGY, Case, _betas


def prodigy(learning_rate, b1, b2, beta3, eps, estim_lr0, estim_lr_coef, weight_decay):
    m, v, s, x0, d, r = {}, {}, {}, {}, estim_lr0, 0.0

    def step(x, g, t):
        nonlocal d, r
        gamma = learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        r = beta3 * r
        for k in x:
            zero = np.zeros_like(x[k])
            x0.setdefault(k, x[k])
            m[k] = b1 * m.get(k, zero) + (1 - b1) * d * g[k]
            v[k] = b2 * v.get(k, zero) + (1 - b2) * d**2 * g[k] ** 2
            s[k] = beta3 * s.get(k, zero) + gamma * d**2 * g[k] / estim_lr0
            r = r + gamma * d**2 * np.sum(g[k] * (x0[k] - x[k])) / estim_lr0
        d_hat = estim_lr_coef * r / sum(np.abs(s[k]).sum() for k in x)
        d_new = max(d, d_hat)
        rate = gamma * d
        d = d_new
        return {
            k: x[k] - rate * m[k] / (np.sqrt(v[k]) + d_new * eps) - rate * weight_decay * x[k]
            for k in x
        }

    return step


CASES = [
    Case(
        "prodigy",
        _betas(gdjax.prodigy),
        PRODIGY | dict(beta3=0.9, estim_lr_coef=1.3),
        prodigy,
    ),
]
