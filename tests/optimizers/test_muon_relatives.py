"""Dion, Dion2, Scion, SOAP-Muon, Muown, hyperball, QK-clip: what their oracles do not test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_dion_keeps_its_basis_at_zero_and_converges_to_the_polar_factor():
    params = jnp.zeros((5, 4))
    opt = gdjax.dion(1.0, 1.0, weight_decay=None, scale=None)
    state = opt.init(params)
    updates, after = opt.update(params, state, params)
    assert not updates.any()
    np.testing.assert_array_equal(after.slots.nu, state.slots.nu)
    grads = normal(5, 4)
    for _ in range(60):  # a power iteration on one matrix
        updates, after = opt.update(grads, after._replace(slots=after.slots._replace(mu=params)))
    np.testing.assert_allclose(-updates, gdjax.polar(grads), atol=2e-3)


def test_dion_state_is_small_and_keys_matter():
    params = {"w": jnp.zeros((40, 30)), "v": jnp.zeros((40, 30))}
    slots = gdjax.dion(1.0, 0.1).init(params).slots
    assert slots.nu["w"].shape == (30, 3)
    assert not np.allclose(slots.nu["w"], slots.nu["v"])
    other = gdjax.dion(1.0, 0.1, key=jax.random.key(7)).init(params).slots
    assert not np.allclose(slots.nu["w"], other.nu["w"])
    for bad in (0.0, 1.5, "half"):
        with pytest.raises((ValueError, TypeError), match=r"dion\(rank_fraction="):
            gdjax.dion(1.0, bad)


def test_dion2_moves_the_largest_rows_only():
    grads = normal(6, 20) * jnp.array([1.0, 9.0, 2.0, 8.0, 3.0, 4.0])[:, None]
    opt = gdjax.dion2(1.0, 0.3, "polar_express", 8, weight_decay=None, beta=0.5)
    for g, axis in ((grads, 0), (grads.T, 1)):
        updates, state = opt.update(g, opt.init(g), g)
        moved = np.flatnonzero(np.abs(updates).sum(1 - axis))
        np.testing.assert_array_equal(moved, [1, 3])
        kept = np.array([1.0, 0.5, 1.0, 0.5, 1.0, 1.0])
        mu = np.asarray(state.slots.mu)
        np.testing.assert_allclose(mu, g * np.expand_dims(kept, 1 - axis), rtol=1e-6)
    whole = gdjax.dion2(1.0, 1.0, "polar_express", 8, weight_decay=None, scale=None)
    updates, _ = whole.update(grads, whole.init(grads), grads)
    np.testing.assert_allclose(-updates, gdjax.polar(grads), atol=1e-4)
    with pytest.raises(ValueError, match="fraction"):
        gdjax.dion2(1.0, 0.0)


def test_scion_takes_a_radius_for_each_layer_and_keeps_parameters_in_the_ball():
    params = {"hidden": normal(4, 4), "head": normal(4, 8)}
    radius = gdjax.by_path({"head": 10.0, "hidden": 2.0})
    specs = gdjax.by_path({"head": None, "hidden": gdjax.MuonDimensionNumbers()})
    opt = gdjax.scion(0.5, radius, ns_coeffs="polar_express", weight_dimension_numbers=specs)
    state = opt.init(params)
    for i in range(12):
        grads = jax.tree.map(lambda x, i=i: normal(*x.shape, seed=i), params)
        updates, state = opt.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
    assert np.linalg.norm(params["hidden"], 2) < 2.0 * 1.15  # five steps: up to 1.14
    assert np.abs(params["head"]).max() <= 10.0 / 4 + 1e-3


@pytest.mark.parametrize(
    "make", [lambda **k: gdjax.soap_muon(0.1, precondition_frequency=2, **k), gdjax.muown]
)
def test_stacked_and_cut_matrices_are_single_ones(make):
    """Each has bases, norms and a polar factor of its own."""
    make = make if make is not gdjax.muown else lambda **k: gdjax.muown(0.1, **k)
    two = {"a": normal(4, 3), "b": normal(4, 3, seed=1)}
    views = {
        "stack": (lambda t: jnp.stack([t["a"], t["b"]]), gdjax.MuonDimensionNumbers(1, 2)),
        "cut": (
            lambda t: jnp.concatenate([t["a"], t["b"]], 1),
            gdjax.MuonDimensionNumbers(splits=2),
        ),
    }
    spec = {
        "single": {"a": views["cut"][1]._replace(splits=1), "b": views["cut"][1]._replace(splits=1)}
    }
    spec |= {k: v for k, (_, v) in views.items()}
    opt = make(muon_weight_dimension_numbers=spec)

    def of(tree):
        return {"single": tree} | {k: view(tree) for k, (view, _) in views.items()}

    params = of(two)
    state, step = opt.init(params), jax.jit(opt.update)
    for t in range(4):
        grads = {k: normal(4, 3, seed=2 * t + i) for i, k in enumerate(two)}
        updates, state = step(of(grads), state, params)
        params = gdjax.apply_updates(params, updates)
    for k, x in of(params["single"]).items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params[k], x)
    assert not np.allclose(params["single"]["a"], two["a"], atol=0.1)


def test_muown_reads_norms_from_the_parameter_and_gives_zeros_a_direction():
    params = jnp.array([[3.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    grads = normal(2, 3)
    opt = gdjax.muown(0.1, "polar_express", 8, nesterov=False)
    updates, state = opt.update(grads, opt.init(params), params)
    norms = np.linalg.norm(params + updates, axis=0)
    # Adam's first steps are the signs of the slopes; a column of zeros takes a step of Muon
    np.testing.assert_allclose(norms[[0, 2]], [3, 0.5] - 0.1 * np.sign(grads[0, [0, 2]]), rtol=1e-5)
    across = grads.at[0, jnp.array([0, 2])].set(0.0)  # and u along the first axis
    expected = -0.1 * 0.2 * 3**0.5 * gdjax.polar(across)[:, 1]
    np.testing.assert_allclose(updates[:, 1], expected, atol=1e-5)
    # what someone else does to the norms stays
    moved = (params + updates) * jnp.array([[2.0, 1.0, 1.0]])
    after = moved + opt.update(jnp.zeros_like(grads), state, moved)[0]
    slow = opt.update(jnp.zeros_like(grads), state, params + updates)[0]
    np.testing.assert_allclose(
        np.linalg.norm(after[:, 0]) - 2 * norms[0],
        np.linalg.norm((params + updates + slow)[:, 0]) - norms[0],
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="muown needs the parameters"):
        opt.update(grads, opt.init(params))


def test_hyperball_keeps_norms_and_skips_zeros_and_vectors():
    params = {"w": normal(4, 6), "zero": jnp.zeros((3, 3)), "b": normal(3)}
    inner = gdjax.muon(0.1, weight_decay=None, adam_weight_decay=None)
    opt = gdjax.hyperball(inner, 0.05)
    state, plain = opt.init(params), inner.init(params)
    norm = np.linalg.norm(params["w"])
    for i in range(4):
        grads = jax.tree.map(lambda x, i=i: normal(*x.shape, seed=i), params)
        updates, state = jax.jit(opt.update)(grads, state, params)
        expected, plain = inner.update(grads, plain, params)
        for k in ("zero", "b"):
            np.testing.assert_allclose(updates[k], expected[k], rtol=1e-5)
        new = gdjax.apply_updates(params, updates)
        np.testing.assert_allclose(np.linalg.norm(new["w"]), norm, rtol=1e-5)
        angle = np.arccos(np.sum(params["w"] * new["w"]) / norm**2)
        assert 0.01 < angle <= 0.051
        params = new
    assert state.slots.radius["b"] is None
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(grads, state)


def test_qk_clip_shrinks_heads_by_the_square_root_each():
    params = {"q": normal(3, 4), "k": normal(3, 4), "v": normal(3, 4)}
    inner = gdjax.muon(0.1)
    heads = gdjax.by_path({"q|k": -1, "v": None})
    opt = gdjax.qk_clip(inner, heads, threshold=100.0)
    state = opt.init(params)
    logits = jnp.array([400.0, 99.0])
    updates, new = jax.jit(opt.update)(params, state, params, max_logits=logits[0])
    plain, _ = inner.update(params, inner.init(params), params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    np.testing.assert_allclose(
        params["k"] + updates["k"], 0.5 * (params["k"] + plain["k"]), rtol=1e-5
    )
    tree = {"q": logits, "k": None, "v": None}
    updates, _ = opt.update(params, state, params, max_logits=tree)
    factor = np.array([[0.5, 0.5, 1.0, 1.0]])
    np.testing.assert_allclose(
        params["q"] + updates["q"], factor * (params["q"] + plain["q"]), rtol=1e-5
    )
    for k in ("k", "v"):
        np.testing.assert_allclose(updates[k], plain[k], rtol=1e-6)
    with pytest.raises(TypeError, match="max_logits"):
        opt.update(params, state, params)
    with pytest.raises(ValueError, match="one number for each head"):
        opt.update(params, state, params, max_logits=tree | {"q": jnp.ones(3)})
    with pytest.raises(ValueError, match="head_axis"):
        gdjax.qk_clip(inner, 2).init(params)
