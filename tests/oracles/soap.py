"""Vyas et al. (2024), Algorithm 3, with the order of operations of the authors' code."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import SOAP, Case, direction


def unfold(x, axis):
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def apply(matrix, x, axis):
    """Multiply every fiber of x along an axis by a matrix from the left."""
    moved = np.moveaxis(x, axis, 0)
    return np.moveaxis(np.tensordot(matrix, moved, 1), 0, axis)


def rotate(x, bases, back=False):
    for axis, q in bases.items():
        x = apply(q if back else q.T, x, axis)
    return x


def merge(shape, limit):
    out = []
    for n in shape:
        if n == 1:
            continue
        if out and out[-1] * n <= limit:
            out[-1] = out[-1] * n
        else:
            out.append(n)
    return tuple(out) or (1,)


def sides(shape, limit, one_sided, vectors):
    """Return the axes that are rotated."""
    if len(shape) == 1 and not vectors:
        return []
    axes = [i for i, n in enumerate(shape) if 1 < n <= limit]
    if one_sided:  # the second longest, or the next that may be rotated
        by_length = sorted(range(len(shape)), key=lambda i: (shape[i], i))
        second = by_length[:-1] or by_length
        axes = [i for i in reversed(second) if i in axes][:1]
    return axes


def shampoo(beta, bases, factors, g, t):
    """The factors' new values: running means of g g^T over each axis."""
    return {i: beta * f + (1 - beta) * unfold(g, i) @ unfold(g, i).T for i, f in factors.items()}


def soap(
    learning_rate,
    b1,
    b2,
    shampoo_beta,
    eps,
    weight_decay,
    precondition_frequency,
    limit=10000,
    merged=False,
    one_sided=False,
    vectors=False,
    update_factors=shampoo,
    phases=None,
):
    state = {}

    def begin(g):
        axes = sides(g.shape, limit, one_sided, vectors)
        zeros = {i: np.zeros((g.shape[i],) * 2) for i in axes}
        factors = update_factors(shampoo_beta, {}, zeros, g, 1)
        bases = {i: np.linalg.eigh(f)[1][:, ::-1] for i, f in factors.items()}
        return dict(m=np.zeros_like(g), v=np.zeros_like(g), factors=factors, bases=bases)

    def direction(s, g, t, due):
        low = rotate(g, s["bases"])
        s["m"] = b1 * s["m"] + (1 - b1) * low
        s["v"] = b2 * s["v"] + (1 - b2) * low**2
        n = t - 1  # the first gradient does not count
        step = rotate(s["m"] / (np.sqrt(s["v"]) + eps), s["bases"], back=True)
        step = step * np.sqrt(1 - b2**n) / (1 - b1**n)
        s["factors"] = update_factors(shampoo_beta, s["bases"], s["factors"], g, t)
        if due:
            m = rotate(s["m"], s["bases"], back=True)
            for i, q in s["bases"].items():
                value = np.diag(q.T @ s["factors"][i] @ q)
                order = np.argsort(-value)
                s["v"] = np.take(s["v"], order, i)
                s["bases"][i] = np.linalg.qr(s["factors"][i] @ q[:, order])[0]
            s["m"] = rotate(m, s["bases"])
        return step

    def step(theta, grads, t):
        new = {}
        for k, g in grads.items():
            shape = g.shape
            g = g.reshape(merge(shape, limit)) if merged and g.ndim > 1 else g
            move = 0.0
            if t == 1:
                state[k] = begin(g)
            else:
                later = int(np.floor((phases or {}).get(k, 0.0) * precondition_frequency))
                due = (t - 1 - later) % precondition_frequency == 0
                move = direction(state[k], g, t, due).reshape(shape)
            new[k] = theta[k] - learning_rate * (move + weight_decay * theta[k])
        return new

    return step


# A first gradient of n x m with n > m + 1 leaves eigenvectors to rounding noise, which no oracle
# can follow, so long axes are not rotated here. Bases are constants for differentiation, so they
# are not renewed within the steps of the contract.
CASES = [
    Case(
        "soap",
        partial(gdjax.soap, max_precond_dim=4, precondition_frequency=4),
        SOAP,
        partial(soap, limit=4, precondition_frequency=4),
        not_differentiable=("shampoo_beta",),
        # The second gradient is the first, of rank 3, in a basis of it: in the fourth direction it
        # is all rounding error, which the step divides by its own size.
        lane_rtol=2e-3,
    ),
    Case(
        "soap_one_sided",
        partial(
            gdjax.soap, max_precond_dim=6, precondition_frequency=3, merge_dims=True, one_sided=True
        ),
        SOAP,
        partial(soap, limit=6, precondition_frequency=3, merged=True, one_sided=True),
        not_differentiable=("shampoo_beta",),
    ),
]

CASES += [
    direction(CASES[0], partial(gdjax.scale_by_soap, max_precond_dim=4, precondition_frequency=4)),
]
