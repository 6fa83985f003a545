"""The directions of quasi-Newton and conjugate gradient methods follow the textbook's loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quasi_newton
from x64 import enable_x64

import gdjax

SIZE = 7  # one more than the steps, so that conjugate gradients do not restart


def path(steps):
    """Return points and gradients of a function with directions of negative curvature."""
    rng = np.random.default_rng(3)
    xs = [rng.normal(0, 1, SIZE)]
    for _ in range(steps - 1):
        xs.append(xs[-1] + 0.3 * rng.normal(0.1, 1, SIZE))
    scale = np.linspace(0.5, 4, SIZE)
    return xs, [scale * x + 2.5 * np.cos(2 * x + 0.3) for x in xs]


def as_params(x):
    """Return the vector as a tree with a scalar, a matrix and an empty leaf."""
    return {"a": jnp.asarray(x[0]), "b": jnp.asarray(x[1:]).reshape(2, 3), "c": jnp.zeros((0, 2))}


def as_row(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def directions(opt, xs, gs):
    with enable_x64():
        state, out = opt.init(as_params(xs[0])), []
        for x, g in zip(xs, gs):
            update, state = opt.update(as_params(g), state, as_params(x))
            out.append(-as_row(update))
    return out


@pytest.mark.parametrize("memory", [1, 3, 10])
def test_lbfgs(memory):
    xs, gs = path(12)
    curvatures = [(b - a) @ (d - c) for a, b, c, d in zip(xs, xs[1:], gs, gs[1:])]
    assert min(curvatures) < 0 < max(curvatures)
    actual = directions(gdjax.scale_by_lbfgs(memory), xs, gs)
    expected = quasi_newton.lbfgs_directions(xs, gs, memory)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)
    for g, d in zip(gs, actual):
        assert g @ d < 0


def test_bfgs():
    xs, gs = path(12)
    actual = directions(gdjax.scale_by_bfgs(), xs, gs)
    expected = quasi_newton.bfgs_directions(xs, gs)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "method",
    ["polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan", "hager_zhang"],
)
def test_conjugate_gradients(method):
    xs, gs = path(6)
    for actual, d in zip(
        directions(gdjax.scale_by_nonlinear_cg(method), xs, gs),
        quasi_newton.cg_directions(gs, method),
        strict=True,
    ):  # ours is scaled to a first guess of the step
        np.testing.assert_allclose(
            actual / np.linalg.norm(actual), d / np.linalg.norm(d), rtol=1e-11, atol=1e-12
        )


def test_an_update_that_led_nowhere_makes_them_start_afresh():
    xs, gs = path(4)
    xs.append(xs[-1]), gs.append(gs[-1])
    first = -gs[-1] * min(1, 1 / np.linalg.norm(gs[-1]))
    for opt in (gdjax.scale_by_lbfgs(), gdjax.scale_by_bfgs(), gdjax.scale_by_nonlinear_cg()):
        np.testing.assert_allclose(directions(opt, xs, gs)[-1], first, rtol=1e-12)


def test_a_pair_without_curvature_keeps_the_history():
    xs, gs = path(5)
    xs.append(xs[-1] + 0.1), gs.append(gs[-1])  # y = 0
    for opt in (gdjax.scale_by_lbfgs(), gdjax.scale_by_bfgs()):
        *_, before, after = directions(opt, xs, gs)
        np.testing.assert_allclose(after, before, rtol=1e-12)


def test_derivatives_are_finite_at_a_zero_gradient():
    """As in a hypergradient through a parameter that has no effect; they were NaN."""
    names = ("scale_by_lbfgs", "scale_by_bfgs", "scale_by_ssbroyden", "scale_by_nonlinear_cg")
    opts, x = [getattr(gdjax, name)() for name in names], jnp.ones(3)

    @jax.jit
    @jax.grad
    def derivative(g):
        return sum(jnp.sum(opt.update(g, opt.init(x), x)[0]) for opt in opts)

    assert jnp.isfinite(derivative(jnp.zeros(3))).all()


SHAPES = {
    "lbfgs": gdjax.lbfgs,
    "bfgs": gdjax.bfgs,
    "ssbroyden": gdjax.ssbroyden,
    "lbfgsb": lambda: gdjax.lbfgsb(0.0, 1.0),
    "nonlinear_cg": gdjax.nonlinear_cg,
    "barzilai_borwein": gdjax.barzilai_borwein,
    "newton_cg": gdjax.newton_cg,
    "anderson": gdjax.anderson,
    "fista": lambda: gdjax.fista(gdjax.proximal.prox_lasso, 0.1),
    "projected_gradient": lambda: gdjax.projected_gradient(
        gdjax.projections.projection_non_negative, 0.1
    ),
    "mirror_descent": lambda: gdjax.mirror_descent(0.1),
    "polyak_sgd": lambda: gdjax.polyak_sgd(1.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_init_takes_shapes(name):
    params = {"a": jnp.ones((2, 3)), "b": [jnp.ones(2), None]}
    opt = SHAPES[name]()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    like, state = opt.init(shapes), jax.eval_shape(opt.init, shapes)
    assert jax.tree.structure(like) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
