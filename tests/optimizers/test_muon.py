"""Muon and its relatives against optax and torch, and what the oracles do not test."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity
import problems
import pytest
from optax import contrib
from oracles import muon as muon_oracle
from x64 import enable_x64

import gdjax
from gdjax.linalg.polar import NAMED
from gdjax.optimizers.presets import _PRESETS

NAMES = ("vector", "tall", "wide", "kernel")
COEFFICIENTS = ((3.0, -3.2, 1.2), (2.5, -2.0, 0.6), (2.0, -1.5, 0.5))


@pytest.mark.parametrize(
    "options",
    [
        dict(nesterov=False),
        dict(nesterov=False, weight_decay=0.1, weight_decay_mask=parity.MASK, consistent_rms=0.2),
        dict(nesterov=False, ns_coeffs="dion", adam_learning_rate=0.01, adam_weight_decay=0.1),
        dict(nesterov=False, ns_coeffs=COEFFICIENTS, ns_steps=3, preconditioning="schatten"),
        dict(nesterov=False, preconditioning="aol", adaptive=True, learning_rate=parity.falling),
    ],
    ids=lambda o: "-".join(o),
)
def test_parity_with_optax(options):
    options = dict(learning_rate=0.02, eps=1e-8) | options
    if mask := options.pop("weight_decay_mask", None):
        options["weight_decay_mask"] = {k: mask[k] for k in NAMES}
    coefficients = options.pop("ns_coeffs", None)
    more = {} if coefficients is None else dict(ns_coeffs=coefficients)
    # rtol: five steps multiply the rounding of small singular values by up to 3.4^5
    parity.assert_same(
        gdjax.muon(**options, **more), contrib.muon(**options, **more), rtol=1e-4, keys=NAMES
    )


def test_parity_with_optax_of_its_nesterov_and_of_dimension_numbers():
    def specs(kind):
        return {"vector": None, "tall": kind(1, 0), "wide": None, "kernel": kind((0, 1, 2), 3)}

    def opts(lib, kind, nesterov):
        specs_ = specs(kind)
        return lib.muon(0.02, nesterov=nesterov, muon_weight_dimension_numbers=specs_)

    ours = opts(gdjax, gdjax.MuonDimensionNumbers, "corrected")
    theirs = opts(contrib, contrib.MuonDimensionNumbers, True)
    parity.assert_same(ours, theirs, rtol=1e-4, keys=NAMES)


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "muon.npz")
TORCH = {  # as in golden/make_muon.py
    "nesterov": dict(weight_decay=0.1, beta=0.9),
    "plain": dict(weight_decay=0.0, beta=0.8, nesterov=False, ns_steps=3),
    "rms": dict(weight_decay=0.1, consistent_rms=0.2),
}


@pytest.mark.parametrize("name", TORCH)
def test_arrives_where_torch_does(name):
    start, kept, keys = problems.parameters(), (1, 2, 8), ("tall", "wide")
    with enable_x64():
        opt = gdjax.muon(0.05, eps=0.0, **TORCH[name])
        params = {k: jnp.asarray(start[k]) for k in keys}
        state = opt.init(params)
        for t in range(1, 9):
            grads = problems.gradients(start | jax.tree.map(np.asarray, params), t)
            grads = {k: jnp.asarray(grads[k]) for k in keys}
            updates, state = opt.update(grads, state, params)
            params = gdjax.apply_updates(params, updates)
            if t in kept:
                row = np.concatenate([np.ravel(params[k]) for k in keys])
                np.testing.assert_allclose(row, GOLDEN[name][kept.index(t)], atol=1e-11)


PRESETS = {  # learning rate, decay, scale and coefficients of the first step, from the sources
    "jordan": (0.02, 0.0, muon_oracle.width, muon_oracle.KELLER),
    "moonlight": (1e-3, 0.1, muon_oracle.rms_scale(0.2), muon_oracle.KELLER),
    "torch": (1e-3, 0.1, muon_oracle.width, muon_oracle.KELLER),
    "dion": (0.01, 0.01, muon_oracle.spectral, NAMED["polar_express5"]),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_muon_take_the_published_steps(name):
    rate, decay, scale, table = PRESETS[name]
    params = {"w": np.random.default_rng(0).normal(size=(3, 6))}
    with enable_x64():
        opt = gdjax.muon(**gdjax.preset("muon", name))
        updates, _ = opt.update(params, opt.init(params), params)
    o = scale(3, 6) * muon_oracle.newton_schulz(params["w"], table, 1e-8)
    np.testing.assert_allclose(updates["w"], -rate * (o + decay * params["w"]), rtol=1e-5)


def test_all_presets_are_arguments_and_errors_name_the_choices():
    for optimizer, names in _PRESETS.items():
        for name in names:
            getattr(gdjax, optimizer)(**gdjax.preset(optimizer, name))
    with pytest.raises(ValueError, match="must be one of 'jordan', 'moonlight', 'torch', 'dion'"):
        gdjax.preset("muon", "kimi")


def test_scale_by_muon_leaves_others_alone():
    """optax scales them by their shape (#1538)."""
    grads = {"w": jnp.eye(3), "b": jnp.full(3, 7.0), "stack": jnp.ones((2, 3, 3)), "n": None}
    opt = gdjax.scale_by_muon()
    updates, state = opt.update(grads, opt.init(grads))
    np.testing.assert_array_equal(updates["b"], grads["b"])
    np.testing.assert_array_equal(updates["stack"], grads["stack"])
    assert sum(x.size for x in jax.tree.leaves(state.slots)) == 9
    assert {"ns_coeffs", "beta", "eps"} == set(gdjax.hyperparams(state))


def test_batch_axes_splits_and_buckets_are_single_matrices():
    rng = np.random.default_rng(0)
    stack = jnp.asarray(rng.normal(size=(4, 6, 9)), jnp.float32)
    single = gdjax.scale_by_muon()
    expected = jnp.stack([single.update(x, single.init(x))[0] for x in stack])
    opt = gdjax.scale_by_muon(weight_dimension_numbers=gdjax.MuonDimensionNumbers(1, 2))
    np.testing.assert_allclose(opt.update(stack, opt.init(stack))[0], expected, atol=1e-5)
    fused = jnp.concatenate(list(stack), 1)
    for splits in (4, (9, 9, 9, 9), (9, 18, 9)):
        spec = gdjax.MuonDimensionNumbers(splits=splits)
        opt = gdjax.scale_by_muon(weight_dimension_numbers=spec)
        out = opt.update(fused, opt.init(fused))[0]
        np.testing.assert_allclose(out[:, :9], expected[0], atol=1e-5)
        assert np.allclose(out[:, 9:18], expected[1], atol=1e-5) == (splits != (9, 18, 9))
    for bad in (5, (9, 9), 0):
        spec = gdjax.MuonDimensionNumbers(splits=bad)
        with pytest.raises(ValueError, match="splits"):
            gdjax.scale_by_muon(weight_dimension_numbers=spec).init(fused)
    with pytest.raises(ValueError, match="whole"):
        gdjax.scale_by_galore(2, weight_dimension_numbers=spec._replace(splits=4)).init(fused)


def test_scales_by_shape():
    grads = {"tall": jnp.eye(4, 2), "wide": jnp.eye(2, 4)}

    def norms(**options):
        opt = gdjax.muon(
            1.0, "polar_express", 8, weight_decay=None, adam_weight_decay=None, **options
        )
        updates = opt.update(grads, opt.init(grads))[0]
        return [float(np.linalg.norm(updates[k], 2)) for k in ("tall", "wide")]

    np.testing.assert_allclose(norms(), [1, 2**0.5], rtol=1e-3)
    np.testing.assert_allclose(norms(scale="spectral"), [0.5**0.5, 2**0.5], rtol=1e-3)
    np.testing.assert_allclose(norms(scale=None), [1, 1], rtol=1e-3)
    np.testing.assert_allclose(norms(consistent_rms=0.2), [0.4, 0.4], rtol=1e-3)


def test_numbers_are_data_also_coefficients_and_prefix_trees():
    params = {"a": jnp.eye(3), "b": jnp.eye(3)}
    keller, other = gdjax.muon(0.1), gdjax.muon(0.1, (3.0, -3.2, 1.2))
    assert keller.update is other.update
    texts = [
        jax.jit(o.update).lower(params, o.init(params), params).as_text() for o in (keller, other)
    ]
    assert texts[0] == texts[1]
    opt = gdjax.muon({"a": 0.1, "b": 0.2}, weight_decay=gdjax.by_path({"a": 0.0, "b": 1.0}))
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    np.testing.assert_allclose(
        updates["b"], 2 * updates["a"] - 0.2 * params["b"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (0, 4), (5, 4)])
def test_edge_shapes_zero_and_rank_one(shape):
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jnp.zeros(shape, dtype)
        opt = gdjax.muon(0.1, weight_decay=None, adam_weight_decay=None)
        state = opt.init(params)
        updates, state = opt.update(params, state)
        assert not np.asarray(updates, np.float32).any()
        updates, _ = opt.update(jnp.ones(shape, dtype), state)
        assert updates.dtype == dtype
        if params.size:
            assert (
                0.04
                < np.linalg.norm(np.asarray(updates, np.float32), 2)
                < 0.15 * max(1, (shape[1] / shape[0]) ** 0.5)
            )


def test_mars_over_muon():
    opt = gdjax.mars(gdjax.muon(0.1), 0.05, 0.95)
    plain = gdjax.muon(0.1)
    rng = np.random.default_rng(1)
    params = {"w": jnp.zeros((4, 6)), "b": jnp.zeros(3)}
    state, inner = opt.init(params), plain.init(params)
    previous = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)

        def correct(g, p):
            c = g + 0.05 * 0.95 / 0.05 * (g - p)
            return c / jnp.maximum(jnp.linalg.norm(c), 1)

        updates, state = opt.update(grads, state, params)
        expected, inner = plain.update(jax.tree.map(correct, grads, previous), inner, params)
        previous = grads
        for k in params:
            np.testing.assert_allclose(updates[k], expected[k], rtol=1e-4, atol=1e-5)


def test_errors_are_early():
    for bad in (
        dict(nesterov="typo"),
        dict(scale="typo"),
        dict(preconditioning="typo"),
        dict(ns_coeffs="typo"),
        dict(ns_steps=0),
        dict(beta=1.0),
        dict(adam_b1=1.0),
    ):
        (argument,) = bad
        for factory in (gdjax.muon, gdjax.normuon):
            with pytest.raises(ValueError, match=rf"^{factory.__name__}\({argument}=\.\.\.\)"):
                factory(0.1, **bad)
    with pytest.raises(ValueError, match="axes of the shape"):
        gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.MuonDimensionNumbers(0, 5)).init(
            jnp.ones((2, 2))
        )
    matrix = jnp.ones((2, 2))
    for name in ("muon", "normuon", "adamuon", "dion", "dion2"):
        opt = getattr(gdjax, name)(0.1)
        with pytest.raises(ValueError, match=f"^{name} with weight_decay needs the parameters"):
            opt.update(matrix, opt.init(matrix))
        with pytest.raises(ValueError, match=f"^{name}: this state is not of this optimizer"):
            opt.update(matrix, gdjax.sgd(0.1).init(matrix), matrix)


def test_on_an_accelerator_one_product_for_a_bucket(monkeypatch):
    """Shapes up to transpose, stacks and parts of matrices share one batch."""
    shapes = {"a": (5, 7), "b": (7, 5), "c": (2, 5, 7), "d": (5, 14), "e": (4, 4), "f": (3,)}
    rng = np.random.default_rng(3)
    grads = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    whole = gdjax.MuonDimensionNumbers()
    specs = {k: whole for k in "abe"} | {"c": whole._replace(reduction_axis=1, output_axis=2)}
    specs |= {"d": whole._replace(splits=2), "f": None}
    opt = gdjax.muon(0.1, muon_weight_dimension_numbers=specs)
    state = opt.init(grads)
    expected = jax.jit(lambda g, s: opt.update(g, s, g)[0])(grads, state)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    step = jax.jit(lambda g, s: opt.update(g, s, g)[0])
    products = re.findall(r"dot_general.*: \(tensor<([\dx]+)x", step.lower(grads, state).as_text())
    assert {x.split("x")[0] for x in products} == {"6", "1"}  # how many matrices are in a product
    out = step(grads, state)
    for k in shapes:
        np.testing.assert_allclose(out[k], expected[k], rtol=1e-4, atol=1e-5)
