"""Parameters after a few steps of public code of matrix methods are reproduced by gdjax."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from oracles import psgd_kron as psgd_oracles
from x64 import enable_x64

import gdjax

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "matrix.npz")
MATRICES, AXES = ("tall", "wide"), ("vector", "wide", "kernel")
MUON = dict(learning_rate=0.05, weight_decay=0.1, eps=0.0, beta=0.9, b2=0.8)

SAME = {  # as in golden/make_matrix.py
    "normuon": (lambda: gdjax.normuon(**MUON), MATRICES),
    "normuon_norm": (
        lambda: gdjax.normuon(**MUON, nesterov=False, consistent_rms=None),
        MATRICES,
    ),
    "adamuon": (lambda: gdjax.adamuon(**MUON, nesterov=False), MATRICES),
    "scion": (
        lambda: gdjax.scion(
            0.05,
            3.0,
            0.8,
            0.0,
            weight_dimension_numbers=gdjax.by_path(
                {"tall": gdjax.MuonDimensionNumbers(), ".*": None}
            ),
        ),
        ("vector", *MATRICES),
    ),
    # the paper's: sums that start with eps, and roots of them in every step
    "shampoo": (
        lambda: gdjax.shampoo(
            0.05, 0.0, 1.0, 1e-3, precondition_frequency=1, graft=None, merge_dims=False
        ),
        AXES,
    ),
    # that code decays the parameters after the step, gdjax before it; here they do not decay
    "soap": (
        lambda: gdjax.soap(
            0.05, 0.8, 0.9, 0.7, 1e-4, 0.0, precondition_frequency=2, max_precond_dim=4
        ),
        ("scalar", "tall", *AXES),
    ),
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_arrives_where_public_code_does(name):
    make, keys = SAME[name]
    start = problems.parameters()
    tol = 1e-7 if name == "scion" else 1e-10  # that code adds 1e-8 to the norm of a vector
    with enable_x64():
        opt = make()
        params = {k: jnp.asarray(start[k]) for k in keys}
        state, step = opt.init(params), jax.jit(opt.update)
        for t, expected in enumerate(GOLDEN[name], 1):
            grads = problems.gradients(start | jax.tree.map(np.asarray, params), t)
            updates, state = step({k: jnp.asarray(grads[k]) for k in keys}, state, params)
            params = gdjax.apply_updates(params, updates)
            flat = np.concatenate([np.ravel(params[k]) for k in keys])
            np.testing.assert_allclose(flat, expected, rtol=tol, atol=tol, err_msg=f"step {t}")


def test_the_oracle_of_psgd_arrives_where_psgd_jax_does():
    """Theirs draws other probes than ours, so the oracle stands between them."""

    def probe(name, t, shape):
        return GOLDEN[f"probe/{name}/{t}"].reshape(shape)

    numbers = dict(b1=0.8, weight_decay=0.1, preconditioner_lr=0.3, preconditioner_init_scale=0.7)
    oracle = psgd_oracles.psgd_kron(
        0.02, **numbers, clip_update_rms=1.1, probability=lambda t: 1.0, probe=probe
    )
    params = problems.parameters()
    for t, expected in enumerate(GOLDEN["psgd_kron"], 1):
        params = oracle(params, problems.gradients(params, t), t)
        flat = np.concatenate([np.ravel(params[k]) for k in problems.SHAPES])
        np.testing.assert_allclose(flat, expected, rtol=1e-9, atol=1e-9, err_msg=f"step {t}")
