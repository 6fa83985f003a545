"""Functions, their data and their programs go when the user's references go, and not before."""

import functools
import gc
import types
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.remember import (
    Owned,
    Unjudgeable,
    functions_in,
    remembered,
    state_of,
    weak_functions,
)

DATA, ZERO = jnp.ones(4), jnp.zeros(())


def loss_fn(params, batch):  # lives on, while what it is used with goes
    return jnp.mean((params - batch) ** 2)


def bowl(x):
    return jnp.sum(x**2)


def of_data(make):
    """Return a function that closes over an array of its own, and references to both."""
    data = jnp.ones(7)
    function = make(lambda: data.mean())
    return function, [weakref.ref(function), weakref.ref(data)]


def loss():
    return of_data(lambda size: lambda params, batch: jnp.mean((size() * params - batch) ** 2))


def schedule():
    return of_data(lambda size: lambda count: 0.1 * size() / (1 + count))


def twice(optimizer, params=ZERO):
    """Step eagerly and inside of `fit`."""
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(params, state, params, value=jnp.float32(1))
    if params is ZERO:
        gdjax.fit(loss_fn, params, optimizer, DATA, steps=2)


def fit():
    function, refs = loss()
    gdjax.fit(function, ZERO, gdjax.sgd(0.1), DATA, steps=2, held_out=DATA)
    return refs


def fit_aux():
    function, refs = loss()
    gdjax.fit(
        lambda p, b, key: (function(p, b), p), ZERO, gdjax.sgd(0.1), iter([DATA] * 3), steps=2,
        has_aux=True, needs_key=True,
    )  # fmt: skip
    return refs


def fit_schedule():
    function, refs = schedule()
    result = gdjax.fit(loss_fn, ZERO, gdjax.adam(function), DATA, steps=2)
    gdjax.fit(loss_fn, ZERO, gdjax.adam(function), DATA, steps=2, state=result.state)
    return refs


def eager_schedule():
    function, refs = schedule()
    twice(gdjax.chain(gdjax.clip(1.0), gdjax.sgd(function)))
    twice(gdjax.sgd(gdjax.by_path({".*": function})), jnp.ones(2))
    return refs


def method_as_schedule():
    class Owner:
        def rate(self, count):
            return 0.1

    owner = Owner()
    twice(gdjax.sgd(owner.rate))
    return [weakref.ref(owner)]


def sweep():
    function, refs = loss()
    rate, more = schedule()
    for optimizer in (lambda b1: gdjax.adam(rate, b1=b1), gdjax.adam(rate)):
        gdjax.sweep(function, ZERO, optimizer, {"b1": [0.1, 0.2]}, DATA, steps=2, held_out=DATA)
    return refs + more


def sweep_of_functions():
    rate, refs = schedule()
    space = {"learning_rate": [rate], "b1": [0.1, 0.2]}
    gdjax.sweep(loss_fn, lambda key: ZERO, gdjax.adam, space, DATA, steps=2)
    return refs


def race():
    function, refs = loss()
    rate, more = schedule()
    space = {"b1": [0.1, 0.2, 0.3, 0.4]}
    gdjax.successive_halving(function, ZERO, gdjax.adam(rate), space, DATA, steps=4, eta=2)
    gdjax.population_based_training(
        function, ZERO, gdjax.adam(rate), space, DATA, steps=2, every=1
    )  # fmt: skip
    return refs + more


def lr_find():
    function, refs = loss()
    gdjax.lr_find(function, ZERO, gdjax.sgd, DATA, steps=10)
    return refs


def hypergradient():
    function, refs = loss()
    gdjax.hypergradient(
        lambda rate: gdjax.unroll(function, ZERO, gdjax.sgd(rate), DATA, steps=2), 0.1
    )
    return refs


def transforms():
    function, refs = of_data(lambda size: lambda u, p: jax.tree.map(lambda x: x * size(), u))
    measure, more = of_data(lambda size: lambda u: size() * gdjax.tree.norm(u))
    twice(gdjax.chain(gdjax.stateless(function), gdjax.sgd(0.1)))
    twice(gdjax.chain(gdjax.snapshot("size", measure), gdjax.sgd(0.1)))
    return refs + more


def monitor():
    measure, refs = of_data(lambda size: lambda u: size() * gdjax.tree.norm(u))
    twice(gdjax.chain(gdjax.monitor({"a": gdjax.measure_with_ema(measure, 0.9)}), gdjax.sgd(0.1)))
    return refs


def own_rule():
    rule, refs = of_data(
        lambda size: lambda g, slots, p, count, *, rate: (-rate * size() * g, slots)
    )
    twice(gdjax.leafwise(rule, hyperparams=dict(rate=0.1), name="own"), {"a": ZERO, "b": ZERO})
    twice(gdjax.treewise(rule, hyperparams=dict(rate=0.1), name="own"))
    return refs


def foreign_pair():
    def make(size):
        return lambda updates, state, params=None: (-0.1 * size() * updates, state)

    update, refs = of_data(make)
    pair = gdjax.Optimizer(lambda params: (), update)
    twice(gdjax.chain(pair, gdjax.clip(1.0)))
    gdjax.sweep(
        loss_fn, ZERO, gdjax.chain(pair, gdjax.scale(1.0)), {"step_size": [1.0]}, DATA, steps=2
    )
    return refs


def guards():
    skip, refs = of_data(lambda size: lambda g, step, params: (size() > 2, ()))
    twice(gdjax.accumulate(gdjax.sgd(0.1), 2, should_skip_update_fn=skip))
    when, more = of_data(lambda size: lambda step: size() > 2)
    twice(gdjax.conditionally_transform(gdjax.sgd(0.1), when))
    return refs + more


def solvers():
    function, refs = of_data(lambda size: lambda x: jnp.sum((size() * x - 1) ** 2))
    rate, more = schedule()
    gdjax.minimize(function, jnp.zeros(2), max_steps=3)
    gdjax.minimize(bowl, jnp.ones(2), gdjax.sgd(rate), max_steps=3)
    return refs + more


def constrained():
    project, refs = of_data(lambda size: lambda x: jnp.clip(x, -size(), size()))
    gdjax.minimize(bowl, jnp.ones(2), constraint=project, max_steps=3)
    return refs


def as_argument():
    function, refs = of_data(lambda size: lambda x: size() * x)
    gdjax.root(_apply, jnp.ones(2), args=(function,), max_steps=3)
    return refs


def _apply(x, function):
    return function(x) - 1


@pytest.mark.parametrize(
    "use",
    [
        fit, fit_aux, fit_schedule, eager_schedule, method_as_schedule, sweep, sweep_of_functions,
        race, lr_find, hypergradient, transforms, monitor, own_rule, foreign_pair, guards, solvers,
        constrained, as_argument,
    ],
)  # fmt: skip
def test_functions_and_their_data_go(use):
    refs = use()
    gc.collect()
    assert [ref() is None for ref in refs] == [True] * len(refs)


@pytest.mark.slow
def test_large_closures_do_not_fill_the_memory():
    def once():
        data = jnp.ones(2**19)  # 2 MB
        twice(gdjax.sgd(lambda count: 0.1 * data[0]))
        gdjax.fit(
            lambda p, b: jnp.mean((p - b * data[0]) ** 2), ZERO, gdjax.sgd(0.1), DATA, steps=1
        )

    def held():
        gc.collect()
        return sum(x.nbytes for x in jax.live_arrays())

    once()
    before = held()
    for _ in range(10):
        once()
    assert held() - before < 2**20


def test_the_same_functions_compile_once_even_if_the_optimizer_is_built_anew():
    traces = []

    def counted(params, batch):
        traces.append("loss")
        return loss_fn(params, batch)

    def rule(grad, slots, param, count, *, rate):
        traces.append("rule")
        return -rate * grad, slots

    def rate(count):
        traces.append("rate")
        return 0.1

    def own(value):
        return gdjax.leafwise(rule, hyperparams=dict(rate=value))

    def each(i):
        gdjax.fit(counted, ZERO, own(0.1 + i), DATA, steps=2, held_out=DATA)
        gdjax.fit(counted, ZERO, gdjax.chain(own(rate), gdjax.clip(1.0 + i)), DATA, steps=2)
        gdjax.sweep(counted, ZERO, own(0.1), {"rate": [0.1, 0.2 + i]}, DATA, steps=2)
        optimizer = gdjax.chain(own(rate), gdjax.clip(1.0 + i))
        optimizer.update(ZERO, optimizer.init(ZERO), ZERO)
        gdjax.minimize(counted, ZERO + i, own(0.1), args=(1.0,), max_steps=2)
        gc.collect()

    each(0)
    before = len(traces)
    each(1)
    again = traces[before:]
    assert "rule" not in again and "loss" not in again, again
    assert isinstance(own(0.1).update, Owned) and own(0.1).update == own(0.2).update
    assert hash(own(0.1).update) == hash(own(0.2).update)


class Trainer:
    def __init__(self):
        self.target, self.weights, self.options = 1.0, np.ones(4, np.float32), {"scale": [1.0]}

    def loss(self, params, batch):
        scale = self.options["scale"][0]
        return jnp.mean((params - self.target * self.weights * scale * batch) ** 2)

    def __call__(self, params, batch):
        return self.loss(params, batch)

    def change(self, i):
        if i == 1:
            self.target = 2.0
        elif i == 2:
            self.weights[:] = 2.0  # in place
        elif i == 3:
            self.options["scale"][0] = 2.0
        return [1.0, 2.0, 4.0, 8.0][i]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["method", "object", "partial"])
def test_an_object_is_what_it_is_now(how):
    trainer = Trainer()
    more = gdjax.sgd(0.25), DATA
    for i in range(4):
        want = trainer.change(i)
        function = trainer.loss if how == "method" else trainer
        function = functools.partial(function) if how == "partial" else function
        got = gdjax.fit(function, ZERO, *more, steps=40, held_out=DATA)
        np.testing.assert_allclose(got.params, want, rtol=1e-5)
        np.testing.assert_allclose(got.history["held_out"][-1], 0, atol=1e-8)
        swept = gdjax.sweep(function, ZERO, gdjax.sgd, {"learning_rate": [0.25]}, DATA, steps=40)
        np.testing.assert_allclose(swept.params[0], want, rtol=1e-5)
        found = gdjax.minimize(function, ZERO, args=(DATA,))
        np.testing.assert_allclose(found.params, want, rtol=1e-3)
    ref = weakref.ref(trainer)
    del trainer, function
    gc.collect()
    assert ref() is None


def test_a_schedule_that_is_a_method_is_what_it_is_now():
    schedule = types.SimpleNamespace(rate=1.0)

    class Rate:
        def at(self, count):
            return schedule.rate * self.factor

    rate = Rate()
    rate.factor = 1.0
    optimizer = gdjax.sgd(rate.at)
    state = optimizer.init(ZERO)
    assert optimizer.update(jnp.float32(1), state)[0] == -1
    rate.factor = 3.0
    assert optimizer.update(jnp.float32(1), state)[0] == -3


def test_an_object_that_did_not_change_compiles_once():
    class Counted(Trainer):
        traces = 0

        def loss(self, params, batch):
            self.traces += 1
            return super().loss(params, batch)

    trainer = Counted()
    gdjax.fit(trainer.loss, ZERO, gdjax.sgd(0.1), DATA, steps=2)
    first = trainer.traces
    for rate in (0.1, 0.2):
        gdjax.fit(trainer.loss, ZERO, gdjax.sgd(rate), DATA, steps=2)
    assert trainer.traces == first


def test_what_cannot_be_judged_is_made_anew():
    made = []

    @remembered
    def make(function):
        made.append(1)
        return lambda: function()

    class Slotted:
        __slots__ = ("__weakref__", "x")

        def __call__(self):
            return self.x

    thing = Slotted()
    for x in (1, 2):
        thing.x = x
        assert make(thing)() == x
    assert len(made) == 2
    assert make(bowl) is make(bowl) and len(made) == 3
    cyclic = Trainer()
    cyclic.self = cyclic
    with pytest.raises(Unjudgeable):
        state_of(cyclic)
    make(cyclic)


def test_structures_hold_functions_weakly_only_where_nothing_outlives_them():
    def rate(count):
        return 0.1

    state = gdjax.sgd(rate).init(ZERO)
    leaves, treedef = jax.tree.flatten(state)
    with weak_functions() as found:
        weak = jax.tree.structure(state)
    assert found == [rate] and functions_in(state) == (rate,) and functions_in(leaves) == ()
    assert treedef == weak and hash(treedef) == hash(weak)
    assert treedef == jax.tree.structure(gdjax.sgd(rate).init(ZERO))
    assert treedef != jax.tree.structure(gdjax.sgd(lambda count: 0.1).init(ZERO))
    del state, rate, found
    gc.collect()
    again = treedef.unflatten(leaves)  # the user's own structure keeps it
    assert again.hyperparams["learning_rate"](0) == 0.1
    del again, treedef
    gc.collect()
    with pytest.raises(ReferenceError, match="has been deleted"):
        weak.unflatten(leaves)


def test_nodes_of_different_classes_have_different_structures():
    """With `jax.tree_util.register_dataclass` of jaxlib 0.10 to 0.12 they are equal."""
    numbers = dict(init_value=0.3, end_value=0.05, transition_steps=11, transition_begin=4)
    linear, rex = gdjax.linear_schedule(**numbers), gdjax.rex_schedule(**numbers)
    assert jax.tree.structure(linear) != jax.tree.structure(rex)
    assert jax.tree.structure(linear) == jax.tree.structure(gdjax.linear_schedule(**numbers))
    sources = Path(gdjax.__file__).parent.rglob("*.py")
    used = [p.name for p in sources if "tree_util.register_dataclass," in p.read_text()]
    assert not used, "use gdjax.core.remember.register_node"
