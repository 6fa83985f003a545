"""`MultiSteps` does as in optax, with optimizers of optax and of gdjax."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import assert_same

import gdjax
from gdjax.compat import optax as compat
from gdjax.core.protocols import took_step

SKIP = functools.partial(gdjax.skip_large_updates, max_squared_norm=400.0)
SKIP_TOO = functools.partial(optax.skip_large_updates, max_squared_norm=400.0)


@pytest.mark.parametrize("adam", [gdjax.adam, compat.adam, optax.adam], ids=["gdjax", "ours", "it"])
def test_same_as_optax(adam):
    for k, whole in ((lambda step: 2 + step, True), (2, False)):
        ours = compat.MultiSteps(adam(0.1), k, whole, SKIP)
        theirs = optax.MultiSteps(optax.adam(0.1), k, whole, SKIP_TOO)
        pairs = ours.gradient_transformation(), theirs.gradient_transformation()
        assert_same(*pairs, steps=6, keys=("vector", "tall"))


def test_the_state_is_that_of_optax():
    ours, theirs = (lib.MultiSteps(lib.adam(0.1), 3, True) for lib in (compat, optax))
    state, their_state = ours.init(jnp.ones(2)), theirs.init(jnp.ones(2))
    for t in range(1, 8):
        _, state = ours.update(jnp.full(2, float(t)), state)
        _, their_state = theirs.update(jnp.full(2, float(t)), their_state)
        assert ours.has_updated(state) == theirs.has_updated(their_state) == took_step(state)
        assert state._fields == their_state._fields
        np.testing.assert_allclose(state.acc_grads, their_state.acc_grads, rtol=1e-6)
        for name in ("mini_step", "gradient_step"):
            assert getattr(state, name) == getattr(their_state, name)
            assert getattr(state, name).dtype == jnp.int32
        mine, yours = state.inner_opt_state[0], their_state.inner_opt_state[0]
        np.testing.assert_allclose(mine.mu, yours.mu, rtol=1e-5)
        assert mine.count == yours.count
    assert isinstance(state, compat.MultiStepsState) and not isinstance(ours, tuple)


def test_what_is_skipped_is_no_step():
    opt = compat.MultiSteps(compat.adam(0.1), 1, should_skip_update_fn=compat.skip_not_finite)
    _, state = opt.update(jnp.ones(1), opt.init(jnp.ones(1)))
    assert opt.has_updated(state) and took_step(state)
    updates, after = opt.update(jnp.full(1, jnp.nan), state)
    assert not opt.has_updated(after) and not took_step(after) and updates == 0
    assert after.gradient_step == 1 and after.inner_opt_state[0].count == 1
    with pytest.raises(ValueError, match="scalar array of dtype bool"):
        compat.MultiSteps(compat.adam(0.1), 1, True, lambda g, n, p: (jnp.zeros(2), ())).init(1.0)
    with pytest.raises(ValueError, match=r"MultiSteps\(every_k_schedule=...\) must be a whole"):
        compat.MultiSteps(compat.adam(0.1), 0)


def test_the_optimizer_does_not_see_other_calls():
    """optax multiplies what it gives there by 0, which leaves NaN."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: jnp.where(g > 1, g, jnp.nan), updates), state

    opt = compat.MultiSteps(compat.GradientTransformation(compat.init_empty_state, update), 2)
    for step in (opt.update, jax.jit(opt.update)):
        first, state = step(jnp.ones(1), opt.init(jnp.ones(1)))
        second, _ = step(jnp.full(1, 3.0), state)
        np.testing.assert_array_equal([first, second], [[0.0], [2.0]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_means_keep_their_digits_and_imaginary_parts(dtype):
    def update(updates, state, params=None):
        return updates, updates  # shows what the optimizer sees

    seen = compat.GradientTransformation(lambda params: jnp.zeros(1, mean.dtype), update)
    values = jnp.array([1.0, 1.0 + 2.0**-7, 1.0]) + (1j if dtype == "complex64" else 0)
    mean = jnp.mean(values.astype(dtype).astype(jnp.result_type(dtype, jnp.float32)))
    opt = compat.MultiSteps(seen, 3)
    state = opt.init(jnp.ones(1, dtype))
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for value in values.astype(dtype):
        updates, state = opt.update(value[None], state)
        assert updates.dtype == dtype
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds
    np.testing.assert_allclose(state.inner_opt_state[0], mean, rtol=1e-6)


def test_it_is_a_pair_everywhere():
    opt = compat.MultiSteps(gdjax.sgd(0.5), 2)
    init, update = opt
    averaged = gdjax.average(opt, 0.0)
    chained = compat.chain(opt, compat.scale(2.0))
    params = jnp.ones(1)
    for pair in (averaged, chained):
        state = pair.init(params)
        for _ in range(2):
            updates, state = pair.update(params, state, params)
        np.testing.assert_allclose(updates, -0.5 if pair is averaged else -1.0)
    for copied in (copy.copy(opt), copy.deepcopy(opt)):
        assert not copied.has_updated(copied.update(params, copied.init(params))[1])
    assert opt.inner_opt.update is gdjax.sgd(0.1).update and callable(init) and callable(update)


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, value, **extra_args):
        return updates * value, state

    inner = compat.GradientTransformationExtraArgs(compat.init_empty_state, update)
    opt = compat.MultiSteps(inner, 2).gradient_transformation()
    state = opt.init(jnp.ones(1))
    _, state = opt.update(jnp.ones(1), state, value=7.0)
    np.testing.assert_array_equal(opt.update(jnp.ones(1), state, value=3.0)[0], 3.0)
