"""(F + lambda I)^-1 g with F the mean of J_i^T H_i J_i over samples, formed as it is written.

SPRING, Goldshlager et al. (2024): the minimum of |O d - e|^2 + lambda |d - mu d_{k-1}|^2.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from oracles.case import Case


def coefficients(leaf, size, shape):
    return np.random.default_rng([11, leaf]).normal(0.1, 1.0, (*shape, size))


@functools.cache
def outputs(shape):
    """Return outputs (N, c) of a tree for samples 0, ..., N - 1: sums of multiples of sines."""

    def output_fn(params, batch):
        total = jnp.zeros((batch.size, shape[1]))
        for i, x in enumerate(jax.tree.leaves(params)):
            each = jnp.sin(jnp.ravel(x))
            total += jnp.asarray(coefficients(i, x.size, shape), each.real.dtype)[batch] @ each
        return total

    return output_fn


def jacobian(theta, shape):
    """Return f and J of `outputs`, (N, c) and (N, c, n)."""
    parts = [(coefficients(i, theta[k].size, shape), theta[k].ravel()) for i, k in keys(theta)]
    f = sum(w @ np.sin(x) for w, x in parts)
    return f, np.concatenate([w * np.cos(x) for w, x in parts], axis=-1)


def keys(theta):
    return enumerate(sorted(theta))


def natural(
    learning_rate,
    damping,
    momentum=0.0,
    norm_constraint=np.inf,
    *,
    shape,
    softmax=False,
    centered=False,
):
    d, lam = 0.0, damping

    def step(theta, g, t, batch):
        nonlocal d
        f, jac = jacobian(theta, shape)
        if centered:
            jac = jac - jac.mean(0)
        n = jac.shape[-1]
        metric = np.zeros((n, n))
        for f_i, j_i in zip(f, jac, strict=True):
            p = np.exp(f_i - f_i.max()) / np.exp(f_i - f_i.max()).sum()
            h = np.diag(p) - np.outer(p, p) if softmax else np.eye(shape[1])
            metric += j_i.T @ h @ j_i / shape[0]
        g = np.concatenate([g[k].ravel() for _, k in keys(theta)])
        damped = metric + lam * np.eye(n)
        d = np.linalg.solve(damped, g + lam * momentum * d)
        delta = -min(learning_rate, np.sqrt(norm_constraint) / np.linalg.norm(d)) * d
        new, at = {}, 0
        for _, k in keys(theta):
            new[k] = theta[k] + delta[at : at + theta[k].size].reshape(theta[k].shape)
            at += theta[k].size
        return new

    return step


ALL = (jnp.float32, jnp.bfloat16, jnp.complex64)


def case(name, factory, shape, numbers, dtypes=ALL, **options):
    make = partial(factory, output_fn=outputs(shape))
    oracle = partial(natural, shape=shape, **options)
    more = {"batch": np.arange(shape[0])}
    # the solutions have a condition of about 1e3
    return Case(name, make, numbers, oracle, lambda *_: more, 1e-10, dtypes=dtypes)


NATURAL = dict(learning_rate=0.1, damping=0.3)

CASES = [
    case(
        "natural_gradient",
        gdjax.natural_gradient,
        (4, 2),
        NATURAL | dict(momentum=0.8, norm_constraint=0.05),
    ),
    case(
        "natural_gradient_of_logits",
        partial(gdjax.natural_gradient, likelihood="softmax"),
        (36, 3),
        NATURAL,
        (jnp.float32,),
        softmax=True,
    ),
    case("min_sr", gdjax.min_sr, (6, 1), NATURAL, (jnp.float32,), centered=True),
    case(
        "spring",
        gdjax.spring,
        (6, 1),
        NATURAL | dict(momentum=0.9, norm_constraint=0.05),
        (jnp.float32,),
        centered=True,
    ),
]
