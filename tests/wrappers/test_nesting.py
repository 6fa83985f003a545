"""Every wrapper within groups, around groups, and around what needs extra arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array([0.5, 3.0, -1.0])}}
FIRST = gdjax.by_path({r"a": "one", r".*": "two"})

WRAPPERS = {
    "lookahead": lambda opt: gdjax.lookahead(opt, 2, reset_state=True),
    "average": lambda opt: gdjax.average(opt, 0.5),
    "tail_average": gdjax.tail_average,
    "polynomial_average": gdjax.polynomial_average,
    "sam": gdjax.sam,
    "sam, opaque": lambda opt: gdjax.sam(opt, opaque_mode=True),
    "mars": gdjax.mars,
    "cautious": gdjax.cautious,
    "mechanize": lambda opt: gdjax.mechanize(opt, s_init=0.1),
    "self_tuning": gdjax.self_tuning,
    "with_weight_decay": lambda opt: gdjax.with_weight_decay(opt, 0.3),
    "schedule_free": lambda opt: gdjax.schedule_free(opt, 0.1),
    "gpa": gdjax.gpa,
    "ema_nesterov": gdjax.ema_nesterov,
    "accumulate": lambda opt: gdjax.accumulate(opt, 2),
    "guard": lambda opt: gdjax.guard(opt, gdjax.skip_large_updates, max_squared_norm=1e3),
    "apply_if_finite": lambda opt: gdjax.apply_if_finite(opt, 2),
    "skip_spikes": gdjax.skip_spikes,
    "split_real_and_imaginary": gdjax.split_real_and_imaginary,
    "with_prox": lambda opt: gdjax.with_prox(opt, gdjax.proximal.prox_lasso, 0.1),
    "masked": lambda opt: gdjax.masked(opt, {"a": True, "b": False}),
    "chain": lambda opt: gdjax.chain(gdjax.clip_by_global_norm(1.0), opt),
}
each = pytest.mark.parametrize("name", WRAPPERS)


def slope(params, i=0):
    return jax.tree.map(lambda x: x + jnp.cos(3.0 * x), params)


def run(opt, params, steps=3, **extra):
    """Return the parameters at the end and what to evaluate with."""
    state = opt.init(params)
    for _ in range(steps):
        more = {"grad_fn": slope, "value": jnp.float32(2.0), **extra}
        updates, new = opt.update(slope(params), state, params, **more)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        params, state = gdjax.apply_updates(params, updates), new
    return params, gdjax.eval_params(state, params)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@each
def test_within_groups_it_is_what_it_is_alone(name):
    wrapped = WRAPPERS[name](gdjax.sgd(0.1, momentum=0.5))
    opt = gdjax.groups({"one": wrapped, "two": gdjax.sgd(0.2)}, FIRST)
    (params, read), (alone, alone_read) = (
        run(opt, PARAMS),
        run(wrapped, PARAMS | {"b": {"c": None}}),
    )
    close(params["a"], alone["a"])
    close(read["a"], alone_read["a"])
    rest, _ = run(gdjax.sgd(0.2), PARAMS)
    close(params["b"], rest["b"])
    close(read["b"], rest["b"])


@each
def test_init_takes_shapes(name):
    opt = WRAPPERS[name](gdjax.sgd(0.1, momentum=0.5))
    for dtype in (jnp.float32, jnp.bfloat16):
        shapes = jax.tree.map(lambda x, d=dtype: jax.ShapeDtypeStruct(x.shape, d), PARAMS)
        state = jax.eval_shape(opt.init, shapes)
        like = opt.init(shapes)
        assert jax.tree.structure(like) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


@each
def test_around_groups_it_is_what_it_is_around_a_frozen_leaf(name):
    inner = gdjax.sgd(0.1, momentum=0.5)
    groups = gdjax.groups({"one": inner, "two": None}, FIRST)
    frozen = gdjax.chain(inner, gdjax.freeze({"a": False, "b": True}))
    if name == "with_prox":  # its operator moves frozen parameters, too; the metric is the same
        frozen = groups
    close(run(WRAPPERS[name](groups), PARAMS), run(WRAPPERS[name](frozen), PARAMS))


@pytest.mark.parametrize(
    "name",
    [name for name in WRAPPERS if name != "with_prox"],  # it needs one rate
)
def test_it_hands_extra_arguments_on(name):
    """optax #1131: the optimizer inside needs the loss."""
    needy = gdjax.chain(gdjax.polyak_sgd(10.0), gdjax.scale_by_learning_rate(1.0, flip_sign=False))
    opt = gdjax.groups({"one": WRAPPERS[name](needy), "two": gdjax.sgd(0.1)}, FIRST)
    some = run(opt, PARAMS, 4, value=jnp.float32(1.0))[0]["a"]
    other = run(opt, PARAMS, 4, value=jnp.float32(1.5))[0]["a"]
    assert not np.allclose(some, other)


def test_groups_of_two_learning_rates_are_wrapped_one_by_one():
    groups = gdjax.groups({"one": gdjax.sgd(0.1), "two": gdjax.sgd(0.2)}, FIRST)
    for name in ("with_weight_decay", "with_prox"):
        opt = WRAPPERS[name](groups)
        with pytest.raises(
            ValueError, match="one.learning_rate, two.learning_rate. Wrap the parts"
        ):
            opt.update(PARAMS, opt.init(PARAMS), PARAMS)


def test_an_averaged_group_of_groups_reads_out_everywhere():
    inner = gdjax.groups(
        {"c": gdjax.lookahead(gdjax.sgd(0.1), 2), "rest": None},
        gdjax.by_path({r".*/c": "c", r".*": "rest"}),
    )
    opt = gdjax.groups({"one": gdjax.tail_average(gdjax.sgd(0.1)), "two": inner}, FIRST)
    params, read = run(opt, PARAMS)
    average = run(gdjax.tail_average(gdjax.sgd(0.1)), {"a": PARAMS["a"]})[1]
    slow = run(gdjax.lookahead(gdjax.sgd(0.1), 2), PARAMS["b"])[1]
    close(read, {"a": average["a"], "b": slow})
    assert not np.allclose(read["a"], params["a"]) and not np.allclose(
        read["b"]["c"], params["b"]["c"]
    )


def test_a_sweep_over_the_numbers_of_groups_and_of_accumulation():
    def loss_fn(params, batch):
        return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params)) * jnp.mean(batch)

    groups = gdjax.groups({"one": gdjax.sgd(0.1), "two": gdjax.adam(0.2)}, FIRST)
    opt = gdjax.accumulate(groups, 2)
    space = {"one.learning_rate": [0.0, 0.05], "every_k": [2, 3]}
    swept = gdjax.sweep(loss_fn, PARAMS, opt, space, jnp.ones(4), steps=5)
    for lane in range(4):
        numbers = {name: values[lane] for name, values in swept.configs.items()}
        state = gdjax.with_hyperparams(opt.init(PARAMS), **numbers)
        single = gdjax.fit(loss_fn, PARAMS, opt, jnp.ones(4), steps=5, state=state)
        close(jax.tree.map(lambda x, lane=lane: x[lane], swept.params), single.params)


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "chain"])
def test_a_state_of_another_optimizer_is_an_error_of_the_wrapper(name):
    wrapper = name.partition(",")[0]
    opt = WRAPPERS[name](gdjax.sgd(0.1))
    for other in (gdjax.zero_nans(), gdjax.adam(0.1)):
        with pytest.raises(ValueError, match=f"^{wrapper}: this state is not of this optimizer"):
            opt.update(PARAMS, other.init(PARAMS), PARAMS, value=1.0, grad_fn=slope)


def test_a_state_of_other_groups_is_an_error():
    one, two = (gdjax.groups({name: gdjax.sgd(0.1), r".*": None}) for name in ("a", "b/c"))
    with pytest.raises(
        ValueError, match="groups 'a'; got one with optimizers for the groups 'b/c'"
    ):
        one.update(PARAMS, two.init(PARAMS))
    with pytest.raises(
        ValueError, match="^partition.param_labels=....: the parameter 'a' has the label 'x'"
    ):
        gdjax.partition({"y": gdjax.sgd(0.1)}, {"a": "x", "b": "y"}).init(PARAMS)
    with pytest.raises(ValueError, match=r"^selective_transform\(freeze_mask=...\) is a tree"):
        gdjax.selective_transform(gdjax.sgd(0.1), freeze_mask={"a": True}).init(PARAMS)


@pytest.mark.parametrize("name", ["average", "polynomial_average", "tail_average", "lookahead"])
def test_missing_parameters_are_an_error_of_the_wrapper(name):
    opt = WRAPPERS[name](gdjax.sgd(0.1))
    with pytest.raises(ValueError, match=f"^{name} needs the parameters"):
        opt.update(PARAMS, opt.init(PARAMS))
