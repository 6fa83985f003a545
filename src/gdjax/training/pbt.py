"""Population-based training: bad lanes copy good ones and try other hyperparameters from there.

Jaderberg et al. (2017), https://arxiv.org/abs/1711.09846
Truncation selection and perturbation, section 4.1. State and hyperparameters are one pytree, so to
exploit is to gather rows and to explore is to multiply numbers in them, both in one small program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.checks import check_choice
from gdjax.core.reading import with_hyperparams
from gdjax.training.data import as_key
from gdjax.training.herd import Herd
from gdjax.training.points import SEEDS, columns, structures
from gdjax.training.result import SweepResult
from gdjax.training.space import as_points


def population_based_training(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Any,
    data: Any,
    *,
    steps: int,
    every: int,
    perturb: Mapping[str, tuple[float, float]] | None = None,
    share: float = 0.25,
    by: str = "loss",
    mode: str = "min",
    key: Any = None,
    seeds: Any = None,
    **options: Any,
) -> SweepResult:
    """Train a population whose worst lanes, now and then, go on from the best with new numbers.

    Every `every` steps each lane in the worst `share` takes over parameters, optimizer state and
    hyperparameters of a random lane in the best `share`, and multiplies each hyperparameter in
    `perturb` by one of its two factors. So a lane's numbers follow a schedule that was found on the
    way.

    Args:
      loss_fn: as in `sweep`.
      params: as in `sweep`.
      optimizer: as in `sweep`; the names in `perturb` must be hyperparameters of its state.
      space: as in `sweep`; where the population starts. Numbers only.
      data: as in `sweep`; arrays only.
      steps: updates >= 1 that each lane gets.
      every: updates >= 1 between two exchanges.
      perturb: name -> (smaller, greater) factor; None is (0.8, 1.25) for all names in the space.
      share: in (0, 0.5], of the lanes that copy and of those that are copied; at least one lane.
      by: what decides, as in `successive_halving`.
      mode: "min" or "max".
      key: as in `fit`; it also decides who copies whom.
      seeds: as in `sweep`.
      **options: as in `successive_halving`.

    Returns:
      A `SweepResult`: `points` are the hyperparameters at the end. `history["exchanges"]` has
      "parent", (lanes, exchanges), the lane that was copied (or the lane itself), and for each name
      in `perturb` its values, (lanes, exchanges + 1).

    Raises:
      ValueError: if a name is not a hyperparameter, or there are fewer than two lanes.

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
    points = as_points(space, seeds)
    if len(structures(points)) > 1 or len(points) < 2:
        raise ValueError(
            "population_based_training(space=...) must have at least two lanes of one structure, "
            f"got {len(points)} lanes of {len(structures(points))} structures."
        )
    if not 0 < share <= 0.5:
        raise ValueError(f"population_based_training(share=...) must be in (0, 0.5], got {share}.")
    if not 1 <= every <= steps:
        raise ValueError(
            f"population_based_training(every=...) must be in [1, {steps}], got {every}."
        )
    table = columns(points)
    if perturb is None:
        perturb = {k: (0.8, 1.25) for k, v in table.items() if v.dtype != object and k not in SEEDS}
    for name in perturb:
        check_choice("population_based_training(perturb=...): a name", name, list(table))
    started, count = time.perf_counter(), max(1, int(share * len(points)))
    values = {k: table[k].astype(float) for k in perturb}
    tracks, parents = {k: [v] for k, v in values.items()}, []
    random = np.random.default_rng(np.asarray(jax.random.bits(as_key(key or 0), (4,))))
    with Herd(
        "population_based_training", loss_fn, params, optimizer, points, data,
        steps=steps, length=every, by=by, mode=mode, key=key, **options,
    ) as herd:  # fmt: skip
        for carry in herd.carries:  # an unknown name is an error now, not after the first steps
            jax.eval_shape(
                lambda s: with_hyperparams(s, **dict.fromkeys(perturb, 0.0)), carry.state
            )
        while not herd.advance(min(herd.done + every, steps)) and herd.done < steps:
            parent, factors = _exchange(herd.scores(), count, perturb, random)
            values = {k: v[parent] * factors[k] for k, v in values.items()}
            _copy(herd, parent, values)
            parents.append(parent)
            for name, value in values.items():
                tracks[name].append(value)
    exchanges = {k: np.stack(v, 1) for k, v in tracks.items()}
    exchanges["parent"] = np.stack(parents, 1) if parents else np.zeros((len(points), 0), int)
    return herd.result(time.perf_counter() - started, table | values, exchanges=exchanges)


def _exchange(
    scores: np.ndarray, count: int, perturb: Mapping[str, tuple], random: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which lane each goes on from, and by what each number is multiplied."""
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


def _copy(herd: Herd, parent: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Gather the parents' rows on the device and set the new hyperparameters."""
    place = {lane: i for i, lane in enumerate(_padded_lanes(herd))}
    new = []
    for group, carry in zip(herd.groups, herd.carries, strict=True):
        lanes = np.array(group.lanes)
        lanes = lanes[np.minimum(np.arange(len(carry.diverged_at)), len(lanes) - 1)]
        rows = np.array([place[int(i)] for i in parent[lanes]])
        numbers = {k: v[lanes].astype(np.float32) for k, v in values.items()}
        new.append(_program(herd.where.sharding)(herd.carries, rows, numbers))
    herd.carries = new
    herd.diverged_at = herd.diverged_at[parent]


def _padded_lanes(herd: Herd) -> list[int]:
    """Return the lane of each row of all carries, -1 for padding."""
    out = []
    for group, carry in zip(herd.groups, herd.carries, strict=True):
        out += [*group.lanes, *[-1] * (len(carry.diverged_at) - len(group.lanes))]
    return out


def _set(states: Any, numbers: dict[str, jax.Array]) -> Any:
    return jax.vmap(lambda state, mine: with_hyperparams(state, **mine))(states, numbers)


@functools.lru_cache(maxsize=8)
def _program(sharding: Any) -> Callable:
    def copy(carries, rows, numbers):
        carry = jax.tree.map(lambda *x: jnp.concatenate(x)[rows], *carries)
        return carry._replace(state=_set(carry.state, numbers))

    return jax.jit(copy, out_shardings=sharding)
