"""EMA-Nesterov: the point theta behind the parameters, Nesterov's method, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from oracles import ema_nesterov as oracles
from x64 import enable_x64

import gdjax


def test_evaluation_is_at_theta_when_beta_changes():
    def beta(count):
        return jnp.where(count < 6, 0.3 + 0.1 * count, 0.0)

    oracle = oracles.ema_nesterov(0.05, 0.5, beta, 0.9)
    expected = problems.parameters()
    with enable_x64():
        opt = gdjax.ema_nesterov(gdjax.sgd(0.05, 0.5), beta, 0.9)
        params = jax.tree.map(jnp.asarray, expected)
        state = opt.init(params)
        for t in range(1, 9):
            expected = oracle(expected, problems.gradients(expected, t), t)
            grads = problems.gradients(jax.tree.map(np.asarray, params), t)
            updates, state = opt.update(grads, state, params)
            params = gdjax.apply_updates(params, updates)
            theta = gdjax.eval_params(state, params)
            for k in expected:
                np.testing.assert_allclose(params[k], expected[k], rtol=1e-12, atol=1e-12)
                np.testing.assert_allclose(theta[k], oracle.x[k], rtol=1e-12, atol=1e-12)
    for k in expected:  # beta is 0 again
        np.testing.assert_array_equal(theta[k], params[k])


def test_without_a_mean_it_is_nesterovs_method():
    def walk(opt):
        params, path = jnp.array([1.0, -2.0]), []
        state = opt.init(params)
        for t in range(8):
            grads = jnp.array([1.0, 5.0]) * params + jnp.sin(t + params)
            updates, state = opt.update(grads, state, params)
            params = gdjax.apply_updates(params, updates)
            path.append(params)
        return path

    ours = walk(gdjax.ema_nesterov(gdjax.sgd(0.05), beta=0.8, decay=0.0))
    nesterov = walk(gdjax.sgd(0.05, momentum=0.8, nesterov=True))
    np.testing.assert_allclose(ours, nesterov, rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"ema_nesterov\(decay=...\) must be in \[0, 1\), got 1.0"):
        gdjax.ema_nesterov(gdjax.sgd(1.0), decay=1.0)
    with pytest.raises(ValueError, match=r"ema_nesterov\(beta=...\) must be .*>= 0, got -1.0"):
        gdjax.ema_nesterov(gdjax.sgd(1.0), -1.0)
    opt = gdjax.ema_nesterov(gdjax.sgd(1.0))
    with pytest.raises(ValueError, match="ema_nesterov needs the parameters"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
