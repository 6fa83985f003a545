r"""Ground state of a spin chain
============================

The transverse-field Ising chain of 20 spins at its critical point,
:math:`H = -\sum_i Z_i Z_{i+1} - \sum_i X_i` on a ring. A small network gives the log-amplitude of a
configuration, and the energy is sampled by Metropolis chains. Adam, MinSR and SPRING get as many
samples per step and are compared with the exact energy. Then dampings and seeds are swept in one
compiled program.

Run: ``python examples/quantum.py [--quick]``; the figure is saved in ``examples/output/``.
"""

import argparse
import functools
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
SITES, FILTERS = 20, 4
EXACT = -2 / np.sin(np.pi / (2 * SITES))  # -25.490989..., of free fermions


def log_psi(params, spins):
    """Return the log-amplitudes of spins +-1, (samples, SITES) -> (samples,).

    A restricted Boltzmann machine whose hidden units are shifted copies of a few filters, so that
    the state is the same from each site.
    """
    shifts = (jnp.arange(SITES)[:, None] + jnp.arange(SITES)[None]) % SITES
    hidden = spins @ params["filters"][:, shifts].reshape(-1, SITES).T  # FILTERS * SITES of them
    hidden = hidden.reshape(-1, FILTERS, SITES) + params["bias"][None, :, None]
    return jnp.sum(jnp.logaddexp(hidden, -hidden), (1, 2))


def local_energy(params, spins):
    """Return <s|H|psi> / <s|psi> for each configuration s."""
    flipped = spins[:, None] * (1 - 2 * jnp.eye(SITES))[None]  # (samples, SITES, SITES)
    ratio = log_psi(params, flipped.reshape(-1, SITES)).reshape(-1, SITES)
    ratio = jnp.exp(ratio - log_psi(params, spins)[:, None])
    return -jnp.sum(spins * jnp.roll(spins, 1, axis=1), 1) - jnp.sum(ratio, 1)


def metropolis(params, spins, key):
    """Return spins after a step of each chain for each site, by flips of random spins."""

    def flip(carry, key):
        spins, current = carry
        site, chance = jax.random.split(key)
        at = jax.nn.one_hot(jax.random.randint(site, spins.shape[:1], 0, SITES), SITES)
        proposed = spins * (1 - 2 * at)
        new = log_psi(params, proposed)
        accept = jnp.log(jax.random.uniform(chance, current.shape)) < 2 * (new - current)
        return (
            jnp.where(accept[:, None], proposed, spins),
            jnp.where(accept, new, current),
        ), None

    keys = jax.random.split(key, SITES)
    return jax.lax.scan(flip, (spins, log_psi(params, spins)), keys)[0][0]


def train(make, steps, chains, key, **numbers):
    """Return the energies of all steps, of one run.

    Args:
      make: the factory of the optimizer.
      steps: how many.
      chains: how many samples each step takes, one of each chain.
      key: of the first parameters and of the chains.
      **numbers: hyperparameters; they may be traced.
    """
    first, start, key = jax.random.split(key, 3)
    params = {
        "filters": 0.05 * jax.random.normal(first, (FILTERS, SITES)),
        "bias": jnp.zeros(FILTERS),
    }
    spins = 2.0 * jax.random.bernoulli(start, shape=(chains, SITES)) - 1
    optimizer = make(**numbers)

    def step(carry, key):
        params, state, spins = carry
        spins = metropolis(params, spins, key)
        energies = local_energy(params, spins)
        centred = energies - energies.mean()
        # the gradient is 2 <O (E - mean E)>; those of stochastic reconfiguration need no gradient
        loss = lambda p: 2 * jnp.mean(centred * log_psi(p, spins))  # noqa: E731
        grads = jax.grad(loss)(params)
        more = {"batch": spins, "residuals": energies}
        updates, state = optimizer.update(grads, state, params, **more)
        return (gdjax.apply_updates(params, updates), state, spins), energies.mean()

    keys = jax.random.split(key, steps)
    return jax.lax.scan(step, (params, optimizer.init(params), spins), keys)[1]


def error(energies, last):
    """Return the relative error of the mean energy of the last steps."""
    return np.abs(np.mean(np.asarray(energies)[..., -last:], -1) / EXACT - 1)


def main():
    """Compare the optimizers, sweep, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, as a quick check")
    quick = parser.parse_args().quick
    steps, chains = (20, 64) if quick else (200, 256)
    OUTPUT.mkdir(exist_ok=True)
    # MinSR is SPRING without momentum: the same program with other numbers
    sr = functools.partial(gdjax.spring, output_fn=log_psi, norm_constraint=None)
    by_adam, by_sr = (
        jax.jit(functools.partial(train, make, steps, chains)) for make in (gdjax.adam, sr)
    )
    runs = {
        "Adam": (by_adam, {"learning_rate": 0.01}),
        "MinSR": (by_sr, {"learning_rate": 0.1, "damping": 1e-3, "momentum": 0.0}),
        "SPRING": (by_sr, {"learning_rate": 0.1, "damping": 1e-3, "momentum": 0.8}),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = []
    for name, (run, numbers) in runs.items():
        begin = time.perf_counter()
        energies = run(key=jax.random.key(0), **numbers).block_until_ready()
        seconds = time.perf_counter() - begin  # with the time to compile, for Adam and MinSR
        rows.append([name, error(energies, steps // 10), seconds])
        left.semilogy(np.abs(energies / EXACT - 1), label=name)
    print(tabulate(rows, ["optimizer", "relative error", "seconds"], floatfmt=".2g"))

    dampings = np.logspace(-5, 0, 3 if quick else 6)
    seeds = jax.vmap(jax.random.key)(jnp.arange(2 if quick else 3))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def grid(damping, key):
        numbers = {"learning_rate": 0.1, "damping": damping, "momentum": 0.0}
        return train(sr, steps // 2, chains // 4, key, **numbers)

    begin = time.perf_counter()
    errors = error(grid(dampings, seeds), steps // 20)
    print(f"{errors.size} runs in one program, {time.perf_counter() - begin:.1f} s:")
    table = zip(dampings, np.median(errors, 1), errors.max(1), strict=True)
    print(tabulate(table, ["damping", "median error", "largest"], floatfmt=".1g"))

    left.set(xlabel="step", ylabel="relative error of the energy", title=f"{chains} samples a step")
    left.legend()
    right.loglog(dampings, errors, "o", color="tab:blue")
    right.loglog(dampings, np.median(errors, 1), color="tab:blue")
    right.set(xlabel="damping", title=f"MinSR, step {steps // 2}: {len(seeds)} seeds each")
    figure.tight_layout()
    figure.savefig(OUTPUT / "quantum.png", dpi=120)


# %%
# The result
# ----------
#
# Left, the relative error of the energy in each step: it is sampled, so the curves are noisy. The
# table takes means over the last tenth of the steps. Right, MinSR needs a damping that is neither
# too small for its samples nor so large that it slows down the steps.

if __name__ == "__main__":
    main()
