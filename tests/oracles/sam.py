"""Foret et al. (2020), Algorithm 1; Kwon et al. (2021), Algorithm 1; around gradient descent."""

from functools import partial

import jax
import numpy as np

import gdjax
from oracles.case import Case


def _norm(tree):
    return np.sqrt(sum(np.sum(x**2) for x in tree.values()))


def epsilon(w, g, rho, eta=None):
    """The climb; ASAM's if there is an eta."""
    if eta is None:
        return {k: rho * g[k] / _norm(g) for k in w}
    stretch = {k: np.abs(w[k]) + eta for k in w}
    norm = _norm({k: stretch[k] * g[k] for k in w})
    return {k: rho * stretch[k] ** 2 * g[k] / norm for k in w}


def adversary(rho, eta):
    """The climb by itself, downhill."""

    def step(w, g, t):
        e = epsilon(w, g, rho, eta)
        return {k: w[k] - e[k] for k in w}

    return step


def sam(learning_rate, rho, eta=None):
    """One call does a whole cycle, with `grad_fn` for the second gradient."""

    def step(w, g, t, grad_fn):
        e = epsilon(w, g, rho, eta)
        g = grad_fn({k: w[k] + e[k] for k in w}, 0)
        return {k: w[k] - learning_rate * g[k] for k in w}

    return step


def sam_in_turns(learning_rate, rho, period=2):
    """One call for each gradient."""
    w = {}

    def step(at, g, t):
        if t % period == 1:
            w.update(at)
        if t % period:
            e = epsilon(at, g, rho)
            return {k: at[k] + e[k] for k in at}
        return {k: w[k] - learning_rate * g[k] for k in at}

    step.w = w
    return step


def _slope(params, i):
    return jax.tree.map(lambda x: 0.8 * x + 0.3 * x * x, params)


def _grad_fn(params, grads, t):
    return dict(grad_fn=_slope)


CASES = [
    Case(
        "sam",
        lambda learning_rate, rho: gdjax.sam(
            gdjax.sgd(learning_rate), gdjax.sam_adversary(rho), opaque_mode=True
        ),
        dict(learning_rate=0.05, rho=0.3),
        sam,
        _grad_fn,
    ),
    Case(
        "sam_in_turns",
        lambda learning_rate, rho: gdjax.sam(gdjax.sgd(learning_rate), gdjax.sam_adversary(rho)),
        dict(learning_rate=0.05, rho=0.3),
        sam_in_turns,
    ),
]

CASES += [
    Case(
        "sam_adversary",
        partial(gdjax.sam_adversary, adaptive=True),
        dict(rho=0.05, eta=0.3),
        adversary,
        valley=3.5,
    ),
]
