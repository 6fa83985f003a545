"""Shazeer & Stern (2018), Algorithms 4 and 5, over the two axes that are given."""

import numpy as np


def _rms(x):
    return np.sqrt(np.mean(np.square(x)))


def adafactor(
    learning_rate, decay_rate, decay_offset, clipping_threshold, eps, min_scale,
    momentum=None, weight_decay_rate=0.0, axes=lambda shape: None,
):  # fmt: skip
    rows, columns, full, mean = {}, {}, {}, {}

    def step(x, g, t):
        beta2 = 1 - (t - decay_offset) ** -decay_rate
        new = {}
        for k in x:
            square = g[k] ** 2 + eps
            if axes(g[k].shape):
                i, j = axes(g[k].shape)
                rows[k] = beta2 * rows.get(k, 0.0) + (1 - beta2) * square.sum(j, keepdims=True)
                columns[k] = beta2 * columns.get(k, 0.0) + (1 - beta2) * square.sum(
                    i, keepdims=True
                )
                v = rows[k] * columns[k] / rows[k].sum(i, keepdims=True)
            else:
                v = full[k] = beta2 * full.get(k, 0.0) + (1 - beta2) * square
            u = g[k] / np.sqrt(v)
            u = u / max(1.0, _rms(u) / clipping_threshold)
            u = max(min_scale, _rms(x[k])) * learning_rate * u
            if momentum is not None:
                u = mean[k] = momentum * mean.get(k, 0.0) + (1 - momentum) * u
            new[k] = x[k] - u - weight_decay_rate * x[k]
        return new

    return step


def two_largest(shape):
    """Return the two largest axes, where the smaller of them has at least three elements."""
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i))
    return order[-2:] if len(shape) > 1 and shape[order[-2]] >= 3 else None
