"""What the classic optimizers promise beyond their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdjax.polyak_sgd(variant="sps++"), "polyak_sgd(variant=...) must be one of"),
        (lambda: gdjax.scale_by_polyak(variant="x"), "scale_by_polyak(variant=...) must be one of"),
        (lambda: gdjax.rprop(0.1, eta_minus=1.5), "rprop(eta_minus=...) must be in [0, 1]"),
        (lambda: gdjax.signum(0.1, beta=1.0), "signum(beta=...) must be in [0, 1)"),
        (lambda: gdjax.noisy_sgd(0.1, eta=-1.0), "noisy_sgd(eta=...) must be finite and >= 0"),
        (lambda: gdjax.adafactor(clipping_threshold=0.0), "must be finite and > 0"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize("make", [gdjax.adan, gdjax.novograd, gdjax.adadelta])
def test_without_decay_it_needs_no_parameters(make):
    grads = jnp.ones(3)
    opt, zero = make(0.1, weight_decay=None), make(0.1, weight_decay=0.0)
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_allclose(updates, zero.update(grads, zero.init(grads), grads)[0], rtol=1e-6)


# --- Polyak's step ------------------------------------------------------------------------------


def test_the_scaling_of_polyak_multiplies_the_step():
    """In optax 0.2.8 twice the scaling is half the step."""
    grads = jnp.array([3.0, 4.0])

    def step(scaling):
        opt = gdjax.polyak_sgd(scaling=scaling)
        return opt.update(grads, opt.init(grads), value=5.0)[0]

    np.testing.assert_allclose(step(1.0), [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(step(2.0), [-1.2, -1.6], rtol=1e-6)


@pytest.mark.parametrize(("size", "value"), [(0.0, 1.0), (1e-25, 1.0), (1e-3, 1e30)])
def test_polyak_at_the_edges_of_float32(size, value):
    """A zero gradient, a squared norm that underflows, a quotient that overflows."""
    grads = jnp.full(2, size)
    opt = gdjax.polyak_sgd(max_learning_rate=0.5)
    updates, _ = opt.update(grads, opt.init(grads), value=value)
    expected = 0 if size**2 < 1e-45 else -0.5 * size
    np.testing.assert_allclose(updates, np.full(2, expected), rtol=1e-6)


def test_only_sps_goes_uphill_below_its_minimum():
    grads = jnp.array([1.0])
    moves = {}
    for variant in ("sps", "sps+"):
        opt = gdjax.polyak_sgd(f_min=2.0, variant=variant)
        moves[variant] = float(opt.update(grads, opt.init(grads), value=1.5)[0][0])
    assert moves == {"sps": 0.5, "sps+": 0.0}


# --- noise ----------------------------------------------------------------------------------------


def test_noise_has_the_promised_variance_and_is_new_in_every_step():
    opt = gdjax.add_noise(0.4, 0.5, key=1)
    zeros = {"real": jnp.zeros((100, 100)), "complex": jnp.zeros(20000, jnp.complex64)}
    state = opt.init(zeros)
    seen = []
    for t in range(1, 4):
        noise, state = opt.update(zeros, state)
        for x in noise.values():
            # 4 standard errors of the variance of 1e4 normal numbers
            assert jnp.mean(jnp.abs(x) ** 2) == pytest.approx(0.4 / t**0.5, rel=0.06)
            assert abs(jnp.mean(x)) < 0.03
        seen.append(noise["real"])
    assert abs(float(jnp.corrcoef(seen[0].ravel(), seen[1].ravel())[0, 1])) < 0.05


def test_noise_differs_between_leaves_and_lanes_and_not_between_equal_keys():
    grads = {"a": jnp.zeros(4), "b": jnp.zeros(4)}

    def first(key):
        opt = gdjax.noisy_sgd(1.0, key=key)
        return opt.update(grads, opt.init(grads))[0]

    one = first(7)
    assert not np.any(one["a"] == one["b"])
    jax.tree.map(np.testing.assert_array_equal, one, first(jax.random.key(7)))
    lanes = jax.vmap(first)(jnp.array([7, 8]))
    np.testing.assert_array_equal(lanes["a"][0], one["a"])
    assert not np.any(lanes["a"][0] == lanes["a"][1])
    keys = jax.vmap(first)(jax.random.split(jax.random.key(0), 2))
    assert not np.any(keys["a"][0] == keys["a"][1])


def test_a_donated_state_does_not_take_the_users_key_with_it():
    key = jax.random.key(3)
    opt = gdjax.noisy_sgd(0.1, key=key)
    grads = jnp.ones(2)
    jax.jit(opt.update, donate_argnums=1)(grads, opt.init(grads))
    assert jax.random.normal(key) == jax.random.normal(jax.random.key(3))


def test_an_array_is_no_key():
    with pytest.raises(TypeError, match=r"key=...\) must be an integer or a key"):
        gdjax.noisy_sgd(0.1, key=jnp.arange(3)).init(jnp.ones(2))


# --- single steps ---------------------------------------------------------------------------------


def test_the_difference_in_adan_weighs_b2():
    """By hand: with b1 = b3 = 0 it is (g + b2 (1 - b2) d / (1 - b2^2)) / |g + b2 d| at t = 2."""
    opt = gdjax.scale_by_adan(b1=0.0, b2=0.92, b3=0.0, eps=0.0)
    state = opt.init(jnp.zeros(1))
    _, state = opt.update(jnp.array([1.0]), state)
    direction, _ = opt.update(jnp.array([3.0]), state)
    expected = (3 + 0.92 * 0.08 * 2 / (1 - 0.92**2)) / (3 + 0.92 * 2)
    np.testing.assert_allclose(direction, [expected], rtol=1e-5)


@pytest.mark.parametrize("b2", [0.999, 0.99995, 0.95])
def test_radam_starts_adam_at_the_right_step_also_in_float32(b2):
    """rho_5 is a little less than 5: a threshold of 5 leaves t = 5 to momentum alone."""
    opt = gdjax.scale_by_radam(b1=0.0, b2=b2)
    state = opt.init(jnp.zeros(()))
    b2 = float(np.float32(b2))
    end = 2 / (1 - b2) - 1
    for t in range(1, 60):
        direction, state = opt.update(jnp.full((), 0.25), state)
        rho = end - 2 * t * b2**t / (1 - b2**t)
        expected = 0.25
        if rho >= 5:
            expected = np.sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho))
        assert float(direction) == pytest.approx(expected, rel=2e-4), t  # that of 1 - b2^t
    assert t > 6 and rho > 5


def test_radam_is_differentiable_past_its_threshold():
    def last(b2):
        opt = gdjax.radam(0.1, b2=b2, threshold=4.5)
        state = opt.init(jnp.ones(()))
        for t in range(7):
            update, state = opt.update(jnp.asarray(1.0 + 0.3 * t), state)
        return update

    gradient = jax.grad(last)(0.9)
    numeric = (last(0.905) - last(0.895)) / 0.01
    np.testing.assert_allclose(gradient, numeric, rtol=1e-2)


def test_rprop_treats_the_parts_of_complex_numbers_as_two_numbers():
    opt = gdjax.rprop(0.1, min_step_size=0.0)
    state, pair = opt.init(jnp.zeros(1, jnp.complex64)), opt.init(jnp.zeros(2))
    for grad in (3 - 1j, 1 + 2j, 2 + 2j, -1 + 1j):
        update, state = opt.update(jnp.array([grad], jnp.complex64), state)
        parts, pair = opt.update(jnp.array([grad.real, grad.imag]), pair)
        np.testing.assert_allclose([update[0].real, update[0].imag], parts, rtol=1e-6)


# --- memory -------------------------------------------------------------------------------------


def test_adafactor_keeps_rows_and_columns_of_the_two_largest_axes():
    params = {"big": jnp.ones((3, 200, 4, 130)), "thin": jnp.ones((300, 127)), "b": jnp.ones(9)}
    slots = gdjax.adafactor(0.1).init(params).slots
    assert slots.v_row["big"].shape == (3, 1, 4, 130)
    assert slots.v_col["big"].shape == (3, 200, 4, 1)
    assert slots.v == {"big": None, "thin": slots.v["thin"], "b": slots.v["b"]}
    assert slots.v["thin"].shape == (300, 127)
    assert jax.tree.leaves(slots.mu) == []


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (), (1, 1)])
def test_adafactor_factors_odd_shapes_without_nan(shape):
    opt = gdjax.adafactor(0.1, min_dim_size_to_factor=0, momentum=0.9)
    params = jnp.ones(shape)
    state = opt.init(params)
    for _ in range(2):
        updates, state = opt.update(params, state, params)
    assert updates.shape == shape
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((updates, state.slots)))


def test_lars_masks_its_decay_and_its_ratio_apart():
    params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
    grads = {"w": jnp.array([1.0, 0.0]), "b": jnp.array([1.0])}
    opt = gdjax.lars(
        1.0,
        weight_decay=0.5,
        weight_decay_mask=lambda p: {"w": False, "b": True},
        trust_coefficient=0.1,
        trust_ratio_mask={"w": True, "b": False},
    )
    state = opt.init(params)
    updates, _ = opt.update(grads, state, params)
    np.testing.assert_allclose(updates["w"], [-0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-2.0], rtol=1e-6)
    state = gdjax.with_hyperparams(state, trust_coefficient=0.2, weight_decay=1.0)
    updates, _ = opt.update(grads, state, params)
    np.testing.assert_allclose(updates["w"], [-1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-3.0], rtol=1e-6)
