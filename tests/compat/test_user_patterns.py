"""Habits of public code that uses optax, each the least that shows it, on `gdjax.compat.optax`."""

import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.compat import optax

PARAMS = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}}
GRADS = {"dense": {"kernel": jnp.array([[0.3, -0.4]]), "bias": jnp.array([2.0])}}
KERNEL = {"dense": {"kernel": True, "bias": False}}
real = pytest.importorskip("optax")  # to compare with; compat itself does not use it


def steps(tx, state=None, n=3, params=PARAMS):
    """Return parameters and state after `n` updates with the same gradients."""
    state = tx.init(params) if state is None else state
    for _ in range(n):
        updates, state = tx.update(GRADS, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


def close(a, b, rtol=2e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7)


# --- the rate belongs to the pair: QDax, learned_optimization, brax ------------------------------


def test_the_pair_of_the_update_has_the_rate():
    """QDax's TD3 and SAC initialize with a rate of 1, and step with one of the state."""
    state = optax.adam(learning_rate=1.0).init(PARAMS)
    updates, _ = optax.adam(learning_rate=3e-4).update(GRADS, state)
    np.testing.assert_allclose(updates["dense"]["kernel"], [[-3e-4, 3e-4]], rtol=1e-4)


def test_rates_of_a_population_are_traced():
    """QDax's PBT: rates in a vmapped state, the optimizer is made in the step."""
    state = optax.adam(learning_rate=1.0).init(PARAMS)
    rates = jnp.array([1e-2, 1e-3])

    @jax.jit
    @jax.vmap
    def step(rate):
        tx = optax.chain(optax.clip_by_global_norm(1e3), optax.adam(rate))
        return tx.update(GRADS, (optax.EmptyState(), state), PARAMS)[0]

    np.testing.assert_allclose(step(rates)["dense"]["bias"][:, 0], -rates, rtol=1e-4)


def test_one_compile_for_all_rates():
    """learned_optimization's population examples make the optimizer of a dict of numbers."""
    traced = []

    @jax.jit
    def step(params, state, numbers):
        traced.append(None)
        updates, state = optax.adam(numbers["learning_rate"], b1=numbers["b1"]).update(
            GRADS, state, params
        )
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optax.adam(1e-3).init(PARAMS)
    for rate in (0.1, 0.01, 0.001):
        params, state = step(params, state, {"learning_rate": rate, "b1": 0.9})
    expected = PARAMS
    theirs = real.adam(1e-3).init(PARAMS)
    for rate in (0.1, 0.01, 0.001):
        updates, theirs = real.adam(rate).update(GRADS, theirs, expected)
        expected = jax.tree.map(jnp.add, expected, updates)
    close(params, expected)
    assert len(traced) == 1


def test_the_rate_is_differentiable():
    """A rate that is a value of an outer optimization, as in hypergradients."""

    def after(rate):
        tx = optax.sgd(rate, momentum=0.9)
        return steps(tx, n=2)[0]["dense"]["bias"][0]

    np.testing.assert_allclose(jax.grad(after)(0.1), -(2.0 + 2.0 * 1.9), rtol=1e-5)


def test_a_resumed_state_takes_the_rate_of_the_new_pair():
    """`TrainState.replace(tx=adam(1e-4))`: fine-tuning goes on with the old moments."""
    train_state = pytest.importorskip("flax.training.train_state")
    state = train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=optax.adam(0.1))
    state = state.apply_gradients(grads=GRADS)
    before = state.params
    state = state.replace(tx=optax.adam(1e-4)).apply_gradients(grads=GRADS)
    change = before["dense"]["bias"][0] - state.params["dense"]["bias"][0]
    np.testing.assert_allclose(change, 1e-4, rtol=1e-2)
    assert int(state.opt_state[0].count) == 2


def test_the_rate_in_the_state():
    """brax's PPO and flowjax's users write to `hyperparams`; scenic's LOCA has a schedule there."""
    tx = optax.chain(optax.clip(1e3), optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    state = tx.init(PARAMS)
    state[1].hyperparams["learning_rate"] = jnp.asarray(0.01)
    updates, state = tx.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(updates["dense"]["bias"], [-0.01], rtol=1e-4)
    injected = state[1]._replace(hyperparams={**state[1].hyperparams, "learning_rate": 1.0})
    updates, _ = tx.update(GRADS, (state[0], injected), PARAMS)
    np.testing.assert_allclose(updates["dense"]["bias"], [-1.0], rtol=1e-3)


# --- states are read by class and field: big_vision, scenic --------------------------------------


def find_states(state, kind):
    """Return the parts of a state of a class, as big_vision and scenic do."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def recipe(o):
    """Return a chain of masked parts, as big_vision makes one of a config."""
    everything = jax.tree.map(lambda _: True, PARAMS)
    nothing = jax.tree.map(operator.not_, everything)
    return o.chain(
        o.masked(o.clip_by_global_norm(1.0), everything),
        o.masked(o.scale_by_adam(b2=0.95), everything),
        o.scale(0.1),
        o.masked(o.scale(2.0), KERNEL),
        o.add_decayed_weights(1e-2, KERNEL),
        o.masked(o.scale_by_schedule(o.cosine_decay_schedule(1.0, 10)), everything),
        o.masked(o.set_to_zero(), nothing),
        o.scale(-1.0),
    )


def test_states_are_found_by_class():
    params, state = steps(recipe(optax))
    (adam,) = find_states(state, optax.ScaleByAdamState)
    assert int(adam.count) == 3 and adam.mu["dense"]["kernel"].shape == (1, 2)
    assert {int(s.count) for s in find_states(state, optax.ScaleByScheduleState)} == {3}
    expected, theirs = steps(recipe(real))
    masked = len(find_states(state, optax.MaskedState))
    assert masked == len(find_states(theirs, real.MaskedState)) == 6
    close(params, expected)


def test_frozen_parts_are_masked_nodes():
    tx = optax.masked(optax.scale_by_adam(), KERNEL)
    state = tx.init(PARAMS)
    assert isinstance(state.inner_state.mu["dense"]["bias"], optax.MaskedNode)
    shown = jax.tree.map(
        lambda node: "frozen" if isinstance(node, optax.MaskedNode) else node.shape,
        state.inner_state.mu,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    assert shown == {"dense": {"kernel": (1, 2), "bias": "frozen"}}


def test_the_count_of_a_jitted_step():
    tx = optax.adamw(optax.linear_schedule(0.1, 0.0, 10))
    _, state = jax.jit(lambda: steps(tx))()
    assert int(find_states(state, optax.ScaleByScheduleState)[0].count) == 3
    assert int(optax.tree_utils.tree_get(state[0], "count")) == 3


def test_moments_are_replaced():
    """A reset of the moments, as in lottery tickets and continual learning."""
    tx = optax.adam(0.1)
    _, state = steps(tx)
    adam = state[0]._replace(mu=jax.tree.map(jnp.zeros_like, state[0].mu))
    state = optax.tree_utils.tree_set((adam, *state[1:]), count=jnp.zeros((), jnp.int32))
    assert int(state[0].count) == 0 and not np.any(state[0].mu["dense"]["kernel"])


def test_states_are_mapped_beside_the_parameters():
    """EasyDeL and levanter make the shardings of a state from those of the parameters."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    shapes = jax.eval_shape(tx.init, PARAMS)
    marks = jax.tree.map(lambda _: "param", PARAMS)
    specs = optax.tree_map_params(
        tx, lambda _, mark: mark, shapes, marks, transform_non_params=lambda _: "other"
    )
    assert specs[1][0].mu == marks and specs[1][0].count == "other"


def test_own_transforms_with_optax_types():
    """axlearn, scenic and big_vision build pairs with states of their own in optax's chain."""

    def clip_per_example(limit):
        def update(updates, state, params=None):
            del params
            leaves, tree = jax.tree.flatten(updates)
            return jax.tree.unflatten(tree, [jnp.clip(x, -limit, limit) for x in leaves]), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    tx = optax.chain(clip_per_example(0.35), optax.trace(decay=0.9), optax.scale(-0.1))
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["dense"]["kernel"], [[-0.03, 0.035]], rtol=1e-6)
    assert isinstance(state[0], optax.EmptyState) and isinstance(state[1], optax.TraceState)


def test_an_update_function_without_extra_arguments():
    """dm_pix, kfac-jax and others call `tx.update(grads, state)` with pairs of two functions."""
    init, update = optax.chain(optax.clip(1.0), optax.rmsprop(0.1))
    updates, _ = update(GRADS, init(PARAMS))
    expected, _ = (tx := real.chain(real.clip(1.0), real.rmsprop(0.1))).update(
        GRADS, tx.init(PARAMS)
    )
    close(updates, expected)


def test_optimizers_are_chosen_by_name():
    """learned_optimization has `getattr(optax, name)`, big_vision `attrgetter("a.b")(optax)`."""
    for name in ("adam", "adamw", "sgd", "rmsprop", "lion", "adafactor", "lamb", "radam"):
        tx, expected = getattr(optax, name)(1e-2), getattr(real, name)(1e-2)
        close(steps(tx)[0], steps(expected)[0], rtol=1e-4)
    assert operator.attrgetter("contrib.schedule_free_adamw")(optax)


# --- checkpoints of optax -------------------------------------------------------------------------

SAVED = {
    "adamw": lambda o: o.adamw(o.cosine_decay_schedule(0.1, 10), weight_decay=0.01),
    "chain": recipe,
    "accumulated": lambda o: o.MultiSteps(o.lamb(0.1), every_k_schedule=2),
    "injected": lambda o: o.inject_hyperparams(o.rmsprop)(learning_rate=0.1, momentum=0.9),
    "groups": lambda o: o.multi_transform(
        {"a": o.adam(0.1), "b": o.sgd(0.1, momentum=0.9)},
        {"dense": {"kernel": "a", "bias": "b"}},
    ),
    "adafactor": lambda o: o.adafactor(0.1, min_dim_size_to_factor=2),
}
each_saved = pytest.mark.parametrize("name", SAVED)


def leaves_with_names(state):
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


@each_saved
def test_leaves_of_optax_go_on(name):
    """A checkpoint of leaves, in order or by key path, as Orbax, pickle and msgpack have them."""
    theirs, ours = SAVED[name](real), SAVED[name](optax)
    params, state = steps(theirs, n=3)
    saved = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, leaves_with_names(state))))
    mine = ours.init(PARAMS)
    assert leaves_with_names(mine).keys() == saved.keys()
    mine = jax.tree.unflatten(jax.tree.structure(mine), [saved[k] for k in leaves_with_names(mine)])
    expected, _ = steps(theirs, state, 3, params)
    close(steps(ours, mine, 3, params)[0], expected, rtol=1e-4)


@each_saved
def test_bytes_of_flax_go_on(name):
    serialization = pytest.importorskip("flax.serialization")
    theirs, ours = SAVED[name](real), SAVED[name](optax)
    params, state = steps(theirs, n=3)
    mine = serialization.from_bytes(ours.init(PARAMS), serialization.to_bytes(state))
    close(steps(ours, mine, 3, params)[0], steps(theirs, state, 3, params)[0], rtol=1e-4)
    back = serialization.from_bytes(state, serialization.to_bytes(mine))
    close(back, state)


def test_names_may_be_added():
    """big_vision puts `optax.big_vision = ...` on the module and finds optimizers there."""
    optax.house = type("", (), {})()
    try:
        optax.house.sgd = optax.identity
        assert operator.attrgetter("house.sgd")(optax) is optax.identity
    finally:
        del optax.house
