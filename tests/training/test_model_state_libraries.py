"""docs/guides/model-state.md: its code runs, and trains as a loop of each library does."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.checkpoint import Checkpoints
from gdjax.training.engine import draw

pytestmark = pytest.mark.interop

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "model-state.md"
MODULES = {"Flax NNX": "flax", "Flax Linen": "flax", "Equinox": "equinox", "Haiku": "haiku"}
each = pytest.mark.parametrize("part", MODULES)
STEPS = 60  # four epochs of 15


@pytest.fixture(scope="module")
def pages():
    """Return part -> the names that the page defines up to its end, each computed once."""
    known = {}

    def page(part):
        pytest.importorskip(MODULES[part], reason=f"{part} is not installed")
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
        if part not in known:
            sections = PAGE.read_text().split("\n## ")
            wanted = [text for text in sections if text.startswith((part, "# Models"))]
            names = {"__name__": "reader"}
            for text in wanted:
                for block in text.split("```python\n")[1:]:
                    exec(compile(block.split("```")[0], f"{PAGE.name}: {part}", "exec"), names)
            known[part] = types.SimpleNamespace(**names)
        return known[part]

    return page


def batches(page, seed=0):
    """Return the batches that `fit` draws with this key."""
    images, labels = page.train
    rows = draw(jax.random.key(seed), jnp.int32(0), STEPS, len(images), 100)
    return [(images[r], labels[r]) for r in np.asarray(rows)]


def step_keys(seed=0):
    return [jax.random.fold_in(jax.random.key(seed), i) for i in range(STEPS)]


def nnx_loop(page):
    """Train with `nnx.Optimizer` and `nnx.jit`; the model changes in place."""
    from flax import nnx

    model = page.Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, page.optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        def loss_fn(model):
            return page.cross_entropy(model(batch[0]), batch[1])

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    losses = [step(model, optimizer, batch) for batch in batches(page)]
    _, params, state = jax.tree.map(jnp.copy, nnx.split(model, nnx.Param, ...))
    training = model(page.test[0])
    model.eval()
    return losses, params, state, model(page.test[0]), training


def linen_loop(page):
    """Train with a `TrainState` that has the batch statistics too."""
    from flax.training.train_state import TrainState

    class State(TrainState):
        batch_stats: dict

    module, variables = page.Network(), page.init(jax.random.key(0))
    train = State.create(
        apply_fn=module.apply, params=variables["params"], tx=page.optimizer,
        batch_stats=variables["batch_stats"],
    )  # fmt: skip

    @jax.jit
    def step(train, batch, key):
        def loss_fn(params):
            logits, new = train.apply_fn(
                {"params": params, "batch_stats": train.batch_stats}, batch[0], train=True,
                rngs={"dropout": key}, mutable=["batch_stats"],
            )  # fmt: skip
            return page.cross_entropy(logits, batch[1]), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(train.params)
        return train.apply_gradients(grads=grads, batch_stats=new["batch_stats"]), loss

    losses = []
    for batch, key in zip(batches(page), step_keys(), strict=True):
        train, loss = step(train, batch, key)
        losses.append(loss)
    trained = {"params": train.params, "batch_stats": train.batch_stats}
    logits = module.apply(trained, page.test[0], train=False)
    training, _ = module.apply(
        trained, page.test[0], train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    return losses, train.params, train.batch_stats, logits, training


def equinox_loop(page):
    """Train the model itself, with `eqx.filter_jit`."""
    import equinox as eqx

    model, state = eqx.nn.make_with_state(page.Network)(jax.random.key(0))
    opt_state = page.optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def logits_of(model, state, images, key):
        keys = jax.random.split(key, len(images))
        axes = dict(in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")
        return jax.vmap(model, **axes)(images, state, keys)

    @eqx.filter_jit
    def step(model, state, opt_state, batch, key):
        def loss_fn(model, state):
            logits, state = logits_of(model, state, batch[0], key)
            return page.cross_entropy(logits, batch[1]), state

        (loss, state), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, state)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = page.optimizer.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), state, opt_state, loss

    losses = []
    for batch, key in zip(batches(page), step_keys(), strict=True):
        model, state, opt_state, loss = step(model, state, opt_state, batch, key)
        losses.append(loss)
    logits, _ = logits_of(eqx.nn.inference_mode(model), state, page.test[0], key)
    leaves, treedef = jax.tree.flatten(state)
    training, _ = logits_of(model, treedef.unflatten(leaves), page.test[0], key)
    return losses, eqx.filter(model, eqx.is_inexact_array), state, logits, training


def haiku_loop(page):
    """Train as Haiku's examples do, with optax."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    optimizer = optax.sgd(0.2, momentum=0.9)
    params, state = page.init(jax.random.key(0))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, state, opt_state, batch, key):
        def loss_fn(params):
            logits, new = page.network.apply(params, state, key, batch[0], True)
            return page.cross_entropy(logits, batch[1]), new

        (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    losses = []
    for batch, key in zip(batches(page), step_keys(), strict=True):
        params, state, opt_state, loss = step(params, state, opt_state, batch, key)
        losses.append(loss)
    logits, _ = page.network.apply(params, state, None, page.test[0], False)
    training, _ = page.network.apply(params, state, key, page.test[0], True)
    return losses, params, state, logits, training


LOOPS = {
    "Flax NNX": nnx_loop,
    "Flax Linen": linen_loop,
    "Equinox": equinox_loop,
    "Haiku": haiku_loop,
}


def plain(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(plain(x), plain(y), **tolerance)


def again(page, params, **options):
    """Train with the programs that the page has compiled."""
    given = {"metric_fn": page.metric_fn, **page.options, "report_every": 3, **options}
    return gdjax.fit(page.loss_fn, params, page.optimizer, page.train, **given)


@each
def test_fit_is_the_loop_of_the_library(part, pages):
    page = pages(part)
    losses, params, state, logits, training = LOOPS[part](page)
    result = page.result
    np.testing.assert_allclose(result.history["loss"], losses, rtol=2e-3, atol=2e-4)
    close(result.params, params, rtol=1e-2, atol=2e-3)
    close(result.model_state, state, rtol=1e-2, atol=2e-3)
    # The metric is what the library's evaluation gives, and not what its training gives.
    last = result.history["accuracy"][-1]
    assert last > 0.85 and np.abs(logits - training).max() > 0.5
    np.testing.assert_allclose(last, page.accuracy(logits, page.test[1]), atol=2.1 / 297)
    mine = page.metric_fn(result.params, result.model_state, page.test)["accuracy"]
    np.testing.assert_allclose(last, mine, rtol=1e-6)


@pytest.mark.parametrize("part", ["Flax NNX", "Haiku"])  # typed keys, and a key for each step
def test_lanes_are_runs_of_their_seeds(part, pages):
    page = pages(part)
    swept = page.swept
    assert len(swept.steps) == 6 and swept.best(by="accuracy", mode="max").value > 0.85
    lane = 3  # the second rate with the second seed
    config = swept.config(lane)
    trees = page.init(jax.random.key(config["seed"]))
    match part:
        case "Flax Linen":
            params, model_state = trees["params"], trees["batch_stats"]
        case "Flax NNX":
            _, params, model_state = trees
        case "Equinox":
            params, _, model_state = trees
        case _:
            params, model_state = trees
    alone = again(
        page, params, model_state=model_state,
        state=gdjax.sgd(config["learning_rate"], momentum=0.9).init(params),
        key=jax.random.fold_in(jax.random.key(0), config["seed"]),
    )  # fmt: skip
    got = swept.lane(lane)
    np.testing.assert_allclose(swept.history["loss"][lane], alone.history["loss"], rtol=5e-3)
    close(got.model_state, alone.model_state, rtol=1e-2, atol=2e-3)
    close(got.params, alone.params, rtol=1e-2, atol=2e-3)


@each
def test_half_a_run_is_saved_and_continued(part, pages, tmp_path):
    page = pages(part)
    half = again(page, page.params, model_state=page.state, epochs=2)
    half.save(tmp_path / "half.npz")
    loaded = gdjax.FitResult.load(
        tmp_path / "half.npz", page.params, page.optimizer.init(page.params), page.state
    )
    whole = again(page, page.params, epochs=2, start=loaded)
    close(whole.params, page.result.params, rtol=0)
    close(whole.model_state, page.result.model_state, rtol=0)
    np.testing.assert_array_equal(whole.history["loss"], page.result.history["loss"])
    np.testing.assert_array_equal(whole.history["accuracy"], page.result.history["accuracy"])
    page.swept.save(tmp_path / "swept.npz")
    loaded = gdjax.SweepResult.load(
        tmp_path / "swept.npz", page.params, page.optimizer.init(page.params), page.state
    )
    for name in ("params", "state", "model_state"):
        close(getattr(loaded, name), getattr(page.swept, name), rtol=0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("part", ["Flax NNX"])  # which has typed keys in its state
def test_a_killed_sweep_resumes(part, pages, tmp_path, monkeypatch):
    page, save = pages(part), Checkpoints.save

    def sweep(**more):
        given = {"metric_fn": page.metric_fn, **page.options, "epochs": 1, "report_every": 3}
        return gdjax.sweep(
            page.loss_fn, page.params, gdjax.sgd, {"learning_rate": [0.1, 0.2]}, page.train,
            model_state=page.state, **given, **more,
        )  # fmt: skip

    def save_and_die(self, group, run):
        save(self, group, run)
        if run.done == 9:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", save_and_die)
        sweep(directory=tmp_path / "runs")
    resumed, whole = sweep(directory=tmp_path / "runs"), sweep()
    close(resumed.params, whole.params, rtol=0)
    close(resumed.model_state, whole.model_state, rtol=0)
    np.testing.assert_array_equal(resumed.history["accuracy"], whole.history["accuracy"])
