"""Gupta et al. (2018), Algorithm 2, with grafting as in Shi et al. (2023), block by block."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction
from oracles.soap import apply, merge, unfold


def pieces(shape, limit):
    """Return slices of an array, each axis cut into equal parts, the last one maybe shorter."""
    lists = [[()]]
    for n in shape:
        cuts = max(1, -(-n // limit))
        size = -(-n // cuts)
        lists.append([slice(i * size, min((i + 1) * size, n)) for i in range(cuts)])
    out = [()]
    for cuts in lists[1:]:
        out = [head + (cut,) for head in out for cut in cuts]
    return out


def inverse_power(a, power, eps, rcond=None):
    w, v = np.linalg.eigh(a)
    if rcond is not None:  # of the Moore-Penrose inverse
        kept = w > rcond * w.max()
        return (v[:, kept] * (w[kept] + eps) ** -power) @ v[:, kept].T
    return (v * (w - min(w.min(), 0.0) + eps) ** -power) @ v.T


def shampoo(
    learning_rate,
    b1,
    b2,
    eps,
    weight_decay=0.0,
    exponent=None,
    b3=None,
    rcond=None,
    one_sided=False,
    graft_b2=None,
    graft_eps=None,
    frequency=1,
    start=None,
    graft=None,
    limit=1024,
    merged=True,
):
    state, start = {}, frequency if start is None else start

    def block(s, g, t):
        axes = range(g.ndim)
        if one_sided and max(g.shape) > 1:
            axes = [min((n, i) for i, n in enumerate(g.shape) if n > 1)[1]]
        power = 1 / (2 * len(axes)) if exponent is None else exponent
        w = 1.0 if b2 == 1 else 1 - b2
        for i in axes:
            s["L"][i] = b2 * s["L"][i] + w * unfold(g, i) @ unfold(g, i).T
        if t >= start and (t - start) % frequency == 0:
            unbiased = 1.0 if b2 == 1 else 1 - b2**t
            s["P"] = {i: inverse_power(s["L"][i] / unbiased, power, eps, rcond) for i in axes}
        c = b1 if b3 is None else b3
        mean = (c * s["m"] + (1 - c) * g) / (1 - c * b1 ** (t - 1))
        s["m"] = b1 * s["m"] + (1 - b1) * g
        d = mean
        if graft == "adagrad":
            s["v"] = s["v"] + g**2
            d = mean / (np.sqrt(s["v"]) + graft_eps)
        elif graft in ("adam", "rmsprop"):
            s["v"] = graft_b2 * s["v"] + (1 - graft_b2) * g**2
            v = s["v"] / (1 - graft_b2**t) if graft == "adam" else s["v"]
            d = mean / (np.sqrt(v) + graft_eps)
        if t < start:
            return d
        shaped = mean
        for i in axes:
            shaped = apply(s["P"][i], shaped, i)
        if graft is not None and np.linalg.norm(shaped) > 0:
            shaped = shaped * np.linalg.norm(d) / np.linalg.norm(shaped)
        return shaped

    def step(theta, grads, t):
        new = {}
        for name, g in grads.items():
            seen = g.reshape(merge(g.shape, limit) if merged else g.shape or (1,))
            move = np.zeros_like(seen)
            for j, cut in enumerate(pieces(seen.shape, limit)):
                part = seen[cut]
                squares = [np.zeros((n, n)) for n in part.shape]
                zeros = np.zeros_like(part)
                s = state.setdefault((name, j), dict(m=zeros, v=zeros, L=squares, P=None))
                move[cut] = block(s, part, t)
            new[name] = theta[name] - learning_rate * (
                move.reshape(g.shape) + weight_decay * theta[name]
            )
        return new

    return step


SHAMPOO = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-3, weight_decay=0.1)
SHAMPOO |= dict(graft_b2=0.9, graft_eps=1e-4)

CASES = [
    Case(
        "shampoo",
        partial(
            gdjax.shampoo, precondition_frequency=4, start_preconditioning_step=1, block_size=4
        ),
        SHAMPOO | dict(b3=0.8),
        partial(shampoo, frequency=4, start=1, limit=4, graft="adam"),
        not_differentiable=("eps",),
    ),
    Case(
        "shampoo_one_sided",
        partial(gdjax.shampoo, precondition_frequency=4, block_size=4, graft=None, one_sided=True),
        dict(learning_rate=0.02, b1=0.85, b2=0.9, eps=1e-4, weight_decay=0.1, rcond=0.1),
        partial(shampoo, frequency=4, limit=4, one_sided=True),
        not_differentiable=("eps", "rcond"),
    ),
    Case(
        "shampoo_sums",
        partial(gdjax.shampoo, precondition_frequency=5, graft="adagrad", merge_dims=False),
        dict(learning_rate=0.1, b1=0.85, b2=1.0, eps=1e-2, exponent=0.4, graft_eps=1e-4),
        partial(shampoo, frequency=5, graft="adagrad", merged=False),
        not_differentiable=("b2", "eps", "exponent"),
    ),
]

CASES += [
    direction(
        CASES[0],
        partial(
            gdjax.scale_by_shampoo,
            precondition_frequency=4,
            start_preconditioning_step=1,
            block_size=4,
        ),
    ),
]
