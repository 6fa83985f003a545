"""Shazeer & Stern (2018), Algorithms 4 and 5, over the two axes that are given."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


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


def factored_rms(learning_rate, decay_rate, step_offset, epsilon, axes):
    """Algorithm 4 alone: no clipping, no scale of the parameters."""
    rows, columns, full = {}, {}, {}

    def step(x, g, t):
        beta2 = 1 - (t - step_offset) ** -decay_rate
        new = {}
        for k in x:
            square = g[k] ** 2 + epsilon
            if axes(g[k].shape):
                i, j = axes(g[k].shape)
                r, c = square.mean(j, keepdims=True), square.mean(i, keepdims=True)
                r = rows[k] = beta2 * rows.get(k, 0.0) + (1 - beta2) * r
                c = columns[k] = beta2 * columns.get(k, 0.0) + (1 - beta2) * c
                v = r * c / r.mean(i, keepdims=True)
            else:
                v = full[k] = beta2 * full.get(k, 0.0) + (1 - beta2) * square
            new[k] = x[k] - learning_rate * g[k] / np.sqrt(v)
        return new

    return step


def two_largest(shape):
    """Return the two largest axes, where the smaller of them has at least three elements."""
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i))
    return order[-2:] if len(shape) > 1 and shape[order[-2]] >= 3 else None


ADAFACTOR = dict(
    learning_rate=0.05,
    decay_rate=0.8,
    decay_offset=0.0,
    clipping_threshold=0.9,
    eps=1e-3,
    min_scale=0.4,
    weight_decay_rate=0.02,
)

CASES = [
    Case(
        "adafactor",
        partial(gdjax.adafactor, min_dim_size_to_factor=3),
        ADAFACTOR | dict(momentum=0.8),
        partial(adafactor, axes=two_largest),
        not_differentiable=("decay_offset",),
    ),
    Case(
        "adafactor_full",
        partial(gdjax.adafactor, factored=False),
        ADAFACTOR | dict(decay_offset=-2.0),
        adafactor,
    ),
]

CASES += [
    Case(
        "scale_by_factored_rms",
        lambda learning_rate, **numbers: gdjax.chain(
            gdjax.scale_by_factored_rms(min_dim_size_to_factor=3, **numbers),
            gdjax.scale_by_learning_rate(learning_rate),
        ),
        dict(learning_rate=0.05, decay_rate=0.7, step_offset=-2.0, epsilon=1e-3),
        partial(factored_rms, axes=two_largest),
    ),
]
