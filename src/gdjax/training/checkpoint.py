"""Finished chunks of a sweep on disk, so that one that was killed resumes where it was.

A directory holds `sweep.json`, which says what sweep it is; and for each group of lanes and each
chunk a file with what was recorded (`chunk-*.npz`), and for the last two chunks one with where the
lanes stood (`carry-*.npz`). Every file says which sweep, which lanes and which steps it is of, so
its name does not matter, and lanes may be grouped in another way when the sweep resumes. A lane
continues from its last carry before which no chunk is missing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gdjax.core.remember import weak_functions
from gdjax.core.types import PyTree
from gdjax.training.engine import Run, chunk_program, metric_program, to_host
from gdjax.training.files import (
    PART,
    DamagedFile,
    FolderLock,
    as_arrays,
    from_arrays,
    leaf_path,
    nested,
    part_of,
    read_record,
    replace_file,
    write_record,
)
from gdjax.training.inputs import one_batch, traced_loss
from gdjax.training.lanes import Group, Kind, padded_rows
from gdjax.training.trials import Config, columns, words

KEPT = 2  # carries of each lane
FILES = ("chunk-*.npz", "carry-*.npz")

At = tuple[int, int]  # a lane and a step
Where = dict[int, tuple[str, int]]  # lane -> a file and the lane's row in it


class Checkpoints:
    """The directory of one sweep.

    Attributes:
      done: (lanes,), the step from which each lane continues.
    """

    def __init__(
        self,
        caller: str,
        directory: str | os.PathLike[str],
        resume: bool,
        identity: Mapping[str, Any],
        lanes: int,
    ):
        """Take the directory and find out how far each lane got; see `sweep` for the arguments."""
        self.path, self.what = Path(directory), f"{caller}(directory={str(directory)!r})"
        self.anew = f"To start anew, give another directory, or {caller}(..., resume=False), which "
        self.anew += "deletes the files of the sweep that is there."
        self.identity = identity
        self.digest = digest_of_text(_known(identity))
        self.lock: FolderLock | None = None
        self._writing = threading.Lock()
        try:
            self.heads: dict[str, dict[str, Any]] = _agreed(lambda: self._opened(resume, lanes))
        except BaseException:
            self.close()
            raise
        self.attempt = 1 + max((head["attempt"] for head in self.heads.values()), default=0)
        self.chunks, self.carries, self.done = _found(self.heads, lanes)

    def close(self) -> None:
        """Let another process have the directory."""
        if self.lock is not None:
            self.lock.release()

    # --- opening, on the first host ---

    def _opened(self, resume: bool, lanes: int) -> dict[str, dict[str, Any]]:
        """Return file -> what it says of itself, for all files that can be used."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = FolderLock(self.what, self.path)
        for path in self.path.glob(f".*{PART}"):  # of a process that was killed
            path.unlink()
        ours = sorted(path for pattern in FILES for path in self.path.glob(pattern))
        if not resume:
            for path in (self.path / "sweep.json", *ours):
                path.unlink(missing_ok=True)
            ours = []
        heads, damaged = {}, {}
        for path in ours:
            try:
                about, _ = read_record(path)
            except DamagedFile as error:
                damaged[path] = str(error).rstrip(".")
                continue
            heads[path.name] = about
        self._check_identity({k for k, v in heads.items() if v.get("sweep") != self.digest}, ours)
        for path in damaged:
            path.unlink()
        heads = self._renamed(heads)
        self._tell_damage(heads, list(damaged.values()), lanes)
        return heads

    def _renamed(self, heads: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Give each file the name that it is written under, so that none is written over."""
        right: dict[str, dict[str, Any]] = {}
        moved = []
        for name, head in sorted(heads.items(), key=lambda item: item[0] != _name(item[1])):
            now = self.path / name
            if _name(head) in right:  # a copy
                now.unlink()
                continue
            right[_name(head)] = head
            if name != _name(head):
                moved.append((now.rename(now.with_name(f".{name}{PART}")), _name(head)))
        for path, name in moved:
            path.rename(self.path / name)
        return right

    def _check_identity(self, foreign: Iterable[str], ours: Sequence[Path]) -> None:
        """Raise if the directory is that of another sweep; write down which one it is."""
        file = self.path / "sweep.json"
        before, why = None, "is missing"
        if file.exists():
            try:
                before = json.loads(file.read_text())
                if before.pop("checksum") != digest_of_text(before):
                    raise ValueError("its checksum is not that of its text")
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                before, why = None, f"is damaged ({error})"
        if before is not None:
            now = json.loads(json.dumps(dict(self.identity)))
            if changed := _changed(before, now):
                raise ValueError(
                    f"{self.what} holds a sweep with other {', '.join(changed)} ({file}). "
                    f"{self.anew}"
                )
            if before["versions"] != now["versions"]:
                warnings.warn(
                    f"{self.what} was begun with {before['versions']} and continues with "
                    f"{now['versions']}. The programs are the same; results may differ by rounding "
                    "from those of either.",
                    stacklevel=2,
                )
        for name in sorted(foreign):
            raise ValueError(
                f"{self.what}: {self.path / name} is of another sweep. Take it away. {self.anew}"
            )
        if before is not None:
            return
        if ours or file.exists():  # the files say themselves that they are of this sweep
            warnings.warn(
                f"{self.what}: {file} {why}. It is written anew, as the other files are of this "
                "sweep.",
                stacklevel=2,
            )
        text = dict(self.identity) | {"checksum": digest_of_text(self.identity)}
        replace_file(file, lambda f: f.write(json.dumps(text, indent=1, sort_keys=True).encode()))

    def _tell_damage(self, heads: dict[str, dict[str, Any]], lost: list[str], lanes: int) -> None:
        """Warn of files that are `lost`, or must be; delete those of no use any more."""
        _, _, done = _found(heads, lanes)
        seen = np.zeros(lanes, int)
        for head in heads.values():
            # A process that was killed may have left a chunk without its carry.
            step = head["done"] if lost or head["what"] == "carry" else head["start"]
            seen[head["lanes"]] = np.maximum(seen[head["lanes"]], step)
        back = np.flatnonzero(done < seen)
        if lost or back.size:
            told = ""
            if back.size:
                lost = lost or [f"a file of lane {back[0]} is lost"]
                told = f"; lanes {_ranges(back)} go back to step {done[back].min()}"
            warnings.warn(
                f"{self.what}: {'; '.join(lost)}. What cannot be read is computed again"
                f"{told}. {self.anew}",
                stacklevel=2,
            )
        for name, head in list(heads.items()):
            if (head["start"] >= done[head["lanes"]]).all():
                (self.path / name).unlink()
                del heads[name]

    # --- while the sweep runs ---

    def save(self, group: Group, run: Run) -> None:
        """Write a group's last chunk; of several hosts, only the first one writes."""
        report = {k: v for k, v in run.reports[-1].items() if k != "step"} if run.reports else {}
        chunk = {"log": run.logs[-1], "report": jax.tree.map(jnp.asarray, report)}
        carry, chunk = to_host((run.carry, chunk))
        if jax.process_index() > 0:
            return
        steps = run.logs[-1][0].shape[1]
        for what, tree in (("chunk", chunk), ("carry", carry)):
            about = {
                "sweep": self.digest,
                "what": what,
                "lanes": group.lanes,
                "start": run.done - steps,
                "done": run.done,
                "attempt": self.attempt,
            }
            arrays = as_arrays(jax.tree.map(lambda x: x[: len(group.lanes)], tree))
            write_record(self.path / _name(about), about, arrays)
            with self._writing:
                self.heads[_name(about)] = about
        self._delete_old_carries(group.lanes)

    def _delete_old_carries(self, lanes: Sequence[int]) -> None:
        """Delete the carries all of whose lanes have `KEPT` newer ones."""
        with self._writing:
            carries = {k: v for k, v in self.heads.items() if v["what"] == "carry"}
            for name, head in carries.items():
                if not set(lanes) & set(head["lanes"]):
                    continue
                newer = [v["lanes"] for v in carries.values() if v["done"] > head["done"]]
                if all(sum(lane in of for of in newer) >= KEPT for lane in head["lanes"]):
                    (self.path / name).unlink(missing_ok=True)
                    del self.heads[name]

    def load(self, group: Group) -> Run | None:
        """Return where a group was when an earlier call was killed, or None if it had not begun.

        All its lanes have done the same number of steps, see `done`.
        """
        done = int(self.done[group.lanes[0]])
        if not done:
            return None
        size = group.shapes.diverged_at.shape[0]
        rows = padded_rows(0, size, len(group.lanes))
        lanes = [group.lanes[i] for i in rows]
        arrays = self._read({lane: self.carries[lane, done] for lane in group.lanes}, lanes)
        carry = from_arrays(arrays, group.shapes, str(self.path))
        run = Run(
            jax.tree.map(lambda x, like: _placed(x, like.sharding), carry, group.shapes), done
        )
        plan = group.plan
        with weak_functions():
            _, like = jax.eval_shape(
                lambda c: chunk_program(plan.program)(c, plan.data, plan.key, np.int32(0), 1),
                group.shapes,
            )
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), like)
        start = 0
        while start < done:
            where = {lane: self.chunks[lane, start][:2] for lane in group.lanes}
            start = self.chunks[group.lanes[0], start][2]
            arrays = self._read(where, lanes)
            run.logs.append(from_arrays(part_of(arrays, "log"), like, str(self.path)))
            if report := nested(part_of(arrays, "report")):
                run.reports.append({"step": start, **report})
        return run

    def _read(self, where: Where, lanes: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the arrays of lanes, which may be in several files, as rows in this order."""
        names, offset, offsets = {name for name, _ in where.values()}, 0, {}
        parts = []
        for name in sorted(names):
            parts.append(read_record(self.path / name)[1])
            offsets[name] = offset
            offset += len(self.heads[name]["lanes"])
        rows = np.array([offsets[where[lane][0]] + where[lane][1] for lane in lanes])
        return {k: np.concatenate([part[k] for part in parts])[rows] for k in parts[0]}


def _name(head: Mapping[str, Any]) -> str:
    """Return the name of the file with this head."""
    lanes = hashlib.sha256(str(head["lanes"]).encode()).hexdigest()[:8]
    return f"{head['what']}-{head['done']:08d}-{head['lanes'][0]:06d}-{lanes}.npz"


def _found(
    heads: Mapping[str, Mapping[str, Any]], lanes: int
) -> tuple[dict[At, tuple[str, int, int]], dict[At, tuple[str, int]], np.ndarray]:
    """Return where everything is.

    Returns:
      (lane, start of a chunk) -> (file, row, its end); (lane, step of a carry) -> (file, row); and
      (lanes,), the last step of each lane at which it has a carry, and all chunks before it.
    """
    chunks: dict[At, tuple[str, int, int]] = {}
    carries: dict[At, tuple[str, int]] = {}
    for name, head in sorted(heads.items(), key=lambda item: item[1]["attempt"]):  # the last holds
        for row, lane in enumerate(head["lanes"]):
            if head["what"] == "chunk":
                chunks[lane, head["start"]] = name, row, head["done"]
            else:
                carries[lane, head["done"]] = name, row
    done = np.zeros(lanes, int)
    for lane in range(lanes):
        step = 0
        while (lane, step) in chunks:
            step = chunks[lane, step][2]
            if (lane, step) in carries:
                done[lane] = step
    return chunks, carries, done


def _placed(x: Any, sharding: Any) -> Any:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _agreed(make: Callable[[], Any]) -> Any:
    """Return what the first host makes, something that JSON can hold, or raise its error on all."""
    if jax.process_count() == 1:
        return make()
    error, text = None, b""
    if jax.process_index() == 0:
        try:
            text = json.dumps({"value": make()}).encode()
        except Exception as raised:
            error, text = raised, json.dumps({"error": str(raised)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    told = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if error is not None:
        raise error
    if "error" in told:
        raise RuntimeError(f"on the first host: {told['error']}")
    return told["value"]


def _ranges(numbers: np.ndarray) -> str:
    """Return sorted numbers as text.

    Example:
      >>> _ranges(np.array([0, 1, 2, 5]))
      '0-2, 5'
    """
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


# --- what sweep it is -----------------------------------------------------------------------------


def identity_of(configs: Sequence[Config], kinds: Sequence[Kind]) -> dict[str, Any]:
    """Return what decides a sweep's numbers, by the arguments' names: texts, numbers and digests.

    Programs count as they are lowered, for one lane, so that a function is known by what it
    computes: not by its name or where it is defined, not by the devices or the groups of lanes.
    """
    plan, shapes = kinds[0].plan, kinds[0].lane_shapes()
    key: Any = plan.key
    impl = "seed"
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl, key = str(jax.random.key_impl(key)), jax.random.key_data(key)
    (params, model_state), held_out = kinds[0].given, plan.held_out
    batch = _shapes(one_batch(plan.data, plan.program.batch_size))
    identity = {
        "space": {k: words(v).tolist() for k, v in columns(configs).items()},
        "steps": plan.total,
        "report_every": plan.length,
        "batch_size": plan.program.batch_size,
        "has_aux": plan.program.has_aux,
        "needs_key": plan.program.needs_key,
        "vectorize": plan.program.lanes,
        "key": [impl, to_host(key).tolist()],
        "data": _digest(plan.data),
        "held_out": None if held_out is None else _digest(held_out),
        "metric_fn": None,
        "params": "a function" if params is None else _digest(params),
        "model_state": (
            "a function"
            if plan.program.has_model_state and model_state is None
            else _digest(model_state)
        ),
        "loss_fn": _digest_of_program(
            traced_loss(plan.program, shapes.params, shapes.model_state, batch)
        ),
        "optimizer": [_digest_of_program(kind.traced_start()) for kind in kinds],
        "program": [_digest_of_program(_traced_chunk(kind)) for kind in kinds],
        "platform": jax.default_backend(),
        "versions": {k: importlib.metadata.version(k) for k in ("gdjax", "jax", "jaxlib")},
    }
    if held_out is not None:
        single = plan._replace(program=plan.program._replace(lanes=""))
        metric = metric_program(single).trace(
            shapes.params, shapes.state, shapes.model_state, _shapes(held_out)
        )
        identity["metric_fn"] = _digest_of_program(metric)
    return identity


def _known(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the versions, which alone do not make another sweep."""
    return {k: v for k, v in identity.items() if k != "versions"}


# What is traced, and so looks different if only an argument has another shape -> such arguments.
FOLLOWS = {
    "metric_fn": {"loss_fn", "held_out", "params", "model_state"},
    "loss_fn": {"data", "params", "model_state", "batch_size", "has_aux", "needs_key"},
    "optimizer": {"params", "model_state", "space"},
}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the arguments that differ, without what may follow from others."""
    texts = {k: json.dumps(v, sort_keys=True) for k, v in _known(before).items()}
    changed = [k for k, v in _known(now).items() if texts.get(k) != json.dumps(v, sort_keys=True)]
    if changed == ["program"]:
        changed = ["optimizer (its flags or functions)"]
        if before.get("versions") != now["versions"]:
            changed.append(f"versions ({before.get('versions')}, now {now['versions']})")
    elif now["params"] == "a function" and changed == ["optimizer", "program"]:
        changed = ["params (a function) or optimizer"]
    changed = [k for k in changed if k != "program"]
    return [k for k in changed if not FOLLOWS.get(k, set()) & set(changed)]


def _traced_chunk(kind: Kind) -> Any:
    """Return the trace of a chunk for one lane on one device."""
    plan = kind.plan
    program = plan.program._replace(lanes="", own_keys=False, shards=1)
    inputs = (kind.lane_shapes(), _shapes(plan.data), plan.key, np.int32(0))
    with weak_functions():
        return chunk_program(program).trace(*inputs, min(plan.length, plan.total or plan.length))


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _digest_of_program(traced: Any) -> str:
    """Return a digest of a `jax.stages.Traced` that is the same in another process."""
    text = traced.lower().as_text()
    # Older versions of JAX write the address of a Python callback.
    text = re.sub(r'(callback.*?backend_config = ")\d+', r"\1", text)
    return _digest([np.frombuffer(text.encode(), np.uint8), traced.jaxpr.consts])


def digest_of_text(value: Mapping[str, Any]) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()


def _digest(tree: PyTree) -> str:
    """Return a digest of the paths, dtypes, shapes and bytes of a tree of arrays."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
            digest.update(str(jax.random.key_impl(x)).encode())
            x = jax.random.key_data(x)
        x = to_host(jnp.asarray(x) if np.isscalar(x) else x)
        digest.update(f"{leaf_path(path)} {x.dtype} {x.shape} ".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
