r"""Poisson's equation with a small network
=======================================

A network of one hidden layer is trained to satisfy :math:`-\Delta u = f` on the unit square,
:math:`u = 0` on its edge, in float64. The residuals at the points are a vector, so
Levenberg-Marquardt applies; for losses that are no sum of squares, or whose Jacobian is too large,
there are self-scaled Broyden updates. Both are compared with L-BFGS and Adam. Then 4 seeds with 4
initial trust radii, the damping of the first steps, are trained in one program.

Run: ``python examples/physics.py [--quick]``; the figure is saved in ``examples/output/``, with
``--quick`` in ``examples/output/quick/``.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(sys.argv[0]).parent / "output"
WIDTH = 16


def grid(n):
    """Return the inner points of an n x n grid, and the points of its edge."""
    axis = jnp.linspace(0, 1, n)
    points = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    on_edge = np.any((points == 0) | (points == 1), axis=1)
    return points[~on_edge], points[on_edge]


INSIDE, EDGE = grid(20)
TEST = grid(50)[0]


def init(seed):
    """Return small random parameters."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"w1": (2, WIDTH), "b1": (WIDTH,), "w2": (WIDTH,), "b2": ()}
    return {k: 0.5 * jax.random.normal(key, shapes[k]) for k, key in zip(shapes, keys, strict=True)}


def exact(x):
    """Return the solution at points (n, 2)."""
    return jnp.prod(jnp.sin(jnp.pi * x), axis=1)


def network(p, x):
    """Return the network at points (n, 2)."""
    return jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def laplacian(p, x):
    """Return the network's Laplacian at points (n, 2): tanh'' = -2 tanh (1 - tanh^2)."""
    t = jnp.tanh(x @ p["w1"] + p["b1"])
    return (-2 * t * (1 - t**2) * jnp.sum(p["w1"] ** 2, axis=0)) @ p["w2"]


def residual_fn(p):
    """Return the residuals of equation and boundary; their squares approximate integrals."""
    equation = laplacian(p, INSIDE) + 2 * jnp.pi**2 * exact(INSIDE)
    on_edge = network(p, EDGE)
    return jnp.concatenate([equation / jnp.sqrt(len(INSIDE)), on_edge * jnp.sqrt(4 / len(EDGE))])


def loss(p):
    """Return half the sum of squares of the residuals."""
    return 0.5 * jnp.sum(residual_fn(p) ** 2)


def error(p):
    """Return the L2 error relative to the solution, 1 for the network that is 0."""
    return jnp.linalg.norm(network(p, TEST) - exact(TEST)) / jnp.linalg.norm(exact(TEST))


def trained(optimizer, steps, carry):
    """Return parameters and state after some steps."""

    def step(_, carry):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        more = dict(value=value, grad=grad, value_fn=loss, residual_fn=residual_fn)
        updates, state = optimizer.update(grad, state, params, **more)
        return gdjax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, carry)


def errors_of(optimizer, params, blocks, steps):
    """Return the errors after each of some blocks of steps, and the seconds of all."""

    @jax.jit
    def block(carry):
        carry = trained(optimizer, steps, carry)
        return carry, error(carry[0])

    carry = params, optimizer.init(params)
    block(carry)  # compiles
    start, errors = time.perf_counter(), []
    for _ in range(blocks):
        carry, now = block(carry)
        errors.append(float(now))
    return errors, time.perf_counter() - start


def sweep(seeds, radii, steps):
    """Return the error of Levenberg-Marquardt from each seed with each first trust radius."""

    def run(lane):
        optimizer, params = gdjax.levenberg_marquardt(init_radius=lane[1]), init(lane[0])
        return error(trained(optimizer, steps, (params, optimizer.init(params)))[0])

    lanes = jnp.meshgrid(seeds, radii, indexing="ij")
    errors = jax.lax.map(run, tuple(x.ravel() for x in lanes))  # on a CPU as fast as vmap
    return errors.reshape(len(seeds), len(radii))


def main():
    """Train by four methods, sweep, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps; the figure goes to quick/")
    quick = parser.parse_args().quick
    output = OUTPUT / "quick" if quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    blocks = 2 if quick else 50
    methods = {
        "Adam": (gdjax.adam(gdjax.cosine_decay_schedule(1e-2, 5000, 0.01)), 100),
        "L-BFGS": (gdjax.lbfgs(), 40),
        "self-scaled Broyden": (gdjax.ssbroyden(), 40),
        "Levenberg-Marquardt": (gdjax.levenberg_marquardt(), 2),
    }
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = []
    for name, (optimizer, steps) in methods.items():
        errors, seconds = errors_of(optimizer, init(0), blocks, steps)
        rows.append((name, blocks * steps, f"{seconds:.1f}", f"{errors[-1]:.1e}"))
        left.loglog(steps * np.arange(1, blocks + 1), errors, label=name)
    print(tabulate(rows, ["", "steps", "seconds", "relative error"], disable_numparse=True))

    seeds, radii = jnp.arange(2 if quick else 4), jnp.logspace(-3, 3, 2 if quick else 4)
    steps = 2 if quick else 60
    start = time.perf_counter()
    errors = np.asarray(jax.jit(sweep, static_argnums=2)(seeds, radii, steps))
    seconds = time.perf_counter() - start
    print(f"\n{errors.size} runs of Levenberg-Marquardt in one program took {seconds:.1f} s")
    for radius, column in zip(radii, errors.T, strict=True):
        right.loglog(np.full(len(seeds), radius), column, "o", alpha=0.6)
        print(f"initial trust radius {radius:g}: median error {np.median(column):.1e}")

    left.set(xlabel="steps", ylabel="relative L2 error", title="one seed")
    left.legend()
    right.set(xlabel="initial trust radius", title=f"{len(seeds)} seeds, after {steps} steps")
    fig.savefig(output / "physics.png", dpi=120)
    print(f"Figure: examples/{(output / 'physics.png').relative_to(OUTPUT.parent)}")


# %%
# The result
# ----------
#
# The left picture has the errors of one seed against the number of steps. A step of
# Levenberg-Marquardt costs more than one of Adam; the table has the seconds. On the right each
# point is a seed.

if __name__ == "__main__":
    main()
