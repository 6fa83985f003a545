"""Which runs share a compiled program, and how long one is kept."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


class Counted:
    """A quartic that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, x, target):
        self.traces += 1
        return jnp.sum((x - target) ** 4 + 0.5 * (x - target) ** 2)

    def method(self, x, target):
        return self(x, target)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["target"], meta_fields=["power"])
@dataclasses.dataclass
class Distance:
    """A function with data, as an Equinox module; not hashable."""

    target: jax.Array
    power: int

    def __call__(self, x):
        TRACED.append(self.power)
        return jnp.sum((x - self.target) ** self.power)

    def method(self, x):
        return self(x)


TRACED = []


def distance(target, x):
    TRACED.append(2)
    return jnp.sum((x - target) ** 2)


@pytest.mark.parametrize("solver", ["minimize", "implicit", "least_squares", "root", "fixed_point"])
def test_functions_are_let_go(solver):
    run = dict(minimize=gdjax.minimize, least_squares=gdjax.least_squares, root=gdjax.root)
    run |= dict(fixed_point=gdjax.fixed_point)
    run |= dict(implicit=functools.partial(gdjax.minimize, implicit_diff=True))

    class Owner:
        shift = 0.5

        def method(self, x):
            return (x - self.shift) ** 2 if "im" in solver else 0.1 * (x - self.shift)

    def once():
        owner = Owner()
        assert run[solver](lambda x: owner.method(x), 1.0).converged
        assert run[solver](owner.method, 1.0).converged
        return weakref.ref(owner)

    ref = once()
    gc.collect()
    assert ref() is None


@pytest.mark.slow
def test_derivatives_and_lanes_outside_of_jit_are_compiled_once():
    fun = Counted()

    def solve(target):
        return gdjax.minimize(fun, jnp.zeros(2), args=(target,), implicit_diff=True).params

    runs = jax.vmap(solve), jax.jacobian(solve), jax.jacfwd(solve), jax.hessian(solve)
    for run in runs:
        run(jnp.ones(2))
        before = fun.traces
        run(2 * jnp.ones(2))
        assert fun.traces == before
    np.testing.assert_allclose(runs[1](jnp.ones(2)), jnp.eye(2), atol=1e-3)


def test_progress_and_methods_compile_nothing_anew():
    fun = Counted()
    seen = []
    for i in range(2):
        before = fun.traces
        result = gdjax.minimize(
            fun.method, jnp.zeros(2), args=(1.0,), progress=lambda *row, i=i: seen.append((i, row))
        )
        assert len(seen) == (i + 1) * result.steps
    assert fun.traces == before and seen[-1][0] == 1
    assert seen[-1][1][0] == result.steps and seen[-1][1][2] == result.grad_norm
    told = jax.jit(
        lambda t: gdjax.minimize(
            fun, jnp.zeros(2), args=(t,), progress=lambda *row: seen.append((2, row))
        )
    )
    for _ in range(2):
        count = len(seen)
        steps = told(1.0).steps
        jax.effects_barrier()
        assert len(seen) == count + steps and seen[-1][0] == 2


@pytest.mark.slow
def test_arrays_of_functions_that_are_trees_are_data():
    def partial(t):
        return jax.tree_util.Partial(distance, t)

    for make in (partial, lambda t: Distance(t, 2), lambda t: Distance(t, 2).method):
        counts = []
        for i in (1.0, 2.0):
            TRACED.clear()
            found = gdjax.minimize(make(jnp.full(2, i)), jnp.zeros(2))
            np.testing.assert_allclose(found.params, i, rtol=1e-5)
            counts.append(len(TRACED))
        assert counts[0] > 0 and counts[1] == 0

        def solve(t, make=make):
            return gdjax.minimize(make(t), jnp.zeros(2), implicit_diff=True).params.sum()

        np.testing.assert_allclose(jax.grad(solve)(jnp.ones(2)), [1, 1], rtol=1e-5)
    gdjax.minimize(Distance(jnp.ones(2), 4), jnp.zeros(2))  # a number that is none of its arrays
    assert TRACED[-1] == 4


def test_what_is_no_array_in_args_is_structure():
    def fun(x, model, kind, data):
        assert kind == "square"
        return jnp.sum(model(x - data) ** 2)

    for wrap in (lambda f: f, jax.jit):
        found = wrap(lambda t: gdjax.minimize(fun, jnp.zeros(2), args=(jnp.tanh, "square", t)))(2.0)
        np.testing.assert_allclose(found.params, 2.0, rtol=1e-4)
    with pytest.raises(TypeError, match=r"minimize: what is no array .* be hashable"):
        gdjax.minimize(fun, jnp.zeros(2), args=({1, 2}, "square", 2.0))

    @dataclasses.dataclass
    class Plain:
        shift: float

        def __call__(self, x):
            return x - self.shift

    with pytest.raises(TypeError, match=r"root: the function .*Plain.* make its class a pytree"):
        gdjax.root(Plain(1.0), 0.0)
    with pytest.raises(TypeError, match=r"fixed_point\(fun=...\) must be a function, got 3"):
        gdjax.fixed_point(3, 0.0)  # pyright: ignore[reportArgumentType]


def test_arguments_of_the_wrong_kind():
    def fun(x, *args):
        return jnp.sum(x**2)

    x = jnp.ones(2)
    cases = {
        r"args=...\) must be a tuple, got 3.0": dict(args=3.0),
        r"tol=...\) must be one number or None, got Array": dict(tol=jnp.ones(2)),
        r"max_steps=...\) must be a whole number from 0 to 2\*\*31 - 1, got 10.5": dict(
            max_steps=10.5
        ),
        r"max_steps=...\) must be a whole number .* got 10995116": dict(max_steps=2**40),
        r"progress=...\) must be True or False or a function, got 5": dict(progress=5),
        r"bounds=...\) must be a pair .* tuple\(jnp.array\(pairs\).T\)": dict(bounds=[(0, 1)] * 2),
        r"constraint=...\) must be a function or None, got {'type'": dict(
            constraint={"type": "eq"}
        ),
        r"minimize\(optimizer=...\) must be an \(init, update\) pair or None, got 'lbfgs'": dict(
            optimizer="lbfgs"
        ),
        r"has_aux=True\): fun must return \(value, aux\)": dict(has_aux=True),
    }
    for message, given in cases.items():
        with pytest.raises((TypeError, ValueError), match=message):
            gdjax.minimize(fun, x, **given)
    with pytest.raises(TypeError, match="must return one real number, got NoneType"):
        gdjax.minimize(lambda x: None, x)
    with pytest.raises(TypeError, match="must return one real number, got tuple"):
        gdjax.minimize(lambda x: (jnp.sum(x), x), x)
    with pytest.raises(
        TypeError, match=r"root\(params=...\) must be the initial parameters, got None"
    ):
        gdjax.root(fun, None)
    with pytest.raises(
        TypeError,
        match=r"lbfgs\(linesearch=...\) must be an \(init, update\) pair or None, got 'zoom'",
    ):
        gdjax.lbfgs(linesearch="zoom")
    with pytest.raises(TypeError, match=r"residual_fn=...\) must return residuals, got None"):
        gdjax.least_squares(lambda x: None, x)
    fit = gdjax.least_squares(lambda x: [x[0] - 2, 1.0], x)
    np.testing.assert_allclose(fit.params, [2, 1], rtol=1e-5)
    for solve in (gdjax.root, gdjax.fixed_point):  # x - x[:1] would be taken for 0
        name = rf"{solve.__name__}\(fun=...\) must return"
        with pytest.raises(ValueError, match=rf"{name} shapes .* got \[\(1,\)\] for \[\(2,\)\]"):
            solve(lambda x: x[:1], x)
        with pytest.raises(ValueError, match=rf"{name} a tree like the parameters"):
            solve(lambda x: {"a": x}, x)
    limits = jax.vmap(lambda n: gdjax.minimize(fun, x, gdjax.sgd(0.1), max_steps=n).steps)
    assert limits(jnp.array([0, 3])).tolist() == [0, 3]


def test_a_start_in_numpys_float64_has_the_tolerance_of_what_is_computed():
    def fun(x):
        return jnp.sum((x - 0.3) ** 4 + x**2)

    single, double = (gdjax.minimize(fun, np.ones(3, d)) for d in (np.float32, np.float64))
    assert single.converged and double.steps == single.steps


@pytest.mark.slow
def test_programs_belong_to_objects_not_to_what_equals_them_or_took_their_place():
    """Methods of objects that are equal, that have no hash, and that live at the same address."""

    @dataclasses.dataclass  # equal to one of the same target, and without a hash
    class Bowl:
        target: float

        def method(self, x):
            return (x - self.shift) ** 2

    a, b = Bowl(1.0), Bowl(1.0)
    a.shift, b.shift = 2.0, 3.0
    for _ in range(2):
        for bowl in (a, b):
            found = gdjax.minimize(bowl.method, 0.0)
            np.testing.assert_allclose(found.params, bowl.shift, atol=1e-3)
    address = id(b)
    del a, b, bowl, found
    gc.collect()
    others = [Bowl(1.0) for _ in range(10_000)]  # CPython gives one of them the free place
    c = next((bowl for bowl in others if id(bowl) == address), others[0])
    c.shift = 4.0
    np.testing.assert_allclose(gdjax.minimize(c.method, 0.0).params, 4.0, atol=1e-3)


@pytest.mark.slow
def test_a_run_within_a_trace_is_part_of_it():
    """There `fun` is called as plain Python, so that an object may hold what is traced."""

    class Bowl:
        def method(self, x):
            return (x - self.shift) ** 2

    bowl = Bowl()

    def solve(shift):
        bowl.shift = shift
        return gdjax.minimize(bowl.method, 0.0).params

    for _ in range(2):
        np.testing.assert_allclose(jax.jit(lambda t: solve(t))(3.0), 3.0, rtol=1e-5)
        found = jax.jit(jax.vmap(lambda t: solve(t)))(jnp.array([1.0, 2.0]))
        np.testing.assert_allclose(found, [1, 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: gdjax.minimize(3, 0.0),
            TypeError,
            r"minimize\(fun=...\) must be a function, got 3",
        ),
        (lambda: gdjax.minimize(jnp.sum, "x"), TypeError, "minimize: the parameters must be arr"),
        (
            lambda: gdjax.root(jnp.sin, 1.0, tol="x"),
            TypeError,
            r"root\(tol=...\) must be one number or None, got 'x'",
        ),
        (
            lambda: gdjax.root(jnp.sin, 1.0, tol=jnp.sin),
            TypeError,
            r"root\(tol=...\) must be one number or None, got ",
        ),
        (
            lambda: gdjax.fixed_point(jnp.cos, 1.0, max_steps=None),
            TypeError,
            r"fixed_point\(max_steps=...\) must be an integer or an array, got None",
        ),
        (
            lambda: gdjax.least_squares(jnp.sin, 1.0, max_steps=2.5),
            ValueError,
            r"least_squares\(max_steps=...\) must be a whole number .*, got 2.5",
        ),
        (
            lambda: gdjax.least_squares(jnp.sin, 1.0, implicit_diff="cg"),
            TypeError,
            r"least_squares\(implicit_diff=...\) must be True or False or a function, got 'cg'",
        ),
        (
            lambda: gdjax.least_squares(lambda x: "x", 1.0),
            TypeError,
            r"least_squares\(residual_fn=...\) must return numbers, got str",
        ),
        (
            lambda: gdjax.find_root(jnp.sin, ("a", 1.0)),
            TypeError,
            r"find_root\(bracket=...\) must be a tuple \(an array, an array\), got \('a', 1.0\)",
        ),
        (
            lambda: gdjax.find_root(jnp.sin, (1.0, 4.0), args=2.0),
            TypeError,
            r"find_root\(args=...\) must be a tuple, got 2.0",
        ),
        (
            lambda: gdjax.quadratic_program(None, jnp.ones(2)),
            TypeError,
            r"quadratic_program\(Q=...\) must be an array, got None",
        ),
        (
            lambda: gdjax.quadratic_program("Q", jnp.ones(2)),
            TypeError,
            r"quadratic_program\(Q=...\) must be an array, got 'Q'",
        ),
        (lambda: gdjax.lbfgs("x"), TypeError, r"lbfgs\(learning_rate=...\) must be .* got 'x'"),
        (
            lambda: gdjax.scale_by_lbfgs(2.5),
            ValueError,
            r"scale_by_lbfgs\(memory_size=...\) must be an integer, got 2.5",
        ),
        (
            lambda: gdjax.barzilai_borwein(history_size=True),
            TypeError,
            r"barzilai_borwein\(history_size=...\) must be an integer, got True",
        ),
        (
            lambda: gdjax.anderson(0),
            ValueError,
            r"anderson\(history_size=...\) must be an integer >= 1, got 0",
        ),
        (
            lambda: gdjax.fista(gdjax.proximal.prox_lasso, increase_factor=0.5),
            ValueError,
            r"fista\(increase_factor=...\) must be finite and >= 1, got 0.5",
        ),
        (
            lambda: gdjax.projected_gradient(2.0),
            TypeError,
            r"projected_gradient\(projection=...\) must be a function, got 2.0",
        ),
        (
            lambda: gdjax.projected_gradient(jnp.abs, -1.0),
            ValueError,
            r"projected_gradient\(learning_rate=...\) must be finite and >= 0, got -1.0",
        ),
        (
            lambda: gdjax.mirror_descent(0.1, to_dual=None),
            TypeError,
            r"mirror_descent\(to_dual=...\) must be a function, got None",
        ),
        (
            lambda: gdjax.scale_by_backtracking_linesearch(2.5),
            ValueError,
            r"scale_by_backtracking_linesearch\(max_backtracking_steps=...\) .* got 2.5",
        ),
        (
            lambda: gdjax.gauss_newton(max_linesearch_steps=0),
            ValueError,
            r"gauss_newton\(max_linesearch_steps=...\) must be a whole number >= 1, got 0",
        ),
    ],
)
def test_errors_name_function_argument_and_value(call, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    "name",
    [
        "lbfgs",
        "bfgs",
        "ssbroyden",
        "nonlinear_cg",
        "steepest_descent",
        "barzilai_borwein",
        "lbfgsb",
        "fista",
    ],
)
def test_errors_of_an_update_name_the_optimizer(name):
    given = (gdjax.proximal.prox_lasso,) if name == "fista" else ()
    opt, x = getattr(gdjax, name)(*given), jnp.ones(2)
    with pytest.raises(ValueError, match=f"^{name}: this state is not of this optimizer"):
        opt.update(x, gdjax.adam(0.1).init(x), x)
    with pytest.raises((TypeError, ValueError), match=f"^{name} .*needs"):
        opt.update(x, opt.init(x), x)


def test_a_result_prints_as_a_few_lines():
    def fun(x, target):
        return jnp.sum((x - target) ** 2)

    one = gdjax.minimize(fun, jnp.zeros(3), args=(2.0,))
    lines = repr(one).splitlines()
    assert len(lines) <= 4 and all(len(line) < 120 for line in lines)
    assert lines[0].startswith(f"Result(CONVERGED, steps={one.steps}, evaluations=")
    assert "params=float32[3]" in repr(one) and f"grad_norm={float(one.grad_norm):.6g}" in repr(one)
    many = jax.vmap(lambda t: gdjax.minimize(fun, jnp.zeros(3), args=(t,)))(
        jnp.array([1.0, 2.0, jnp.nan])
    )
    assert repr(many).startswith("Result(3 lanes: 2 CONVERGED, 1 NONFINITE, steps=0 to ")
    assert len(repr(many).splitlines()) <= 4
    shown = []
    jax.jit(lambda t: shown.append(repr(gdjax.minimize(fun, jnp.zeros(3), args=(t,)))))(1.0)
    assert shown[0].startswith("Result(status=int32[], steps=int32[], ")
