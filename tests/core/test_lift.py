"""leafwise, treewise, chain: precision, extras, structure, sharding, speed of tracing."""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.core.checks import POSITIVE, checked
from gdjax.core.lift import direction_of


def _double(grad, slots, param, count, *, factor, gain=None):
    return factor * grad * (1 if gain is None else gain), slots


def _scaled(grads, slots, params, count, *, value):
    return jax.tree.map(lambda g: g * value, grads), slots


def _everything(grads, slots, params, count, **extra):
    return jax.tree.map(lambda g: g * len(extra), grads), slots


@pytest.mark.parametrize("make", [gdjax.adam, gdjax.sgd, gdjax.clip, gdjax.clip_by_global_norm])
def test_every_update_accepts_extras_it_does_not_know(make):
    opt = gdjax.chain(make(0.1))
    params = jnp.ones(2)
    updates, _ = opt.update(params, opt.init(params), params=params, value=1.0, value_fn=jnp.sum)
    assert updates.shape == (2,)


def test_extras_reach_the_rule_that_names_them_through_a_chain():
    opt = gdjax.chain(gdjax.scale(2.0), gdjax.chain(gdjax.treewise(_scaled)))
    state = opt.init(jnp.ones(2))
    np.testing.assert_allclose(opt.update(jnp.ones(2), state, value=3.0, key=None)[0], 6.0)
    with pytest.raises(TypeError, match=r"scaled needs value=.*got key"):
        opt.update(jnp.ones(2), state, key=jax.random.key(0))


def test_a_rule_with_extra_gets_them_all():
    opt = gdjax.treewise(_everything)
    updates, _ = opt.update(jnp.ones(1), opt.init(jnp.ones(1)), a=1.0, b=2.0)
    np.testing.assert_allclose(updates, 2.0)


def test_a_leafwise_rule_may_take_an_extra():
    opt = gdjax.leafwise(_double, hyperparams=dict(factor=2.0))
    state = opt.init(jnp.ones(1))
    np.testing.assert_allclose(opt.update(jnp.ones(1), state)[0], 2.0)
    np.testing.assert_allclose(opt.update(jnp.ones(1), state, gain=5.0)[0], 10.0)


def test_a_new_closure_as_an_extra_forces_no_recompile_and_may_close_over_tracers():
    traced = []

    @jax.jit
    def step(params, state, shift):
        traced.append(1)
        opt = gdjax.chain(gdjax.adam(0.1))
        return opt.update(params, state, params, value_fn=lambda p: jnp.sum(p) * shift)

    opt = gdjax.chain(gdjax.adam(0.1))
    params = jnp.ones(2)
    state = opt.init(params)
    for shift in (1.0, 2.0, 3.0):
        _, state = step(params, state, shift)
    assert len(traced) == 1


def test_low_precision_gradients_travel_through_a_chain_as_float32():
    small = jnp.full(4, 3e-5, jnp.float16)  # times 1e-4 is below the smallest float16
    opt = gdjax.chain(gdjax.scale(1e-4), gdjax.scale(1e4))
    updates, _ = opt.update(small, opt.init(small))
    assert updates.dtype == jnp.float16
    np.testing.assert_allclose(updates, small)


def test_bfloat16_second_moment_does_not_stall():
    """optax #1552: with g = 1 for 3000 steps nu must approach 1 - 0.999**3000 = 0.95."""
    opt = gdjax.adam(1e-3)
    grad = jnp.ones(1, jnp.bfloat16)

    def step(state, _):
        updates, state = opt.update(grad, state)
        return state, updates

    state, updates = jax.lax.scan(step, opt.init(grad), length=3000)
    np.testing.assert_allclose(state.slots.nu, 0.9503, rtol=1e-3)
    np.testing.assert_allclose(updates[-1].astype(float), -1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([jnp.ones(1, jnp.bfloat16)] * 300, 300**0.5),  # in bfloat16 the sum stops at 256
        ([jnp.full(10, 300.0, jnp.float16)], 300 * 10**0.5),
        ([jnp.full(10_000, 1e-4, jnp.float16)], 0.01),
    ],
)
def test_global_norm_is_taken_in_float32(leaves, expected):
    opt = gdjax.clip_by_global_norm(expected / 2)
    updates, _ = opt.update(leaves, opt.init(leaves))
    ratio = updates[0][0].astype(jnp.float32) / leaves[0][0].astype(jnp.float32)
    np.testing.assert_allclose(ratio, 0.5, rtol=5e-3)


def test_clip_by_global_norm_of_zero():
    zeros = jnp.zeros(3)
    opt = gdjax.clip_by_global_norm(0.0)
    np.testing.assert_array_equal(opt.update(zeros, opt.init(zeros))[0], zeros)


def test_leaves_of_one_shape_are_traced_once():
    traced = []

    def _counted(grad, slots, param, count):
        traced.append(grad.shape)
        return grad, slots

    opt = gdjax.leafwise(_counted)
    params = [jnp.ones((2, i % 3 + 1)) for i in range(99)]
    jax.jit(opt.update).lower(params, opt.init(params))
    assert sorted(traced) == [(2, 1), (2, 2), (2, 3)]


def test_blocks_give_each_leaf_its_own_result():
    params = [jnp.full((2, i % 3 + 1), float(i)) for i in range(70)]
    rates = [float(i % 2 + 1) for i in range(70)]
    opt = gdjax.sgd(rates)
    updates, _ = opt.update(params, opt.init(params))
    for i, u in enumerate(updates):
        np.testing.assert_allclose(u, -float(i) * (i % 2 + 1))


def test_count_saturates():
    opt = gdjax.sgd(0.1)
    last = opt.init(jnp.ones(1))._replace(count=jnp.asarray(2**31 - 1, jnp.int32))
    assert int(opt.update(jnp.ones(1), last)[1].count) == 2**31 - 1


def test_static_arguments_must_be_hashable():
    with pytest.raises(TypeError, match="belongs into hyperparams"):
        gdjax.leafwise(_double, hyperparams=dict(factor=1.0), shape=[1])


def test_chain_with_optax_members_and_inside_optax():
    params = {"w": jnp.array([1.0, -2.0])}
    mixed = gdjax.chain(optax.clip(0.5), gdjax.adam(0.1))
    ours = gdjax.chain(gdjax.clip(0.5), gdjax.adam(0.1))
    inside = optax.chain(optax.clip(0.5), gdjax.adam(0.1))
    outputs = [o.update(params, o.init(params), params, value=1.0)[0] for o in (mixed, ours)]
    outputs.append(inside.update(params, inside.init(params), params)[0])
    for out in outputs[1:]:
        np.testing.assert_allclose(out["w"], outputs[0]["w"], rtol=1e-6)


def test_nested_chains_and_identity_change_nothing():
    params = jnp.array([1.0, -2.0])
    plain = gdjax.adam(0.1)
    nested = gdjax.chain(gdjax.chain(), gdjax.chain(gdjax.identity(), gdjax.chain(plain)))
    a, _ = plain.update(params, plain.init(params), params)
    b, _ = nested.update(params, nested.init(params), params)
    np.testing.assert_array_equal(a, b)


def test_chain_names_a_state_of_another_chain():
    one, two = gdjax.chain(gdjax.clip(1.0)), gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.1))
    with pytest.raises(
        ValueError, match="chain: this state .* a chain of 2 members; got a tuple of 1"
    ):
        two.update(jnp.ones(1), one.init(jnp.ones(1)))
    with pytest.raises(ValueError, match="distinct strings"):
        gdjax.named_chain(("a", gdjax.identity()), ("a", gdjax.identity()))


def test_apply_updates_rounds_once_and_keeps_dtype_and_none():
    params = {"a": jnp.ones(1, jnp.bfloat16), "b": jnp.ones(2), "c": None}
    new = gdjax.apply_updates(params, {"a": jnp.full(1, 2.0**-8), "b": None, "c": None})
    assert new["a"].dtype == jnp.bfloat16 and new["c"] is None
    np.testing.assert_array_equal(new["b"], params["b"])
    np.testing.assert_array_equal(new["a"].astype(float), 1.0)  # half an ulp rounds to even


def test_real_leaves_beside_complex_ones_stay_real():
    params = {"c": jnp.ones(2, jnp.complex64), "r": jnp.ones(2)}
    opt = gdjax.adam(lambda count: 0.1 / (1 + count))
    _, state = opt.update(params, opt.init(params), params)
    assert state.slots.mu["r"].dtype == jnp.float32 and state.slots.nu["c"].dtype == jnp.float32


def test_state_follows_the_sharding_of_its_parameter():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(jnp.arange(16.0), sharding)
    opt = gdjax.adam(0.1)
    state = opt.init(params)
    assert state.slots.mu.sharding.is_equivalent_to(sharding, 1)
    updates, new = jax.jit(opt.update)(params, state, params)
    assert new.slots.nu.sharding.is_equivalent_to(sharding, 1)
    one = opt.update(jnp.arange(16.0), opt.init(jnp.arange(16.0)))[0]
    np.testing.assert_array_equal(updates, one)


@pytest.mark.processes
def test_importing_gdjax_imports_no_optional_package():
    code = (
        "import sys, gdjax; "
        "bad = {'optax', 'matplotlib', 'tqdm', 'sklearn', 'scipy.optimize', 'torch', 'chex'}; "
        "sys.exit(str(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("optimizer", "other", "said"),
    [
        (gdjax.adam(0.1), gdjax.sgd(0.1), "adam: .*hyperparameters are b1, b2.* got one with"),
        (gdjax.adam(0.1), gdjax.chain(gdjax.adam(0.1)), "adam: .* got a tuple of 1, as of a chain"),
        (gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1), "clip_by_global_norm: .* max_norm; got"),
    ],
)
def test_the_state_of_another_optimizer_is_an_error_that_says_so(optimizer, other, said):
    params = jnp.ones(2)
    with pytest.raises(ValueError, match=said):
        optimizer.update(params, other.init(params), params)


@pytest.mark.parametrize("around", [lambda f: f, jax.vmap, jax.jacfwd], ids=["jit", "vmap", "grad"])
def test_in_any_trace_of_the_caller_an_update_is_no_nested_program(around):
    opt = gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.1))
    state = opt.init(jnp.ones(2))
    jaxpr = jax.make_jaxpr(around(lambda grads: opt.update(grads, state)[0]))(jnp.ones((2, 2)))
    nested = {eqn.params.get("name") for eqn in jaxpr.eqns}
    assert "leaf" in nested and not nested & {"chain", "clip", "sgd"}, nested


def _ratio(grad, slots, param, count, *, power, signed):
    return jnp.sign(grad) ** signed * jnp.abs(grad) ** power, slots


@checked(power=POSITIVE)
def _power_descent(learning_rate, power=0.5, *, signed=True):
    return gdjax.descend(_ratio, None, dict(power=power), learning_rate, signed=signed)


@direction_of(_power_descent)
def _scale_by_power() -> None:
    """Replace the gradient by a power of it."""


def test_a_twin_is_the_direction_of_its_optimizer_under_its_own_name():
    assert str(inspect.signature(_scale_by_power)) == "(power=0.5, *, signed=True)"
    grads = jnp.array([4.0, -9.0])
    whole, twin = _power_descent(0.5), _scale_by_power()
    state = twin.init(grads)
    np.testing.assert_allclose(twin.update(grads, state)[0], [2.0, -3.0])
    np.testing.assert_allclose(whole.update(grads, whole.init(grads))[0], [-1.0, 1.5])
    assert list(gdjax.hyperparams(state)) == ["power"]
    with pytest.raises(ValueError, match=r"_scale_by_power\(power=\.\.\.\) must be finite and > 0"):
        _scale_by_power(0.0)
    with pytest.raises(TypeError, match=r"_power_descent\(learning_rate=\.\.\.\) must be a number"):
        _power_descent(None)


def test_apply_updates_leaves_out_what_has_none():
    params = {"w": jnp.ones(2), "n": jnp.arange(2), "sub": {"x": jnp.ones(1)}, "m": jnp.ones(1)}
    loss = lambda p: jnp.sum(p["w"] ** 2) + 0.0 * p["sub"]["x"].sum()  # noqa: E731
    grads = jax.grad(loss, allow_int=True)(params)
    assert grads["n"].dtype == jax.dtypes.float0
    new = gdjax.apply_updates(params, {**grads, "sub": None, "m": optax.MaskedNode()})
    assert jax.tree.structure(new) == jax.tree.structure(params)
    np.testing.assert_array_equal(new["w"], 3.0)
    for name in ("n", "sub", "m"):
        jax.tree.map(np.testing.assert_array_equal, new[name], params[name])
    assert gdjax.apply_updates(jnp.ones(()), None) == 1


@pytest.mark.parametrize(
    ("params", "updates", "message"),
    [
        ({"w": jnp.zeros(1)}, {"w": jnp.ones(3)}, "at 'w' is float32.3., its parameter float32.1."),
        ({"w": jnp.zeros((2, 3))}, {"w": jnp.ones(3)}, "shapes differ"),
        ({"w": jnp.zeros(3)}, {"w": jnp.ones(())}, "shapes differ"),
        ({"w": jnp.zeros(1)}, {"v": jnp.ones(1)}, "must have the structure of the parameters"),
        ({"w": {"x": jnp.zeros(1)}}, {"w": jnp.ones(1)}, "is one array, where the parameters have"),
        ({"w": jnp.arange(1)}, {"w": jnp.ones(1)}, "its parameter int32, which cannot hold"),
        ({"w": jnp.zeros(1)}, {"w": jnp.ones(1) * 1j}, "float32, which cannot hold the sum"),
    ],
)
def test_apply_updates_refuses_what_does_not_fit(params, updates, message):
    with pytest.raises((ValueError, TypeError), match=f"^apply_updates: .*{message}"):
        gdjax.apply_updates(params, updates)


def test_slots_that_are_no_named_tuple():
    opt = gdjax.descend(_double, jnp.zeros_like, {"factor": 1.0}, 0.1, name="mine")
    with pytest.raises(TypeError, match=r"mine: slots\(param\) must return a NamedTuple of arrays"):
        opt.init({"w": jnp.ones(2)})
