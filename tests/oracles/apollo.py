"""Zhu et al. (2024), Algorithm 1, with the bias correction of the authors' code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import problems

import gdjax
from oracles.case import ADAM_PLAIN, Case


def apollo(
    learning_rate,
    b1,
    b2,
    eps,
    scale,
    weight_decay,
    rank,
    projection,
    growth_limit=None,
    tensor=False,
):
    """`projection(name, t, r, side)` returns the matrix P of shape (r, side) for step t."""
    m, v, last = {}, {}, {}

    def step(theta, g, t):
        correct = np.sqrt(1 - b2**t) / (1 - b1**t)
        new = {}
        for k in theta:
            wide = g[k] if g[k].ndim < 2 or g[k].shape[0] <= g[k].shape[1] else g[k].T
            low = wide
            if wide.ndim == 2:
                r = min(rank, wide.shape[0])
                low = projection(k, t, r, wide.shape[0]) @ wide
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * low
            v[k] = b2 * v.get(k, 0.0) + (1 - b2) * low**2
            adam = m[k] / (np.sqrt(v[k]) + eps)
            move = adam
            if wide.ndim == 2:
                if tensor:
                    s = np.linalg.norm(adam) / (np.linalg.norm(low) + 1e-8)
                else:
                    s = np.linalg.norm(adam, axis=0) / (np.linalg.norm(low, axis=0) + 1e-8)
                move = wide * s
                norm = np.linalg.norm(move)
                if growth_limit is not None:
                    if k in last and norm / (last[k] + 1e-8) > growth_limit:
                        move = move / norm * (last[k] + 1e-8) * growth_limit
                    last[k] = np.linalg.norm(move)
                move = np.sqrt(scale) * move
                move = move if move.shape == theta[k].shape else move.T
            new[k] = theta[k] - learning_rate * (correct * move + weight_decay * theta[k])
        return new

    return step


def _gaussian(gap, seed=0):
    """Return the projections that `apollo` draws for the parameters of `problems`."""

    def projection(name, t, r, side):
        leaf = jax.random.fold_in(jax.random.key(seed), sorted(problems.SHAPES).index(name))
        key = jax.random.fold_in(leaf, (t - 1) // gap)
        return np.asarray(jax.random.normal(key, (r, side), jnp.float64)) / np.sqrt(r)

    return projection


APOLLO = ADAM_PLAIN | dict(scale=2.0)

CASES = [
    Case(
        "apollo",
        partial(gdjax.apollo, rank=2, update_proj_gap=6, growth_limit=None),
        APOLLO,
        partial(apollo, rank=2, projection=_gaussian(6)),
    ),
    Case(
        "apollo_limited",
        partial(gdjax.apollo, rank=2, update_proj_gap=6, key=5),
        APOLLO | dict(growth_limit=1.05),
        partial(apollo, rank=2, projection=_gaussian(6, 5)),
    ),
    Case(
        "apollo_mini",
        partial(gdjax.apollo_mini, update_proj_gap=6),
        APOLLO | dict(growth_limit=1.2),
        partial(apollo, rank=1, projection=_gaussian(6), tensor=True),
    ),
]
