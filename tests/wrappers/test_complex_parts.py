"""A complex parameter as two real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdjax

PARAMS = {"c": jnp.array([1 + 2j, -0.5j]), "r": jnp.array([1.0, -1.0, 0.5])}


def test_same_as_optax_and_as_real_parameters():
    ours = gdjax.split_real_and_imaginary(gdjax.adamw(0.1, weight_decay=0.3))
    theirs = optax.contrib.split_real_and_imaginary(optax.adamw(0.1, weight_decay=0.3))
    real = {"a": PARAMS["c"].real, "b": PARAMS["c"].imag, "r": PARAMS["r"]}
    alone = gdjax.adamw(0.1, weight_decay=0.3)
    state, their_state, real_state = ours.init(PARAMS), theirs.init(PARAMS), alone.init(real)
    for t in range(4):
        grads = jax.tree.map(lambda x, t=t: x * (1 + 0.3 * t) + 0.1, PARAMS)
        updates, state = jax.jit(ours.update)(grads, state, PARAMS)
        their_updates, their_state = theirs.update(grads, their_state, PARAMS)
        real_grads = {"a": grads["c"].real, "b": grads["c"].imag, "r": grads["r"]}
        real_updates, real_state = alone.update(real_grads, real_state, real)
        for name in PARAMS:
            np.testing.assert_allclose(updates[name], their_updates[name], rtol=1e-5)
        np.testing.assert_array_equal(updates["c"].imag, real_updates["b"])
        assert updates["c"].dtype == jnp.complex64 and updates["r"].dtype == jnp.float32


def test_extras_and_weights_to_evaluate_with_go_through():
    opt = gdjax.split_real_and_imaginary(gdjax.tail_average(gdjax.polyak_sgd(1.0)))
    params, state, path = PARAMS, opt.init(PARAMS), []
    for _ in range(3):
        updates, state = opt.update(params, state, params, value=jnp.float32(1.0))
        params = gdjax.apply_updates(params, updates)
        path.append(params)
    read = gdjax.eval_params(state, params)
    for name, x in read.items():
        np.testing.assert_allclose(x, sum(p[name] for p in path) / 3, rtol=1e-6)
        assert x.dtype == PARAMS[name].dtype
    by_part = gdjax.split_real_and_imaginary(
        gdjax.groups({r"c/imaginary": None, r".*": gdjax.sgd(1.0)})
    )
    updates, _ = by_part.update(PARAMS, by_part.init(PARAMS))
    np.testing.assert_array_equal(updates["c"], -PARAMS["c"].real.astype(complex))
