"""Schedule-free learning: the average x, optax where it is right, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from oracles import schedule_free as oracles
from oracles import schedule_free_plus as plus
from x64 import enable_x64

import gdjax

SGD = dict(learning_rate=0.05, b1=0.8, weight_lr_power=1.5)


def walk(opt, params, grad_of, steps):
    state = opt.init(params)
    for t in range(1, steps + 1):
        updates, state = opt.update(grad_of(params, t), state, params)
        params = gdjax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("ours", "oracle"),
    [
        (gdjax.schedule_free(gdjax.sgd(0.05), **SGD), oracles.sgd(**SGD)),
        (gdjax.schedule_free_sgd(**SGD), oracles.sgd(**SGD)),
        (gdjax.gpa(gdjax.sgd(0.05), 0.9, 0.6), oracles.gpa(0.05, 0.9, 0.6)),
    ],
    ids=["schedule_free", "schedule_free_sgd", "gpa"],
)
def test_x_is_the_average_of_z(ours, oracle):
    expected = problems.parameters()
    for t in range(1, 13):
        expected = oracle(expected, problems.gradients(expected, t), t)

    def gradients(params, t):
        return problems.gradients(jax.tree.map(np.asarray, params), t)

    with enable_x64():
        params, state = walk(ours, jax.tree.map(jnp.asarray, problems.parameters()), gradients, 12)
        x = gdjax.eval_params(state, params)
        for name in expected:
            np.testing.assert_allclose(x[name], oracle.x[name], rtol=1e-12, atol=1e-12)


PLUS = dict(learning_rate=0.6, b1=0.8, b2=0.9, eps=1e-3, b3=0.5, beta=0.7, average_start=2.0)
PLUS |= dict(weight_lr_power=1.5, weight_count_power=0.5)


@pytest.mark.parametrize("annealing", [{}, dict(beta_max=0.9, anneal_steps=5.0)], ids=bool)
def test_x_of_plus_is_the_average_while_beta_changes(annealing):
    oracle = plus.schedule_free_plus(weight_decay=0.0, **PLUS, **annealing)
    opt = gdjax.schedule_free_plus(**PLUS, **annealing)
    expected = problems.parameters()
    with enable_x64():
        params = jax.tree.map(jnp.asarray, expected)
        state = opt.init(params)
        for t in range(1, 9):
            grads, value = problems.gradients(expected, t), problems.value(expected)
            expected = oracle(expected, grads, t, value=value)
            updates, state = opt.update(grads, state, params, value=value)
            params = gdjax.apply_updates(params, updates)
        x = gdjax.schedule_free_eval_params(state, params)
        for name in expected:
            np.testing.assert_allclose(x[name], oracle.x[name], rtol=1e-12, atol=1e-12)


def test_plus_stays_where_the_loss_is_zero_or_the_gradient():
    params = jnp.array([2.0, -1.0])
    opt = gdjax.schedule_free_plus()
    state = opt.init(params)
    for grads, value in ((jnp.ones(2), -1.0), (jnp.zeros(2), 3.0)):
        updates, after = opt.update(grads, state, params, value=value)
        np.testing.assert_array_equal(updates, 0)
        np.testing.assert_array_equal(gdjax.eval_params(after, params), params)
    with pytest.raises(TypeError, match="schedule_free_plus needs value="):
        opt.update(params, state, params)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("schedule_free_sgd", dict(learning_rate=0.1, b1=0.8, weight_decay=0.1)),
        ("schedule_free_adamw", dict(learning_rate=0.05, b2=0.9, weight_decay=0.1)),
    ],
)
def test_same_as_optax_at_a_constant_rate(name, args):
    ours, theirs = getattr(gdjax, name)(**args), getattr(optax.contrib, name)(**args)
    params = mine = jax.tree.map(jnp.float32, problems.parameters())
    state, their_state = ours.init(params), theirs.init(params)
    their_step = jax.jit(theirs.update)
    for t in range(1, 7):
        grads = problems.gradients(jax.tree.map(np.asarray, params), t)
        grads = jax.tree.map(jnp.float32, grads)
        updates, state = ours.update(grads, state, mine)
        their_updates, their_state = their_step(grads, their_state, params)
        mine = gdjax.apply_updates(mine, updates)
        params = optax.apply_updates(params, their_updates)
    x = gdjax.schedule_free_eval_params(state, mine)
    their_x = optax.contrib.schedule_free_eval_params(their_state, params)
    for name in params:
        np.testing.assert_allclose(mine[name], params[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(x[name], their_x[name], rtol=1e-5, atol=1e-5)


def test_the_first_update_uses_the_first_rate():
    """optax's average starts at schedule(1)."""

    def rate(count):
        return jnp.where(count == 0, 0.5, 0.25)

    params, grads = jnp.array([2.0]), jnp.array([1.0])
    for opt in (gdjax.schedule_free(gdjax.sgd(rate), rate), gdjax.schedule_free_sgd(rate)):
        updates, state = opt.update(grads, opt.init(params), params)
        np.testing.assert_allclose(updates, [-0.5])
        np.testing.assert_allclose(state.slots.weight_sum, 0.25)
        updates, state = opt.update(grads, state, params + updates)
        np.testing.assert_allclose(state.slots.weight_sum, 0.5)  # the largest rate so far


def test_a_rate_of_zero_weighs_nothing():
    params = jnp.array([2.0])
    opt = gdjax.schedule_free_sgd(lambda count: 0.1 * count)
    updates, state = opt.update(params, opt.init(params), params)
    np.testing.assert_array_equal(updates, 0)
    updates, state = opt.update(params, state, params)
    np.testing.assert_allclose(updates, -0.2)


def test_warm_up_of_no_steps_is_none():
    params = jnp.array([2.0])
    opt = gdjax.schedule_free_sgd(0.5, warmup_steps=0)
    np.testing.assert_allclose(opt.update(params, opt.init(params), params)[0], -1.0)


def test_gpa_of_gradient_descent_is_momentum():
    def grad(params, t):
        return jnp.array([1.0, 5.0]) * params + jnp.sin(t + params)

    start, b = jnp.array([1.0, -2.0]), 0.8
    nesterov, _ = walk(gdjax.sgd(0.1 * (1 - b), momentum=b, nesterov=True), start, grad, 8)
    heavy_ball, _ = walk(gdjax.sgd(0.1 * (1 - b), momentum=b), start, grad, 8)
    y, _ = walk(gdjax.gpa(gdjax.sgd(0.1), mu_x=b, mu_y=b), start, grad, 8)
    x, _ = walk(gdjax.gpa(gdjax.sgd(0.1), mu_x=b, mu_y=1.0), start, grad, 8)
    np.testing.assert_allclose(y, nesterov, rtol=1e-5)
    np.testing.assert_allclose(x, heavy_ball, rtol=1e-5)


def test_numbers_have_one_name_each():
    params = {"w": jnp.ones(2)}
    opt = gdjax.schedule_free_adamw(0.1, weight_decay=gdjax.by_path({"w": 0.5}))
    state = gdjax.with_hyperparams(opt.init(params), learning_rate=0.3, b2=0.5)
    numbers = gdjax.hyperparams(state)
    assert {"learning_rate", "b1", "b2", "eps", "weight_lr_power"} <= numbers.keys()
    np.testing.assert_allclose((numbers["learning_rate"], numbers["b2"]), (0.3, 0.5))
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), state, params)
    np.testing.assert_allclose(updates["w"], -0.3 * 0.5, rtol=1e-6)
    wrapped = gdjax.schedule_free(gdjax.sgd(0.1), 0.1).init(params)
    wrapped = gdjax.with_hyperparams(wrapped, learning_rate=0.2)  # that of gradient descent
    np.testing.assert_allclose(wrapped.slots.inner.hyperparams["learning_rate"], 0.2)


def test_state_dtype_is_that_of_z():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    assert gdjax.schedule_free_sgd().init(params).slots.z["w"].dtype == jnp.float32
    opt = gdjax.schedule_free_sgd(state_dtype=jnp.bfloat16)
    _, state = opt.update(params, opt.init(params), params)
    assert state.slots.z["w"].dtype == jnp.bfloat16
    assert gdjax.eval_params(state, params)["w"].dtype == jnp.bfloat16


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"schedule_free\(b1=...\) must be in \(0, 1\], got 0.0"):
        gdjax.schedule_free(gdjax.sgd(1.0), 1.0, b1=0.0)
    with pytest.raises(TypeError, match="Did you forget to call a factory"):
        gdjax.schedule_free(gdjax.sgd, 1.0)
    with pytest.raises(ValueError, match="got State. gdjax.eval_params takes any"):
        gdjax.schedule_free_eval_params(gdjax.adam(1.0).init(jnp.ones(2)), jnp.ones(2))
    opt = gdjax.schedule_free_sgd()
    with pytest.raises(ValueError, match="call update.grads, state, params"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))


@pytest.mark.parametrize("size", [1e-18, 1e-20, 1e-25])
def test_schedule_free_plus_stays_finite_for_tiny_gradients(size):
    params = jnp.array([1.0, 2.0])
    optimizer = gdjax.schedule_free_plus()
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.full(2, size), state, params, value=1.0)
        params = gdjax.apply_updates(params, updates)
    assert jnp.isfinite(params).all()
