"""What users of `optax.contrib` write works; that steps are optax's is in test_state_layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.compat import optax as compat

# The time of these tests is that of compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PARAMS = {"w": jnp.linspace(-1.0, 1.5, 6).reshape(3, 2), "b": jnp.array([1.0, -2.0])}
CURVATURE = {"w": jnp.linspace(0.5, 2.0, 6).reshape(3, 2), "b": jnp.array([1.0, 3.0])}


def loss(params):
    terms = jax.tree.map(lambda a, x: jnp.sum(a * jnp.abs(x) ** 2), CURVATURE, params)
    return sum(jax.tree.leaves(terms)) + 0.1


def train(tx, params=PARAMS, steps=5, scan=True, with_value=True, **extra):
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        given = {**extra, "value": value} if with_value else extra
        updates, state = tx.update(grads, state, params, **given)
        return (compat.apply_updates(params, updates), state), value

    carry = params, tx.init(params)
    if scan:
        return jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])(carry)
    step = jit(lambda carry, step=step: step(carry, None)[0])
    for _ in range(steps):
        carry = step(carry)
    return carry


def paths(state):
    """Return path -> leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def sam(lib, **options):
    adversary = lib.chain(lib.contrib.normalize(), lib.adam(0.1))
    return lib.contrib.sam(lib.sgd(0.1), adversary, **options)


def test_what_is_wrong_in_optax_is_that_of_gdjax():
    for name, options in {
        "acprop": dict(weight_decay=0.1),
        "sophia": dict(weight_decay=0.1, gamma=1.0),
    }.items():
        pair = getattr(compat.contrib, name)(0.01, **options)
        native = getattr(gdjax, name)(0.01, **options)
        ours, expected = (train(tx, steps=3, obj_fn=loss)[0] for tx in (pair, native))
        for key in PARAMS:
            np.testing.assert_allclose(ours[key], expected[key], rtol=1e-5)


def test_sam_in_opaque_mode():
    def gradient(params, i):
        return jax.grad(loss)(params)

    pairs = [sam(lib, sync_period=2, opaque_mode=True) for lib in (compat, optax)]
    ours, theirs = (
        train(tx, steps=3, scan=scan, with_value=False, grad_fn=gradient)
        for tx, scan in zip(pairs, (True, False), strict=True)
    )
    np.testing.assert_allclose(ours[0]["w"], theirs[0]["w"], rtol=1e-4, atol=1e-6)
    assert ours[1].cache is None and list(paths(ours[1])) == list(paths(theirs[1]))
    with pytest.raises(ValueError, match="grad_fn"):
        pairs[0].update(PARAMS, pairs[0].init(PARAMS), PARAMS)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = compat.contrib.normalize().update(still, compat.contrib.NormalizeState())
    assert not updates["w"].any(), "NaN in optax"


def test_averages_are_found_at_any_nesting():
    averaged = compat.contrib.schedule_free_sgd(0.1)
    labels = {"w": "averaged", "b": "still"}
    grouped = compat.partition({"averaged": averaged, "still": compat.set_to_zero()}, labels)
    chained = compat.chain(compat.clip(100.0), averaged)
    expected = compat.contrib.schedule_free_eval_params(*train(averaged, scan=False)[::-1])
    for tx, same in ((averaged, "wb"), (chained, "wb"), (grouped, "w")):
        params, state = train(tx, scan=False)
        found = compat.contrib.schedule_free_eval_params(state, params)
        for key in same:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-5)
            assert not np.allclose(found[key], params[key])
        for key in set(PARAMS) - set(same):
            np.testing.assert_array_equal(found[key], params[key])
    with pytest.raises(ValueError, match="must hold a ScheduleFreeState"):
        compat.contrib.schedule_free_eval_params(compat.sgd(0.1).init(PARAMS), PARAMS)


def test_numbers_are_those_of_the_pair():
    grads = jax.grad(loss)(PARAMS)
    for make, extra in (
        (compat.contrib.momo, dict(value=1e3)),
        (compat.contrib.schedule_free_sgd, {}),
    ):
        state = make(1.0).init(PARAMS)
        small, _ = make(1e-4).update(grads, state, PARAMS, **extra)
        expected, _ = make(1e-4).update(grads, make(1e-4).init(PARAMS), PARAMS, **extra)
        np.testing.assert_allclose(small["w"], expected["w"], rtol=1e-5)
    tx = compat.contrib.scale_by_muon(ns_steps=2)
    state, grads = tx.init(PARAMS["w"]), grads["w"]
    assert state.ns_coeffs.shape == (3,)
    updates, new = tx.update(grads, state._replace(ns_coeffs=jnp.array([1.0, 0.0, 0.0])))
    np.testing.assert_allclose(updates, grads / jnp.linalg.norm(grads), rtol=1e-5)
    np.testing.assert_array_equal(new.ns_coeffs, [1.0, 0.0, 0.0])  # they belong to the state


def test_mechanize_starts_at_the_parameters_of_the_first_update():
    tx = compat.contrib.mechanize(compat.adam(1.0), weight_decay=0.1, s_init=1e-3)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    _, state = tx.update(PARAMS, tx.init(zeros), PARAMS)
    np.testing.assert_array_equal(state.x0["w"], PARAMS["w"])
    _, later = tx.update(PARAMS, state, zeros)
    np.testing.assert_array_equal(later.x0["w"], PARAMS["w"])


def test_low_precision_keeps_its_dtypes_and_moves():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    for tx in (compat.contrib.prodigy(estim_lr0=0.01), compat.contrib.schedule_free_adamw(0.1)):
        new, _ = train(tx, params, steps=3)  # a scan: the state keeps its avals
        assert new["w"].dtype == jnp.bfloat16 and not jnp.array_equal(new["w"], params["w"])


def test_muon_masks_what_adam_has_and_maps_over_parameters():
    numbers = {"w": compat.contrib.MuonDimensionNumbers(1, 0), "b": None}
    tx = compat.contrib.muon(0.05, muon_weight_dimension_numbers=lambda params: numbers)
    state = tx.init(PARAMS)
    momentum = state.inner_states["muon"].inner_state[0].mu
    assert isinstance(momentum["b"], compat.MaskedNode)
    filled = compat.tree_utils.tree_map_params(tx, lambda x: x + 1, state)
    assert (filled.inner_states["muon"].inner_state[0].mu["w"] == 1).all()
    assert (filled.inner_states["adam"].inner_state[0].mu["b"] == 1).all()
    conv = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
    numbers = compat.contrib.MuonDimensionNumbers([0, 1], 2)
    whole = compat.contrib.muon(0.1, muon_weight_dimension_numbers=numbers)
    flat = compat.contrib.muon(0.1)
    updates = whole.update(conv, whole.init(conv), conv)[0]
    expected = flat.update(conv.reshape(6, 4), flat.init(conv.reshape(6, 4)), conv.reshape(6, 4))[0]
    np.testing.assert_allclose(updates.reshape(6, 4), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="must name two axes"):
        direction = compat.contrib.scale_by_muon()
        direction.update(conv, direction.init(conv))


def test_privacy_and_its_deprecated_seed():
    make = compat.contrib.differentially_private_aggregate
    examples = jnp.array([[3.0, 4.0], [0.0, 0.5]])
    with pytest.warns(DeprecationWarning, match="use key"):
        seeded = make(1.0, 0.5, seed=3)
    theirs = optax.contrib.differentially_private_aggregate(1.0, 0.5, key=3)
    expected = theirs.update(examples, theirs.init(jnp.ones(2)))[0]
    state = seeded.init(jnp.ones(2))
    np.testing.assert_allclose(seeded.update(examples, state)[0], expected, rtol=1e-5)
    assert jnp.issubdtype(state.rng_key.dtype, jax.dtypes.prng_key)
    with pytest.warns(UserWarning, match="without key"):
        make(1.0, 0.5)
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="not both"):
        make(1.0, 0.5, key=1, seed=2)
    private = compat.contrib.dpsgd(0.1, 1.0, 0.0, seed=0, momentum=0.9)
    updates, state = private.update(examples, private.init(jnp.ones(2)))
    np.testing.assert_allclose(updates, [-0.03, -0.065], rtol=1e-5)
    assert isinstance(state[1], compat.TraceState)


def test_complex_parameters_as_two_real_ones():
    params, grads = jnp.array([1.0 + 1.0j, -2.0j]), jnp.array([3.0 - 4.0j, 1.0 + 0.5j])
    ours, theirs = (lib.contrib.split_real_and_imaginary(lib.adam(0.1)) for lib in (compat, optax))
    state, their_state = ours.init(params), theirs.init(params)
    updates, state = ours.update(grads, state, params)
    expected, their_state = theirs.update(grads, their_state, params)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)
    assert list(paths(state)) == list(paths(their_state))


def test_sophia_prints_its_win_rate(capfd):
    tx = compat.contrib.sophia(0.1, gamma=1e3, verbose=True, print_win_rate_every_n_steps=2)
    train(tx, steps=3, obj_fn=loss)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("unclipped elements 1.0") == 1


@pytest.mark.parametrize(
    "error, match, call",
    [
        (ValueError, "obj_fn", lambda c: _update(c.hutchinson_estimator_diag_hessian())),
        (
            ValueError,
            "parameters",
            lambda c: c.dadapt_adamw().update(1.0, c.dadapt_adamw().init(1.0)),
        ),
        (ValueError, "value", lambda c: _update(c.momo(), value=None)),
        (TypeError, "rank", lambda c: c.scale_by_galore(rank=2.0)),
        (ValueError, "rank", lambda c: c.scale_by_galore(rank=0)),
        (ValueError, "factor", lambda c: c.reduce_on_plateau(factor=1.0)),
        (ValueError, "sync_period", lambda c: c.sam(compat.sgd(1), compat.sgd(1), sync_period=0)),
        (ValueError, "ns_coeffs", lambda c: c.muon(0.1, "typo")),
        (ValueError, "init_step", lambda c: c.dog(init_step=("typo", 1.0)).init(PARAMS)),
    ],
)
def test_errors_are_of_optaxs_types(error, match, call):
    with pytest.raises(error, match=match):
        call(compat.contrib)


def _update(tx, **extra):
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS, **extra)


def test_arguments_that_came_after_optax_0_2_8():
    """Their computations are those of what optax 0.2.8 can already do."""
    params, grads = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}, {"a": jnp.ones(2), "b": 1.0}
    mask = {"a": True, "b": False}

    def first(tx):
        return tx.update(grads, tx.init(params), params)[0]

    decayed = compat.adabelief(0.1, weight_decay=0.5, weight_decay_mask=mask)
    theirs = optax.chain(
        optax.scale_by_belief(),
        optax.add_decayed_weights(0.5, mask),
        optax.scale_by_learning_rate(0.1),
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, first(decayed), first(theirs))

    without, all_of_it = (first(optax.contrib.prodigy(weight_decay=w)) for w in (0.0, 0.5))
    for of_leaves in (mask, lambda params: mask):
        found = first(gdjax.prodigy(weight_decay=0.5, mask=of_leaves))
        np.testing.assert_allclose(found["a"], all_of_it["a"], rtol=1e-5)
        np.testing.assert_allclose(found["b"], without["b"], rtol=1e-5)

    examples = jnp.array([[3.0, 4.0], [0.0, 0.5]])
    by_name = [compat.contrib.dpsgd(0.1, 1.0, 0.5, **{name: 3}) for name in ("seed", "key")]
    old, new = (tx.update(examples, tx.init(jnp.ones(2)))[0] for tx in by_name)
    np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="dpsgd takes key=... or seed=..., its old name, not both"):
        compat.contrib.dpsgd(0.1, 1.0, 0.5, 3, key=4)
