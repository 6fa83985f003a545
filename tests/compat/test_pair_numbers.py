"""In optax the numbers belong to the pair: it is the one that updates that decides."""

import contextlib
import functools

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from gdjax.compat import optax as compat

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 0.3], [4.0, -1.0]]), "b": jnp.array([0.5, -0.25])}
GRADS = [
    jax.tree.map(lambda x, t=t: 0.5 * x + 0.1 * (t + 1) * jnp.cos(3 * x), PARAMS) for t in range(4)
]
MOMENTS = (dict(b1=0.9, b2=0.999, eps=1e-8), dict(b1=0.5, b2=0.7, eps=1e-3), "b1")
ROOTS = (dict(decay=0.9, initial_scale=0.5), dict(decay=0.6, eps=0.1, initial_scale=2.0), "decay")
CORRECTED = tuple(dict(**numbers, bias_correction=True, eps_in_sqrt=False) for numbers in ROOTS[:2])
LEARNING_RATE = (dict(learning_rate=1.0), dict(learning_rate=3e-4), "learning_rate")

# pair -> the numbers of the one that makes the state, of the one that updates, one to trace
PAIRS = {
    "scale": (dict(step_size=1.0), dict(step_size=-0.3), "step_size"),
    "scale_by_learning_rate": LEARNING_RATE,
    "scale_by_param_block_norm": (dict(min_scale=1e-3), dict(min_scale=9.0), "min_scale"),
    "scale_by_param_block_rms": (dict(min_scale=1e-3), dict(min_scale=9.0), "min_scale"),
    "scale_by_trust_ratio": ({}, dict(trust_coefficient=0.3, eps=0.1), "trust_coefficient"),
    "scale_by_polyak": ({}, dict(f_min=0.1, max_learning_rate=5.0, eps=0.2), "f_min"),
    "scale_by_polyak without a limit": (
        dict(max_learning_rate=0.1),
        dict(max_learning_rate=float("inf"), f_min=0.1),
        "f_min",
    ),
    "normalize_by_update_norm": ({}, dict(scale_factor=-2.0, eps=0.5), "scale_factor"),
    "apply_every": (dict(k=3), dict(k=2), None),
    "scale_by_adam": MOMENTS,
    "scale_by_amsgrad": MOMENTS,
    "scale_by_adamax": MOMENTS,
    "scale_by_yogi": (
        dict(b1=0.9, initial_accumulator_value=1e-3),
        dict(b1=0.5, b2=0.7, initial_accumulator_value=0.5),
        "b1",
    ),
    "scale_by_radam": (dict(b2=0.99), dict(b1=0.5, b2=0.98), "b1"),
    "scale_by_belief": MOMENTS,
    "scale_by_adan": (dict(b1=0.98), dict(b1=0.5, b2=0.5, b3=0.7), "b1"),
    "scale_by_novograd": ({}, dict(b1=0.5, b2=0.7, weight_decay=0.3), "weight_decay"),
    "scale_by_lion": ({}, dict(b1=0.3, b2=0.6, mode="smooth", smooth_beta=2.0), "smooth_beta"),
    "scale_by_lion of the last gradient": (
        dict(b2=0.9),
        dict(b1=0.3, b2=0, mode="smooth", smooth_beta=2.0),
        "b1",
    ),
    "scale_by_rss": (
        dict(initial_accumulator_value=0.5),
        dict(initial_accumulator_value=3.0, eps=0.2),
        "eps",
    ),
    "scale_by_rms": ROOTS,
    "scale_by_rms with bias correction": (*CORRECTED, "decay"),
    "scale_by_stddev": ROOTS,
    "scale_by_stddev with bias correction": (*CORRECTED, "decay"),
    "scale_by_adadelta": (dict(rho=0.9), dict(rho=0.5, eps=0.1), "rho"),
    "scale_by_sm3": ({}, dict(b1=0.5, b2=0.8, eps=0.1), "b1"),
    "scale_by_rprop": (dict(learning_rate=0.1), dict(learning_rate=9.0, eta_plus=1.5), "eta_plus"),
    "scale_by_optimistic_gradient": ({}, dict(alpha=0.5, beta=0.3), "beta"),
    "scale_by_distance_over_gradients": (
        dict(reps_rel=0.5),
        dict(reps_rel=9.0, eps=0.1, global_scale=-1.0),
        "global_scale",
    ),
    "scale_by_factored_rms": (
        dict(min_dim_size_to_factor=2),
        dict(min_dim_size_to_factor=2, decay_rate=0.5, epsilon=0.1),
        "decay_rate",
    ),
}
# The time of these tests is that of compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
ALL = pytest.mark.parametrize("name", PAIRS)
# one of each way in which states are translated
KINDS = """
    scale scale_by_polyak scale_by_trust_ratio apply_every scale_by_adam scale_by_yogi scale_by_rss
    scale_by_sm3 scale_by_rprop scale_by_optimistic_gradient scale_by_distance_over_gradients
    scale_by_factored_rms
""".split()
SOME = pytest.mark.parametrize("name", [*KINDS, "scale_by_rms with bias correction"])
CORRECTED_HERE = {"scale_by_adan", "scale_by_rprop"}  # optax computes something else, by mistake


def pair(lib, name, which, **more):
    numbers = PAIRS[name][which] if isinstance(which, int) else which
    return getattr(lib, name.split()[0])(**{**numbers, **more})


def extra(name):
    return {"value": jnp.float32(2.0)} if name.startswith("scale_by_polyak") else {}


def steps(name, make, use, params=PARAMS, grads=GRADS):
    state, out = make.init(params), []
    for g in grads:
        updates, state = use.update(g, state, params, **extra(name))
        out.append(updates)
    return out, state


def assert_close(ours, theirs, rtol=2e-4):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


@contextlib.contextmanager
def counted_compiles():
    """Count the programs that XLA compiles for this process while the block runs."""
    found, running = [], [True]

    def note(event, duration, **_):
        if running[0] and event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        running[0] = False


def test_the_count_sees_compiles():
    with counted_compiles() as compiles:
        jax.jit(lambda x: x * 1.2345)(1.0)
    assert len(compiles) == 1


def test_scale_by_an_array():
    for factor in (jnp.array([[2.0], [-1.0]]), np.arange(3.0, dtype=np.float32)[None]):
        grads = {"w": jnp.arange(6.0).reshape(2, 3), "none": None}
        ours, theirs = (lib.scale(factor) for lib in (compat, optax))
        assert_close(
            jax.jit(ours.update)(grads, ours.init(grads))[0],
            theirs.update(grads, theirs.init(grads))[0],
        )


@ALL
def test_numbers_of_the_pair_that_updates_count(name):
    """optax is the oracle: one pair makes the state, another one updates."""
    ours, state = steps(name, pair(compat, name, 0), pair(compat, name, 1))
    before, _ = steps(name, pair(compat, name, 0), pair(compat, name, 0))
    differences = [np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (ours, before)))]
    assert max(differences) > 1e-3, "this test needs numbers that make a difference"
    with jax.numpy_rank_promotion("allow"):  # optax's sums of squares have shape (1,)
        theirs, expected = steps(name, pair(optax, name, 0), pair(optax, name, 1))
    assert type(state).__name__ == type(expected).__name__
    assert state._fields == expected._fields
    if name not in CORRECTED_HERE:
        assert_close(ours, theirs)
        fields = {k: getattr(state, k) for k in state._fields}
        for k, value in fields.items():
            for x, y in zip(*map(jax.tree.leaves, (value, getattr(expected, k))), strict=True):
                np.testing.assert_allclose(x, np.reshape(y, np.shape(x)), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd", "adamw"])
def test_the_rate_of_the_optimizer_that_updates_counts(name):
    """Programs initialize once, and make the optimizer with another rate in each step."""
    make = getattr(compat, name)
    s = make(1.0).init(PARAMS)
    updates, _ = make(3e-4).update(GRADS[0], s, PARAMS)
    theirs = getattr(optax, name)
    expected, _ = theirs(3e-4).update(GRADS[0], theirs(1.0).init(PARAMS), PARAMS)
    assert_close(updates, expected)
    assert abs(updates["w"]).max() < 1e-3

    @jit
    def step(rate, s):
        return make(rate).update(GRADS[0], s, PARAMS)

    traced, _ = step(3e-4, s)
    assert_close(traced, updates)
    with counted_compiles() as compiles:
        longer, _ = step(3e-3, s)
    assert not compiles
    assert_close(longer, jax.tree.map(lambda x: 10 * x, updates))


@ALL
def test_another_number_needs_no_compile(name):
    _, second, key = PAIRS[name]
    states = [pair(compat, name, second).init(PARAMS)]
    for _ in range(2):
        updates, state = pair(compat, name, second).update(
            GRADS[0], states[-1], PARAMS, **extra(name)
        )
        states.append(state)
    other = dict(second, **{key: 0.75 * second[key]}) if key else dict(second, k=5)
    fresh = pair(compat, name, other)
    with counted_compiles() as compiles:
        for state in states:
            new, _ = fresh.update(GRADS[0], state, PARAMS, **extra(name))
    assert not compiles


@pytest.mark.parametrize("name", [name for name in KINDS if PAIRS[name][2]])
def test_traced_numbers(name):
    _, second, key = PAIRS[name]

    def total(number):
        tx = pair(compat, name, second, **{key: number})
        out, _ = steps(name, tx, tx, grads=GRADS[:2])
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(out))

    numbers = np.float32([second[key], 0.8 * second[key]])
    values, slopes = jit(jax.vmap(jax.value_and_grad(total)))(numbers)
    assert np.isfinite(slopes).all()
    assert np.any(slopes != 0)
    np.testing.assert_allclose(values[0], total(second[key]), rtol=1e-4)


@SOME
def test_states_are_donated_and_carried(name):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = pair(compat, name, 0)

    def run(state):
        def step(state, _):
            updates, state = tx.update(params, state, params, **extra(name))
            return state, updates

        return jax.lax.scan(step, state, length=2)

    run = jit(run, donate_argnums=0)
    kinds = [jax.tree.map(jax.typeof, tx.init(params))]
    for _ in range(2):  # the pair keeps nothing that was donated
        state, updates = run(tx.init(params))
        kinds.append(jax.tree.map(jax.typeof, state))
    assert kinds[0] == kinds[1] == kinds[2]
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(updates))
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state)), (
        "states are float32 at least"
    )


@pytest.mark.parametrize("name", ["scale", "scale_by_adam", "scale_by_rms", "scale_by_yogi"])
def test_one_pair_with_and_without_x64(name):
    tx = pair(compat, name, 1)
    narrow, _ = steps(name, tx, tx)
    with enable_x64():
        params, *grads = jax.tree.map(lambda x: np.asarray(x, np.float64), [PARAMS, *GRADS])
        wide, state = steps(name, tx, tx, params, grads)
        theirs = pair(optax, name, 1)
        expected, _ = steps(name, theirs, theirs, params, grads)
        assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(wide))
        for x, y in zip(*map(jax.tree.leaves, (wide, expected)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)
    again, _ = steps(name, tx, tx)
    assert_close(narrow, again, rtol=0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(again))


# --- schedules ------------------------------------------------------------------------------------


def test_another_schedule_needs_no_compile():
    state = compat.scale_by_schedule(lambda t: 0.5).init(PARAMS)
    compat.scale_by_schedule(lambda t: 0.5).update(PARAMS, state)
    with counted_compiles() as compiles:
        for factor in (0.25, 2.0):
            tx = compat.scale_by_schedule(lambda t, factor=factor: factor)
            updates, state = tx.update(PARAMS, state)
            assert_close(updates, jax.tree.map(lambda x, by=factor: by * x, PARAMS))
    assert not compiles and state.count == 2


def test_schedules_keep_their_digits_in_low_precision():
    grads = jnp.full(3, 3.0, jnp.bfloat16)
    tx = compat.scale_by_learning_rate(lambda t: 1 / (3.0 + t))
    updates, state = tx.update(grads, tx.init(grads))
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(updates, np.float32), -1.0)  # optax: 3 * 0.334
    updates, _ = jax.jit(tx.update)(grads, state)
    np.testing.assert_array_equal(np.asarray(updates, np.float32), -0.75)


def test_a_schedule_where_nothing_counts_is_an_error():
    tx = compat.scale(lambda t: 0.1)
    with pytest.raises(TypeError, match="step_size=... is a schedule"):
        tx.update(PARAMS, tx.init(PARAMS))


# --- leaves ---------------------------------------------------------------------------------------


@SOME
def test_updates_may_be_none_and_leaves_integers(name):
    tx = pair(compat, name, 1)
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3, 4]), "c": jnp.ones((2, 2))}
    grads = {"a": jnp.array([0.5, 1.0]), "b": jnp.array([1, -1]), "c": None}
    state = tx.init(params)
    updates, new = tx.update(grads, state, params, **extra(name))
    assert updates["c"] is None and updates["b"].dtype == jnp.float32
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
    floats = {"a": params["a"], "b": params["b"].astype(jnp.float32)}
    expected, _ = tx.update(
        {"a": grads["a"], "b": grads["b"].astype(jnp.float32)},
        tx.init(floats),
        floats,
        **extra(name),
    )
    assert_close({k: updates[k] for k in "ab"}, expected, rtol=1e-6)
    fields = (tree for tree in new if isinstance(tree, dict))
    olds = (tree for tree in state if isinstance(tree, dict))
    for tree, old in zip(fields, olds, strict=True):
        assert_close(tree["c"], old["c"], rtol=0)


def test_trees_with_functions():
    model = {"w": jnp.ones(2), "activation": jax.nn.relu}
    grads = {"w": jnp.ones(2), "activation": None}
    for tx in (
        compat.scale_by_learning_rate(0.5),
        compat.scale_by_schedule(lambda t: -0.5),
        compat.chain(compat.scale_by_sign(), compat.scale(-0.5)),
        compat.chain(compat.scale_by_trust_ratio(), compat.scale_by_learning_rate(0.5)),
    ):
        updates, _ = tx.update(grads, tx.init(model), model)
        assert updates["activation"] is None
        np.testing.assert_allclose(updates["w"], -0.5, rtol=1e-6)


def test_lookahead_is_not_hidden_by_its_file():
    compat.LookaheadParams  # noqa: B018
    assert compat.lookahead is compat.__getattr__("lookahead")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        compat.lookahead(compat.scale(-1.0), 0, 0.5)


def test_lbfgs_steps_as_in_optax():
    def fun(x):
        return jnp.sum(jnp.array([1.0, 5.0, 20.0]) * x["a"] ** 2) + jnp.sum(jnp.cosh(x["b"] - 1))

    def run(lib, scaled):
        tx = lib.chain(lib.scale_by_lbfgs(3, scaled), lib.scale(-0.05))
        x = {"a": jnp.array([1.0, -1.0, 0.5]), "b": jnp.array([[0.3], [2.0]])}
        state, step = tx.init(x), jit(tx.update)
        for _ in range(7):
            updates, state = step(jax.grad(fun)(x), state, x)
            x = lib.apply_updates(x, updates)
        return x, state[0]

    for scaled in (True, False):
        (x, state), (y, expected) = run(compat, scaled), run(optax, scaled)
        assert_close(x, y)
        assert type(state).__name__ == type(expected).__name__
        for name in state._fields:
            assert_close(getattr(state, name), getattr(expected, name), rtol=1e-3)
