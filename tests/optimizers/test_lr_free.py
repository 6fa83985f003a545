"""Methods without a learning rate, against optax, against their authors' code, and at the edges."""

import functools
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import test_oracles
from oracles import dog as dog_oracles
from oracles import momo as momo_oracles
from oracles import schedule_free as schedule_free_oracles
from parity import MASK, assert_same, falling
from registry import BY_NAME, Case
from x64 import enable_x64

import gdjax

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lr_free.npz")
KEPT = (1, 2, 8, 14)  # as in golden/make_lr_free.py, where the runs are

# Structure that is not worth a row of the registry.
with_ = functools.partial
VARIANTS = [
    *(
        Case(
            f"dog_{kind}",
            lambda init_step, kind=kind, **numbers: gdjax.dog(
                init_step=(kind, init_step), **numbers
            ),
            dict(learning_rate=0.9, init_step=0.02, eps=1e-3),
            with_(dog_oracles.dog_from, kind=kind),
        )
        for kind in ("distance", "learning_rate")
    ),
    BY_NAME["momo"]._replace(
        name="momo_bound",
        make=with_(gdjax.momo, adapt_lower_bound=True),
        oracle=with_(momo_oracles.momo, adapt=True),
    ),
    BY_NAME["momo_adam"]._replace(
        name="momo_adam_bound",
        make=with_(gdjax.momo_adam, adapt_lower_bound=True),
        oracle=with_(momo_oracles.momo_adam, adapt=True),
    ),
    BY_NAME["schedule_free_radam"]._replace(
        name="schedule_free_radam_loud",
        make=with_(gdjax.schedule_free_radam, silent=False),
        oracle=with_(schedule_free_oracles.radam, silent=False),
    ),
]


@pytest.mark.parametrize("case", VARIANTS, ids=lambda c: c.name)
def test_variants_follow_the_paper(case):
    test_oracles.test_follows_the_paper(case)


# --- the authors' own code -----------------------------------------------------------------------

PRODIGY = dict(learning_rate=0.9, betas=(0.8, 0.95), eps=1e-6, estim_lr0=0.01, weight_decay=0.1)
DOG = dict(init_step=("heuristic", 0.02), eps=1e-3, weight_decay=0.1)
MOMO = dict(learning_rate=0.4, beta=0.8, lower_bound=0.5)
MOMO_ADAM = dict(
    learning_rate=0.3, b1=0.8, b2=0.95, eps=1e-3, lower_bound=0.5, weight_decay=0.1
)  # fmt: skip
FREE = dict(
    learning_rate=0.05, b1=0.8, weight_decay=0.1, weight_lr_power=1.5, weight_count_power=0.5
)

AUTHORS = {
    "prodigy": lambda: gdjax.prodigy(**PRODIGY, beta3=0.9, estim_lr_coef=1.3, correct_bias=False),
    "prodigy_safeguard": lambda: gdjax.prodigy(**PRODIGY, safeguard_warmup=True),
    "dadapt_adamw": lambda: gdjax.dadapt_adamw(**PRODIGY, correct_bias=False),
    "dadapt_adamw_corrected": lambda: gdjax.dadapt_adamw(**PRODIGY),
    "dog": lambda: gdjax.polynomial_average(gdjax.dog(**DOG)),
    "dog_learning_rate": lambda: gdjax.polynomial_average(
        gdjax.dog(init_step=("learning_rate", 0.02), eps=1e-3)
    ),
    "l_dog": lambda: gdjax.l_dog(**DOG),
    "momo": lambda: gdjax.momo(**MOMO, weight_decay=0.1),
    "momo_bound": lambda: gdjax.momo(**MOMO, adapt_lower_bound=True),
    "momo_adam": lambda: gdjax.momo_adam(**MOMO_ADAM),
    "momo_adam_bound": lambda: gdjax.momo_adam(**MOMO_ADAM, adapt_lower_bound=True),
    "schedule_free_sgd": lambda: gdjax.schedule_free_sgd(**FREE, warmup_steps=4),
    "schedule_free_adamw": lambda: gdjax.schedule_free_adamw(
        **FREE, b2=0.95, eps=1e-3, warmup_steps=4
    ),
    "schedule_free_radam": lambda: gdjax.schedule_free_radam(**FREE, b2=0.95, eps=1e-3),
}


def test_every_golden_run_is_used():
    assert {name.removesuffix("_eval") for name in GOLDEN} == AUTHORS.keys()


@pytest.mark.parametrize("name", sorted(AUTHORS))
def test_arrives_where_the_authors_do(name):
    def flat(tree):
        return np.concatenate([np.ravel(tree[k]) for k in problems.SHAPES])

    with enable_x64():
        opt = AUTHORS[name]()
        params = jax.tree.map(jnp.asarray, problems.parameters())
        state = opt.init(params)
        for t in range(1, max(KEPT) + 1):
            at = jax.tree.map(np.asarray, params)
            grads = jax.tree.map(jnp.asarray, problems.gradients(at, t))
            updates, state = opt.update(grads, state, params, value=problems.value(at, t))
            params = gdjax.apply_updates(params, updates)
            if t not in KEPT:
                continue
            row, close = KEPT.index(t), dict(rtol=1e-10, atol=1e-10, err_msg=f"step {t}")
            np.testing.assert_allclose(flat(params), GOLDEN[name][row], **close)
            if name + "_eval" in GOLDEN:
                x = gdjax.eval_params(state, params)
                np.testing.assert_allclose(flat(x), GOLDEN[name + "_eval"][row], **close)


# --- optax ---------------------------------------------------------------------------------------


def value_at(t):
    return dict(value=jnp.float32(9.0 / t))


# name -> arguments; the factory of that name is called with them in both libraries.
SAME = {
    "prodigy": [dict(estim_lr0=0.01), PRODIGY | dict(beta3=0.9, safeguard_warmup=True)],
    "dadapt_adamw": [dict(estim_lr0=0.01), PRODIGY],
    "dog": [
        dict(),
        DOG | dict(mask=MASK),
        dict(init_step=("learning_rate", 0.1), eps=1e-3),
        dict(init_step=("distance", 0.1)),
    ],
    "dowg": [dict(), dict(init_estim_sq_dist=0.1, learning_rate=falling, weight_decay=0.1)],
    "cocob": [dict(), dict(learning_rate=0.5, alpha=10.0, weight_decay=0.1, mask=MASK)],
    "scale_by_cocob": [dict(eps=0.1)],
    "momo": [dict(), dict(learning_rate=falling, beta=0.7, adapt_lower_bound=True)],
    "momo_adam": [dict(), dict(learning_rate=0.1, b1=0.7, adapt_lower_bound=True)],
}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(n, k) for n, rows in SAME.items() for k in rows],
    ids=lambda x: x if isinstance(x, str) else ",".join(x),
)
def test_same_as_optax(name, kwargs):
    theirs = getattr(optax.contrib, name)(**kwargs)
    assert_same(getattr(gdjax, name)(**kwargs), theirs, extra=value_at)


@pytest.mark.parametrize("name", [*sorted(SAME), "mechanize", "normalize", "schedule_free",
                                  "schedule_free_sgd", "schedule_free_adamw", "sam"])  # fmt: skip
def test_same_signature_as_optax(name):
    ours = inspect.signature(getattr(gdjax, name)).parameters
    for key, parameter in inspect.signature(getattr(optax.contrib, name)).parameters.items():
        if parameter.default is not parameter.empty:
            assert ours[key].default == parameter.default, key
        assert ours[key].kind == parameter.kind, key


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gdjax.prodigy, gdjax.dadapt_adamw], ids=lambda f: f.__name__)
def test_the_estimate_waits_for_a_gradient(make):
    params = {"w": jnp.array([1.0, -2.0])}
    opt = make(estim_lr0=1e-3)
    state = opt.init(params)
    for _ in range(2):
        updates, state = opt.update(jax.tree.map(jnp.zeros_like, params), state, params)
        np.testing.assert_array_equal(updates["w"], 0)
        np.testing.assert_allclose(state.slots.distance, 1e-3)  # optax: nan
    for _ in range(60):
        updates, state = opt.update(params, state, params)
        params = gdjax.apply_updates(params, updates)
    assert state.slots.distance > 0.01


def test_momo_steps_where_the_squared_gradient_is_below_machine_epsilon():
    """optax takes no step there."""
    opt, params = gdjax.momo(), jnp.zeros(1)
    grads = jnp.full(1, 1e-9)
    updates, _ = opt.update(grads, opt.init(params), params, value=jnp.float32(1.0))
    np.testing.assert_allclose(updates, -1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
def test_momo_refuses_none_as_the_loss(name):
    opt, params = getattr(gdjax, name)(), jnp.zeros(1)
    with pytest.raises(ValueError, match="value=loss"):
        opt.update(params, opt.init(params), params, value=None)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"prodigy\(betas=...\) must be in \[0, 1\), got 1.0"):
        gdjax.prodigy(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"^dog\(init_step=...\)\[0\] must be one of"):
        gdjax.dog(init_step=("typo", 1.0))
    with pytest.raises(TypeError, match=r"^scale_by_dog\(init_step=...\) must be a tuple"):
        gdjax.scale_by_dog(init_step=1e-6)
    with pytest.raises(ValueError, match=r"^l_dog\(init_step=...\)\[1\] must be finite and > 0"):
        gdjax.l_dog(init_step=("distance", 0.0))


def test_the_distance_counts_all_dimensions_of_low_precision_leaves():
    """optax sums |g|^2 of bfloat16 leaves in bfloat16 and stops at 256."""
    params = {"w": jnp.zeros((100, 100), jnp.bfloat16)}
    opt = gdjax.dog(init_step=("distance", 1.0), eps=0.0)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = opt.update(grads, opt.init(params), params)
    np.testing.assert_allclose(state[0].slots.sum_sq, 1e4)
    np.testing.assert_allclose(np.float32(updates["w"]), -0.01, rtol=1e-2)


def test_l_dog_takes_a_first_step_for_each_part():
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    opt = gdjax.l_dog(init_step=("learning_rate", {"a": 0.1, "b": 0.3}))
    updates, _ = opt.update(params, opt.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -0.3, rtol=1e-6)
