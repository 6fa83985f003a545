"""Make matrix.npz: where public code of matrix methods arrives, so that the tests need none of it.

Run `python tests/golden/make_matrix.py` where these are installed: torch==2.13.0,
pytorch-optimizer==4.1.0, psgd-jax==0.2.9, flax, and optax==0.2.4, for newer ones lack what psgd-jax
imports. Each run is the parameters of `problems` named in `RUNS` after each of 5 steps in float64,
raveled and joined, one row for each step. The torch code iterates and decomposes in bfloat16 and
float32; here it is kept from it. Its layout is (outputs, inputs), so matrices are transposed where
that matters. The probes that PSGD drew are kept too, as "probe/<parameter>/<step>".
"""

import contextlib
import functools
import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytorch_optimizer as po
import torch
from psgd_jax.kron import kron
from pytorch_optimizer.optimizer import scion
from pytorch_optimizer.optimizer.muon import adamuon, normuon

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import problems  # noqa: E402

STEPS = 5
MUON = dict(lr=0.05, weight_decay=0.1, eps=0.0, foreach=False)


def muon_like(kind, **more):
    return lambda params: kind([dict(params=list(params.values()), use_muon=True)], **MUON, **more)


def scion_of(params):
    kinds = dict(tall=scion.LMONorm.SPECTRAL, wide=scion.LMONorm.SIGN, vector=scion.LMONorm.BIAS)
    groups = [dict(params=[params[k]], norm_type=kind) for k, kind in kinds.items()]
    return po.SCION(groups, lr=0.05, momentum=0.2, constraint=True, scale=3.0, foreach=False)


def on_all(kind, **more):
    return lambda params: kind(list(params.values()), **more)


MATRICES = ("tall", "wide")
AXES = ("vector", "wide", "kernel")
RUNS = {  # make, which parameters, whether matrices are transposed
    "normuon": (muon_like(po.NorMuon, momentum=0.9, beta2=0.8, update_scale="match_rms"), MATRICES),
    "normuon_norm": (muon_like(po.NorMuon, momentum=0.9, beta2=0.8, nesterov=False), MATRICES),
    "adamuon": (muon_like(po.AdaMuon, betas=(0.9, 0.8), use_adjusted_lr=True), MATRICES),
    "scion": (scion_of, ("vector", *MATRICES)),
    "shampoo": (on_all(po.Shampoo, lr=0.05, matrix_eps=1e-3), AXES),
    "soap": (
        on_all(
            po.SOAP, lr=0.05, betas=(0.8, 0.9), shampoo_beta=0.7, eps=1e-4, weight_decay=0.0,
            precondition_frequency=2, max_precondition_dim=4,
        ),
        ("scalar", "tall", *AXES),
    ),
}  # fmt: skip
TRANSPOSED = ("normuon", "normuon_norm", "adamuon", "scion")


def run(make, names, transposed):
    start = problems.parameters()

    def other(x):
        return x.T.copy() if transposed and x.ndim == 2 else x.copy()

    params = {k: torch.tensor(other(start[k]), requires_grad=True) for k in names}
    opt, rows = make(params), []
    for t in range(1, STEPS + 1):
        now = {k: other(p.detach().numpy()) for k, p in params.items()}
        grads = problems.gradients(start | now, t)
        for k, p in params.items():
            p.grad = torch.tensor(other(grads[k]))
        opt.step()
        rows.append(np.concatenate([other(p.detach().numpy()).ravel() for p in params.values()]))
    return np.stack(rows)


def psgd():
    """Run psgd-jax, and draw once more what it drew."""
    numbers = dict(b1=0.8, weight_decay=0.1, preconditioner_lr=0.3, preconditioner_init_scale=0.7)
    opt = kron(0.02, preconditioner_update_probability=1.0, **numbers)
    params = jax.tree.map(jnp.asarray, problems.parameters())
    with contextlib.redirect_stdout(io.StringIO()):
        state = opt.init(params)
    rows, probes = [], {}
    for t in range(1, STEPS + 1):
        grads = problems.gradients(jax.tree.map(np.asarray, params), t)
        key, _ = jax.random.split(jax.random.fold_in(jax.random.PRNGKey(5318008), t - 1))[::-1]
        key, balances = jax.random.split(key)
        assert jax.random.uniform(balances) >= 0.01
        _, key = jax.random.split(key)
        for k, name in zip(jax.random.split(key, len(params)), sorted(params), strict=True):
            probes[f"probe/{name}/{t}"] = np.asarray(
                jax.random.normal(k, params[name].shape, jnp.float64)
            )
        updates, state = opt.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        rows.append(np.concatenate([np.ravel(params[k]) for k in problems.SHAPES]))
    return {"psgd_kron": np.stack(rows), **probes}


def main():
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float64  # else SOAP takes its QR in float32
    for module in (normuon, adamuon, scion):
        exact = functools.partial(module.zero_power_via_newton_schulz_5, dtype=torch.float64)
        module.zero_power_via_newton_schulz_5 = exact
    out = {k: run(*case, transposed=k in TRANSPOSED) for k, case in RUNS.items()}
    jax.config.update("jax_enable_x64", True)
    np.savez_compressed(HERE / "matrix.npz", **out, **psgd())


if __name__ == "__main__":
    main()
