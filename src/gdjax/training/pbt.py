"""Population-based training: bad members copy good ones and try other hyperparameters from there.

Jaderberg et al. (2017), https://arxiv.org/abs/1711.09846
Truncation selection and perturbation, section 4.1. State and hyperparameters are one pytree, so to
exploit is to copy rows and to explore is to multiply numbers in them, both in one small program.
A member is a point, a config without its seeds: its repeats are judged by their mean, and each of
them copies the repeat of the parent that has its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gdjax.core.checks import check_choice, check_integer, strict
from gdjax.core.reading import with_hyperparams
from gdjax.core.remember import weak_functions
from gdjax.core.types import Key, LossFn, Pair, Params, PyTree
from gdjax.training.engine import Run
from gdjax.training.inputs import as_generator, as_key
from gdjax.training.lanes import naming, padded_rows
from gdjax.training.pool import Pool, carry_of, rows_of
from gdjax.training.racing import RaceOptions, check_judge, check_rereadable, with_options
from gdjax.training.repeats import lanes_of_points
from gdjax.training.result import SweepResult
from gdjax.training.trials import SEEDS, Config, Space, as_configs, columns, static_parts


@strict()
@with_options(RaceOptions)
def population_based_training(
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Pair | Callable[..., Pair] | None,
    space: Space | Sequence[Space],
    data: PyTree,
    *,
    steps: int,
    every: int,
    perturb: Mapping[str, tuple[float, float]] | None = None,
    share: float = 0.25,
    by: str = "loss",
    mode: str | None = None,
    key: Key | None = None,
    seeds: int | Sequence[int] | None = None,
    **options: Unpack[RaceOptions],
) -> SweepResult:
    """Train a population whose worst members regularly continue from the best, with new numbers.

    Every `every` steps each member in the worst `share` takes over parameters, optimizer state and
    hyperparameters of a random member in the best `share`, and multiplies each hyperparameter in
    `perturb` by one of its two factors. So a member's numbers follow a schedule that is found
    during the run. A member is a config with all its seeds: it is judged by the mean over these
    repeats, each of them copies the parent's repeat with the same place in the order of seeds, and
    their hyperparameters stay equal. A member with a diverged repeat copies too.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`; the names in `perturb` must be hyperparameters of its state.
      space: as in `sweep`; where the population starts. Numbers only.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that each member gets.
      every: updates >= 1 between two exchanges.
      perturb: name -> (smaller, greater) factor; None is (0.8, 1.25) for all names in the space.
      share: in (0, 0.5], of the members that copy and of those that are copied; at least one.
      by: what decides, as in `successive_halving`.
      mode: as in `successive_halving`.
      key: as in `fit`; it also decides which member copies which.
      seeds: as in `sweep`.
      **options: as in `successive_halving`.

    Returns:
      A `SweepResult`: `configs` are the hyperparameters at the end. `history["exchanges"]` has
      "parent", (lanes, exchanges), the lane that was copied (or the lane itself), and for each name
      in `perturb` its values, (lanes, exchanges + 1).

    Raises:
      ValueError: if a name is not a hyperparameter, there are fewer than two members, or they have
        different numbers of repeats.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": [1e-4, 1e-3, 1e-2, 0.1]}
      >>> result = gdjax.population_based_training(
      ...     loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=40, every=10)
      >>> print(result.history["exchanges"]["parent"].T[0], result.final_loss.max() < 0.5)
      [3 1 2 3] True
    """
    name = "population_based_training"
    configs = as_configs(name, space, seeds)
    members, kinds = _members(configs), len(static_parts(configs))
    sizes = sorted(set(map(len, members)))
    if kinds > 1 or len(members) < 2 or len(sizes) > 1:
        raise ValueError(
            f"{name}(space=...) must have at least two configs that differ in more than seeds, all "
            "with the same static values and the same number of repeats; got "
            f"{len(members)} configs, with {', '.join(map(str, sizes))} repeats and {kinds} "
            "combinations of static values. A config that is in a list twice counts twice."
        )
    members = np.array(members)  # (members, repeats), their lanes
    if not 0 < share <= 0.5:
        raise ValueError(f"{name}(share=...) must be in (0, 0.5], got {share}.")
    check_integer(f"{name}(steps=...)", steps)
    if check_integer(f"{name}(every=...)", every) > steps:
        raise ValueError(f"{name}(every=...) must be in [1, {steps}], got {every}.")
    table = columns(configs)
    if perturb is None:
        perturb = {k: (0.8, 1.25) for k, v in table.items() if v.dtype != object and k not in SEEDS}
    for other in perturb:
        check_choice(f"{name}(perturb=...): a name", other, list(table))
    mode = check_judge(name, by, mode, options)
    check_rereadable(name, data)
    count = max(1, int(share * len(members)))
    values = {k: table[k].astype(float) for k in perturb}
    tracks, parents = {k: [v] for k, v in values.items()}, []
    random = as_generator(as_key(0 if key is None else key))
    with Pool(
        name, loss_fn, params, optimizer, configs, data,
        steps=steps, report_every=every, key=key, together=True,
        rules={
            "steps": steps, "every": every, "share": share, "by": by, "mode": mode,
            "perturb": {k: list(v) for k, v in perturb.items()},
        },
        **options,
    ) as pool:  # fmt: skip
        with naming(f"{name}(perturb=...)"), weak_functions():  # now, not after the first steps
            for group in pool.groups:
                jax.eval_shape(
                    lambda s: with_hyperparams(s, **dict.fromkeys(perturb, 0.0)), group.shapes.state
                )
        while not pool.advance(min(pool.done + every, steps)) and pool.done < steps:
            scores = pool.scores(by, mode)[members].mean(1)
            chosen, factors = _exchange(scores, count, perturb, random)
            parent = np.zeros(len(configs), int)
            parent[members] = members[chosen]
            for other, factor in factors.items():
                values[other] = values[other][parent]
                values[other][members] *= factor[:, None]
            if (noted := pool.noted()) is not None:  # by another version of NumPy, perhaps
                parent, values = noted["parent"], {k: noted[f"new {k}"] for k in values}
            pool.note({"parent": parent} | {f"new {k}": v for k, v in values.items()})
            _copy(pool, parent, values)
            parents.append(parent)
            for other, value in values.items():
                tracks[other].append(value)
    exchanges = {k: np.stack(v, 1) for k, v in tracks.items()}
    exchanges["parent"] = np.stack(parents, 1) if parents else np.zeros((len(configs), 0), int)
    return pool.result(table | values, exchanges=exchanges)


def _members(configs: Sequence[Config]) -> list[list[int]]:
    """Return the lanes of each member, in the order of their seeds."""

    def seeds(lane: int) -> list[Any]:
        return [configs[lane][k] for k in SEEDS if k in configs[lane]]

    return [sorted(point.tolist(), key=seeds) for point in lanes_of_points(columns(configs))]


def _exchange(
    scores: np.ndarray,
    count: int,
    perturb: Mapping[str, tuple[float, float]],
    random: np.random.Generator,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which member each continues from, and by what each number is multiplied."""
    order = np.argsort(scores, kind="stable")
    parent, copying = np.arange(len(scores)), order[-count:]
    good = order[:count][np.isfinite(scores[order[:count]])]
    copying = copying if good.size else copying[:0]
    bad = np.flatnonzero(np.isinf(scores)) if good.size else copying  # all that diverged copy too
    copying = np.union1d(copying, bad)
    parent[copying] = random.choice(good, copying.size) if good.size else copying
    factors = {k: np.ones(len(scores)) for k in perturb}
    for name, pair in perturb.items():
        factors[name][copying] = random.choice(np.asarray(pair, float), copying.size)
    return parent, factors


def _copy(pool: Pool, parent: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Copy the parents' rows on the device and set the new hyperparameters.

    What is on disk has been copied before it was written.
    """
    pool.diverged_at = pool.diverged_at[parent]
    pool.configs = [
        {**config, **{name: value[lane].item() for name, value in values.items()}}
        for lane, config in enumerate(pool.configs)
    ]
    if any(group.run is None for group in pool.groups):
        return
    row_of, carries, copies = rows_of(pool.groups), [carry_of(g) for g in pool.groups], []
    for group in pool.groups:
        size = group.shapes.diverged_at.shape[0]
        lanes = np.array(group.lanes)[padded_rows(0, size, len(group.lanes))]
        rows = np.array([row_of[lane] for lane in parent[lanes]])
        numbers = {k: v[lanes].astype(np.float32) for k, v in values.items()}
        copied = parent[lanes] != lanes  # also if it was stopped, or the lane that it copies
        with weak_functions():
            places = tuple(x.sharding for x in jax.tree.leaves(group.shapes))
            leaves = _program(places)(carries, rows, numbers, copied)
            copies.append(jax.tree.unflatten(jax.tree.structure(group.shapes), leaves))
    for group, carry in zip(pool.groups, copies, strict=True):
        group.run = Run(carry, pool.done)


def _set(states: PyTree, numbers: Mapping[str, jax.Array]) -> PyTree:
    return jax.vmap(lambda state, mine: with_hyperparams(state, **mine))(states, numbers)


@functools.lru_cache(maxsize=8)
def _program(places: tuple[NamedSharding | None, ...]) -> Any:
    """Return the program that copies rows and sets numbers; it gives the leaves of a carry."""

    def copy(carries, rows, numbers, copied):
        carry = jax.tree.map(lambda *x: jnp.concatenate(x)[rows], *carries)
        stopped_at = jnp.where(copied, -1, carry.stopped_at)
        state = _set(carry.state, numbers)
        return jax.tree.leaves(carry._replace(state=state, stopped_at=stopped_at))

    return jax.jit(copy, out_shardings=list(places))
