"""The newer relatives of Adam: parity with optax.contrib, shapes, keys, and what they refuse."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from optax import contrib
from oracles import ademamix as ademamix_oracles
from parity import MASK, assert_same, falling

import gdjax

# name -> arguments; the factory of that name is called with them in both libraries.
SAME = {
    "adopt": [dict(learning_rate=falling), dict(learning_rate=0.05, eps=0.3, nesterov=True)],
    "scale_by_adopt": [dict(use_clipping=False, b2=0.9), dict(clip_value_fn=lambda t: 0.3 * t)],
    "ademamix": [
        dict(learning_rate=0.05),
        dict(learning_rate=falling, b3=lambda t: 0.9 + 0.01 * t, alpha=lambda t: 1.0 * t, b1=0.8),
        dict(learning_rate=0.05, b3=0.9, weight_decay=0.3, mask=MASK, eps_root=1e-6),
    ],
    "scale_by_ademamix": [dict(b3=0.9)],
    "simplified_ademamix": [
        dict(learning_rate=falling),
        dict(learning_rate=0.01, alpha=lambda t: 1.0 + t, b1=0.8, weight_decay=0.3, mask=MASK),
    ],
    "scale_by_simplified_ademamix": [dict(alpha=3.0)],
    "madgrad": [dict(learning_rate=falling), dict(learning_rate=0.05, momentum=0.0, eps=1e-2)],
    "scale_by_madgrad": [dict(learning_rate=0.05, momentum=0.5)],
}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(n, k) for n, rows in SAME.items() for k in rows],
    ids=lambda x: x if isinstance(x, str) else ",".join(x),
)
def test_same_as_optax(name, kwargs):
    # optax rounds 1 - b2 and 1 - b2**t apart: steps of length 1 differ by 1e-5 where b2 is 0.999
    rtol = 1e-4 if name.startswith("scale_by") else 1e-5
    assert_same(getattr(gdjax, name)(**kwargs), getattr(contrib, name)(**kwargs), rtol)


def test_madgrad_with_l2_decay_is_optaxs():
    kwargs = dict(learning_rate=0.05, weight_decay=0.3)
    assert_same(gdjax.madgrad(**kwargs), contrib.madgrad(**kwargs))


def test_galore_on_the_larger_side_is_optaxs_until_the_basis_is_renewed():
    """Later the signs of the singular vectors matter, which optax leaves to the SVD."""
    kwargs = dict(learning_rate=0.05, rank=2, scale=0.5, weight_decay=0.1, mask=MASK)
    ours = dict(
        weight_dimension_numbers=gdjax.by_path(
            {"kernel": gdjax.GaLoreDimensionNumbers((0, 1, 2), 3)}
            | {"tall|wide": gdjax.GaLoreDimensionNumbers(), ".*": None}
        )
    )
    matrix = contrib.GaLoreDimensionNumbers()
    kernel = contrib.GaLoreDimensionNumbers((0, 1, 2), 3)
    theirs = {k: None for k in MASK} | dict(tall=matrix, wide=matrix, kernel=kernel)
    theirs = dict(weight_dimension_numbers=theirs)
    assert_same(gdjax.galore(**kwargs, **ours, side="larger"), contrib.galore(**kwargs, **theirs))


NAMES = [*SAME, "acprop", "scale_by_acprop", "galore", "scale_by_galore", "sophia"]
LEFT_OUT = {
    "clip_value_fn",  # optax's is a lambda
    "hessian_diagonal_fn",  # None here
    "verbose",  # printing is not an optimizer's business
    "print_win_rate_every_n_steps",
}


@pytest.mark.parametrize("name", NAMES)
def test_same_defaults_as_optax(name):
    ours = inspect.signature(getattr(gdjax, name)).parameters
    for key, parameter in inspect.signature(getattr(contrib, name)).parameters.items():
        if key not in LEFT_OUT:
            assert ours[key].default == parameter.default, key
            assert ours[key].kind == parameter.kind, key


def test_acprop_is_optaxs_but_for_the_mean_that_the_spread_is_about():
    """|g - m_t| = b1 |g - m_{t-1}|, so optax's direction is b1 times ours after the first step."""
    b1 = 0.8
    ours, theirs = gdjax.scale_by_acprop(b1=b1), contrib.scale_by_acprop(b1=b1)
    grads = [jnp.asarray(problems.gradients(problems.parameters(), t)["tall"]) for t in (1, 2, 3)]
    state, their_state = ours.init(grads[0]), theirs.init(grads[0])
    for t, g in enumerate(grads):
        mine, state = ours.update(g, state)
        other, their_state = theirs.update(g, their_state)
        np.testing.assert_allclose((b1 if t else 1) * mine, other, rtol=1e-5)


def test_sophia_is_optaxs_one_step_earlier():
    """With a constant curvature and b1 = 0, optax's step 1 + t is our step t."""

    def loss(x):
        return jnp.sum(jnp.arange(1.0, 6.0) * x**2)

    kwargs = dict(learning_rate=1.0, b1=0.0, b2=0.7, gamma=0.6, weight_decay=0.0)
    ours, theirs = (f(**kwargs, update_interval=1) for f in (gdjax.sophia, contrib.sophia))
    params = jnp.ones(5)
    step, their_step = (
        jax.jit(lambda g, s, o=o: o.update(g, s, params, obj_fn=loss)) for o in (ours, theirs)
    )
    grads = [jnp.asarray(problems.gradients(problems.parameters(), t)["vector"]) for t in range(5)]
    state = ours.init(params)
    first, their_state = their_step(grads[0], theirs.init(params))
    np.testing.assert_array_equal(first, -jnp.sign(grads[0]))
    for g in grads:
        mine, state = step(g, state)
        other, their_state = their_step(g, their_state)
        np.testing.assert_allclose(mine, other, rtol=1e-5)
        assert float(jnp.abs(mine).min()) < 1  # not all are clipped


def coupled(params):
    """A function whose Hessian has entries between and within the leaves."""
    x = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return jnp.sum(jnp.sin(x[:-1] * x[1:])) + jnp.sum(x) ** 3


def test_hutchinson_is_optaxs_draw_for_draw():
    params = {"a": jnp.array([0.3, -0.7]), "b": jnp.array([[1.1, 0.2, 0.4]])}
    ours = gdjax.hutchinson_estimator_diag_hessian()
    theirs = contrib.hutchinson_estimator_diag_hessian()
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(2):
        mine, state = ours.update(params, state, params, obj_fn=coupled)
        other, their_state = theirs.update(params, their_state, params, obj_fn=coupled)
        for k in params:
            np.testing.assert_allclose(mine[k], other[k], rtol=1e-5)


@pytest.mark.slow
def test_hutchinson_is_the_diagonal_on_average():
    params = jnp.array([0.3, -0.7, 1.1])

    @jax.vmap
    def estimate(seed):
        init, update = gdjax.hutchinson_estimator_diag_hessian(seed)
        return update(params, init(params), params, value_fn=coupled)[0]

    exact = jnp.diag(jax.hessian(coupled)(params))
    draws = estimate(jnp.arange(4096))
    error = draws.std(0) / 64
    assert float(error.min()) > 0.01  # it is an estimate
    np.testing.assert_array_less(jnp.abs(draws.mean(0) - exact), 4 * error)


def test_gauss_newton_bartlett_by_hand():
    """The gradient of a loss whose labels the key draws, squared, times the batch size."""

    def sampled(params, key):
        return jnp.sum(params["w"] * jax.random.normal(key, (3,)))

    params = {"w": jnp.ones(3)}
    init, update = gdjax.gauss_newton_bartlett_diag_hessian(7)
    diagonal, state = update(params, init(params), params, sampled_obj_fn=sampled, batch_size=5)
    key, sample = jax.random.split(jax.random.key(7))
    np.testing.assert_allclose(diagonal["w"], 5 * jax.random.normal(sample, (3,)) ** 2, rtol=1e-6)
    assert state.slots.key == key


@pytest.mark.parametrize("factory", [gdjax.sophia, gdjax.adahessian])
def test_a_users_own_estimate_and_its_extras(factory):
    """Here the Fisher diagonal, handed in ready."""
    fisher = optax.GradientTransformationExtraArgs(
        lambda params: (), lambda g, s, params=None, *, diagonal, **_: (diagonal, s)
    )
    opt = factory(0.1, b1=0.0, b2=0.0, hessian_diagonal_fn=fisher, weight_decay=None)
    params = jnp.zeros(2)
    grads, diagonal = jnp.array([0.02, 0.01]), jnp.array([4.0, 8.0])
    updates, _ = opt.update(grads, opt.init(params), params, diagonal=diagonal)
    expected = {"sophia": [-0.05, -0.0125], "adahessian": [-5e-4, -1.25e-4]}[factory.__name__]
    np.testing.assert_allclose(updates, expected, rtol=1e-3)


@pytest.mark.parametrize("factory", [gdjax.sophia, gdjax.adahessian])
def test_the_loss_sees_the_parameters_in_their_own_dtype(factory):
    seen = []

    def loss(params):
        seen.append(params.dtype)
        return jnp.sum(params**2)

    opt = factory(0.1)
    params = jnp.ones(3, jnp.bfloat16)
    updates, state = opt.update(params, opt.init(params), params, obj_fn=loss)
    assert updates.dtype == jnp.bfloat16 and set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert state[0].slots.nu.dtype == jnp.float32
    with pytest.raises(TypeError, match="obj_fn=..."):
        opt.update(params, opt.init(params), params)


def test_ademamix_warms_up_as_in_the_paper():
    numbers = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-4, eps_root=0.0, weight_decay=0.1)
    oracle = ademamix_oracles.ademamix(**numbers, b3=0.99, alpha=4.0, total=5)
    warmups = gdjax.ademamix_schedules(5, alpha=4.0, b1=0.85, b3=0.99)
    opt = gdjax.ademamix(**numbers, **warmups)
    expected = problems.parameters()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), expected)
    state = opt.init(params)
    for t in range(1, 9):
        grads = problems.gradients(expected, t)
        expected = oracle(expected, grads, t)
        grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
        updates, state = opt.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        for k, x in expected.items():
            np.testing.assert_allclose(params[k], x, rtol=1e-5, atol=1e-5)
    late = {k: float(warmup(2**31 - 1)) for k, warmup in warmups.items()}
    assert late == pytest.approx(dict(alpha=4.0, b3=0.99))


MATRIX = gdjax.GaLoreDimensionNumbers
SHAPES = [(), (5,), (0, 3), (3, 0), (1, 1), (1, 5), (2, 6), (6, 2), (2, 0, 4), (2, 3, 2, 4)]
BY_SHAPE = {
    "adam_mini": gdjax.adam_mini,
    "adam_mini_everything": lambda lr: gdjax.adam_mini(lr, block_axes=()),
    "came": gdjax.came,
    "galore": lambda lr: gdjax.galore(lr, 2, weight_dimension_numbers=MATRIX(-2, -1)),
    "galore_flat": lambda lr: gdjax.galore(
        lr,
        2,
        side="larger",
        weight_dimension_numbers=lambda params: {
            k: MATRIX(tuple(range(x.ndim - 1)), -1) if x.ndim > 1 else None
            for k, x in params.items()
        },
    ),
    "apollo": lambda lr: gdjax.apollo(lr, 2, weight_dimension_numbers=MATRIX(-2, -1)),
    "apollo_mini": gdjax.apollo_mini,
}


@pytest.mark.parametrize("name", BY_SHAPE)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_every_shape(name, dtype):
    opt = BY_SHAPE[name](0.1)
    rng = np.random.default_rng(0)
    params = {str(s): jnp.asarray(rng.normal(size=s), dtype) for s in SHAPES}
    step = jax.jit(opt.update)
    state = opt.init(params)
    for factor in (0.0, 1.0, 0.0, 1.0):
        grads = jax.tree.map(lambda x, f=factor: (f * x).astype(x.dtype), params)
        updates, state = step(grads, state, params)
        for k, u in updates.items():
            assert u.shape == params[k].shape and u.dtype == params[k].dtype
            assert bool(jnp.isfinite(u).all()), k
            moved = bool(factor == 0 or jnp.abs(u).sum() > 0 or not u.size)
            assert moved, k
    assert all(
        bool(jnp.isfinite(x).all())
        for x in jax.tree.leaves(state)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: gdjax.galore(0.1, 2, 3, weight_dimension_numbers=MATRIX(-2, -1)),
        lambda: gdjax.adam_mini(
            0.1, block_axes=gdjax.by_path({"stack": (0, -1), ".*": -1}, allow_unused=True)
        ),
    ],
    ids=["galore", "adam_mini"],
)
def test_a_batch_of_matrices_is_so_many_matrices(make):
    opt = make()
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.normal(size=(3, 4, 6)), jnp.float32) for _ in range(5)]
    stack, single = {"stack": grads[0]}, {f"m{i}": grads[0][i] for i in range(3)}
    state, single_state = opt.init(stack), opt.init(single)
    for g in grads:
        updates, state = opt.update({"stack": g}, state, stack)
        parts = {f"m{i}": g[i] for i in range(3)}
        parts, single_state = opt.update(parts, single_state, single)
        np.testing.assert_allclose(
            updates["stack"], jnp.stack(list(parts.values())), rtol=1e-4, atol=1e-6
        )


def test_galore_with_the_identity_inside_is_the_best_approximation_of_its_rank():
    g = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    u, s, vh = np.linalg.svd(g)
    best = u[:, :2] * s[:2] @ vh[:2]
    for side in ("smaller", "larger"):
        for x, expected in ((g, best), (g.T, best.T)):
            opt = gdjax.scale_by_galore(2, base_optimizer=gdjax.identity(), side=side)
            out = opt.update(jnp.asarray(x), opt.init(jnp.zeros(x.shape)))[0]
            np.testing.assert_allclose(out, expected, atol=1e-5)


def test_galore_keeps_the_moments_when_it_renews_the_basis():
    opt = gdjax.scale_by_galore(1, update_proj_gap=2, base_optimizer=gdjax.trace(1.0 - 1e-7))
    grads = [jnp.diag(jnp.array(d)) for d in ([3.0, 1.0], [3.0, 1.0], [1.0, 5.0])]
    state = opt.init(jnp.zeros((2, 2)))
    for g, expected in zip(grads, ([[3, 0], [0, 0]], [[6, 0], [0, 0]], [[0, 0], [6, 5]])):
        updates, state = opt.update(g, state)
        np.testing.assert_allclose(updates, expected, atol=1e-5)


def test_apollos_key():
    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((3, 4))}
    grads = jax.tree.map(lambda x: jnp.arange(12.0).reshape(x.shape), params)

    def first(key):
        opt = gdjax.apollo(0.1, 2, key=key)
        return opt.update(grads, opt.init(params), params)[0]

    many = jax.vmap(first)(jnp.arange(3))
    for i in range(3):
        np.testing.assert_allclose(many["w"][i], first(i)["w"], rtol=1e-5)
        np.testing.assert_allclose(first(jax.random.PRNGKey(i))["w"], first(i)["w"], rtol=1e-6)
    assert float(jnp.abs(many["w"][0] - many["w"][1]).max()) > 1e-3
    assert float(jnp.abs(many["w"] - many["v"]).max()) > 1e-3  # each parameter has its own
    key = jax.random.key(0)
    opt = gdjax.apollo(0.1, 2, key=key)
    jax.jit(opt.update, donate_argnums=1)(grads, opt.init(params), params)
    assert int(jax.random.bits(key)) >= 0  # the user's key was not given away


def test_a_zero_gradient_does_not_hold_apollo_down():
    opt = gdjax.apollo(1.0, 2)
    params = jnp.zeros((2, 3))
    state = opt.init(params)
    for factor in (1.0, 0.0, 1.0):
        updates, state = opt.update(jnp.full((2, 3), factor), state, params)
    assert float(jnp.abs(updates).max()) > 0.1


NEWER = {
    "adopt": gdjax.adopt,
    "qhadam": gdjax.qhadam,
    "laprop": gdjax.laprop,
    "acprop": gdjax.acprop,
    "stable_adamw": gdjax.stable_adamw,
    "madgrad": gdjax.madgrad,
    "ademamix": gdjax.ademamix,
    "simplified_ademamix": gdjax.simplified_ademamix,
    **BY_SHAPE,
}


@pytest.mark.parametrize("name", NEWER)
def test_hypergradients_in_float32_are_finite_at_a_zero_gradient_with_the_defaults(name):
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)

    def loss(learning_rate, grads):
        opt = NEWER[name](learning_rate)
        state = opt.init(params)
        for _ in range(2):
            updates, state = opt.update(grads, state, params)
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    for g in jax.tree.leaves(jax.grad(loss, (0, 1))(0.1, zeros)):
        assert bool(jnp.isfinite(g).all())


@pytest.mark.parametrize(
    "factory", [gdjax.adopt, gdjax.stable_adamw, gdjax.madgrad, gdjax.adam_mini, gdjax.galore]
)
def test_masked_decay(factory):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    decoupled = dict(decoupled=True) if factory is gdjax.madgrad else {}
    opt = factory(0.1, weight_decay=0.5, mask={"w": True, "b": False}, **decoupled)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = opt.update(zeros, opt.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-4)
    np.testing.assert_array_equal(updates["b"], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdjax.galore(0.1, rank=0), "galore(rank=...) must be an integer >= 1, got 0."),
        (lambda: gdjax.galore(0.1, side="left"), "galore(side=...) must be one of"),
        (lambda: gdjax.galore(0.1, update_proj_gap=1.5), "must be a whole number >= 1, got 1.5."),
        (lambda: gdjax.apollo(0.1, scale_type="row"), "apollo(scale_type=...) must be one of"),
        (lambda: gdjax.apollo(0.1, growth_limit=0.0), "growth_limit=...) must be finite and > 0"),
        (lambda: gdjax.sophia(0.1, gamma=0.0), "sophia(gamma=...) must be finite and > 0"),
        (lambda: gdjax.qhadam(0.1, q1=1.2), "qhadam(q1=...) must be in [0, 1], got 1.2."),
        (lambda: gdjax.ademamix_schedules(9, b1=0.0), "must be in (0, 1), got 0.0."),
        (
            lambda: gdjax.adam_mini(0.1, block_axes=2).init({"w": jnp.ones((2, 2))}),
            "adam_mini(block_axes=...) must name axes of the parameters, got (2,) for 'w'",
        ),
        (
            lambda: gdjax.galore(0.1, weight_dimension_numbers=MATRIX(0, -2)).init(
                jnp.ones((2, 2))
            ),
            "must name distinct axes of the shape (2, 2)",
        ),
        (
            lambda: gdjax.madgrad(0.1).update(jnp.ones(1), gdjax.madgrad(0.1).init(jnp.ones(1))),
            "madgrad needs the parameters",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
