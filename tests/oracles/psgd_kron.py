"""Pooladzandi & Li (2024), Kronecker factors, as in psgd-jax 0.2.9; `probe` gives its V."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import problems

import gdjax
from oracles.case import Case, direction
from oracles.soap import apply, unfold


def lower_bound(a):
    """Return |a^T x / |x|| for x = a times its longest row or column."""
    largest = np.max(np.abs(a))
    if largest == 0:
        return largest
    a = a / largest
    rows, columns = np.sum(a**2, 1), np.sum(a**2, 0)
    if columns.max() > rows.max():
        x = a[:, columns.argmax()] @ a
        return largest * np.linalg.norm(a @ (x / np.linalg.norm(x)))
    x = a @ a[rows.argmax()]
    return largest * np.linalg.norm(a.T @ (x / np.linalg.norm(x)))


def matrix(q):
    return np.diag(q) if q.ndim == 1 else q


def procrustes(q):
    """Turn q by exp(a R) to second order, as near to 1 as a <= 1/8 allows."""
    r = q.T - q
    r = r / (lower_bound(r) + np.finfo(float).tiny)
    up, down = np.trace(r @ q), np.trace(r @ r @ q)
    a = min(max(-up / down, 0), 1 / 8) if down < 0 else 1 / 8
    return q + a * r @ q + a**2 / 2 * r @ r @ q


def psgd_kron(
    learning_rate,
    b1,
    weight_decay,
    preconditioner_lr,
    preconditioner_init_scale,
    clip_update_rms,
    probability,
    probe,
    diagonal=lambda shape, i: len(shape) < 2 or shape[i] == 1,
    balance_after=None,
    from_gradient=False,
    bound_decay=None,
):
    """Balancing follows after each number of updates in `balance_after`.

    With `bound_decay` the factors follow psgd_torch's Q0.5EQ1.5.
    """
    m, factors, waiting, updates, bounds = {}, {}, {}, {}, {}

    def learn(k, x, v):
        q = factors[k]
        if balance_after and updates[k] in balance_after and len(q) > 1:
            sizes = np.array([np.max(np.abs(f)) for f in q])
            q = [f * np.prod(sizes) ** (1 / len(q)) / s for f, s in zip(q, sizes, strict=True)]
        x = x + np.sqrt(np.finfo(np.float32).eps) * np.mean(np.abs(x)) * v
        if bound_decay is not None:
            return full(k, q, x)
        a, b = x, v
        for i, f in enumerate(q):
            a = apply(matrix(f), a, i)
            b = apply(np.linalg.inv(matrix(f)).T, b, i)
        new = []
        for i, f in enumerate(q):
            t1, t2 = (unfold(z, i) @ unfold(z, i).T for z in (a, b))
            if f.ndim == 1:
                t1, t2 = np.diag(t1), np.diag(t2)
                new.append(f - preconditioner_lr * (t1 - t2) * f / np.max(np.abs(t1 + t2)))
            else:
                change = np.triu(preconditioner_lr * (t1 - t2)) @ f
                new.append(f - change / lower_bound(t1 + t2))
        return new

    def full(k, q, x):
        new, old = [], bounds.get(k, [0.0] * len(q))
        for i, f in enumerate(q):
            x = apply(matrix(f).T @ matrix(f), x, i)
        for i, f in enumerate(q):
            c, tau = unfold(x, i) @ unfold(x, i).T, x.size / len(f)
            if f.ndim == 1:
                c = np.diag(c)
            top = (np.max(c) if f.ndim == 1 else lower_bound(c)) + tau
            old[i] = max(bound_decay * old[i] + (1 - bound_decay) * top, top)
            if f.ndim == 1:
                new.append(f - preconditioner_lr / old[i] * (c * f - tau * f))
            else:
                new.append(procrustes(f - preconditioner_lr / old[i] * (c @ f - tau * f)))
        bounds[k] = old
        return new

    def direction(k, g, t):
        seen = g.reshape(g.shape or (1,))
        if k not in m:
            start = preconditioner_init_scale ** (1 / seen.ndim)
            m[k], factors[k] = np.zeros_like(seen), []
            for i, n in enumerate(seen.shape):
                one = np.ones(n) if diagonal(seen.shape, i) else np.eye(n)
                factors[k].append(start * one)
            waiting[k] = updates[k] = 0
        m[k] = b1 * m[k] + (1 - b1) * seen
        mean = m[k] / (1 - b1**t)
        waiting[k] += 1
        if waiting[k] >= 1 / probability(t):
            waiting[k] = 0
            x = seen if from_gradient else mean
            if np.any(x):
                factors[k] = learn(k, x, probe(k, t, seen.shape))
            updates[k] += 1
        for i, f in enumerate(factors[k]):
            mean = apply(matrix(f).T @ matrix(f), mean, i)
        rms = np.sqrt(np.mean(mean**2))
        return (mean / max(1.0, rms / clip_update_rms)).reshape(g.shape)

    def step(theta, grads, t):
        return {
            k: theta[k] - learning_rate * (direction(k, g, t) + weight_decay * theta[k])
            for k, g in grads.items()
        }

    return step


PSGD = dict(learning_rate=0.02, b1=0.8, weight_decay=0.1, preconditioner_lr=0.3)
PSGD |= dict(preconditioner_init_scale=0.7, clip_update_rms=0.9)


def _probe(seed=0):
    """Return the random probes that `psgd_kron` draws for the parameters of `problems`."""

    def probe(name, t, shape):
        leaf = jax.random.fold_in(jax.random.key(seed), sorted(problems.SHAPES).index(name))
        return np.asarray(jax.random.normal(jax.random.fold_in(leaf, t), shape, jnp.float64))

    return probe


CASES = [
    Case(
        "psgd_kron",
        partial(gdjax.psgd_kron, preconditioner_update_probability=0.3, balance_interval=2),
        PSGD,
        partial(
            psgd_kron,
            probability=lambda t: 0.3,
            probe=_probe(),
            balance_after=(2, 4),
        ),
        not_differentiable=("preconditioner_lr", "preconditioner_init_scale"),
    ),
    Case(
        "psgd_kron_procrustes",
        partial(gdjax.psgd_kron, factor_update="procrustes", preconditioner_update_probability=0.3),
        PSGD | dict(bound_decay=0.8),
        partial(psgd_kron, probability=lambda t: 0.3, probe=_probe()),
        not_differentiable=("preconditioner_lr", "preconditioner_init_scale", "bound_decay"),
        x_tol=1e-11,  # how far a factor is turned is a quotient of small traces
    ),
]

CASES += [
    direction(
        CASES[0],
        partial(
            gdjax.scale_by_psgd_kron, preconditioner_update_probability=0.3, balance_interval=2
        ),
    ),
]
