"""Where torch.optim has the optimizer, some setting of gdjax gives its trajectories in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from x64 import enable_x64

import gdjax

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torch.npz")
KEPT = (1, 2, 8, 14)  # as in golden/make_torch.py, where the runs are

SAME = {
    "sgd": lambda: gdjax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: gdjax.adam(0.05, 0.8, 0.95),
    "adamw": lambda: gdjax.adamw(0.05, weight_decay=0.1),
    "nadam": lambda: gdjax.nadam(0.05, 0.8, 0.95, formula="torch", momentum_decay=0.1),
    "nadamw": lambda: gdjax.nadamw(0.05, formula="torch", weight_decay=0.1),
    "amsgrad": lambda: gdjax.amsgrad(0.05, 0.8, 0.9),
    "adamax": lambda: gdjax.adamax(0.05, 0.8, 0.9, 1e-3),
    "rmsprop": lambda: gdjax.rmsprop(0.02, 0.9, 1e-3, eps_in_sqrt=False),
    "rmsprop_centered": lambda: gdjax.chain(
        gdjax.scale_by_stddev(0.9, 1e-3, eps_in_sqrt=False),
        gdjax.trace(0.7),
        gdjax.scale_by_learning_rate(0.02),
    ),
    "adagrad": lambda: gdjax.adagrad(
        lambda count: 0.3 / (1 + 0.1 * count), 0.2, 1e-10, eps_in_sqrt=False
    ),
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_arrives_where_torch_does(name):
    with enable_x64():
        opt = SAME[name]()
        params = jax.tree.map(jnp.asarray, problems.parameters())
        state = opt.init(params)
        for t in range(1, max(KEPT) + 1):
            grads = problems.gradients(jax.tree.map(np.asarray, params), t)
            updates, state = opt.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, updates)
            if t in KEPT:
                ours = np.concatenate([np.ravel(params[k]) for k in problems.SHAPES])
                np.testing.assert_allclose(
                    ours, GOLDEN[name][KEPT.index(t)], rtol=1e-11, atol=1e-11, err_msg=f"step {t}"
                )
