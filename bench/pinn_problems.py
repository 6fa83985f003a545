"""Physics-informed networks as least-squares problems: Poisson, heat and Burgers, in float64.

The first three are those of Müller & Zeinhofer (2023), https://arxiv.org/abs/2302.13163, with the
points, weights and initial parameters of the paper's scripts; for the 5-D problem the points are
drawn once, not in each iteration. Burgers' equation is that of Urbán, Stefanou & Pons (2024),
https://arxiv.org/abs/2405.04230: initial and boundary values hold by construction.

`loss` is half the sum of squares of `residual_fn`, whose entries are residuals of the equation and
of its boundary values, each times the square root of its weight in an integral. Derivatives with
respect to the coordinates are carried forward through the layers, (value, first, second) at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Layers = list[tuple[Array, Array]]  # (weights (out, in), biases (out,)) of each layer


class Problem(NamedTuple):
    """One equation, its network and its points."""

    name: str
    sizes: tuple[int, ...]  # of the layers
    residual_fn: Callable[[Layers], Array]  # (m,), weighted
    network: Callable[[Layers, Array], Array]  # the solution at points (n, d): (n,)
    points: Array  # (n, d), where errors are measured
    solution: Array  # (n,), the exact solution there

    def init(self, seed: int | Array) -> Layers:
        """Return the initial parameters of the paper's scripts for a seed."""
        return initial(self.sizes, seed)

    def loss(self, params: Layers) -> Array:
        """Return half the sum of squares of the residuals."""
        return 0.5 * jnp.sum(self.residual_fn(params) ** 2)

    def absolute_error(self, params: Layers) -> Array:
        """Return the root of the mean squared error, the L2 error on a domain of measure 1."""
        return jnp.sqrt(jnp.mean((self.network(params, self.points) - self.solution) ** 2))

    def error(self, params: Layers) -> Array:
        """Return the L2 error divided by the L2 norm of the solution."""
        return self.absolute_error(params) / jnp.sqrt(jnp.mean(self.solution**2))

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of residuals and of parameters."""
        params = jax.eval_shape(lambda: self.init(0))
        size = sum(x.size for x in jax.tree.leaves(params))
        return jax.eval_shape(self.residual_fn, params).shape[0], size


# --- networks and their derivatives ---------------------------------------------------------------


def initial(sizes: tuple[int, ...], seed: int | Array) -> Layers:
    """Return normal weights and biases of standard deviation 0.1."""
    out = []
    for m, n, key in zip(
        sizes[:-1], sizes[1:], jax.random.split(jax.random.PRNGKey(seed), len(sizes)), strict=False
    ):
        w_key, b_key = jax.random.split(key)
        w = jax.random.normal(w_key, (n, m), jnp.float64)
        out.append((0.1 * w, 0.1 * jax.random.normal(b_key, (n,), jnp.float64)))
    return out


def plain(params: Layers, x: Array) -> Array:
    """Return the network with tanh at inputs (n, k): (n,)."""
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w.T + b)
    (w, b) = params[-1]
    return (x @ w.T + b)[:, 0]


class Jet(NamedTuple):
    """A function of d coordinates at n points, with derivatives along each coordinate."""

    value: Array  # (n, k)
    first: Array  # (d, n, k)
    second: Array  # (d, n, k), not mixed ones


def coordinates(points: Array) -> Jet:
    """Return the coordinates themselves."""
    n, d = points.shape
    first = jnp.broadcast_to(jnp.eye(d)[:, None], (d, n, d))
    return Jet(points, first, jnp.zeros_like(first))


def jets(params: Layers, at: Jet) -> Jet:
    """Return the network with tanh with its derivatives: (n,), (d, n) and (d, n)."""
    for w, b in params[:-1]:
        z, z1, z2 = at.value @ w.T + b, at.first @ w.T, at.second @ w.T
        t = jnp.tanh(z)
        slope = 1 - t**2
        at = Jet(t, slope * z1, slope * (z2 - 2 * t * z1**2))
    w, b = params[-1]
    return Jet((at.value @ w.T + b)[:, 0], (at.first @ w.T)[..., 0], (at.second @ w.T)[..., 0])


# --- points ---------------------------------------------------------------------------------------


def grid(n: int) -> np.ndarray:
    """Return the inner points of an n x n grid on the unit square, ((n - 2)^2, 2)."""
    axis = np.linspace(0, 1, n)[1:-1]
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def side(n: int, axis: int, value: float) -> np.ndarray:
    """Return n - 1 points of a side of the unit square; the corner they leave out is the next's."""
    along = np.linspace(0, 1, n)[:-1] if (axis, value) in ((1, 0), (0, 1)) else np.linspace(1, 0, n)
    return np.insert(along[: n - 1, None], axis, value, axis=1)


# --- the equations --------------------------------------------------------------------------------


def poisson_2d() -> Problem:
    """-Δu = f on the unit square, u = sin(πx) sin(πy); 784 + 116 residuals, 129 parameters."""
    inside = jnp.asarray(grid(30))
    edge = jnp.asarray(
        np.concatenate([side(30, axis, value) for axis, value in ((1, 0), (0, 1), (1, 1), (0, 0))])
    )

    def exact(x):
        return jnp.prod(jnp.sin(jnp.pi * x), axis=1)

    def residual_fn(params):
        second = jets(params, coordinates(inside)).second
        equation = second.sum(0) + 2 * jnp.pi**2 * exact(inside)
        on_edge = plain(params, edge)
        return weighted((equation, 1), (on_edge, 4))

    points = jnp.asarray(grid(200))
    return Problem("Poisson, 2-D", (2, 32, 1), residual_fn, plain, points, exact(points))


def poisson_5d(n_inside: int = 4000, n_edge: int = 500) -> Problem:
    """-Δu = f on the unit cube of 5 dimensions, u = sum of sin(πx_i); 449 parameters."""
    rng = np.random.default_rng(0)
    inside, edge = rng.uniform(size=(n_inside, 5)), rng.uniform(size=(n_edge, 5))
    edge[np.arange(n_edge), rng.integers(5, size=n_edge)] = rng.integers(2, size=n_edge)
    inside, edge = jnp.asarray(inside), jnp.asarray(edge)

    def exact(x):
        return jnp.sum(jnp.sin(jnp.pi * x), axis=1)

    def residual_fn(params):
        second = jets(params, coordinates(inside)).second
        equation = second.sum(0) + jnp.pi**2 * exact(inside)
        on_edge = plain(params, edge) - exact(edge)
        return weighted((equation, 1), (on_edge, 10))

    points = jnp.asarray(rng.uniform(size=(10 * n_inside, 5)))
    return Problem("Poisson, 5-D", (5, 64, 1), residual_fn, plain, points, exact(points))


def heat() -> Problem:
    """u_t = u_xx / 4, u = exp(-π²t/4) sin(πx), 784 + 87 residuals, 257 parameters."""
    inside = jnp.asarray(grid(30))
    start, left, right = (
        jnp.asarray(side(30, axis, value)) for axis, value in ((0, 0), (1, 0), (1, 1))
    )

    def exact(tx):
        t, x = tx.T
        return jnp.exp(-(jnp.pi**2) * t / 4) * jnp.sin(jnp.pi * x)

    def residual_fn(params):
        _, first, second = jets(params, coordinates(inside))
        return weighted(
            (first[0] - second[1] / 4, 1),
            (plain(params, left), 1),
            (plain(params, right), 1),
            (plain(params, start) - exact(start), 1),
        )

    points = jnp.asarray(grid(300))
    return Problem("heat", (2, 64, 1), residual_fn, plain, points, exact(points))


VISCOSITY = 0.01 / np.pi


def burgers(n_inside: int = 4000) -> Problem:
    """u_t + u u_x = ν u_xx, ν = 0.01/π, u = -sin(πx) at t = 0, period 2; 941 parameters.

    The solution is -sin(πx) + t N(t, cos πx, sin πx), with a network N of three layers of 20. Half
    of the points lie near x = 0, where a front of width ν forms at t = 0.3.
    """
    rng = np.random.default_rng(0)
    t, x = rng.uniform(size=n_inside), rng.uniform(-1, 1, n_inside)
    near = np.arange(n_inside) % 2 == 0
    x = np.where(near, np.sign(x) * np.abs(x) ** 3, x)
    inside = jnp.asarray(np.stack([t, x], 1))

    def features(tx):
        t, x = tx.T
        return jnp.stack([t, jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x)], 1)

    def network(params, tx):
        t, x = tx.T
        return -jnp.sin(jnp.pi * x) + t * plain(params, features(tx))

    t, x = inside.T
    sin, cos, one, zero = jnp.sin(jnp.pi * x), jnp.cos(jnp.pi * x), jnp.ones_like(x), 0 * x
    by_t = jnp.stack([one, zero, zero], 1)
    by_x = jnp.pi * jnp.stack([zero, -sin, cos], 1)
    by_xx = jnp.pi**2 * jnp.stack([zero, -cos, -sin], 1)
    at = Jet(features(inside), jnp.stack([by_t, by_x]), jnp.stack([0 * by_t, by_xx]))

    def residual_fn(params):
        n, (n_t, n_x), (_, n_xx) = jets(params, at)
        u, u_t = -sin + t * n, n + t * n_t
        u_x, u_xx = -jnp.pi * cos + t * n_x, jnp.pi**2 * sin + t * n_xx
        return weighted((u_t + u * u_x - VISCOSITY * u_xx, 1))

    times, places = np.meshgrid(np.linspace(0, 1, 101), np.linspace(-1, 1, 257), indexing="ij")
    points = np.stack([times.ravel(), places.ravel()], 1)
    solution = jnp.asarray(exact_burgers(points))
    return Problem(
        "Burgers", (3, 20, 20, 20, 1), residual_fn, network, jnp.asarray(points), solution
    )


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of the Gauss-Hermite rule with 200 nodes."""
    return np.polynomial.hermite.hermgauss(200)


def exact_burgers(points: np.ndarray) -> np.ndarray:
    """Return the solution by the Cole-Hopf transform; Basdevant et al. (1986), Appendix.

    https://doi.org/10.1016/0045-7930(86)90036-8
    """
    z, weights = _nodes()
    t, x = points.T
    y = x[:, None] - np.sqrt(4 * VISCOSITY * t)[:, None] * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    f = weights * np.exp(exponent - exponent.max(1, keepdims=True))
    return -(np.sin(np.pi * y) * f).sum(1) / f.sum(1)


def weighted(*parts: tuple[Array, float]) -> Array:
    """Return all residuals as one vector, each part times the root of (measure / its size)."""
    return jnp.concatenate([r * np.sqrt(measure / r.size) for r, measure in parts])


PROBLEMS = {f.__name__: f for f in (poisson_2d, poisson_5d, heat, burgers)}
