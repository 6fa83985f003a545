"""Zhang et al. (2024), Algorithm 2: one number v for each block, here one at a time."""

import itertools
from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM_DECAY, Case


def adam_mini(learning_rate, b1, b2, eps, eps_root, weight_decay, axes):
    m, v = {}, {}

    def blocks(k, shape):
        """Yield an index for each block: a number on the axes that tell blocks apart."""
        if callable(axes):
            kept = axes(shape)
        else:
            kept = axes.get(k, ())
        kept = {a % len(shape) for a in kept}
        choices = [range(n) if a in kept else [slice(None)] for a, n in enumerate(shape)]
        return itertools.product(*choices)

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            new[k] = np.array(theta[k] - learning_rate * weight_decay * theta[k])
            for b in blocks(k, theta[k].shape):
                at = (k, *(i for i in b if isinstance(i, int)))
                v[at] = b2 * v.get(at, 0.0) + (1 - b2) * np.mean(g[k][b] ** 2)
                root = np.sqrt(v[at] / (1 - b2**t) + eps_root) + eps
                new[k][b] -= learning_rate * (m[k][b] / (1 - b1**t)) / root
        return new

    return step


BLOCKS = {"vector": (0,), "tall": (0,), "wide": (1,), "kernel": (1, -1)}

CASES = [
    Case(
        "adam_mini",
        gdjax.adam_mini,
        ADAM_DECAY,
        partial(adam_mini, axes=lambda shape: (-1,) if len(shape) > 1 else ()),
    ),
    Case(
        "adam_mini_blocks",
        partial(
            gdjax.adam_mini, block_axes=gdjax.by_path(BLOCKS | {".*": None}, allow_unused=True)
        ),
        ADAM_DECAY,
        partial(adam_mini, axes=BLOCKS),
    ),
]
