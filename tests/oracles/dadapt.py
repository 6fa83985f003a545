"""Defazio & Mishchenko (2023), Algorithm 5, with the authors' factor k_t."""

import numpy as np

import gdjax
from oracles.case import PRODIGY, Case, _betas


def dadapt_adamw(learning_rate, b1, b2, eps, estim_lr0, weight_decay):
    m, v, s, d, r = {}, {}, {}, estim_lr0, 0.0
    root = np.sqrt(b2)

    def step(x, g, t):
        nonlocal d, r
        rate = d * learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        inner = 0.0
        for k in x:
            zero = np.zeros_like(x[k])
            inner += np.sum(g[k] * s.get(k, zero) / (np.sqrt(v.get(k, zero)) + eps))
            m[k] = b1 * m.get(k, zero) + (1 - b1) * rate * g[k]
            v[k] = b2 * v.get(k, zero) + (1 - b2) * g[k] ** 2
            s[k] = root * s.get(k, zero) + (1 - root) * rate * g[k]
        r = root * r + (1 - root) * rate * inner
        l1 = sum(np.abs(s[k]).sum() for k in x)
        d = max(d, r / ((1 - root) * l1))
        return {k: x[k] - m[k] / (np.sqrt(v[k]) + eps) - rate * weight_decay * x[k] for k in x}

    return step


CASES = [
    Case("dadapt_adamw", _betas(gdjax.dadapt_adamw), PRODIGY, dadapt_adamw),
]
