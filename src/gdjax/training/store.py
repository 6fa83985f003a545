"""Finished chunks of a sweep on disk, so that a killed one goes on where it was.

A directory holds `sweep.json`, which says what sweep it is; for each group `group-0007.npz`, its
newest carry; and for each chunk `group-0007-00000100.npz`, what was logged up to step 100. Files
are written under another name and then renamed, so that each is either whole or not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gdjax.core.hyper import path_name
from gdjax.training.drive import to_host


class Saved(NamedTuple):
    """What a group had reached."""

    done: int
    carry: Any
    logs: list[Any]  # (losses, aux) of each chunk
    reports: list[dict[str, Any]]


class Store:
    """A directory for one sweep, or nothing at all."""

    def __init__(self, directory: Any, identity: Mapping[str, Any]):
        self.path = None if directory is None else Path(directory)
        if self.path is None:
            return
        text, file = json.dumps(identity, indent=1, sort_keys=True), self.path / "sweep.json"
        if jax.process_index() == 0 and not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda f: f.write(text.encode()))
        if jax.process_count() > 1:  # what the first one wrote before is there now
            multihost_utils.sync_global_devices(str(self.path))
        before = json.loads(file.read_text())
        changed = [k for k in identity if before.get(k) != json.loads(json.dumps(identity[k]))]
        if changed:
            raise ValueError(
                f"sweep(directory={str(directory)!r}) holds a sweep with other "
                f"{', '.join(changed)}. Give another directory, or delete this one."
            )

    def save(self, group: int, done: int, carry: Any, log: Any, report: dict | None) -> None:
        """Write one finished chunk; of several hosts, only the first one writes."""
        if self.path is None:
            return
        carry, log, values = to_host((carry, log, jax.tree.map(jnp.asarray, report or {})))
        if jax.process_index() > 0:
            return
        arrays = {f"log{k}": v for k, v in as_arrays(log).items()}
        arrays |= {f"report/{k}": v for k, v in values.items()}
        write_arrays(self.path / f"group-{group:04d}-{done:08d}.npz", arrays)
        state = {"done": np.asarray(done), **{f"carry{k}": v for k, v in as_arrays(carry).items()}}
        write_arrays(self.path / f"group-{group:04d}.npz", state)

    def load(self, group: int, like: Any, log_like: Any) -> Saved | None:
        """Read what a group had reached; `like` and `log_like` say how the trees look."""
        if self.path is None or not (self.path / f"group-{group:04d}.npz").exists():
            return None
        with np.load(self.path / f"group-{group:04d}.npz") as file:
            done, carry = int(file["done"]), from_arrays(file, "carry", like)
        logs, reports = [], []
        for path in sorted(self.path.glob(f"group-{group:04d}-*.npz")):
            step = int(path.stem.rsplit("-", 1)[1])
            if step > done:
                continue
            with np.load(path) as file:
                logs.append(from_arrays(file, "log", log_like))
                report = {k[7:]: file[k] for k in file.files if k.startswith("report/")}
            if report:
                reports.append(report)
        return Saved(done, carry, logs, reports)


# --- trees in files -------------------------------------------------------------------------------


def as_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Return "/path" -> array; keys of random numbers as their data."""
    out = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        out["/" + path_name(path)] = np.asarray(leaf)
    return out


def from_arrays(arrays: Any, prefix: str, like: Any) -> Any:
    """Return a tree as `like` (arrays or `jax.ShapeDtypeStruct`) from what `as_arrays` gave."""
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
    """Return dicts of dicts from what `as_arrays` gave, without a tree to go by."""
    out: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, last = path.strip("/").split("/")
        node = out
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = array
    return out


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz file, whole or not at all."""
    named: Any = dict(arrays)
    replace_file(path, lambda file: np.savez(file, **named))


def replace_file(path: Path, write: Any) -> None:
    """Write beside a file, then put it in its place."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
