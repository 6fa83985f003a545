"""Projections: the nearest point of the set, checked by its definition and against optax."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from gdjax import projections as P
from gdjax import proximal

NAMES = [n for n in dir(optax.projections) if n.startswith("projection_")]


def tree(seed=0, scale=1.5):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(0.2, scale, (2, 3))),
        "b": [jnp.asarray(rng.normal(0.1, scale)), jnp.asarray(rng.normal(0.1, scale, 4))],
    }


def like(x, value):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), x)


def box(x):
    return like(x, -0.5), like(x, 0.7)


ARGUMENTS = {  # name -> the arguments after the tree, several times
    "projection_non_negative": [lambda x: ()],
    "projection_box": [box],
    "projection_hypercube": [lambda x: (0.8,)],
    "projection_simplex": [lambda x: (), lambda x: (5.0,)],
    "projection_l1_sphere": [lambda x: (), lambda x: (50.0,)],
    "projection_l1_ball": [lambda x: (), lambda x: (50.0,)],
    "projection_l2_sphere": [lambda x: (), lambda x: (50.0,)],
    "projection_l2_ball": [lambda x: (), lambda x: (50.0,)],
    "projection_linf_ball": [lambda x: (), lambda x: (0.5,)],
    "projection_vector": [lambda x: (tree(1),)],
    "projection_hyperplane": [lambda x: (tree(1), 0.3)],
    "projection_halfspace": [lambda x: (tree(1), -3.0), lambda x: (tree(1), 50.0)],
}
CASES = [(n, i) for n in NAMES for i in range(len(ARGUMENTS[n]))]


def flat(x):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])


def theirs_of(name):
    project = getattr(optax.projections, name)
    if name != "projection_hypercube":
        return project
    return lambda x, scale: jax.tree.map(lambda leaf: project(leaf, scale), x)  # it takes no tree


@pytest.mark.parametrize(("name", "which"), CASES)
def test_equals_optax_with_gradients(name, which):
    with enable_x64():
        x = tree()
        args = ARGUMENTS[name][which](x)

        def measured(function):
            def value(x):
                y = function(x, *args)
                return sum(jnp.sum(jnp.cos(leaf + i)) for i, leaf in enumerate(jax.tree.leaves(y)))

            return lambda x: (function(x, *args), jax.grad(value)(x))

        ours, theirs = jax.jit(
            lambda x: (measured(getattr(P, name))(x), measured(theirs_of(name))(x))
        )(x)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(flat(a), flat(b), rtol=1e-12, atol=1e-13)


def test_all_of_optax_is_here_with_its_arguments():
    assert set(NAMES) == set(ARGUMENTS)
    for name in NAMES:
        ours = inspect.signature(getattr(P, name)).parameters
        theirs = inspect.signature(getattr(optax.projections, name)).parameters
        assert [(k, p.default) for k, p in ours.items()] == [
            (k, p.default) for k, p in theirs.items()
        ]


INSIDE = {  # name -> (arguments, is the vector in the set?)
    "projection_simplex": ((2.0,), lambda p: p.min() >= 0 and np.isclose(p.sum(), 2, rtol=1e-12)),
    "projection_l1_sphere": ((2.0,), lambda p: np.isclose(np.abs(p).sum(), 2, rtol=1e-12)),
    "projection_l1_ball": ((2.0,), lambda p: np.abs(p).sum() <= 2 + 1e-12),
    "projection_l2_sphere": ((2.0,), lambda p: np.isclose((p**2).sum(), 4, rtol=1e-12)),
    "projection_l2_ball": ((2.0,), lambda p: (p**2).sum() <= 4 + 1e-12),
}


@pytest.mark.parametrize("start", ["random", "zeros", "ties", "huge", "sparse"])
@pytest.mark.parametrize("name", INSIDE)
def test_in_the_set_and_nearer_than_any_other_point(name, start):
    rng = np.random.default_rng(0)
    x = {
        "random": rng.normal(0, 2, 6),
        "zeros": np.zeros(6),
        "ties": np.array([1.0, 1, -1, 1, 0.5, 0.5]),
        "huge": 1e9 + np.arange(6.0),
        "sparse": np.array([0.0, 0, 3, 0, 0, -0.0]),
    }[start]
    args, inside = INSIDE[name]
    with enable_x64():
        project = jax.jit(getattr(P, name))
        p = np.asarray(project(jnp.asarray(x), *args))
        assert inside(p)
        others = np.asarray(jax.vmap(lambda z: project(z, *args))(rng.normal(0, 2, (200, 6))))
    assert all(map(inside, others))  # other points of the set, none of which is nearer
    near = np.linalg.norm(x - p)
    assert near <= np.linalg.norm(x - others, axis=1).min() + 1e-9 * (1 + near)


def nearest_in_section(x, lower, upper, a, b):
    """Return the nearest point by halving an interval of multipliers, in NumPy."""
    low, high = -1e6, 1e6
    for _ in range(200):
        tau = (low + high) / 2
        y = np.clip(x - tau * a, lower, upper)
        low, high = (tau, high) if a @ y > b else (low, tau)
    return y


@pytest.mark.slow
def test_box_sections_equal_bisection():
    """Normals of both signs with zeros among them, bounds that are none, ties, the empty set."""
    rng = np.random.default_rng(0)
    with enable_x64():
        project = jax.jit(P.projection_box_section)
        for trial in range(60):
            n = 1 + trial % 7
            x, a = rng.normal(0, 2, n), rng.normal(0, 1, n)
            lower = rng.normal(-0.5, 0.7, n)
            upper = lower + rng.exponential(1, n)
            if trial % 3 == 0:
                a = np.where(rng.random(n) < 0.3, 0.0, a)
                x = np.round(x)
            if trial % 4 == 0:
                lower = np.where(rng.random(n) < 0.5, -np.inf, lower)
                upper = np.where(rng.random(n) < 0.5, np.inf, upper)
            inner = np.clip(rng.normal(0, 1, n), lower, upper)
            b = a @ inner + (100.0 if trial % 10 == 9 else 0.0)  # at times, no point has it
            ours = project(x, lower, upper, a, b)
            used = a != 0
            ends = np.stack([lower, upper])[:, used] * a[used]
            least, most = ends.min(0).sum(), ends.max(0).sum()
            if least <= b <= most:
                want = nearest_in_section(x, lower, upper, a, b)
                np.testing.assert_allclose(ours, want, atol=1e-9)
                assert np.all((ours >= lower) & (ours <= upper))
            else:
                assert trial % 10 == 9 and np.isnan(ours).all()
        x = jnp.asarray(rng.normal(0, 2, 5))
        same = P.projection_box_section(x, 0.0, None, jnp.ones(5), 2.0)
        np.testing.assert_allclose(same, P.projection_simplex(x, 2.0), atol=1e-14)
        same = P.projection_box_section(x, None, None, x + 1, 2.0)
        np.testing.assert_allclose(same, P.projection_hyperplane(x, x + 1, 2.0), atol=1e-14)
        np.testing.assert_array_equal(P.projection_box_section(x, 0, 1, 0 * x, 0.0), x.clip(0, 1))
        for lower, upper, a, b in ((0, 1, 0 * x, 3.0), (1, 0, x, 0.0), (0, 1, x, jnp.nan)):
            assert np.isnan(P.projection_box_section(x, lower, upper, a, b)).all()
        nearly = jnp.full(3, 1 / 3)  # rounding makes no set empty
        assert np.isfinite(P.projection_box_section(x[:3], 0, nearly, jnp.ones(3), 1.0)).all()


def test_derivatives_of_a_box_section():
    with enable_x64():
        x, a = jnp.array([2.0, 0.3, -1.0, 0.4]), jnp.array([1.0, 2.0, -1.0, 0.5])

        def measured(x, lower, upper, a, b):
            y = P.projection_box_section({"x": x}, lower, upper, {"x": a}, b)["x"]
            return y @ jnp.array([1.0, -2.0, 3.0, 0.5])

        given = (x, jnp.full(4, -0.5), jnp.array(0.9), a, jnp.array(1.2))
        grads = jax.jit(jax.grad(measured, argnums=(0, 1, 2, 3, 4)))(*given)
        for i, grad in enumerate(grads):
            for j in range(grad.size):
                h = 1e-6 * (np.arange(grad.size) == j).reshape(grad.shape)
                ahead, behind = (
                    measured(*given[:i], given[i] + s * h, *given[i + 1 :]) for s in (1, -1)
                )
                np.testing.assert_allclose(np.ravel(grad)[j], (ahead - behind) / 2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda z: P.projection_box_section(z, 0, 1, z, 0.0), [0, 0, 0]),
        (lambda z: P.projection_simplex(z, 0.0), [0, 0, 0]),
        (lambda z: P.projection_l1_sphere(z), [1 / 3, 1 / 3, 1 / 3]),
        (lambda z: P.projection_l1_ball(z, 0.0), [0, 0, 0]),
        (lambda z: P.projection_l2_sphere(z), [3**-0.5] * 3),
        (lambda z: P.projection_l2_ball(z, 0.0), [0, 0, 0]),
        (lambda z: P.projection_vector(z + 1, z), [0, 0, 0]),
        (lambda z: P.projection_hyperplane(z + 1, z, 1.0), [1, 1, 1]),
        (lambda z: P.projection_halfspace(z + 1, z, -1.0), [1, 1, 1]),
    ],
)
def test_finite_at_zero(call, expected):

    @jax.jit
    def measured(z):
        return call(z), jax.grad(lambda z: jnp.sum(call(z) * jnp.arange(1.0, 4.0)))(z)

    value, grad = measured(jnp.zeros(3))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.all(np.isfinite(grad))


def test_leaves_keep_their_dtype_and_sums_are_float32():
    x = {"h": jnp.full((4096,), 1.0, jnp.bfloat16), "w": jnp.full((2,), 1.0)}
    y = P.projection_l2_ball(x, 1.0)
    assert y["h"].dtype == jnp.bfloat16 and y["w"].dtype == jnp.float32
    np.testing.assert_allclose(y["w"], 4098**-0.5, rtol=1e-6)
    y = P.projection_simplex(x, 4098.0 / 2)
    assert y["h"].dtype == jnp.bfloat16
    np.testing.assert_allclose(y["w"], 0.5, rtol=1e-6)
    assert P.projection_l2_sphere(jnp.array([3j, 4.0])).dtype == jnp.complex64


def test_bounds_are_prefix_trees_and_none_is_no_bound():
    x = {"a": jnp.array([-2.0, 2.0]), "b": {"c": jnp.array(3.0), "d": jnp.array([-3.0])}}
    y = P.projection_box(x, None, {"a": jnp.array([0.0, 1.0]), "b": 0.5})
    np.testing.assert_array_equal(flat(y), [-2, 1, 0.5, -3])
    np.testing.assert_array_equal(flat(P.projection_hypercube(x)), [0, 1, 1, 0])
    np.testing.assert_array_equal(flat(P.projection_linf_ball(x, 1.5)), [-1.5, 1.5, 1.5, -1.5])


def test_empty_trees_and_leaves():
    for name in INSIDE:
        assert getattr(P, name)({}) == {}
        assert getattr(P, name)(jnp.zeros((0, 3))).shape == (0, 3)


def test_the_simplex_of_rows_is_batched_and_exact_far_from_zero():
    rows = jnp.array([[1e4, 1e4 + 0.5, 0.0], [-1e4, -1e4, -1e4]])
    np.testing.assert_allclose(
        P.unit_simplex(rows), [[0.25, 0.75, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6
    )
    assert np.all(np.isnan(P.unit_simplex(jnp.array([1.0, jnp.nan]))))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: P.projection_simplex(jnp.ones(2), -1.0),
            ValueError,
            r"scale=...\) must be finite",
        ),
        (lambda: P.projection_simplex(jnp.ones(2, int)), TypeError, r"tree=...\) must be float"),
        (lambda: P.projection_simplex(jnp.ones(2, complex)), TypeError, r"must be real"),
        (lambda: P.projection_box_section(1j, 0, 1, 1.0, 1), TypeError, "must be real"),
        (
            lambda: P.projection_box_section(jnp.ones(2), 0, 1, jnp.ones(3), 1),
            ValueError,
            "agree in shape",
        ),
        (
            lambda: P.projection_vector({"a": jnp.ones(2)}, {"b": jnp.ones(2)}),
            ValueError,
            r"projection_vector\(a=...\) and projection_vector\(x=...\) must have the same tree",
        ),
        (lambda: P.projection_halfspace(jnp.ones(2), jnp.ones(3), 0), ValueError, "agree in shape"),
        (
            lambda: P.projection_halfspace(jnp.ones(2), jnp.ones(2), "b"),
            TypeError,
            r"projection_halfspace\(b=...\) must be one number, got 'b'",
        ),
        (
            lambda: P.projection_hyperplane(jnp.ones(2), jnp.ones(2), jnp.ones(2)),
            TypeError,
            r"projection_hyperplane\(b=...\) must be one number, got Array",
        ),
        (
            lambda: P.projection_vector(jnp.ones(2), jnp.ones(2, int)),
            TypeError,
            r"projection_vector\(a=...\) must be float",
        ),
        (
            lambda: P.projection_hypercube(jnp.ones(2), jnp.ones(3)),
            ValueError,
            r"projection_hypercube\(scale=...\) has shape \(3,\) where the tree has \(2,\)",
        ),
        (
            lambda: P.projection_linf_ball(jnp.ones(2), "x"),
            TypeError,
            r"projection_linf_ball\(scale=...\) must be an array, got 'x'",
        ),
        (
            lambda: P.projection_box({"a": jnp.ones(2)}, {"b": 0.0}, 1.0),
            ValueError,
            r"projection_box\(lower=...\) is a tree that is no prefix",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("s", [1e-24, 1e-20, 1.0, 1e20, 1e37])
def test_squares_do_not_leave_the_range_of_float32(s):
    x, y = jnp.array([3.0, -4.0]) * s, jnp.array([1.0, 2.0])
    normal = jnp.array([3.0, 4.0]) * s
    z = jnp.array([3.0 + 4.0j], jnp.complex64) * s
    rows = [
        (P.projection_l2_ball(x, 0.5 * s) / s, [0.3, -0.4]),
        (P.projection_l2_sphere(x), [0.6, -0.8]),
        (P.projection_vector(y, normal), [1.32, 1.76]),
        (P.projection_vector(normal, y) / s, [2.2, 4.4]),
        (P.projection_hyperplane(y, normal, s), [-0.2, 0.4]),
        (P.projection_halfspace(y, normal, s), [-0.2, 0.4]),
        (P.projection_halfspace(y, normal, 20 * s), [1.0, 2.0]),
        (proximal.prox_group_lasso(x, 0.5 * s) / s, [2.7, -3.6]),
        (proximal.prox_lasso(z, 0.5 * s) / s, [2.7 + 3.6j]),
    ]
    for found, right in rows:
        np.testing.assert_allclose(found, right, rtol=2e-6)


def test_infinities_have_the_limit():
    for x, right in (([math.inf, 0.0, 1.0], [1, 0, 0]), ([-math.inf, 0.0, 1.0], [0, 0, 1])):
        np.testing.assert_array_equal(P.projection_simplex(jnp.array(x)), right)
    assert jnp.isnan(P.projection_simplex(jnp.array([math.nan, math.inf]))).all()
    infinite = proximal.prox_group_lasso(jnp.array([math.inf, 1.0]))
    np.testing.assert_array_equal(infinite, [math.inf, 1.0])
    assert jnp.isnan(proximal.prox_group_lasso(jnp.array([math.nan, 1.0]))).all()
