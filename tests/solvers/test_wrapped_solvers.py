"""Solvers within other optimizers, and the user's own linear solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


START = jnp.array([-1.2, 1.0, -1.2, 1.0])
WRAPPED = {
    "half": gdjax.chain(gdjax.lbfgs(), gdjax.scale(0.5)),
    "named": gdjax.named_chain(("a", gdjax.lbfgs()), ("b", gdjax.scale(0.5))),
    "decayed": gdjax.chain(gdjax.lbfgs(), gdjax.add_decayed_weights(1e-2)),
    "cautious": gdjax.cautious(gdjax.lbfgs()),
    "mechanize": gdjax.mechanize(gdjax.lbfgs()),
    "lookahead": gdjax.lookahead(gdjax.lbfgs(), 2, 0.5),
    "every_other": gdjax.accumulate(gdjax.lbfgs(), 2),
    "masked": gdjax.masked(gdjax.lbfgs(), True),
    "clipped": gdjax.chain(gdjax.clip(1e3), gdjax.lbfgs()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_result_is_that_at_its_parameters(name):
    result = gdjax.minimize(rosenbrock, START, WRAPPED[name], max_steps=4)
    value, grad = jax.value_and_grad(rosenbrock)(result.params)
    # a stale value would be that of another step; 1e-4 is float32's rounding of the terms
    np.testing.assert_allclose(result.value, value, rtol=1e-4)
    np.testing.assert_allclose(result.grad_norm, jnp.max(jnp.abs(grad)), rtol=1e-4)
    assert result.steps == 4
    alone = name == "clipped"  # the line search comes last: nothing is evaluated again
    assert (result.evaluations < 4 + 4) == alone or name == "every_other"


@pytest.mark.parametrize("name", ["half", "cautious", "clipped"])
def test_value_and_grad_from_state_is_that_at_the_parameters(name):
    opt, x = WRAPPED[name], START
    state = opt.init(x)

    @jax.jit
    def step(x, state):
        value, grad = gdjax.value_and_grad_from_state(rosenbrock)(x, state=state)
        updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=rosenbrock)
        return gdjax.apply_updates(x, updates), state, value, grad

    for _ in range(4):
        new, state, value, grad = step(x, state)
        np.testing.assert_allclose(value, rosenbrock(x), rtol=1e-4)
        np.testing.assert_allclose(grad, jax.grad(rosenbrock)(x), rtol=1e-3, atol=1e-3)
        x = new


def test_a_line_search_cannot_be_the_optimizer_of_a_group():
    params = {"a": START, "b": START}
    opt = gdjax.groups({"a": gdjax.lbfgs(), "b": None})
    with pytest.raises(ValueError, match="has 8 elements, the updates have 4.* close over"):
        gdjax.minimize(lambda p: rosenbrock(p["a"]) + rosenbrock(p["b"]), params, opt)


def plain_cg(times, right):
    return jax.scipy.sparse.linalg.cg(times, right, tol=1e-6)[0]


@pytest.mark.parametrize(
    "solve", [plain_cg, jax.scipy.sparse.linalg.cg, jax.scipy.sparse.linalg.gmres]
)
def test_linear_solvers_of_the_user(solve):
    matrix = jnp.array([[2.0, 0.5], [0.5, 1.0]])

    def found(b):
        def fun(x):
            return 0.5 * x @ matrix @ x - b @ x

        return gdjax.minimize(fun, jnp.zeros(2), tol=1e-6, implicit_diff=solve).params

    for derivative in (jax.jacrev, jax.jacfwd):
        inverse = derivative(found)(jnp.ones(2))
        np.testing.assert_allclose(inverse, jnp.linalg.inv(matrix), rtol=1e-4)
