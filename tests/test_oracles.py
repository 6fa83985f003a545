"""Every optimizer follows its float64 NumPy oracle, written from the paper, for 20 steps."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from registry import CASES
from x64 import enable_x64

import gdjax


@pytest.mark.parametrize("case", [c for c in CASES if c.oracle], ids=lambda c: c.name)
def test_follows_the_paper(case):
    expected = problems.parameters()
    oracle = case.oracle(**case.numbers)
    with enable_x64():
        opt = case.make(**case.numbers)
        params = jax.tree.map(jnp.asarray, expected)
        state = opt.init(params)
        for t in range(1, 21):
            grads = problems.gradients(expected, t)
            extras = case.extras(expected, grads, t)
            expected = oracle(expected, grads, t, **extras)
            actual = problems.gradients(jax.tree.map(np.asarray, params), t)
            extras = case.extras(jax.tree.map(np.asarray, params), actual, t)
            updates, state = opt.update(jax.tree.map(jnp.asarray, actual), state, params, **extras)
            params = gdjax.apply_updates(params, updates)
            for name, x in expected.items():
                assert params[name].dtype == jnp.float64
                np.testing.assert_allclose(
                    params[name], x, rtol=case.x_tol, atol=case.x_tol, err_msg=f"{name}, step {t}"
                )
