"""Races judge points: repeats survive or leave together, by a mean that NumPy finds again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.pool import Pool
from gdjax.training.repeats import lanes_of_points

RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(48, 3)).astype(np.float32), RNG.normal(size=48).astype(np.float32))
RATES = [1e-3, 0.02, 0.1, 0.3, 5e-3, 0.05, 1e-4, 0.2, 0.01]


def init(key):
    return jax.random.normal(key, (3,))


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


def metric_fn(params, batch):
    return {"score": -loss_fn(params, batch)}


TASK = (loss_fn, init, gdjax.sgd)
MORE = dict(batch_size=4, key=3)


@pytest.fixture
def kept(monkeypatch):
    """Return a list that gets, at each rung: the step, the lanes before and after, the losses."""
    seen, keep = [], Pool.keep

    def noting(pool, lanes):
        before, loss = pool.lanes, np.array(pool.history["loss"], float)
        at = pool.diverged_at.copy()
        keep(pool, lanes)
        seen.append((pool.done, before, pool.lanes, loss, at))

    monkeypatch.setattr(Pool, "keep", noting)
    return seen


def steep(params, batch):
    """Rates near 0.4 diverge from 2, where the second repeat starts, but not from 1."""
    return jnp.sum(jnp.where(jnp.abs(params) > 1.5, params**6, params**2))


def start(key):
    return jnp.full(2, 1.0) + jax.random.key_data(key)[-1]  # the seed itself


def listed(rates, counts, name):
    """Return configs with unequal numbers of seeds, the lanes of a point apart."""
    pairs = [(r, s) for r, n in zip(rates, counts, strict=True) for s in range(n)]
    order = np.random.default_rng(4).permutation(len(pairs))
    return [{"learning_rate": pairs[i][0], name: pairs[i][1]} for i in order]


def means_at(step, loss, points):
    tail = loss[:, step - max(1, step // 10) : step].mean(1)
    return [tail[p].mean() for p in points]


SPACES = {
    "seeds": ({"learning_rate": RATES}, dict(seeds=3)),
    "seed first": ({"seed": [0, 1, 2], "learning_rate": RATES}, {}),
    "batch_seed": ({"learning_rate": RATES, "batch_seed": [5, 6, 7]}, {}),
    "both": ({"init_seed": [0, 1], "learning_rate": RATES, "batch_seed": [0, 1]}, {}),
    "unequal": (listed(RATES, [1, 2, 3, 4, 1, 2, 3, 4, 5], "init_seed"), {}),
    "static": ({"kind": [gdjax.sgd, gdjax.adam], "learning_rate": RATES[:5]}, dict(seeds=2)),
}


@pytest.mark.parametrize("name", SPACES)
def test_all_repeats_of_a_point_survive_or_leave_together(name, kept):
    space, more = SPACES[name]
    make = (lambda kind, learning_rate: kind(learning_rate)) if name == "static" else gdjax.sgd
    race = gdjax.successive_halving(
        loss_fn, init, make, space, DATA, steps=18, min_steps=2, **MORE, **more
    )
    points = lanes_of_points(race.configs)
    assert sorted(np.concatenate(points).tolist()) == list(range(len(race.steps)))
    assert max(map(len, points)) > 1 and [step for step, *_ in kept] == [2, 6]
    running = points
    for step, before, after, loss, _ in kept:
        assert sorted(before) == sorted(np.concatenate(running).tolist())
        means = means_at(step, loss, running)
        best = np.argsort(means)[: max(1, len(running) // 3)]
        running = [running[i] for i in best]
        assert sorted(after) == sorted(np.concatenate(running).tolist())
    assert race.kept.tolist() == sorted(np.concatenate(running).tolist())
    assert all(len({race.steps[i] for i in p}) == 1 for p in points)
    best = race.best()
    assert best.lanes.tolist() in [p.tolist() for p in running]
    assert not {"seed", "init_seed", "batch_seed"} & set(best.config)
    np.testing.assert_allclose(best.value, race.final_loss[best.lanes].astype(float).mean())


def test_a_metric_decides_for_points_too(kept):
    race = gdjax.successive_halving(
        *TASK, {"learning_rate": RATES}, DATA, steps=6, min_steps=2, by="score", mode="max",
        seeds=3, held_out=DATA, metric_fn=metric_fn, **MORE,
    )  # fmt: skip
    score = race.history["score"][:, race.history["step"] == 2].reshape(9, 3).astype(float).mean(1)
    (_, _, after, *_), = kept  # fmt: skip
    best = np.argsort(-score)[:3]
    assert sorted(after) == sorted(3 * i + j for i in best.tolist() for j in range(3))
    assert race.best("score", "max").lanes.tolist() in (np.arange(27).reshape(9, 3)[best].tolist())


def test_a_point_with_a_diverged_repeat_leaves_unless_there_is_no_other(kept):
    race = gdjax.successive_halving(
        steep, start, gdjax.sgd, {"learning_rate": [0.01, 10.0, 20.0, 0.02]}, DATA, seeds=2,
        eta=2, min_steps=6, steps=24,
    )  # fmt: skip
    assert [after for _, _, after, *_ in kept] in ([[0, 1, 6, 7], p] for p in ([0, 1], [6, 7]))
    kept.clear()
    race = gdjax.successive_halving(
        steep, start, gdjax.sgd, {"learning_rate": [0.45, 0.4, 1e30]}, DATA, seeds=2,
        eta=3, min_steps=4, steps=12,
    )  # fmt: skip
    (_, _, after, _, at), = kept  # fmt: skip
    assert (at >= 0).tolist() == [False, True, False, True, True, True]
    assert sorted(after) == [0, 1] and race.kept.tolist() == [0, 1]
    assert race.steps.tolist()[0] == 12 and race.diverged_at[0] == -1
    best = race.best()
    assert best.lane == 0 and best.value == np.inf and best.diverged == 1


def test_hyperband_repeats_what_it_samples(kept):
    space = {"learning_rate": gdjax.log_uniform(1e-3, 0.3)}
    race = gdjax.hyperband(*TASK, space, DATA, steps=9, min_steps=1, seeds=2, **MORE)
    brackets, points = race.configs["bracket"], lanes_of_points(race.configs)
    assert [np.sum(brackets[[p[0] for p in points]] == s) for s in range(3)] == [3, 5, 9]
    assert all(len(p) == 2 and race.config(p[0])["seed"] == 0 for p in points)
    for number, (step, before, after, loss, _) in enumerate(kept):
        wanted = []
        for bracket in range(3):
            part = [p for p in points if brackets[p[0]] == bracket and p[0] in before]
            if bracket >= 2 - number:
                order = np.argsort(means_at(step, loss, part))[: max(1, len(part) // 3)]
                part = [part[i] for i in order]
            wanted += np.concatenate(part).tolist()
        assert sorted(after) == sorted(wanted)
    assert race.best().config.keys() == {"learning_rate", "bracket"}
    mixed = gdjax.hyperband(
        *TASK, {"learning_rate": [0.1], "seed": [0, 1]}, DATA, steps=2, eta=2, min_steps=1,
        method="random", **MORE,
    )  # fmt: skip
    for point in lanes_of_points(mixed.configs):
        assert len(set(mixed.configs["bracket"][point])) == 1


def test_the_median_rule_compares_the_means_of_repeats(kept):
    rates = [1e-5, 1e-3, 0.05, 0.1, 1e-4, 0.2]
    race = gdjax.median_stop(
        *TASK, {"learning_rate": rates}, DATA, steps=40, every=8, seeds=3, **MORE
    )
    points = np.arange(18).reshape(6, 3)
    assert [step for step, *_ in kept] == [8, 16, 24, 32]
    for step, before, after, loss, _ in kept:
        means = np.array([[np.nanmean(loss[i, :step]) for i in p] for p in points]).mean(1)
        curves = loss.reshape(6, 3, -1)[:, :, :step].mean(1).reshape(6, -1, 8).mean(2)
        wanted = [p for p, c in zip(points, curves, strict=True) if p[0] in before]
        best = [c.min() for p, c in zip(points, curves, strict=True) if p[0] in before]
        wanted = [p for p, b in zip(wanted, best, strict=True) if b <= np.median(means)]
        assert sorted(after) == sorted(np.concatenate(wanted).tolist())
    assert 3 <= len(race.kept) < 18 and len(race.kept) % 3 == 0


def test_equal_losses_stop_no_point():
    race = gdjax.median_stop(
        lambda p, batch: jnp.float32(0.1) + 0.0 * p, jnp.ones(()), gdjax.sgd,
        {"learning_rate": [0.1, 0.2, 0.3]}, DATA, steps=21, every=7,
    )  # fmt: skip
    assert len(race.kept) >= 1


@pytest.mark.parametrize("name", ["seeds", "seed first", "listed"])
def test_a_population_exchanges_points(name):
    rates = [1e-4, 1e-3, 0.01, 0.1]
    space = {
        "seeds": {"learning_rate": rates},
        "seed first": {"seed": [0, 1, 2], "learning_rate": rates},
        "listed": [
            {"learning_rate": r, "init_seed": s}
            for r in rates
            for s in np.roll([0, 1, 2], int(r > 0.001))
        ],
    }[name]
    more = dict(seeds=3) if name == "seeds" else {}
    result = gdjax.population_based_training(*TASK, space, DATA, steps=24, every=6, **MORE, **more)
    seed = result.configs["seed" if name != "listed" else "init_seed"]
    start = {k: v[:, 0] for k, v in result.history["exchanges"].items() if k != "parent"}
    members = lanes_of_points(result.configs | start)
    members = np.array([sorted(m, key=lambda i: seed[i]) for m in members])
    assert members.shape == (4, 3) and result.history["exchanges"]["parent"].shape == (12, 3)
    assert result.points()[0].lanes.size == 3 and len(result.points()) == 4
    loss, tracks = result.history["loss"].astype(float), result.history["exchanges"]
    copies = 0
    for round_ in range(3):
        parent = tracks["parent"][:, round_]
        np.testing.assert_array_equal(seed[parent], seed)  # the corresponding repeat
        of_member = [parent[m][0] for m in members]
        chosen = [int(np.flatnonzero((members == p).any(1))[0]) for p in of_member]
        np.testing.assert_array_equal(parent[members], members[chosen])
        means = loss[:, 6 * round_ + 5][members].mean(1)
        order = np.argsort(means)
        expected = np.arange(4)
        expected[order[-1]] = order[0]  # a quarter of four
        assert chosen == expected.tolist()
        rates_now = tracks["learning_rate"][:, round_ + 1][members]
        assert (rates_now == rates_now[:, :1]).all()
        copies += sum(expected != np.arange(4))
    assert copies == 3
    for lane in range(12):
        state = result.lane(lane)[1]
        np.testing.assert_allclose(
            gdjax.hyperparams(state)["learning_rate"], result.configs["learning_rate"][lane], 1e-6
        )


def test_a_member_with_a_diverged_repeat_copies():
    result = gdjax.population_based_training(
        steep, start, gdjax.sgd, {"learning_rate": [1e-4, 1e-3, 0.4, 0.45, 0.48]}, DATA,
        steps=20, every=10, seeds=2, share=0.2,
    )  # fmt: skip
    parent = result.history["exchanges"]["parent"][:, 0].reshape(5, 2)
    assert parent.tolist() == [[0, 1]] + [[2, 3]] * 4 and (result.diverged_at < 0).all()
    configs = [{"learning_rate": 0.1, "seed": 0}, {"learning_rate": 0.1, "seed": 1}]
    with pytest.raises(ValueError, match="two configs that differ in more.*got 1 configs, with 2"):
        gdjax.population_based_training(*TASK, configs, DATA, steps=4, every=2, **MORE)
    configs.append({"learning_rate": 0.2, "seed": 1})
    with pytest.raises(ValueError, match="same number of repeats; got 2 configs, with 1, 2"):
        gdjax.population_based_training(*TASK, configs, DATA, steps=4, every=2, **MORE)
    twice = [{"learning_rate": 0.1}] * 2
    result = gdjax.population_based_training(*TASK, twice, DATA, steps=4, every=2, **MORE)
    assert len(result.points()) == 2


@pytest.mark.parametrize(
    ("race", "space", "more"),
    [
        (gdjax.successive_halving, {"learning_rate": RATES}, {}),
        (gdjax.hyperband, {"learning_rate": gdjax.uniform(0.1, 0.2)}, {}),
        (gdjax.population_based_training, {"learning_rate": RATES}, dict(every=3)),
    ],
)
def test_races_need_a_mode_for_a_metric(race, space, more):
    judged = dict(held_out=DATA, metric_fn=metric_fn, steps=9, **MORE, **more)
    name = race.__name__
    with pytest.raises(ValueError, match=rf"{name}\(by='score'\) needs mode='min' or mode='max'"):
        race(*TASK, space, DATA, by="score", **judged)
    with pytest.raises(ValueError, match=rf"{name}\(mode=...\) must be one of 'min', 'max'"):
        race(*TASK, space, DATA, by="score", mode="more", **judged)
    with pytest.raises(ValueError, match=r"\(by='score'\) needs held_out"):
        race(*TASK, space, DATA, by="score", mode="max", steps=9, **MORE, **more)
