"""Searches with Optuna, compared with Optuna driving a jitted optax loop trial by trial.

Both sides have the same sampler, space, budget and batches of the same size. The loop is as fast as
it can be: one compiled program for a trial, a scan over all steps with the initialization and the
evaluation in it, and the hyperparameters injected, so that it compiles once for all trials. Times
include compilation.
"""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna
from harness import Row, seconds
from sklearn.datasets import load_digits

import gdjax

optuna.logging.set_verbosity(optuna.logging.WARNING)
MLP = gdjax.models.mlp((64, 128, 10))
FEW = 4  # trials that are timed if each compiles
SPACE = {
    "learning_rate": gdjax.log_uniform(1e-4, 1.0),
    "b1": gdjax.uniform(0.5, 0.99),
    "weight_decay": gdjax.log_uniform(1e-6, 1.0),
}


def mlp_loss(params, batch):
    logits = MLP.apply(params, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def digits():
    """Return the parameters, loss, data for training and held out, batch size and steps."""
    images, labels = load_digits(return_X_y=True)
    data = images.astype(np.float32) / 16, labels.astype(np.int32)
    train, held_out = (jax.tree.map(lambda x, s=s: jnp.asarray(x[s]), data) for s in (
        slice(0, 1400), slice(1400, None)))  # fmt: skip
    return MLP.init(jax.random.key(0)), mlp_loss, train, held_out, 64, 300


def language():
    """Return the same of the byte-level language model of bench/language_model.py."""
    import language_model as lm

    train, held_out = map(jnp.asarray, lm.windows())
    return lm.init(jax.random.key(0)), lm.loss_fn, train, held_out[:64], 8, 40


def ours(task, trials, lanes, seed, **more):
    params, loss_fn, train, held_out, batch_size, steps = task
    result = gdjax.search(
        loss_fn, params, gdjax.adamw, SPACE, train, trials=trials, lanes=lanes, steps=steps,
        batch_size=batch_size, held_out=held_out, by="held_out", mode="min", key=seed, **more,
    )  # fmt: skip
    return result.best.value


def by_hand(task, trials, seed):
    """Let Optuna drive optax, one trial after the other."""
    params, loss_fn, train, held_out, batch_size, steps = task
    opt = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, b1=0.9, weight_decay=0.1)

    @jax.jit
    def run(p, numbers, key):  # with the initialization, which outside takes as long as the steps
        s = opt.init(p)
        s = s._replace(hyperparams=s.hyperparams | numbers)
        examples = len(jax.tree.leaves(train)[0])
        per_epoch = examples // batch_size
        epochs = -(-steps // per_epoch)
        orders = [
            jax.random.permutation(k, examples)[: per_epoch * batch_size]
            for k in jax.random.split(key, epochs)
        ]
        rows = jnp.concatenate(orders).reshape(-1, batch_size)[:steps]

        def step(carry, row):
            p, s = carry
            batch = jax.tree.map(lambda x: x[row], train)
            grads = jax.grad(loss_fn)(p, batch)
            updates, s = opt.update(grads, s, p)
            return (optax.apply_updates(p, updates), s), None

        (p, s), _ = jax.lax.scan(step, (p, s), rows)
        return loss_fn(p, held_out)

    key = jax.random.key(seed)

    def objective(trial):
        numbers = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
            "b1": trial.suggest_float("b1", 0.5, 0.99),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1.0, log=True),
        }
        value = float(run(params, {k: np.float32(v) for k, v in numbers.items()}, key))
        if not np.isfinite(value):
            raise optuna.TrialPruned
        return value

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study.best_value


def as_written(task, trials, seed):
    """Let Optuna drive optax as it is often written: a new program for each trial."""
    params, loss_fn, train, held_out, batch_size, steps = task
    random = np.random.default_rng(seed)

    def objective(trial):
        opt = optax.adamw(
            trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
            b1=trial.suggest_float("b1", 0.5, 0.99),
            weight_decay=trial.suggest_float("weight_decay", 1e-6, 1.0, log=True),
        )

        @jax.jit
        def step(p, s, batch):
            grads = jax.grad(loss_fn)(p, batch)
            updates, s = opt.update(grads, s, p)
            return optax.apply_updates(p, updates), s

        p, s = params, opt.init(params)
        for _ in range(steps):
            rows = random.integers(len(jax.tree.leaves(train)[0]), size=batch_size)
            p, s = step(p, s, jax.tree.map(lambda x, rows=rows: x[rows], train))
        value = float(loss_fn(p, held_out))
        return value if np.isfinite(value) else 1e9

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study.best_value


def cold(function, *args, **options):
    """Return the seconds with compilation, and what comes out."""
    jax.clear_caches()
    return seconds(lambda: function(*args, **options))


def compared(name, task, trials, lanes, repeats):
    times, values = {}, {}
    sides = {
        "ours": functools.partial(ours, lanes=lanes),
        "halving": functools.partial(ours, lanes=lanes, pruner="halving"),
        "hand": by_hand,
    }
    for seed in range(repeats):
        for side, function in sides.items():
            t, value = cold(function, task, trials, seed=seed)
            times.setdefault(side, []).append(t / trials)
            values.setdefault(side, []).append(value)
    few = min(trials, FEW)
    written = cold(as_written, task, few, seed=0)[0] / few
    one = "Optuna, optax, one program for all trials"
    many = "Optuna, optax, a program for each trial"
    for side, what in (("ours", ""), ("halving", ", halving")):
        title = f"search, {name}, {trials} trials{what}"
        yield Row(f"{title}: a trial, with compile", times[side], one, times["hand"], 1.0)
        yield Row(f"{title}: a trial, with compile", times[side], many, written, 10.0)
        mine, theirs = (statistics.mean(values[k]) for k in (side, "hand"))
        yield Row(f"{title}: best, mean of {repeats}", mine, one, theirs, None, unit="nats")


def search_digits(options):
    """TPE on the MLP of digits, 300 steps of 64 images, with compilation."""
    yield from compared("digits", digits(), *((16, 16, 1) if options.quick else (128, 16, 2)))


def search_language(options):
    """TPE on the byte-level language model, 40 steps of 8 × 64 bytes, with compilation."""
    task = language()
    yield from compared("language model", task, *((4, 4, 1) if options.quick else (16, 16, 1)))


WORKLOADS = {"search_digits": search_digits, "search_language": search_language}
