"""What docs/design.md promises of every optimizer, over the registry of all of them."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import CASES
from x64 import enable_x64

import gdjax

NAMES = {case.name for case in CASES}


def is_twin(case):
    """Return whether the rule is tried elsewhere: `scale_by_x` has that of `x`."""
    return case.name.removeprefix("scale_by_") in NAMES - {case.name}


def dtypes_of(case):
    """Return the dtypes to try. float16 is computed as bfloat16 is, so every third case has it."""
    if is_twin(case):
        return [jnp.float32]
    third = zlib.crc32(case.name.encode()) % 3 == 0
    return [dtype for dtype in case.dtypes if third or dtype != jnp.float16]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
every_rule = pytest.mark.parametrize(
    "case", [case for case in CASES if not is_twin(case)], ids=lambda c: c.name
)


def tree(dtype, seed=0):
    """Return parameters with every kind of leaf: matrix, vector, scalar, zero-size, None."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        x = rng.normal(0.4, 1.0, shape)
        x = (
            x + 1j * rng.normal(0.1, 1.0, shape)
            if jnp.issubdtype(dtype, jnp.complexfloating)
            else x
        )
        return jnp.asarray(x, dtype)

    return {"b": {"s": array(), "x": array(3)}, "n": None, "w": array(4, 3), "z": array(0, 3)}


def extras(case, params, grads, t=1):
    """Return the extras of a case; they are made from flat dicts of arrays."""

    def flat(x):
        return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(x))}

    return case.extras(flat(params), flat(grads), t)


def avals(x):
    typeof = (
        getattr(jax, "typeof", None) or jax.core.get_aval
    )  # the lowest supported jax has no typeof
    return [(a.shape, str(a.dtype), typeof(a).weak_type) for a in jax.tree.leaves(x)]


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def is_finite(x):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(x))


def edges(case, dtype):
    """Return numbers at the ends of their ranges, as far as the factory takes them."""

    def accepted(name, value):
        try:
            case.make(**case.numbers | {name: value})
        except ValueError:
            return False
        return True

    least = {k: 0.0 for k in case.numbers if accepted(k, 0.0)}
    eps = {k: 0.0 for k in least if "eps" in k}
    if dtype != jnp.float32:
        return [eps]
    near_one = {k: 1 - 1e-9 for k in case.numbers if not accepted(k, 1.5) and accepted(k, 1 - 1e-9)}
    return [eps, least, near_one]


def step_of(case, params):
    """Return `step(opt, params, state) -> (params, state)`, one down 0.5 |x - 0.3|^2."""
    ones = jax.tree.map(lambda x: np.ones(x.shape), params)
    more = extras(case, ones, ones)

    def step(opt, params, state):
        grads = jax.tree.map(lambda x: x - 0.3, params)
        updates, state = opt.update(grads, state, params, **more)
        return gdjax.apply_updates(params, updates), state

    return step


def run(case, numbers, params, steps=3):
    """Return the parameters after a few steps, differentiable in numbers."""
    opt, step = case.make(**numbers), step_of(case, params)

    def body(carry, _):
        return step(opt, *carry), None

    return jax.lax.scan(body, (params, opt.init(params)), length=steps)[0][0]


# These leave such gradients out on purpose, or hold them back.
LEAVE_NAN_OUT = (
    "accumulate",
    "apply_if_finite",
    "conditionally_mask",
    "guard",
    "plain",  # has zero_nans
    "sam",
    "sam_in_turns",
    "skip_spikes",
    "with_loss_scale",
)


@pytest.mark.parametrize(
    "case, dtype",
    [pytest.param(c, d, id=f"{c.name}-{jnp.dtype(d).name}") for c in CASES for d in dtypes_of(c)],
)
def test_state_updates_and_dtypes(case, dtype):
    params, grads = tree(dtype), tree(dtype, seed=1)
    opt = case.make(**case.numbers)
    state = opt.init(params)
    for value in gdjax.hyperparams(state).values():
        assert value.dtype == jnp.float32
    more = extras(case, params, grads)
    updates, new = opt.update(grads, state, params, **more)
    assert avals(new) == avals(state), "the state changes its avals: every loop compiles twice"
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == jax.tree.map(
        lambda g: (g.shape, g.dtype), grads
    )
    assert is_finite(updates)
    for _ in range(2):
        updates, new = opt.update(jax.tree.map(jnp.zeros_like, grads), new, params, **more)
        assert is_finite(updates), "a zero gradient gives a nonfinite update"
    assert is_finite(gdjax.apply_updates(params, updates))
    if dtype == jnp.float32 and case.name not in LEAVE_NAN_OUT:
        bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), grads)
        for before in (state, new):
            shown, after = opt.update(bad, before, params, **more)
            later, _ = opt.update(grads, after, params, **more)  # some first steps only learn
            assert not is_finite((shown, later)), "gradients of NaN leave no trace in the updates"
    zeros = jax.tree.map(jnp.zeros_like, grads)
    if dtype not in (jnp.float32, jnp.bfloat16):  # float16 and complex numbers use these programs
        return
    for numbers in edges(case, dtype):  # other numbers, the same program
        state = case.make(**case.numbers | numbers).init(params)
        for given in (zeros, grads, zeros):
            updates, state = opt.update(given, state, params, **more)
            assert given is grads or is_finite(updates), f"a zero gradient with {numbers}"


@every_case
def test_one_function_and_one_program_for_all_numbers(case):
    params = tree(jnp.float32)
    more = extras(case, params, params)
    traces = []

    @jax.jit
    def step(grads, state, params):
        traces.append(1)
        return case.make(**case.numbers).update(grads, state, params, **more)

    programs = set()
    for factor in (1.0, 0.9, 0.8, 0.7):
        opt = case.make(**{k: v * factor for k, v in case.numbers.items()})
        assert opt.update == case.make(**case.numbers).update
        programs.add(step.lower(params, opt.init(params), params).as_text())
    assert len(traces) == 1
    assert len(programs) == 1


@every_rule
def test_grids_and_donated_steps_equal_single_runs(case):
    params = tree(jnp.float32)
    factors = jnp.array([1.0, 0.9, 0.75])

    def lane(factor):
        return run(case, {k: v * factor for k, v in case.numbers.items()}, params)

    def assert_equal(actual, expected):
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=case.lane_rtol, atol=case.lane_rtol)

    grid = jax.jit(jax.vmap(lane))(factors)
    single = jax.jit(lane)
    for i, factor in enumerate(factors):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], grid), single(factor))

    opt, step = case.make(**case.numbers), step_of(case, params)
    donated = jax.jit(lambda carry: step(opt, *carry), donate_argnums=0)
    carry = (jax.tree.map(jnp.copy, params), opt.init(params))
    for _ in range(3):
        carry = donated(carry)
    assert is_finite(params), "init gave away the user's own buffers"
    assert_equal(carry[0], single(factors[0]))


@every_case
def test_init_under_a_trace_and_without_taking_buffers(case):
    params = tree(jnp.float32)
    opt = case.make(**case.numbers)
    state = opt.init(params)
    assert avals(jax.jit(opt.init)(params)) == avals(state)
    shapes = jax.eval_shape(opt.init, params)
    assert avals(shapes) == avals(state)
    # `init` of shapes needs no values: what it would copy from the parameters is a shape, too
    like = opt.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
    assert jax.tree.structure(like) == jax.tree.structure(state)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(like)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(state)
    ]
    mine = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params) if x.size}
    assert not mine & {
        x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size and not is_key(x)
    }, "donating the state would give away the user's own buffers"


@every_rule
def test_hypergradients(case):
    """Finite at a zero gradient, and equal to finite differences elsewhere."""
    params = {"w": np.array([[0.9, -0.4], [0.2, 1.3], [0.5, -0.8]]), "b": np.array([0.7, -0.1])}
    with enable_x64():
        params = jax.tree.map(jnp.asarray, params)

        @jax.jit
        @jax.value_and_grad
        def loss(numbers, params):
            out = run(case, numbers, params)
            return sum(jnp.sum(jnp.sin(1.3 * x)) for x in jax.tree.leaves(out))

        numbers = {k: jnp.asarray(v, float) for k, v in case.numbers.items()}
        _, still = loss(numbers, jax.tree.map(lambda x: jnp.full_like(x, 0.3), params))
        assert is_finite(still), still
        _, still = loss(
            numbers | {k: jnp.zeros(()) for k in edges(case, None)[0]},
            jax.tree.map(lambda x: jnp.full_like(x, 0.3), params),
        )
        assert is_finite(still), f"with eps = 0: {still}"
        _, exact = loss(numbers, params)
        for name in numbers.keys() - set(case.not_differentiable):
            h = 1e-5 * max(abs(case.numbers[name]), 1e-4)
            up, down = (loss(numbers | {name: numbers[name] + s * h}, params)[0] for s in (1, -1))
            numeric = (up - down) / (2 * h)
            np.testing.assert_allclose(exact[name], numeric, rtol=2e-4, atol=1e-6, err_msg=name)


@every_case
def test_numbers_can_be_written_back_and_are_never_nan(case):
    state = case.make(**case.numbers).init({"b": jnp.ones(3), "w": jnp.ones((4, 3))})
    numbers = gdjax.hyperparams(state)
    same = gdjax.with_hyperparams(state, **numbers)
    jax.tree.map(np.testing.assert_array_equal, gdjax.hyperparams(same), numbers)
    for name, value in numbers.items():
        with pytest.raises((ValueError, TypeError), match=rf"with_hyperparams\({name}=\.\.\.\)"):
            gdjax.with_hyperparams(state, **{name: np.full(value.shape, np.nan)})


@every_case
def test_empty_trees(case):
    opt = case.make(**case.numbers)
    for params in ({}, (), {"a": None}):
        state = opt.init(params)
        updates, new = opt.update(params, state, params, **extras(case, params, params))
        assert updates == params
        assert avals(new) == avals(state)
