"""Any slot of any optimizer may have another dtype; arithmetic stays in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {"w": jnp.array([[0.9, -0.4], [0.2, 1.3]]), "b": jnp.array([0.7, -0.1])}


# leafwise, treewise with sums over the tree, a nested state
@pytest.mark.parametrize(
    "opt",
    [
        gdjax.adan(0.1),
        gdjax.yogi(0.1),
        gdjax.prodigy(1.0),
        gdjax.lookahead(gdjax.adabelief(0.1)),
    ],
    ids=["adan", "yogi", "prodigy", "nested"],
)
def test_a_step_is_the_float32_step_with_the_slot_rounded_after_it(opt):
    small = gdjax.with_slot_dtypes(opt, mu="bfloat16")
    assert small.update is opt.update
    state, full = small.init(PARAMS), opt.init(PARAMS)
    for t in range(3):
        grads = jax.tree.map(lambda x, t=t: jnp.sin(x + t), PARAMS)
        updates, new = small.update(grads, state, PARAMS)
        expected, full = opt.update(grads, full, PARAMS)
        moment = mu_of(full)
        for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        for a, b in zip(jax.tree.leaves(mu_of(new)), jax.tree.leaves(moment), strict=True):
            assert a.dtype == jnp.bfloat16
            np.testing.assert_array_equal(np.float32(a), np.float32(b.astype(jnp.bfloat16)))
        avals = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
        assert avals == [(x.shape, x.dtype) for x in jax.tree.leaves(new)]
        state = new
        full = rounded(full)  # the next step starts from what was kept


def states(tree):
    found = []
    for node in jax.tree.leaves(tree, is_leaf=lambda n: isinstance(n, gdjax.State)):
        if isinstance(node, gdjax.State):
            found += [node, *states(node.slots)]
    return found


def mu_of(state):
    (mu,) = [s.slots.mu for s in states(state) if hasattr(s.slots, "mu")]
    return mu


def rounded(state):
    """Return the state with its one mu rounded to bfloat16 and kept in float32."""
    mu = mu_of(state)
    ids = {id(x) for x in jax.tree.leaves(mu)}
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(x.dtype) if id(x) in ids else x, state
    )


def test_what_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"with_slot_dtypes\(momentum=...\).* only mu, nu"):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), momentum="bfloat16").init(PARAMS)
    with pytest.raises(
        TypeError, match=r"with_slot_dtypes\(mu=...\) must be a real floating dtype"
    ):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int16")


def test_complex_moments_stay_complex():
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="bfloat16", nu="float32")
    slots = opt.init({"z": jnp.ones(2, jnp.complex64), "x": jnp.ones(2)}).slots
    assert slots.mu["z"].dtype == jnp.complex64 and slots.nu["z"].dtype == jnp.float32
    assert slots.mu["x"].dtype == jnp.bfloat16
