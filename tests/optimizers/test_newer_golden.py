"""Where public torch code has the optimizer, some setting of gdjax gives its trajectory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from oracles import apollo as apollo_oracles
from oracles.case import curved
from x64 import enable_x64

import gdjax

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "newer.npz")
KEPT = (1, 2, 8, 14)  # as in golden/make_newer.py, where the runs are
COMMON = dict(learning_rate=0.02, b1=0.8, b2=0.95, eps=1e-4, weight_decay=0.1)
MADGRAD = dict(learning_rate=0.05, momentum=0.8, weight_decay=0.1, eps=1e-3)

SAME = {
    "qhadam": lambda: gdjax.qhadam(q1=0.7, q2=0.9, **COMMON),
    "laprop": lambda: gdjax.laprop(0.02, 0.8, 0.95),
    "adopt": lambda: gdjax.adopt(0.02, 0.8, 0.95, eps=0.2),
    "ademamix": lambda: gdjax.ademamix(
        **COMMON, **gdjax.ademamix_schedules(10, alpha=4.0, b1=0.8, b3=0.99)
    ),
    "stable_adamw": lambda: gdjax.stable_adamw(**COMMON),
    # that code has no gamma: it divides by max(h, eps)
    "sophia": lambda: gdjax.sophia(
        **COMMON | dict(eps=0.3), gamma=1.0, clip_threshold=0.7, update_interval=1
    ),
    "adahessian": lambda: gdjax.adahessian(**COMMON | dict(eps=1e-2), hessian_power=0.8),
    "madgrad": lambda: gdjax.madgrad(**MADGRAD),
    "madgrad_decoupled": lambda: gdjax.madgrad(**MADGRAD, decoupled=True),
    "came": lambda: gdjax.came(
        0.002, 0.8, 0.95, 0.98, eps_res=1e-4, clip_threshold=0.9, weight_decay=0.1
    ),
    "adam_mini": lambda: gdjax.adam_mini(
        **COMMON, block_axes=gdjax.by_path({"tall": -1, "wide|kernel": 0, ".*": None})
    ),
    "galore": lambda: gdjax.galore(
        0.02, 2, 100, 0.25, base_optimizer=gdjax.scale_by_adam(0.8, 0.95, eps=1e-12)
    ),
}


def flat(params):
    return np.concatenate([np.ravel(params[k]) for k in problems.SHAPES])


@pytest.mark.parametrize("name", sorted(SAME))
def test_arrives_where_torch_code_does(name):
    with enable_x64():
        opt = SAME[name]()
        step = jax.jit(lambda g, s, p: opt.update(g, s, p, obj_fn=curved))
        params = jax.tree.map(jnp.asarray, problems.parameters())
        state = opt.init(params)
        for t in range(1, max(KEPT) + 1):
            grads = problems.gradients(jax.tree.map(np.asarray, params), t)
            updates, state = step(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, updates)
            if t in KEPT:
                expected = GOLDEN[name][KEPT.index(t)]
                tol = 1e-8 if name == "qhadam" else 1e-10  # that code corrects bias in float32
                np.testing.assert_allclose(
                    flat(params), expected, rtol=tol, atol=tol, err_msg=f"step {t}"
                )


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("apollo", dict(rank=2, scale=2.0)),
        ("apollo_mini", dict(rank=1, scale=128.0, tensor=True)),
    ],
)
def test_the_oracle_of_apollo_arrives_where_the_authors_code_does(name, numbers):
    """Theirs draws other projections than ours, so the oracle stands between them."""

    def projection(leaf, t, r, side):
        matrix = GOLDEN[f"projection/{name}/{leaf}/{(t - 1) // 6}"]
        assert matrix.shape == (r, side)
        return matrix

    numbers = dict(eps=1e-4, weight_decay=0.0, growth_limit=1.01) | numbers
    oracle = apollo_oracles.apollo(0.02, 0.8, 0.95, projection=projection, **numbers)
    params = problems.parameters()
    for t in range(1, max(KEPT) + 1):
        params = oracle(params, problems.gradients(params, t), t)
        if t in KEPT:
            expected = GOLDEN[name][KEPT.index(t)]
            np.testing.assert_allclose(flat(params), expected, rtol=1e-10, atol=1e-10)
