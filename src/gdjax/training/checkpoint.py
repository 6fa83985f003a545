"""Finished chunks of a sweep on disk, so that one that was killed resumes where it was.

A directory holds `sweep.json`, which says what sweep it is; for each group `group-0007.npz`, its
newest carry; and for each chunk `group-0007-00000100.npz`, what was recorded up to step 100. Files
are written under another name and then renamed, so that each is either complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gdjax.core.hyper import path_name
from gdjax.core.types import PyTree
from gdjax.training.engine import Run, chunk_program, to_host
from gdjax.training.lanes import Group
from gdjax.training.trials import Config, columns, words


class Checkpoints:
    """The directory of one sweep."""

    def __init__(
        self,
        caller: str,
        directory: str | os.PathLike[str],
        configs: Sequence[Config],
        groups: Sequence[Group],
    ):
        self.path = Path(directory)
        identity = _identity(configs, groups)
        text, file = json.dumps(identity, indent=1, sort_keys=True), self.path / "sweep.json"
        if jax.process_index() == 0 and not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda f: f.write(text.encode()))
        if jax.process_count() > 1:  # the others read what the first one wrote
            multihost_utils.sync_global_devices(str(self.path))
        before = json.loads(file.read_text())
        changed = [k for k in identity if before.get(k) != json.loads(json.dumps(identity[k]))]
        if changed:
            raise ValueError(
                f"{caller}(directory={str(directory)!r}) holds a sweep with other "
                f"{', '.join(changed)}. Give another directory, or delete this one."
            )

    def save(self, index: int, run: Run) -> None:
        """Write a group's last chunk; of several hosts, only the first one writes."""
        report = jax.tree.map(jnp.asarray, run.reports[-1] if run.reports else {})
        carry, log, report = to_host((run.carry, run.logs[-1], report))
        if jax.process_index() > 0:
            return
        arrays = {f"log{k}": v for k, v in as_arrays(log).items()}
        arrays |= {f"report/{k}": v for k, v in report.items()}
        write_arrays(self.path / f"group-{index:04d}-{run.done:08d}.npz", arrays)
        arrays = {f"carry{k}": v for k, v in as_arrays(carry).items()}
        write_arrays(self.path / f"group-{index:04d}.npz", {"done": np.asarray(run.done), **arrays})

    def load(self, index: int, group: Group) -> Run | None:
        """Return where a group was when an earlier call was killed, or None if it had not begun."""
        newest = self.path / f"group-{index:04d}.npz"
        if not newest.exists():
            return None
        with np.load(newest) as file:
            done, carry = int(file["done"]), from_arrays(file, "carry", group.shapes)
        carry = jax.tree.map(lambda x, like: _placed(x, like.sharding), carry, group.shapes)
        run = Run(carry, done)
        plan = group.plan
        _, log = jax.eval_shape(
            lambda carry: chunk_program(plan.program)(carry, plan.data, plan.key, np.int32(0), 1),
            group.shapes,
        )
        for path in sorted(self.path.glob(f"group-{index:04d}-*.npz")):
            if int(path.stem.rsplit("-", 1)[1]) > done:
                continue
            with np.load(path) as file:
                run.logs.append(from_arrays(file, "log", log))
                report = {k[7:]: file[k] for k in file.files if k.startswith("report/")}
            if report:
                run.reports.append(report)
        return run


def _placed(x: Any, sharding: Any) -> Any:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _identity(configs: Sequence[Config], groups: Sequence[Group]) -> dict[str, Any]:
    """Return what must be the same for a sweep to resume from a directory."""
    plan = groups[0].plan
    key: Any = plan.key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return {
        "configs": {k: words(v).tolist() for k, v in columns(configs).items()},
        "steps": plan.total,
        "report_every": plan.length,
        "batch_size": plan.program.batch_size,
        "key": to_host(key).tolist(),
        "data": _digest(plan.data),
        "groups": [g.lanes for g in groups],
        "leaves": [f"{x.dtype}{list(x.shape)}" for g in groups for x in jax.tree.leaves(g.shapes)],
    }


def _digest(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for x in jax.tree.leaves(to_host(tree)):
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


# --- trees in files -------------------------------------------------------------------------------


def as_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Return "/path" -> array; keys of random numbers as their data."""
    out = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        out["/" + path_name(path)] = np.asarray(leaf)
    return out


def from_arrays(arrays: Mapping[str, Any], prefix: str, like: PyTree) -> PyTree:
    """Return a tree like `like`, arrays or their shapes, from what `as_arrays` returned."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        array = arrays[f"{prefix}/{path_name(path)}"]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)))
        else:  # NumPy files do not know bfloat16 and give bytes
            leaves.append(array.view(leaf.dtype) if array.dtype.kind == "V" else array)
    return treedef.unflatten(leaves)


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return dicts of dicts from what `as_arrays` gave, without a tree as a model."""
    out: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, last = path.strip("/").split("/")
        node = out
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = array
    return out


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz file, completely or not at all."""
    named: Any = dict(arrays)
    replace_file(path, lambda file: np.savez(file, **named))


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary file next to it, then rename that."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
