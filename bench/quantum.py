"""Ground states of spin chains by stochastic reconfiguration: our pairs against NetKet's driver.

Transverse-field Ising, H = sum of Z_i Z_{i+1} - h sum of X_i on a ring of 20 at h = 1 (NetKet's
`Ising(h=1)`; ground state -25.49098969), and Heisenberg, H = sum of S_i . S_{i+1} in Pauli matrices
on a ring of 22 with Marshall's sign (`Heisenberg(sign_rule=True)`; -39.1475226). The network is
NetKet's RBM from the same parameters, the samples per step are as many, the damping and the rate of
imaginary time are the same. The sides:

  VMC_SR            NetKet's sampler, its local energies, its driver with SGD
  VMC_SR + gdjax    the same driver, with our `sgd` as its optimizer
  NetKet + min_sr   its sampler and local energies, our `min_sr` for the step
  gdjax             a Metropolis sampler and local energies in 40 lines here, `min_sr` or `spring`,
                    all steps one program

Printed: relative error of the mean energy of the last 20 steps at several steps, and samples per
second after the first step (median over segments). Needs `pip install netket`.

Run: python bench/quantum.py [--model ising|heisenberg] [--steps 300] [--seeds 3] [--sides NAME ...]
"""

import argparse
import functools
import json
import time

import jax
import jax.numpy as jnp
import netket as nk
import numpy as np

import gdjax

jax.config.update("jax_enable_x64", True)
MODELS = {
    "ising": dict(sites=20, exact=-25.49098969, rate=0.05, damping=1e-2),
    "heisenberg": dict(sites=22, exact=-39.1475226, rate=0.02, damping=1e-2),
}
SEGMENT, SAMPLES, ALPHA = 20, 1008, 1


def netket_state(model, seed, chains):
    """Return Hamiltonian and variational state of NetKet."""
    sites = MODELS[model]["sites"]
    graph = nk.graph.Chain(sites)
    if model == "ising":
        hilbert = nk.hilbert.Spin(0.5, sites)
        hamiltonian = nk.operator.IsingJax(hilbert, graph=graph, h=1.0)
        sampler = nk.sampler.MetropolisLocal(hilbert, n_chains=chains)
    else:
        hilbert = nk.hilbert.Spin(0.5, sites, total_sz=0)
        hamiltonian = nk.operator.Heisenberg(hilbert, graph, sign_rule=True).to_jax_operator()
        sampler = nk.sampler.MetropolisExchange(hilbert, n_chains=chains, graph=graph)
    network = nk.models.RBM(alpha=ALPHA, param_dtype=float)
    return hamiltonian, nk.vqs.MCState(
        sampler, network, n_samples=SAMPLES, seed=seed, sampler_seed=seed, n_discard_per_chain=0
    )


def by_driver(optimizer, model, steps, seed, chains):
    """Return energies and the seconds of each segment, of NetKet's driver."""
    numbers = MODELS[model]
    hamiltonian, state = netket_state(model, seed, chains)
    driver = nk.driver.VMC_SR(
        hamiltonian, optimizer, diag_shift=numbers["damping"], variational_state=state,
        use_ntk=False, on_the_fly=False,
    )  # fmt: skip
    log, seconds = nk.logging.RuntimeLog(), []
    driver.run(1, out=log, show_progress=False)
    for _ in range(steps // SEGMENT):
        begin = time.perf_counter()
        driver.run(SEGMENT, out=log, show_progress=False)
        seconds.append(time.perf_counter() - begin)
    return np.asarray(log.data["Energy"]["Mean"]).real, seconds


def by_hand(model, steps, seed, chains):
    """Return energies and seconds, with NetKet's samples and local energies and our step."""
    numbers = MODELS[model]
    hamiltonian, state = netket_state(model, seed, chains)
    opt = gdjax.min_sr(
        2 * numbers["rate"], numbers["damping"],
        output_fn=lambda p, s: state.model.apply({"params": p}, s),
    )  # fmt: skip
    update, opt_state = jax.jit(opt.update), opt.init(state.parameters)
    energies, seconds, begin = [], [], 0.0
    for i in range(1 + steps // SEGMENT * SEGMENT):
        if i % SEGMENT == 1:
            begin = time.perf_counter()
        state.reset()
        params, local = state.parameters, state.local_estimators(hamiltonian).reshape(-1)
        samples = state.samples.reshape(-1, numbers["sites"])
        updates, opt_state = update(params, opt_state, params, batch=samples, residuals=local)
        state.parameters = gdjax.apply_updates(params, updates)
        energies.append(float(local.mean()))
        if i and i % SEGMENT == 0:
            seconds.append(time.perf_counter() - begin)
    return np.array(energies), seconds


# --- sampler and local energies in JAX ------------------------------------------------------------


def hidden(params, spins):
    return spins @ params["Dense"]["kernel"] + params["Dense"]["bias"]


def log_psi(params, spins):
    """Return the log-amplitudes of NetKet's RBM with real parameters."""
    log_cosh = nk.nn.activation.log_cosh(hidden(params, spins))
    return jnp.sum(log_cosh, -1) + spins @ params["visible_bias"]


def changes(params, spins, theta, sites):
    """Return log psi(s') - log psi(s), s' with some spins flipped.

    Args:
      params: of the RBM.
      spins: (samples, n).
      theta: its hidden units, (samples, hidden).
      sites: indices of the spins to flip, (samples, flips).
    """
    each = jnp.take_along_axis(spins, sites, 1)
    moved = theta - 2 * jnp.einsum("sf,sfh->sh", each, params["Dense"]["kernel"][sites])
    log_cosh = nk.nn.activation.log_cosh
    visible = -2 * jnp.sum(each * params["visible_bias"][sites], 1)
    return jnp.sum(log_cosh(moved) - log_cosh(theta), 1) + visible, moved


def local_energy(model, params, spins):
    """Return <s|H|psi> / <s|psi>."""
    count, n = spins.shape
    theta = hidden(params, spins)
    following = (jnp.arange(n) + 1) % n

    def ratio(site):
        sites = site[None] if model == "ising" else jnp.stack([site, (site + 1) % n])
        sites = jnp.broadcast_to(sites, (count, sites.size))
        return jnp.exp(changes(params, spins, theta, sites)[0])

    ratios = jax.lax.map(ratio, jnp.arange(n)).T  # (count, n)
    bonds = spins * spins[:, following]
    if model == "ising":
        return jnp.sum(bonds, 1) - jnp.sum(ratios, 1)
    return jnp.sum(bonds - jnp.where(bonds < 0, 2 * ratios, 0), 1)


def sweep(model, params, spins, key):
    """Return spins after n Metropolis steps of each chain."""
    count, n = spins.shape

    def move(carry, key):
        spins, theta = carry
        where, chance = jax.random.split(key)
        first = jax.random.randint(where, (count, 1), 0, n)
        sites = first if model == "ising" else jnp.concatenate([first, (first + 1) % n], 1)
        each = jnp.take_along_axis(spins, sites, 1)
        change, moved = changes(params, spins, theta, sites)
        accept = jnp.log(jax.random.uniform(chance, (count,))) < 2 * change
        if model == "heisenberg":  # an exchange of equal spins is no move
            accept &= each[:, 0] != each[:, 1]
        flipped = spins.at[jnp.arange(count)[:, None], sites].set(-each)
        return (
            jnp.where(accept[:, None], flipped, spins),
            jnp.where(accept[:, None], moved, theta),
        ), None

    start = spins, hidden(params, spins)
    return jax.lax.scan(move, start, jax.random.split(key, n))[0][0]


def by_gdjax(method, model, steps, seed, chains):
    """Return energies and seconds of the whole loop in JAX; `chains` is unused, one per sample."""
    numbers = MODELS[model]
    _, state = netket_state(model, seed, chains)
    rate = 2 * numbers["rate"]
    if method == "spring":
        opt = gdjax.spring(rate, numbers["damping"], 0.8, None, output_fn=log_psi)
    else:
        opt = gdjax.min_sr(rate, numbers["damping"], output_fn=log_psi)

    @functools.partial(jax.jit, donate_argnums=0)
    def segment(carry, keys):
        def step(carry, key):
            params, opt_state, spins = carry
            spins = sweep(model, params, spins, key)
            local = local_energy(model, params, spins)
            more = {"batch": spins, "residuals": local}
            updates, opt_state = opt.update(params, opt_state, params, **more)
            return (gdjax.apply_updates(params, updates), opt_state, spins), local.mean()

        return jax.lax.scan(step, carry, keys)

    rng, sites = np.random.default_rng(seed), numbers["sites"]
    spins = np.tile(np.where(np.arange(sites) % 2, 1.0, -1.0), (SAMPLES, 1))
    spins = jnp.asarray(rng.permuted(spins, axis=1))
    params = jax.tree.map(jnp.copy, state.parameters)
    carry = params, opt.init(params), spins
    keys = jax.random.split(jax.random.key(seed), (1 + steps // SEGMENT, SEGMENT))
    compiled = segment.lower(carry, keys[0]).compile()
    energies, seconds = [], []
    for i in range(steps // SEGMENT):
        begin = time.perf_counter()
        carry, found = compiled(carry, keys[i])
        energies += list(np.asarray(found))
        seconds.append(time.perf_counter() - begin)
    return np.array(energies), seconds


def sides(rate):
    """Return the ways to train, by name."""
    return {
        "VMC_SR": functools.partial(by_driver, nk.optimizer.Sgd(rate)),
        "VMC_SR + gdjax": functools.partial(by_driver, gdjax.sgd(rate)),
        "NetKet + min_sr": by_hand,
        "gdjax min_sr": functools.partial(by_gdjax, "min_sr"),
        "gdjax spring": functools.partial(by_gdjax, "spring"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="ising")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chains", type=int, nargs="*", default=[16, SAMPLES], help="of NetKet")
    parser.add_argument("--sides", nargs="*", default=None)
    given = parser.parse_args()
    numbers = MODELS[given.model]
    checks = [k for k in (50, 100, 200, 300, 600, 1000) if k <= given.steps]
    print(f"{given.model}, {numbers}, {SAMPLES} samples per step, RBM alpha {ALPHA}", flush=True)
    for name, run in sides(numbers["rate"]).items():
        if given.sides and name not in given.sides:
            continue
        for chains in given.chains if "gdjax " not in name else [SAMPLES]:
            errors, rates = [], []
            for seed in range(given.seeds):
                energies, seconds = run(given.model, given.steps, seed, chains)
                means = [energies[k - SEGMENT : k].mean() for k in checks]
                errors.append([abs(m / numbers["exact"] - 1) for m in means])
                rates.append(SEGMENT * SAMPLES / np.median(seconds))
            row = {
                "side": name, "chains": chains, "at": checks,
                "median error": [float(f"{x:.2g}") for x in np.median(errors, 0)],
                "samples per s": int(np.median(rates)),
            }  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
