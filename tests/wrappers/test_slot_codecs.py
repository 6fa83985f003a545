"""Slots in codes of 8 bits and in bfloat16 with random rounding, of any optimizer."""

import functools
import re
import tempfile
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from registry import CASES
from x64 import enable_x64

import gdjax
from gdjax.core.base import is_state
from gdjax.core.codecs import CODES, NAMES, STOCHASTIC, encoded, is_encoded, magnitudes, tile
from gdjax.core.protocols import KeepsIterates, states_in

RNG = np.random.default_rng(0)
WIDE = jnp.asarray(RNG.standard_normal((8, 700)) * np.exp(2 * RNG.standard_normal((8, 700))))
PARAMS = {
    "w": jnp.sin(jnp.arange(64 * 256.0)).reshape(64, 256),
    "b": jnp.linspace(-1.0, 1.0, 64),
}
ADAM8 = functools.partial(gdjax.with_slot_dtypes, mu="int8", nu="uint8", min_size=1000)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.float64(x), np.float64(y))


def avals(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]


def grads_at(t):
    return jax.tree.map(lambda x: jnp.sin(3 * x + t) * (1 + x) ** 2, PARAMS)


# --- codes ----------------------------------------------------------------------------------------


def published(signed):
    """Return the levels of `create_dynamic_map` of bitsandbytes, from its description.

    Dettmers et al. (2022), appendix F.2; functional.py of bitsandbytes 0.41: for each of 7
    exponents the means of neighbours of linspace(0.1, 1), times a power of 10, then 0 and 1.
    """
    levels = [0.0, 1.0]
    for i in range(7):
        ends = np.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        means = 10.0 ** (i - 6) * (ends[1:] + ends[:-1]) / 2
        levels += [*means, *(-means if signed else ())]
    return np.sort(levels)


def levels_of(name):
    """Return all numbers in [-1, 1] that a code can hold, in float64."""
    if name in ("int8", "uint8"):
        return published(name == "int8")
    every = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, name)).astype(np.float64)
    top = 2.0 ** np.floor(np.log2(np.nanmax(np.where(np.isinf(every), np.nan, every))))
    return np.unique(every[np.abs(every) <= top]) / top


def test_levels_are_those_of_bitsandbytes():
    signed, unsigned = published(True), published(False)
    assert len(signed) == len(unsigned) == 256
    np.testing.assert_allclose(magnitudes(True), signed[signed >= 0], rtol=1e-12)
    np.testing.assert_allclose(magnitudes(False), unsigned, rtol=1e-12)
    # as bitsandbytes prints them
    np.testing.assert_allclose(signed[[0, 1, -2, -1]], [-0.99296875, -0.97890625, 0.99296875, 1])
    np.testing.assert_allclose(unsigned[:4], [0, 3.25e-7, 7.75e-7, 2.125e-6])
    np.testing.assert_allclose(unsigned[-2], 0.996484375)


@pytest.mark.parametrize("name", CODES)
def test_each_number_becomes_the_nearest_level_of_its_block(name):
    x = jnp.abs(WIDE) if name == "uint8" else WIDE
    kept = encoded(x.astype(jnp.float32), name, 256, None)
    assert kept.codes.dtype == name and kept.codes.shape == x.shape
    assert kept.scales.shape == (8, 3)
    got, levels = np.asarray(kept.decode(), np.float64), levels_of(name)
    for row in range(8):
        for start in (0, 256, 512):  # the last block is shorter
            block = np.asarray(x[row, start : start + 256], np.float32).astype(np.float64)
            largest = block[np.argmax(np.abs(block))]
            scale = largest if name == "int8" else abs(largest)
            nearest = np.min(np.abs(block[:, None] - scale * levels), 1)
            if name == "uint8":  # nothing becomes 0 that was not
                nearest = np.maximum(nearest, np.where(block > 0, scale * levels[1] - block, 0))
            error = np.abs(got[row, start : start + 256] - block)
            assert np.all(error <= nearest * (1 + 1e-5) + 1e-6 * abs(scale) * levels[-2])
            place = np.argmax(np.abs(block))
            assert got[row, start + place] == block[place]


@pytest.mark.parametrize("name", CODES)
def test_encoding_what_was_decoded_changes_no_bit(name):
    both = jnp.array([3.0, -3.0, 1e-5, 0.0, -0.7])
    arrays = [both, -both, jnp.float32(-2.5), jnp.zeros((2, 0)), WIDE.reshape(7, 2, 8, 50)]
    scales = [None, None, None, None, jnp.dtype("bfloat16")]

    @jax.jit
    def once_and_twice():
        kept = []
        for x, scale in zip(arrays, scales, strict=True):
            x = (jnp.abs(x) if name == "uint8" else x).astype(jnp.float32)
            kept.append(encoded(x, name, 64, scale))
        return kept

    kept = once_and_twice()
    same(jax.jit(lambda kept: [e.encode(e.decode()) for e in kept])(kept), kept)


def test_a_block_that_is_not_finite_is_nan_and_extremes_are_kept():
    store = functools.partial(encoded, name="int8", block=2, scale_dtype=None)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        got = store(jnp.array([1.0, bad, 2.0])).decode()
        assert np.isnan(got[:2]).all() and got[2] == 2
        assert np.isnan(store(jnp.array([bad, 0.0])).decode()).all()
    np.testing.assert_array_equal(store(jnp.zeros(3)).decode(), 0)
    wide = jnp.array([3e38, 0.0, -2e-38])
    np.testing.assert_array_equal(store(wide).decode(), wide)
    np.testing.assert_array_equal(store(jnp.array([3e-45, 1e-39])).decode(), 0)  # as XLA has them
    largest = encoded(jnp.array([3.4e38, -1.0]), "int8", 2, jnp.dtype("bfloat16")).decode()
    assert jnp.isfinite(largest).all() and largest[0] > 3.3e38


@pytest.mark.parametrize("name", ["uint8", "int8", "float8_e4m3fn", "float8_e5m2"])
def test_a_mean_of_squares_never_becomes_zero(name):
    got = encoded(jnp.array([1.0, 1e-12, 0.0]), name, 4, None).decode()
    assert got[0] == 1 and 0 < got[1] < 1e-5 and got[2] == 0
    negative = encoded(jnp.array([1.0, -0.5]), name, 4, None).decode()
    assert np.isnan(negative).all() if name == "uint8" else negative[1] < -0.4


def test_float64_slots_keep_their_range():
    with enable_x64():
        kept = encoded(jnp.array([1e300, -1e297]), "int8", 4, None)
        assert kept.scales.dtype == kept.decode().dtype == jnp.float64
        np.testing.assert_allclose(kept.decode(), [1e300, -1e297], rtol=0.06)
        small = encoded(jnp.array([1e300, 1.0]), "int8", 1, jnp.dtype("bfloat16")).decode()
        assert np.isnan(small[0]) and small[1] == 1  # not a wrong number
        opt = ADAM8(gdjax.adam(0.1))
        params = {"w": jnp.ones((8, 256))}
        assert opt.init(params).mu["w"].dtype == jnp.float64


def test_blocks_lie_along_the_last_axes():
    assert tile((8, 700), 256) == (1, 256) and tile((512, 10), 256) == (16, 10)
    assert tile((3, 3, 8, 16), 256) == (1, 2, 8, 16) and tile((5,), 256) == (5,)
    conv = jnp.asarray(WIDE[:6, :192].reshape(6, 12, 16), jnp.float32)
    kept = encoded(conv, "int8", 64, None)
    assert kept.codec.tile == (1, 4, 16) and kept.scales.shape == (6, 3, 1)
    largest = jnp.max(jnp.abs(conv.reshape(6, 3, 4, 16)), (2, 3))
    np.testing.assert_array_equal(jnp.abs(kept.scales[..., 0]), largest)


# --- random rounding ------------------------------------------------------------------------------


def test_random_rounding_is_right_in_the_mean_and_nearest_is_not():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nearest = gdjax.with_slot_dtypes(gdjax.adam(0.0, b2=0.999), nu="bfloat16")
    random = gdjax.with_slot_dtypes(gdjax.adam(0.0, b2=0.999), nu=STOCHASTIC, min_size=0)
    params, ones = [jnp.zeros(1000)] * 2, [jnp.ones(1000)] * 2

    def run(opt):
        def step(state, _):
            return opt.update(ones, state, params)[1], None

        return jax.lax.scan(step, opt.init(params), length=3000)[0]

    mean = gdjax.decoded(run(random)).nu  # exact: 1 - 0.999**3000 = 0.9503
    np.testing.assert_allclose(np.mean(mean, 1), 0.9503, rtol=3e-3)
    assert np.mean(run(nearest).nu[0]) < 0.3
    first, second = mean
    assert np.std(first) > 0 and abs(np.corrcoef(first, second)[0, 1]) < 0.15  # independent


def test_random_rounding_stays_between_neighbours_and_keeps_what_is_not_finite():
    x = jnp.concatenate([jnp.linspace(1.0, 1.0078125, 30000), jnp.array([jnp.inf, jnp.nan, -1.5])])
    first = encoded(x, STOCHASTIC, 1, None, jax.random.key(1))
    second = jax.jit(lambda e: e.encode(x))(first)
    assert set(np.unique(np.float32(first.codes[:30000]))) == {1.0, 1.0078125}
    assert abs(np.mean(np.float64(first.codes[:30000])) - 1.00390625) < 1e-4
    assert (
        np.isinf(first.decode()[-3]) and np.isnan(first.decode()[-2]) and first.decode()[-1] == -1.5
    )
    ups = [np.float32(e.codes[:30000]) > 1 for e in (first, second)]
    assert abs(np.corrcoef(*ups)[0, 1]) < 0.5  # both follow x, a third of the variance
    same(second.encode(second.decode()).codes, second.codes)


# --- steps ----------------------------------------------------------------------------------------


def wrapped():
    """Return name -> function from Adam to an optimizer around it."""
    return {
        "alone": lambda adam: adam,
        "chain": lambda adam: gdjax.chain(gdjax.clip(1.0), adam),
        "groups": lambda adam: gdjax.groups({r"b": gdjax.sgd(0.1), r".*": adam}),
        "masked": lambda adam: gdjax.masked(adam, {"w": True, "b": False}),
        "guard": lambda adam: gdjax.apply_if_finite(adam, 3),
        "lookahead": lambda adam: gdjax.lookahead(adam, reset_state=True),
        "accumulate": lambda adam: gdjax.accumulate(adam, 2),
    }


@pytest.mark.parametrize("name", wrapped())
def test_a_step_is_the_float32_step_from_what_was_kept(name):
    plain = wrapped()[name](gdjax.adam(0.1))
    opt = ADAM8(plain)
    assert opt.update is plain.update
    state = opt.init(PARAMS)
    kept = avals(state)
    exact = jax.jit(plain.update)
    for t in range(2):
        updates, new = opt.update(grads_at(t), state, PARAMS)
        expected, full = exact(grads_at(t), gdjax.decoded(state), PARAMS)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), updates, expected
        )
        assert avals(new) == kept
        for (_, a), (_, b) in zip(states_in(new), states_in(full), strict=True):
            if hasattr(a.slots, "mu"):
                for x, y in zip(
                    jax.tree.leaves(a.slots, is_leaf=is_encoded), jax.tree.leaves(b.slots)
                ):
                    if is_encoded(x):
                        assert jnp.max(jnp.abs(x.decode() - y)) <= 0.05 * jnp.max(jnp.abs(y))
        state = new
    assert any(map(is_encoded, jax.tree.leaves(state, is_leaf=is_encoded)))


def test_skipped_steps_leave_every_bit():
    opt = gdjax.apply_if_finite(ADAM8(gdjax.adam(0.1)), 3)
    _, state = opt.update(grads_at(0), opt.init(PARAMS), PARAMS)
    _, skipped = opt.update(jax.tree.map(lambda x: x * jnp.nan, PARAMS), state, PARAMS)
    same(skipped.slots.inner, state.slots.inner)
    _, broken = ADAM8(gdjax.adam(0.1)).update(
        jax.tree.map(lambda x: x * jnp.nan, PARAMS), state.slots.inner, PARAMS
    )
    assert np.isnan(gdjax.decoded(broken).mu["w"]).any()  # without a guard it shows


def coded(case, name):
    """Return an optimizer of the registry with every slot that may be in a code."""
    optimizer = case.make(**case.numbers)
    names = {}
    for _, node in states_in(jax.eval_shape(optimizer.init, PARAMS)):
        exact = node.slots.iterates if isinstance(node.slots, KeepsIterates) else ()
        for key in () if is_state(node.slots) else getattr(node.slots, "_fields", ()):
            leaves = jax.tree.leaves(getattr(node.slots, key), is_leaf=is_state)
            floats = [not is_state(x) and jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
            if key not in exact and any(floats) and not any(map(is_state, leaves)):
                names[key] = name
    return gdjax.with_slot_dtypes(optimizer, min_size=0, **names) if names else None


@pytest.mark.filterwarnings("ignore:.*rounds a mean of squares")
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(i, marks=pytest.mark.rest) for i in range(1, 8))]
)
def test_all_slots_of_every_optimizer_may_have_codes(part):
    for i, case in enumerate(CASES[part::8]):
        optimizer = coded(case, NAMES[i % len(NAMES)])
        if optimizer is None:
            continue
        state = jax.eval_shape(optimizer.init, PARAMS)
        extras = case.extras(PARAMS, PARAMS, 1)
        new = jax.eval_shape(
            lambda s, o=optimizer, e=extras: o.update(PARAMS, s, PARAMS, **e)[1], state
        )
        assert avals(new) == avals(state), case.name


@pytest.mark.parametrize(
    ("make", "how", "factors", "rate"),
    [
        (gdjax.soap, dict(mu="int8", factors="int8", bases="int8", nu="uint8"), "factors", 0.1),
        (gdjax.dion, dict(mu="int8", nu="int8"), "nu", 0.5),
    ],
)
def test_factors_in_codes_of_8_bits_descend(make, how, factors, rate):
    opt = gdjax.with_slot_dtypes(make(rate), **how, min_size=60)
    params = jnp.asarray(RNG.standard_normal((24, 16)), jnp.float32)
    state = opt.init(params)
    assert all(map(is_encoded, jax.tree.leaves(getattr(state, factors), is_leaf=is_encoded)))
    last = params
    for _ in range(6):
        updates, state = opt.update(last, state, last)  # of |x|^2 / 2
        last = last + updates
    assert jnp.sum(last**2) < 0.9 * jnp.sum(params**2)


def test_a_step_has_no_float32_copy_of_the_state():
    params = [jax.ShapeDtypeStruct((64, 512), jnp.float32)] * 12
    opt = ADAM8(gdjax.adam(0.1))
    state = jax.eval_shape(opt.init, params)

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    leaf = 4 * 64 * 512
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * leaf  # of 24 moments
    slots = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots))
    assert slots / (12 * 64 * 512) < 2.1


# --- what else is done with states ----------------------------------------------------------------


def test_states_with_codes_are_read_and_set_by_name():
    opt = ADAM8(gdjax.adam(0.1))
    _, state = opt.update(grads_at(0), opt.init(PARAMS), PARAMS)
    assert repr(state.mu["w"]) == "Encoded(int8[64, 256])" and is_encoded(
        gdjax.tree.get(state, "mu")["w"]
    )
    np.testing.assert_array_equal(jnp.abs(state.mu["w"]), jnp.abs(state.mu["w"].decode()))
    new = gdjax.tree.set(state, mu=PARAMS)
    assert avals(new) == avals(state)
    np.testing.assert_allclose(gdjax.decoded(new).mu["w"], PARAMS["w"], atol=0.01)
    same(gdjax.tree.set(state, mu=state.mu), state)
    stronger = gdjax.with_hyperparams(state, learning_rate=0.5)
    assert gdjax.hyperparams(stronger)["learning_rate"] == 0.5 and avals(stronger) == avals(state)
    specs = gdjax.tree.map_params(opt, lambda _, x: x, state, {"w": "W", "b": "B"})
    assert specs.mu["w"].codes == specs.mu["w"].scales == "W" and specs.nu["b"] == "B"
    row = gdjax.summary(PARAMS, opt).rows[1]
    assert row.path == "w" and row.slots == {"mu": "int8[64, 256]", "nu": "uint8[64, 256]"}
    assert row.state_bytes == 2 * (64 * 256 + 4 * 64)
    one = gdjax.summary(PARAMS["w"], opt).rows[0]
    assert one.slots == row.slots


def test_a_mask_a_size_and_a_second_wrapper_say_what_is_coded():
    mask = gdjax.by_path({r"b": True, r".*": False})
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", mask=mask, min_size=0)
    state = opt.init(PARAMS)
    assert is_encoded(state.mu["b"]) and state.mu["w"].dtype == jnp.float32
    state = gdjax.with_slot_dtypes(opt, mu="float8_e5m2").init(PARAMS)
    assert state.mu["w"].codec.name == "float8_e5m2" and state.mu["b"].codec.name == "int8"
    state = gdjax.with_slot_dtypes(opt, mu="bfloat16").init(PARAMS)
    assert state.mu["b"].dtype == jnp.bfloat16


def test_lanes_scan_and_donation():
    params = {"w": PARAMS["w"][:16]}
    grads = {"w": grads_at(0)["w"][:16]}

    def start(rate):
        return ADAM8(gdjax.adam(rate)).init(params)

    update = gdjax.adam(0.1).update
    lanes = jax.vmap(start)(jnp.array([0.1, 0.2]))

    @functools.partial(jax.jit, donate_argnums=0)
    def run(states):
        def step(states, _):
            updates, states = jax.vmap(lambda s: update(grads, s, params))(states)
            return states, updates["w"]

        return jax.lax.scan(step, states, length=2)

    last, updates = run(lanes)
    single, one = jax.lax.scan(lambda s, _: update(grads, s, params)[::-1], start(0.2), length=2)
    np.testing.assert_allclose(updates[:, 1], one["w"], rtol=1e-6)
    np.testing.assert_array_equal(gdjax.decoded(last).mu["w"][1], gdjax.decoded(single).mu["w"])


def loss(params, batch):
    return jnp.mean((params["w"][:4] - jnp.mean(batch)) ** 2) + jnp.mean(params["b"] ** 2)


def test_runs_go_on_from_files_bit_for_bit():
    data = np.ones((8, 1), np.float32)
    how = dict(mu="float8_e4m3fn", nu=STOCHASTIC, min_size=1000)
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), **how)
    run = functools.partial(gdjax.fit, loss, PARAMS, opt, data, batch_size=2, key=0)
    whole = run(steps=4)
    with tempfile.TemporaryDirectory() as directory:
        run(steps=2, directory=directory)
        rest = run(steps=4, directory=directory)
        whole.save(f"{directory}/whole.npz")
        read = gdjax.FitResult.load(f"{directory}/whole.npz", PARAMS, opt.init(PARAMS))
    for result in (rest, read):
        same(result.params, whole.params)
        same(result.state.slots, whole.state.slots)


@pytest.mark.slow
def test_a_language_model_learns_as_with_float32_state():
    table = jnp.asarray(RNG.dirichlet(np.full(32, 0.1), 32))  # a chain of 32 letters

    def batch(key):
        def letter(x, k):
            return jax.random.categorical(k, jnp.log(table[x])), x

        keys = jax.random.split(key, 2)
        first = jax.random.randint(keys[0], (32,), 0, 32)
        return jax.lax.scan(letter, first, jax.random.split(keys[1], 9))[1]

    def nats(params, x):
        hidden = jnp.tanh(params["embed"][x[:-1]] @ params["up"])
        logits = hidden @ params["down"]
        return gdjax.softmax_cross_entropy_with_integer_labels(logits, x[1:]).mean()

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"embed": (32, 64), "up": (64, 128), "down": (128, 32)}
    params = {
        name: jax.random.normal(k, shape) / 8
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    adam = gdjax.adam(3e-3)

    @jax.jit
    def train(state):
        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(nats)(params, batch(key))
            updates, state = adam.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), value

        keys = jax.random.split(jax.random.key(1), 300)
        return jnp.mean(jax.lax.scan(step, (params, state), keys)[1][-100:])

    exact, small = train(adam.init(params)), train(ADAM8(adam).init(params))
    assert exact < 2 and abs(small / exact - 1) < 0.005, (exact, small)  # 3.5 at the start


def test_flax_and_orbax_save_codes():
    serialization = pytest.importorskip("flax.serialization")
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="float8_e4m3fn", nu=STOCHASTIC, min_size=1000)
    _, state = opt.update(grads_at(0), opt.init(PARAMS), PARAMS)
    same(serialization.from_bytes(opt.init(PARAMS), serialization.to_bytes(state)), state)
    ocp = pytest.importorskip("orbax.checkpoint")
    with tempfile.TemporaryDirectory() as directory, ocp.StandardCheckpointer() as files:
        files.save(f"{directory}/state", state)
        files.wait_until_finished()
        same(files.restore(f"{directory}/state", opt.init(PARAMS)), state)


def test_codes_and_scales_are_sharded_as_the_parameter_is():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
    params, grads = {"w": PARAMS["w"]}, {"w": grads_at(0)["w"]}
    opt = gdjax.with_slot_dtypes(
        gdjax.adam(0.1), mu="int8", nu=STOCHASTIC, min_size=1000, block=128
    )
    placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x", "y")))
    state = opt.init(placed)
    for part in (state.mu["w"].codes, state.mu["w"].scales, state.nu["w"].codes):
        assert part.sharding.spec == PartitionSpec("x", "y")
    step = jax.jit(opt.update).lower(placed, state, placed).compile()
    assert not re.search(r"all-(reduce|gather|to-all)|collective-permute", step.as_text())
    updates, new = step(jax.device_put(grads, placed["w"].sharding), state, placed)
    expected, one = opt.update(grads, opt.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5)
    same(jax.device_get(new.mu["w"].codes), jax.device_get(one.mu["w"].codes))
    same(jax.device_get(new.nu["w"].codes), jax.device_get(one.nu["w"].codes))


def test_shardings_of_codes_are_known_before_there_is_a_state():
    mesh = jax.sharding.AbstractMesh((4, 2), ("x", "y"))
    placed = NamedSharding(mesh, PartitionSpec("x", "y"))
    params = {"w": jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=placed)}
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", nu=STOCHASTIC, block=128)
    found = gdjax.state_shardings(opt, params)
    for part in (found.mu["w"].codes, found.mu["w"].scales, found.nu["w"].codes):
        assert part.spec == PartitionSpec("x", "y")
    assert tuple(found.nu["w"].key.spec) == ()


# --- what is refused ------------------------------------------------------------------------------


def test_slots_that_hold_parameters_are_refused_and_states_are_no_slots():
    for optimizer, name in (
        (gdjax.schedule_free_sgd(0.1), "z"),
        (gdjax.lookahead(gdjax.sgd(0.1)), "slow"),
        (gdjax.mechanize(gdjax.sgd(0.1)), "displacement"),
        (gdjax.madgrad(0.1), "s"),
    ):
        for dtype in ("int8", "bfloat16", STOCHASTIC):
            with pytest.raises(
                ValueError, match=rf"with_slot_dtypes\({name}=...\) must be float32"
            ):
                gdjax.with_slot_dtypes(optimizer, **{name: dtype}).init(PARAMS)
        gdjax.with_slot_dtypes(optimizer, **{name: "float32"}).init(PARAMS)
    with pytest.raises(ValueError, match="inner=...*this is the state of an optimizer"):
        gdjax.with_slot_dtypes(gdjax.lookahead(gdjax.sgd(0.1)), inner="int8").init(PARAMS)
    with pytest.raises(ValueError, match=r"mask=...\): the slot 'mu' has no part"):
        gdjax.with_slot_dtypes(
            gdjax.flatten(gdjax.adam(0.1)), mu="int8", mask={"w": True, "b": False}
        ).init(PARAMS)


def test_wrong_arguments_and_a_mean_of_squares_to_nearest():
    with pytest.raises(TypeError, match=r"with_slot_dtypes\(mu=...\).*'uint8'.*got 'int16'"):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int16")
    with pytest.raises(ValueError, match=r"with_slot_dtypes\(block=...\)"):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", block=0)
    with pytest.raises(ValueError, match=r"with_slot_dtypes\(scale_dtype=...\) .*float16"):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", scale_dtype="float16")
    with pytest.warns(UserWarning, match="with_slot_dtypes.*nu='bfloat16'.*stops at about half"):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), nu=jnp.bfloat16)
    for dtype in ("uint8", jnp.uint8, STOCHASTIC, "float32", jnp.float8_e5m2):
        gdjax.with_slot_dtypes(gdjax.adam(0.1), nu=dtype)
