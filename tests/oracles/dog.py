"""Ivgi, Hinder & Carmon (2023), eq. 2 and section 3.3; Khaled et al. (2023), Algorithm 1."""

import numpy as np

import gdjax
from oracles.case import Case, direction


def _norm_sq(tree):
    return sum(np.sum(x**2) for x in tree.values())


def dog(learning_rate, init_step, eps, weight_decay=0.0):
    """The rule r_eps = init_step * (1 + |x_0|)."""
    x0, r_bar, total = {}, 0.0, 0.0

    def step(x, g, t):
        nonlocal r_bar, total
        g = {k: g[k] + weight_decay * x[k] for k in x}
        if t == 1:
            x0.update(x)
            r_bar = init_step * (1 + np.sqrt(_norm_sq(x)))
        r_bar = max(r_bar, np.sqrt(_norm_sq({k: x[k] - x0[k] for k in x})))
        total += _norm_sq(g)
        eta = learning_rate * r_bar / np.sqrt(total + eps)
        return {k: x[k] - eta * g[k] for k in x}

    return step


def l_dog(**numbers):
    layers = {}

    def step(x, g, t):
        out = {}
        for k in x:
            layer = layers.setdefault(k, dog(**numbers))
            out |= layer({k: x[k]}, {k: g[k]}, t)
        return out

    return step


def dog_from(learning_rate, init_step, eps, kind):
    """The other two ways to begin."""
    x0, r_bar, total = {}, 0.0, 0.0

    def step(x, g, t):
        nonlocal r_bar, total
        if t == 1:
            x0.update(x)
            r_bar = init_step if kind == "distance" else 0.0
        r_bar = max(r_bar, np.sqrt(_norm_sq({k: x[k] - x0[k] for k in x})))
        total += _norm_sq(g)
        eta = r_bar / np.sqrt(total + eps)
        if t == 1 and kind == "learning_rate":
            eta = init_step
        return {k: x[k] - learning_rate * eta * g[k] for k in x}

    return step


def dowg(learning_rate, init_estim_sq_dist, eps, weight_decay=0.0):
    x0, r_sq, v = {}, init_estim_sq_dist, 0.0

    def step(x, g, t):
        nonlocal r_sq, v
        g = {k: g[k] + weight_decay * x[k] for k in x}
        if t == 1:
            x0.update(x)
        r_sq = max(r_sq, _norm_sq({k: x[k] - x0[k] for k in x}))
        v += r_sq * _norm_sq(g)
        return {k: x[k] - learning_rate * r_sq / (np.sqrt(v) + eps) * g[k] for k in x}

    return step


def _begin(factory):
    def make(init_step, **numbers):
        return factory(init_step=("heuristic", init_step), **numbers)

    make.factory = factory
    return make


DOG = dict(learning_rate=0.9, init_step=0.02, eps=1e-3)

CASES = [
    Case("dog", _begin(gdjax.dog), DOG | dict(weight_decay=0.1), dog),
    Case(
        "l_dog",
        _begin(gdjax.l_dog),
        DOG | dict(weight_decay=0.1),
        l_dog,
        valley=3.5,
    ),
    Case(
        "dowg",
        gdjax.dowg,
        dict(learning_rate=0.9, init_estim_sq_dist=1e-2, eps=1e-3, weight_decay=0.1),
        dowg,
    ),
]

CASES += [
    direction(CASES[0], _begin(gdjax.scale_by_dog)),
    direction(CASES[1], _begin(gdjax.scale_by_l_dog)),
    direction(CASES[2], gdjax.scale_by_dowg),
]
