"""Differential privacy: the same as optax with the same key, and the mechanism's two promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}


def per_example(n=5, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(scale * rng.normal(size=(n, *p.shape))), PARAMS)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_same_as_optax_with_the_same_key(momentum):
    ours = gdjax.dpsgd(0.1, 0.7, 0.3, seed=3, momentum=momentum, nesterov=momentum is not None)
    theirs = optax.chain(
        optax.contrib.differentially_private_aggregate(0.7, 0.3, key=3),
        optax.trace(momentum, nesterov=True) if momentum else optax.identity(),
        optax.scale_by_learning_rate(0.1),
    )
    step, state, their_state = jax.jit(ours.update), ours.init(PARAMS), theirs.init(PARAMS)
    for t in range(3):
        grads = per_example(seed=t, scale=0.4)
        mine, state = step(grads, state, PARAMS)
        yours, their_state = theirs.update(grads, their_state, PARAMS)
        for name, x in yours.items():
            np.testing.assert_allclose(mine[name], x, rtol=1e-5, atol=1e-7)
    assert step._cache_size() == 1


def test_one_example_changes_the_sum_by_at_most_the_bound():
    opt = gdjax.differentially_private_aggregate(1.5, 0.0, key=0)
    grads = per_example(8, scale=100.0)
    without = jax.tree.map(lambda g: g.at[2].set(0.0), grads)
    a, b = (opt.update(g, opt.init(PARAMS), PARAMS)[0] for g in (grads, without))
    change = jnp.sqrt(sum(jnp.sum((8 * (a[k] - b[k])) ** 2) for k in a))
    np.testing.assert_allclose(change, 1.5, rtol=1e-4)  # from sums of eight that cancel
    assert a["b"].shape == () and a["w"].shape == (2, 3)


def test_the_noise_has_the_deviation_that_was_asked_for():
    opt = gdjax.differentially_private_aggregate(0.5, 3.0, key=1)
    zeros = {"w": jnp.zeros((4, 20000)), "b": jnp.zeros((4, 3))}
    noise, state = opt.update(zeros, opt.init(zeros))
    more, _ = opt.update(zeros, state)
    np.testing.assert_allclose(4 * jnp.std(noise["w"]), 1.5, rtol=0.03)  # 6 sigma of 20000 draws
    assert abs(np.corrcoef(noise["w"], more["w"])[0, 1]) < 0.04
    numbers = gdjax.hyperparams(state)
    assert numbers.keys() == {"l2_norm_clip", "noise_multiplier"}
    quiet, _ = opt.update(zeros, gdjax.with_hyperparams(state, noise_multiplier=0.0))
    assert not quiet["w"].any()


def test_bad_input_is_named():
    opt = gdjax.dpsgd(0.1, 1.0, 1.0, seed=0)
    with pytest.raises(ValueError, match="examples along their first axis"):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"dpsgd\(noise_multiplier=...\) must be finite and >= 0"):
        gdjax.dpsgd(0.1, 1.0, -1.0, seed=0)
