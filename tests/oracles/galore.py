"""Zhao et al. (2024), Algorithm 2, with Adam (0.9, 0.999, 1e-8), one matrix at a time."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction


def adam(slots, x, t, b1=0.9, b2=0.999, eps=1e-8):
    slots["m"] = b1 * slots.get("m", 0.0) + (1 - b1) * x
    slots["v"] = b2 * slots.get("v", 0.0) + (1 - b2) * x**2
    return slots["m"] / (1 - b1**t) / (np.sqrt(slots["v"] / (1 - b2**t)) + eps)


def as_matrices(x, spec):
    """Return x as (batch, m, n) and the function back; spec is (rows, columns)."""
    rows, columns = spec
    batch = tuple(i for i in range(x.ndim) if i not in rows + columns)
    moved = x.transpose(batch + rows + columns)
    m = int(np.prod([x.shape[i] for i in rows]))
    order = np.argsort(batch + rows + columns)
    return moved.reshape(-1, m, x.size // m // max(1, int(np.prod([x.shape[i] for i in batch])))), (
        lambda y: y.reshape(moved.shape).transpose(order)
    )


def galore(learning_rate, scale, weight_decay, rank, gap, specs=None, larger=False):
    slots, basis = {}, {}

    def low_rank(at, g, t):
        g = g if (g.shape[0] <= g.shape[1]) != larger or g.shape[0] == g.shape[1] else g.T
        if (t - 1) % gap == 0:
            p = np.linalg.svd(g)[0][:, :rank]
            for j in range(p.shape[1]):  # fix the sign that the SVD leaves open
                p[:, j] *= np.sign(p[np.argmax(np.abs(p[:, j])), j])
            basis[at] = p
        p = basis[at]
        return scale * p @ adam(slots.setdefault(at, {}), p.T @ g, t)

    def step(theta, g, t):
        new = {}
        for k in theta:
            spec = ((0,), (1,)) if specs is None and g[k].ndim == 2 else (specs or {}).get(k)
            if spec is None:
                move = adam(slots.setdefault(k, {}), g[k], t)
            else:
                matrices, back = as_matrices(g[k], spec)
                moves = [low_rank((k, i), x, t) for i, x in enumerate(matrices)]
                shape = matrices.shape[1:]
                move = back(np.stack([x if x.shape == shape else x.T for x in moves]))
            new[k] = theta[k] - learning_rate * (move + weight_decay * theta[k])
        return new

    return step


GALORE = dict(learning_rate=0.02, scale=0.25, weight_decay=0.1)

CASES = [
    Case(
        "galore",
        partial(gdjax.galore, rank=2, update_proj_gap=6),
        GALORE,
        partial(galore, rank=2, gap=6),
    ),
    Case(
        "galore_batched",
        partial(
            gdjax.galore,
            rank=2,
            update_proj_gap=6,
            side="larger",
            weight_dimension_numbers=gdjax.by_path(
                {
                    "kernel": gdjax.GaLoreDimensionNumbers((1, 2), -1),
                    "tall|wide|w": gdjax.GaLoreDimensionNumbers(),
                    ".*": None,
                },
                allow_unused=True,
            ),
        ),
        GALORE,
        partial(
            galore,
            rank=2,
            gap=6,
            larger=True,
            specs={"kernel": ((1, 2), (3,)), "tall": ((0,), (1,)), "wide": ((0,), (1,))},
        ),
    ),
]

CASES += [
    direction(CASES[0], partial(gdjax.scale_by_galore, rank=2, update_proj_gap=6)),
]
