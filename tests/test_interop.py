"""gdjax in the training loops of other libraries: the same steps as in a plain loop."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

pytestmark = pytest.mark.interop

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "other-libraries.md"
SECTIONS = dict(
    section.split("\n", 1) for section in PAGE.read_text().split("\n## ")
)  # title -> text; the first one is what all others begin with
X = jnp.linspace(-1.0, 1.0, 16)[:, None]
Y = jnp.sin(3.0 * X) + 0.5
STEPS = 6
DECAY = gdjax.by_path({r".*(bias|/b)": 0.0, r".*": 0.1})
OPTIMIZERS = {
    "schedule and decay by path": gdjax.adamw(
        gdjax.cosine_decay_schedule(0.1, 20), weight_decay=DECAY
    ),
    "wrappers": gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        gdjax.apply_if_finite(gdjax.average(gdjax.sgd(0.1, momentum=0.9)), 3),
    ),
    "groups": gdjax.groups({r".*(bias|/b)": gdjax.sgd(0.5), r".*": gdjax.adam(0.1)}),
    "an extra argument": gdjax.polyak_sgd(0.5),
}
each = pytest.mark.parametrize("name", OPTIMIZERS)
JAX_VERSION = tuple(int(part) for part in jax.__version__.split(".")[:3])


def code(section):
    """Return the Python blocks of a section, with line numbers of the section."""
    text = SECTIONS[section]
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: m.start(1)].count("\n") + m[1] for m in found]


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("section", [s for s in list(SECTIONS)[1:] if code(s)])
def test_section_of_the_page(section, tmp_path, monkeypatch):
    blocks = code(section)
    for name in re.findall(r"^(?:import|from) (\w+)", "\n".join(blocks), re.MULTILINE):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        if name == "kfac_jax" and JAX_VERSION > (0, 9, 0):
            pytest.skip("kfac-jax 0.0.8 fails in JAX after 0.9.0")
    monkeypatch.chdir(tmp_path)
    namespace, x64 = {"__name__": "reader"}, jax.config.jax_enable_x64
    try:
        with jax.numpy_rank_promotion("allow"):  # as for readers
            for block in [*code(next(iter(SECTIONS))), *blocks]:
                exec(compile(block, f"{PAGE.name}: {section}", "exec"), namespace)
    finally:
        jax.config.update("jax_enable_x64", x64)  # some of them switch it on


def mse(predictions):
    return jnp.mean((predictions - Y) ** 2)


def plain(optimizer, loss_fn, params):
    """Return the parameters and the state after some steps of the loop in the README."""
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return gdjax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


def close(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@each
def test_flax_nnx(name):
    flax = pytest.importorskip("flax", reason="Flax is not installed")
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    if name == "groups" and tuple(map(int, flax.__version__.split(".")[:2])) < (0, 12):
        pytest.skip("Flax before 0.12 cannot keep a variable without a value")
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    graph, start = nnx.split(model, nnx.Param)
    start = jax.tree.map(jnp.copy, start)  # the model's own variables change in place
    tx = OPTIMIZERS[name]
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: mse(m(X)))(model)
        optimizer.update(model, grads, value=value)

    for _ in range(STEPS):
        step(model, optimizer)
    expected, state = plain(tx, lambda p: mse(nnx.merge(graph, p)(X)), start)
    close(nnx.state(model, nnx.Param), expected)
    numbers = gdjax.hyperparams(optimizer.opt_state)
    assert numbers.keys() == gdjax.hyperparams(state).keys()
    if name == "schedule and decay by path":
        close(numbers, gdjax.hyperparams(state))
        optimizer.opt_state = gdjax.with_hyperparams(optimizer.opt_state, b1=0.5)
        step(model, optimizer)
        assert float(gdjax.hyperparams(optimizer.opt_state)["b1"]) == 0.5
        kernel = next(k for k in numbers if k.startswith("weight_decay") and "bias" not in k)
        assert float(numbers[kernel]) == pytest.approx(0.1)
    if name == "wrappers":
        pure = getattr(nnx, "as_pure", None) or getattr(nnx, "pure", None)
        if pure is None:
            pytest.skip("this Flax has no nnx.as_pure: the rest of this test")
        mine = gdjax.eval_params(pure(optimizer.opt_state), pure(nnx.state(model, nnx.Param)))
        close(mine, gdjax.eval_params(state, expected))
        assert int(gdjax.skipped_steps(pure(optimizer.opt_state))) == 0


@pytest.mark.parametrize("name", ["default_optimizer", "sm3", "psgd_kron", "offload_to_host"])
def test_flax_nnx_with_several_arrays_per_parameter(name):
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    if not hasattr(nnx, "as_pure"):
        pytest.skip("Flax before 0.12 raises errors of its own")
    tx = {
        "default_optimizer": lambda: gdjax.chain(gdjax.clip(1.0), gdjax.default_optimizer(9)),
        "offload_to_host": lambda: gdjax.offload_to_host(gdjax.adam(0.1), min_size=1),
    }.get(name, lambda: getattr(gdjax, name)(0.1))()
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.mean(m(jnp.ones((3, 4))) ** 2))(model)
    optimizer.update(model, grads)
    with pytest.raises(ValueError, match="nnx.Optimizer has replaced .* yourself, as docs/guides"):
        optimizer.update(model, grads)


@each
def test_flax_linen(name):
    nn = pytest.importorskip("flax.linen", reason="Flax is not installed")
    from flax.training.train_state import TrainState

    module, tx = nn.Dense(1), OPTIMIZERS[name]
    params = module.init(jax.random.key(0), X)
    train = TrainState.create(apply_fn=module.apply, params=params, tx=tx)
    train = train.replace(step=jnp.int32(0))  # it starts as a Python int, which compiles twice

    @jax.jit
    def step(train):
        value, grads = jax.value_and_grad(lambda p: mse(train.apply_fn(p, X)))(train.params)
        if name == "an extra argument":  # TrainState itself passes none on
            updates, state = train.tx.update(grads, train.opt_state, train.params, value=value)
            params = gdjax.apply_updates(train.params, updates)
            return train.replace(params=params, opt_state=state)
        return train.apply_gradients(grads=grads)

    for _ in range(STEPS):
        train = step(train)
    expected, state = plain(tx, lambda p: mse(module.apply(p, X)), params)
    close(train.params, expected)
    close(train.opt_state, state)
    assert step._cache_size() == 1


@each
def test_equinox(name):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    model, tx = eqx.nn.Linear(1, 1, key=jax.random.key(0)), OPTIMIZERS[name]
    params, static = eqx.partition(model, eqx.is_inexact_array)
    state = tx.init(params)

    @eqx.filter_jit
    def step(model, state):
        value, grads = eqx.filter_value_and_grad(lambda m: mse(jax.vmap(m)(X)))(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params, value=value)
        return eqx.apply_updates(model, updates), state

    for _ in range(STEPS):
        model, state = step(model, state)
    loss_fn = lambda p: mse(jax.vmap(eqx.combine(p, static))(X))  # noqa: E731
    expected, plain_state = plain(tx, loss_fn, params)
    close(eqx.filter(model, eqx.is_inexact_array), expected)
    close(state, plain_state)


def test_equinox_models_are_masks_and_labels():
    """optax #1373, equinox #69: a model can be called, and has leaves that are no arrays."""
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    model = eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    with pytest.raises(TypeError, match=r"must be arrays, got .* at 'activation'"):
        gdjax.adam(0.1).init(model)
    last = lambda m: m.layers[-1]  # noqa: E731
    all_of = lambda on: lambda part: jax.tree.map(lambda _: on, part)  # noqa: E731
    mask = eqx.tree_at(last, all_of(False)(params), replace_fn=all_of(True))
    labels = jax.tree.map(lambda on: "head" if on else "body", mask)
    for opt in (
        gdjax.selective_transform(gdjax.sgd(1.0), freeze_mask=mask),
        gdjax.partition({"head": None, "body": gdjax.sgd(1.0)}, labels),
        gdjax.groups({r"layers/1/.*": None, r".*": gdjax.sgd(1.0)}),
    ):
        updates, _ = opt.update(params, opt.init(params), params)
        assert not np.any(last(updates).weight) and np.all(updates.layers[0].weight)


@each
def test_haiku(name):
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")
    network = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(1)(x)))
    params = network.init(jax.random.key(0), X)
    assert set(params["linear"]) == {"w", "b"}
    expected, _ = plain(OPTIMIZERS[name], lambda p: mse(network.apply(p, X)), params)
    assert not np.allclose(expected["linear"]["w"], params["linear"]["w"])


def test_optax_in_gdjax_and_gdjax_in_optax():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    params = {"w": jnp.array([[0.5]]), "b": jnp.array([[0.1]])}
    loss_fn = lambda p: mse(X @ p["w"] + p["b"])  # noqa: E731
    both = [(a, b) for a in (gdjax, optax) for b in (gdjax, optax)]
    clipped = [a.chain(b.clip_by_global_norm(0.5), b.adam(0.1)) for a, b in both]
    same = [
        *clipped,
        optax.chain(optax.clip_by_global_norm(0.5), gdjax.adam(0.1)),
        gdjax.chain(gdjax.clip_by_global_norm(0.5), gdjax.average(optax.adam(0.1))),
        gdjax.named_chain(("clip", optax.clip_by_global_norm(0.5)), ("adam", optax.adam(0.1))),
        optax.partition({"all": clipped[0]}, "all"),
        gdjax.partition({"all": clipped[-1]}, "all"),
    ]
    results = [plain(optax.with_extra_args_support(tx), loss_fn, params)[0] for tx in same]
    for result in results[1:]:
        for name in params:
            np.testing.assert_allclose(result[name], results[0][name], rtol=2e-5)


def test_extra_arguments_within_optax_chain():
    """optax #1131: it hands them on by class, and ours is of that class once it is imported."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    params, value = jnp.array([1.0, 2.0]), jnp.float32(0.7)
    alone = gdjax.polyak_sgd()
    assert isinstance(alone, optax.GradientTransformationExtraArgs)
    assert isinstance(alone, gdjax.Optimizer) and type(alone) is gdjax.Optimizer
    tx = optax.chain(optax.identity(), alone)
    updates, _ = tx.update(params, tx.init(params), params, value=value)
    close(updates, alone.update(params, alone.init(params), params, value=value)[0])
    with pytest.raises(TypeError, match="needs value="):
        tx.update(params, tx.init(params), params)


def _rate(count):
    return 0.1 / (1 + count)


MINIMIZERS = {
    "plain": lambda rate: gdjax.adam(rate),
    "schedule": lambda rate: gdjax.sgd(gdjax.cosine_decay_schedule(rate, 10)),
    "function": lambda rate: gdjax.chain(gdjax.sgd(_rate), gdjax.scale(rate)),
    "mask": lambda rate: gdjax.adamw(rate, mask={"w": True, "b": False}),
    "by path": lambda rate: gdjax.adamw(rate, weight_decay=gdjax.by_path({r"b": None, r".*": 0.1})),
    "groups": lambda rate: gdjax.groups({r"b": gdjax.sgd(rate), r".*": gdjax.adam(rate)}),
    "wrappers": lambda rate: gdjax.average(gdjax.noisy_sgd(rate, key=0)),
    "an extra argument": lambda rate: gdjax.polyak_sgd(rate),
}


@pytest.mark.parametrize("name", MINIMIZERS)
def test_optimistix(name):
    optx = pytest.importorskip("optimistix", reason="optimistix is not installed")
    params, tx = {"w": jnp.ones((1, 1)), "b": jnp.zeros((1, 1))}, MINIMIZERS[name](0.1)
    loss_fn = lambda p, _=None: mse(X @ p["w"] + p["b"])  # noqa: E731
    solver = optx.OptaxMinimiser(tx, rtol=1e-9, atol=1e-9)
    found = optx.minimise(loss_fn, solver, params, max_steps=STEPS, throw=False)
    close(found.value, plain(tx, loss_fn, params)[0])


def test_optimistix_takes_rates_as_data():
    """`closure_to_pytree` makes leaves of the arrays that `init` closes over."""
    internal = pytest.importorskip("equinox.internal", reason="Equinox is not installed")
    for name in ("plain", "schedule", "function", "mask", "by path"):
        a, b = (internal.closure_to_pytree(MINIMIZERS[name](0.1)) for _ in range(2))
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert np.all(x == y), f"{name}: {x} and {y} would be two programs"
    traced = internal.closure_to_pytree(gdjax.adam(jnp.float32(0.3)))
    assert any(isinstance(x, jax.Array) and x == 0.3 for x in jax.tree.leaves(traced))


@each
def test_jaxopt(name):
    jaxopt = pytest.importorskip("jaxopt", reason="jaxopt is not installed")
    if name == "an extra argument":
        pytest.skip("jaxopt passes none on")
    params = {"layer": {"w": jnp.ones((1, 1)), "b": jnp.zeros((1, 1))}}
    loss_fn = lambda p: mse(X @ p["layer"]["w"] + p["layer"]["b"])  # noqa: E731
    solver = jaxopt.OptaxSolver(loss_fn, OPTIMIZERS[name], maxiter=STEPS, tol=0.0)
    close(solver.run(params).params, plain(OPTIMIZERS[name], loss_fn, params)[0])


@pytest.mark.filterwarnings("ignore")  # of the library
def test_kfac_jax_equals_its_own_optimizer():
    kfac_jax = pytest.importorskip("kfac_jax", reason="kfac-jax is not installed")
    if JAX_VERSION > (0, 9, 0):
        pytest.skip("kfac-jax 0.0.8 fails in JAX after 0.9.0")
    params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.1])}
    batch, seed = (X, Y), jax.random.PRNGKey(0)

    def loss_fn(params, batch):
        x, y = batch
        predictions = x @ params["w"] + params["b"]
        kfac_jax.register_squared_error_loss(predictions, y, weight=0.5)
        return 0.5 * jnp.mean(jnp.sum((predictions - y) ** 2, axis=1))

    with jax.numpy_rank_promotion("allow"):
        peer = kfac_jax.Optimizer(
            jax.value_and_grad(loss_fn), l2_reg=0.0, learning_rate_schedule=lambda i: 0.1,
            momentum_schedule=lambda i: 0.9, initial_damping=0.1, damping_schedule=lambda i: 0.1,
            inverse_update_period=1, num_burnin_steps=0, estimation_mode="fisher_gradients",
            multi_device=False,
        )  # fmt: skip
        copied = jax.tree.map(jnp.copy, params)  # its step donates
        peer_state = peer.init(copied, seed, batch)
        curvature = kfac_jax.OptaxPreconditioner(
            loss_fn, damping=0.1, inverse_update_period=1, pmap_axis_name=None,
            distributed_inverses=False, distributed_precon_apply=False,
        )  # fmt: skip
        tx = gdjax.chain(curvature.as_gradient_transform(), gdjax.sgd(0.1, momentum=0.9))
        state, estimate = tx.init(params), curvature.init((params, batch), seed)

        @jax.jit
        def step(params, state, estimate, key):
            grads = jax.grad(loss_fn)(params, batch)
            estimate = curvature.maybe_update(estimate, (params, batch), key)
            updates, state = tx.update(grads, state, params, precond_state=estimate)
            params = gdjax.apply_updates(params, updates)
            return params, state, curvature.increment_count(estimate)

        for i in range(STEPS):
            key = jax.random.PRNGKey(i)
            params, state, estimate = step(params, state, estimate, key)
            copied, peer_state, _ = peer.step(
                copied, peer_state, key, batch=batch, global_step_int=i
            )
    close(params, copied)
