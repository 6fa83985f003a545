"""Luo et al. (2023), Algorithm 2, with the factors as vectors, one matrix at a time."""

import numpy as np

import gdjax
from oracles.case import Case


class Factored:
    """A running mean of a nonnegative matrix, as the mean over columns and the mean over rows."""

    def __init__(self, decay):
        self.decay, self.r, self.c = decay, 0.0, 0.0

    def __call__(self, x):
        self.r = self.decay * self.r + (1 - self.decay) * x.mean(1)
        self.c = self.decay * self.c + (1 - self.decay) * x.mean(0)
        return np.outer(self.r, self.c) / self.r.mean()


def came(learning_rate, b1, b2, b3, eps, eps_res, clip_threshold, weight_decay):
    m, v, seconds, residuals = {}, {}, {}, {}

    def per_matrix(means, k, decay, x):
        out = np.empty_like(x)
        for i in np.ndindex(x.shape[:-2]):
            mean = means.setdefault((k, i), Factored(decay))
            out[i] = mean(x[i])
        return out

    def step(theta, g, t):
        new = {}
        for k in theta:
            square = g[k] ** 2 + eps
            if g[k].ndim < 2:
                v[k] = b2 * v.get(k, 0.0) + (1 - b2) * square
                u = g[k] / np.sqrt(v[k])
            else:
                u = g[k] / np.sqrt(per_matrix(seconds, k, b2, square))
            rms = np.sqrt(np.mean(u**2))
            u = u / max(1.0, rms / clip_threshold)
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * u
            move = m[k]
            if g[k].ndim >= 2:
                move = m[k] / np.sqrt(per_matrix(residuals, k, b3, (u - m[k]) ** 2 + eps_res))
            new[k] = theta[k] - learning_rate * (move + weight_decay * theta[k])
        return new

    return step


CAME = dict(learning_rate=0.002, b1=0.85, b2=0.95, b3=0.98, eps=1e-30, eps_res=1e-4)
CAME |= dict(clip_threshold=0.9, weight_decay=0.1)

CASES = [
    Case("came", gdjax.came, CAME, came),
]
