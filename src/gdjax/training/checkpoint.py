"""Finished chunks of a run on disk, so that one that was killed resumes where it was.

A directory holds `run.json`, which says what run it is; and for each group of lanes and each chunk
a file with what was recorded (`chunk-*.npz`), and for the last two chunks one with where the lanes
stood (`carry-*.npz`). Every file says which run, which lanes and which steps it is of, so its name
does not matter, and lanes may be grouped in another way when the run resumes. A lane continues from
its last carry before which no chunk is missing. The run of `fit` is a single lane.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
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
from gdjax.training.engine import (
    Carry,
    Run,
    chunk_program,
    metric_program,
    stream_program,
    to_host,
)
from gdjax.training.files import (
    PART,
    DamagedFile,
    FolderLock,
    Writer,
    as_arrays,
    from_arrays,
    leaf_path,
    nested,
    packed,
    part_of,
    read_record,
    replace_file,
    unpacked,
    write_record,
)
from gdjax.training.hosts import SpreadFolders, is_spread, sums_of
from gdjax.training.inputs import Plan, one_batch, traced_loss
from gdjax.training.lanes import Group, Kind, padded_rows
from gdjax.training.meshes import contexts_of_programs, in_types, set_mesh
from gdjax.training.streams import first_batch, is_stream
from gdjax.training.trials import Config, columns, words

KEPT = 2  # carries of each lane
FILES = ("chunk-*.npz", "carry-*.npz")

At = tuple[int, int]  # a lane and a step
Where = dict[int, tuple[str, int]]  # lane -> a file and the lane's row in it
Heads = dict[str, dict[str, Any]]  # file -> what it says of itself


class Checkpoints:
    """The directory of one run.

    Attributes:
      done: (lanes,), the step from which each lane continues.
      length: steps in a chunk; if no call says `report_every`, that of the first one.
      notes: name -> (lanes,), kept with the next chunks of each lane.
      beside: what was kept beside the carry of a single run that was loaded.
    """

    def __init__(
        self,
        caller: str,
        directory: str | os.PathLike[str],
        resume: bool,
        identity: Mapping[str, Any],
        lanes: int,
        plan: Plan,
        begin: int = 0,
        workers: int = 1,
        together: bool = False,
    ):
        """Take the directory and find out how far each lane got.

        Args:
          caller: the function that the user called.
          directory: see `sweep`.
          resume: see `sweep`.
          identity: of `identity_of`.
          lanes: their number.
          plan: the run.
          begin: the step at which the run began.
          workers: groups that run at a time.
          together: whether all lanes must continue from the same step, as one may copy another.
        """
        self.path, self.what = Path(directory), f"{caller}(directory={str(directory)!r})"
        self.anew = f"To start anew, give another directory, or {caller}(..., resume=False), which "
        self.anew += "deletes the files of the run that is there."
        self.identity, self.together = identity, together
        self.digest = digest_of_text(_known(identity))
        self.lanes, self.begin, self.end, self.length = lanes, begin, plan.total, plan.length
        self.beside: Any = None
        self.folders: SpreadFolders | None = None
        self.lock: FolderLock | None = None
        self.writer = Writer(workers)
        self.notes: dict[str, np.ndarray] = {}
        try:
            self.heads: Heads = _agreed(lambda: self._opened(resume))
        except BaseException:
            self.close()
            raise
        self.attempt = 1 + max((head["attempt"] for head in self.heads.values()), default=0)
        self.length = self._length(self.heads)
        self.chunks, self.carries, self.done = self._found(self.heads)

    def close(self) -> None:
        """Wait until all is written, and let another process have the directory."""
        try:
            self.writer.close()
            if self.folders is not None:
                self.folders.close()
        finally:
            if self.lock is not None:
                self.lock.release()

    # --- opening, on the first host ---

    def _opened(self, resume: bool) -> Heads:
        """Return file -> what it says of itself, for all files that can be used."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = FolderLock(self.what, self.path)
        for path in self.path.glob(f".*{PART}"):  # of a process that was killed
            path.unlink()
        folders = [path for path in self.path.glob("carry-*") if path.is_dir()]
        ours = sorted(path for pattern in FILES for path in self.path.glob(pattern))
        if not resume:
            for path in (self.path / "run.json", *ours):
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
            if "folder" in about and not (self.path / about["folder"]).is_dir():
                damaged[path] = f"{self.path / about['folder']}, of {path.name}, is lost"
                del heads[path.name]
        self._check_identity({k for k, v in heads.items() if v.get("run") != self.digest}, ours)
        done = max((head["done"] for head in heads.values()), default=0)
        if self.end is not None and done > self.end:
            raise ValueError(
                f"{self.what} holds a run that has taken {done} steps already, more than the "
                f"{self.end} of this call. {self.anew}"
            )
        for path in damaged:
            path.unlink()
        heads = self._to_go_on_from(self._renamed(heads))
        self._tell_damage(heads, list(damaged.values()))
        known = {head.get("folder") for head in heads.values()}
        for folder in folders:
            if folder.name not in known:
                shutil.rmtree(folder)
        return heads

    def _renamed(self, heads: Heads) -> Heads:
        """Give each file the name that it is written under, so that none is written over."""
        right: Heads = {}
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

    def _to_go_on_from(self, heads: Heads) -> Heads:
        """Return the files without those of a shorter last chunk, if the run now is longer.

        So it has the same chunks and reports as one that was as long from the start.
        """
        right, length = {}, self._length(heads)
        for name, head in heads.items():
            last = head["done"] == head["end"] != self.end
            if last and (head["done"] - self.begin) % length:
                (self.path / name).unlink()
            else:
                right[name] = head
        return right

    def _length(self, heads: Heads) -> int:
        if self.identity["report_every"] is not None:
            return self.length
        return next((head["length"] for head in heads.values()), self.length)

    def _check_identity(self, foreign: Iterable[str], ours: Sequence[Path]) -> None:
        """Raise if the directory is that of another run; write down which one it is."""
        file = self.path / "run.json"
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
            if changed := changed_arguments(before, now):
                raise ValueError(
                    f"{self.what} holds a run with other {', '.join(changed)} ({file}). {self.anew}"
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
                f"{self.what}: {self.path / name} is of another run. Take it away. {self.anew}"
            )
        if before is not None:
            return
        if ours or file.exists():  # the files say themselves that they are of this run
            warnings.warn(
                f"{self.what}: {file} {why}. It is written anew, as the other files are of this "
                "run.",
                stacklevel=2,
            )
        text = dict(self.identity) | {"checksum": digest_of_text(self.identity)}
        replace_file(file, lambda f: f.write(json.dumps(text, indent=1, sort_keys=True).encode()))

    def _tell_damage(self, heads: Heads, lost: list[str]) -> None:
        """Warn of files that are `lost`, or must be; delete those of no use any more."""
        seen = np.zeros(self.lanes, int)
        for head in heads.values():
            # A process that was killed may have left a chunk without its carry.
            step = head["done"] if lost or head["what"] == "carry" else head["start"]
            seen[head["lanes"]] = np.maximum(seen[head["lanes"]], step)
        _, _, done = self._found(heads, together=False)
        back = np.flatnonzero(done < seen)
        _, _, done = self._found(heads)
        if lost or back.size:
            told = ""
            if back.size:
                lost = lost or [f"a file of lane {back[0]} is lost"]
                back = np.flatnonzero(done < seen)
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

    def _found(
        self, heads: Heads, together: bool | None = None
    ) -> tuple[dict[At, tuple[str, int, int]], dict[At, tuple[str, int]], np.ndarray]:
        """Return where everything is.

        Returns:
          (lane, start of a chunk) -> (file, row, its end); (lane, step of a carry) -> (file, row);
          and (lanes,), the last step of each lane at which it has a carry, and all chunks before
          it; if lanes continue together, the last one of all lanes.
        """
        chunks: dict[At, tuple[str, int, int]] = {}
        carries: dict[At, tuple[str, int]] = {}
        for name, head in sorted(heads.items(), key=lambda item: item[1]["attempt"]):
            for row, lane in enumerate(head["lanes"]):  # the last attempt holds
                if head["what"] == "chunk":
                    chunks[lane, head["start"]] = name, row, head["done"]
                else:
                    carries[lane, head["done"]] = name, row
        starts: list[set[int]] = []
        for lane in range(self.lanes):
            step = self.begin
            starts.append({step})
            while (lane, step) in chunks:
                step = chunks[lane, step][2]
                if (lane, step) in carries:
                    starts[-1].add(step)
        if self.together if together is None else together:
            starts = [set.intersection(*starts)] * self.lanes
        return chunks, carries, np.array([max(steps) for steps in starts])

    # --- while the run continues ---

    def save(self, group: Group, run: Run, beside: Any = None) -> None:
        """Keep a group's last chunk; it is written by a thread, after the chunk before it.

        What is written is copied to the host here, since the next chunk takes the carry. Of several
        hosts, only the first one writes; but of a single run whose arrays are spread over hosts,
        each host writes its parts of the carry.

        Args:
          group: the lanes.
          run: where they stand, and their last chunk.
          beside: of a single run: what JSON can hold, arrays and bytes, to keep with the carry.
        """
        report = {k: v for k, v in run.reports[-1].items() if k != "step"} if run.reports else {}
        chunk = {
            "log": run.logs[-1],
            "report": jax.tree.map(jnp.asarray, report),
            "ends": {"diverged_at": run.carry.diverged_at, "stopped_at": run.carry.stopped_at},
            "notes": {k: v[_lane_of_rows(group)] for k, v in self.notes.items()},
        }
        carry = {"carry": run.carry, "beside": (arrays := {}), "memory": run.memory}
        more: dict[str, Any] = {"beside": packed(beside, arrays)}
        folders = None
        if not group.plan.program.lanes and is_spread(run.carry):
            more |= self._save_spread(run)
            carry, folders = {"beside": arrays}, self.folders
        chunk, carry = to_host((chunk, carry))
        if jax.process_index() > 0:
            return
        records = []
        steps = run.logs[-1][0].shape[-1]
        for what, tree, also in (("chunk", chunk, {}), ("carry", carry, more)):
            about = {
                "run": self.digest,
                "what": what,
                "lanes": group.lanes,
                "start": run.done - steps,
                "done": run.done,
                "attempt": self.attempt,
                "length": self.length,
                "end": self.end,
                **also,
            }
            arrays = as_arrays(jax.tree.map(functools.partial(_as_rows, group), tree))
            arrays = {k: x if x.flags.owndata else x.copy() for k, x in arrays.items()}
            records.append((about, arrays))
        self.writer.put(group.lanes[0], functools.partial(self._write, records, folders))

    def _save_spread(self, run: Run) -> dict[str, Any]:
        """Begin to write a carry that is spread over hosts; return what its file says of it."""
        if self.folders is None:
            self.folders = SpreadFolders(self.what)
        self.writer.wait(0)  # it waits for the last folder
        folder, names = f"carry-{run.done:08d}-{self.attempt}", _names(run.carry)
        sums = sums_of(run.carry)
        self.folders.save(self.path / folder, run.carry)
        return {"folder": folder, "names": names, "sums": sums}

    def _write(
        self,
        records: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]],
        folders: SpreadFolders | None,
    ) -> None:
        for about, arrays in records:
            if folders is not None and "folder" in about:
                folders.wait()
            write_record(self.path / _name(about), about, arrays)
            self.heads[_name(about)] = about
        self._delete_old_carries(records[0][0]["lanes"])

    def _delete_old_carries(self, lanes: Sequence[int]) -> None:
        """Delete the carries all of whose lanes have `KEPT` newer ones."""
        carries = {k: v for k, v in self.heads.items() if v["what"] == "carry"}
        at: dict[int, set[int]] = {}  # step -> the lanes that can continue from it
        for head in carries.values():
            at.setdefault(head["done"], set()).update(head["lanes"])
        if self.together:
            at = {step: of for step, of in at.items() if len(of) == self.lanes}
        for name, head in carries.items():
            if not set(lanes) & set(head["lanes"]) and not self.together:
                continue
            newer = [of for step, of in at.items() if step > head["done"]]
            if all(sum(lane in of for of in newer) >= KEPT for lane in head["lanes"]):
                (self.path / name).unlink(missing_ok=True)
                del self.heads[name]
                if "folder" in head:
                    shutil.rmtree(self.path / head["folder"])

    def load(self, group: Group, start: int = 0) -> Run | None:
        """Return where a group was when an earlier call was killed, or None if it had not begun.

        All its lanes have done the same number of steps, see `done`.

        Args:
          group: the lanes.
          start: the step from which on the run has what was recorded.
        """
        done = int(self.done[group.lanes[0]])
        if done == self.begin:
            return None
        where = {lane: self.carries[lane, done] for lane in group.lanes}
        arrays = {k: _as_run(group, x) for k, x in self._read(where, group).items()}
        head = self.heads[self.carries[group.lanes[0], done][0]]
        if "folder" in head:
            carry = self._load_spread(head, group.shapes)
        else:
            carry = from_arrays(part_of(arrays, "carry"), group.shapes, str(self.path))
        carry = jax.tree.map(lambda x, like: _placed(x, like.sharding), carry, group.shapes)
        self.beside = unpacked(head["beside"], nested(part_of(arrays, "beside")))
        run = self.recorded(group, start, done)
        run.carry = carry
        rows = {k: x[: len(group.lanes)] for k, x in part_of(arrays, "memory").items()}
        run.memory = nested(rows)
        return run

    def _load_spread(self, head: dict[str, Any], like: Carry) -> PyTree:
        """Return the carry in a folder: arrays, or NumPy's where `like` has no sharding."""
        folder = self.path / head["folder"]
        if self.folders is None:
            self.folders = SpreadFolders(self.what)
        if head["names"] != _names(like):
            raise ValueError(f"{folder} holds a carry of another structure. {self.anew}")
        lost = f"delete {head['folder']} and {_name(head)} to continue from the carry before it"
        try:
            carry = self.folders.load(folder, like)
        except Exception as error:  # Orbax raises a dozen kinds
            raise ValueError(f"{folder} cannot be read; {lost}. {error}") from error
        if sums_of(carry) != head["sums"]:
            raise ValueError(f"{folder} is damaged: its sums are not those of its arrays; {lost}.")
        return from_arrays(dict(zip(head["names"], jax.tree.leaves(carry), strict=True)), like)

    def recorded(self, group: Group, start: int, stop: int) -> Run:
        """Return what a group recorded between two ends of chunks, without parameters and state."""
        plan = group.plan
        with weak_functions():
            step, inputs = _step(plan)
            _, like = jax.eval_shape(lambda carry: step(carry, *inputs), group.shapes)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), like)
        run = Run(jax.tree.map(lambda _: None, group.shapes), stop)
        while start < stop:
            where = {lane: self.chunks[lane, start][:2] for lane in group.lanes}
            start = self.chunks[group.lanes[0], start][2]
            arrays = {k: _as_run(group, x) for k, x in self._read(where, group).items()}
            run.logs.append(from_arrays(part_of(arrays, "log"), like, str(self.path)))
            if report := nested(part_of(arrays, "report")):
                run.reports.append({"step": start, **report})
            run.carry = run.carry._replace(**nested(part_of(arrays, "ends")))
        return run

    def noted(self, start: int) -> dict[str, np.ndarray] | None:
        """Return the notes that all lanes have with the chunk from step `start` on, or None."""
        if (self.done <= start).any():
            return None
        notes: dict[str, np.ndarray] = {}
        for name in {self.chunks[lane, start][0] for lane in range(self.lanes)}:
            about, arrays = read_record(self.path / name)
            for key, rows in nested(part_of(arrays, "notes")).items():
                all_lanes = notes.setdefault(key, np.zeros(self.lanes, rows.dtype))
                for lane, row in zip(about["lanes"], rows, strict=True):
                    if self.chunks[lane, start][0] == name:
                        all_lanes[lane] = row
        return notes

    def _read(self, where: Where, group: Group) -> dict[str, np.ndarray]:
        """Return the arrays of a group's lanes, which may be in several files, as its rows."""
        names, offset, offsets = {name for name, _ in where.values()}, 0, {}
        parts = []
        for name in sorted(names):
            parts.append(read_record(self.path / name)[1])
            offsets[name] = offset
            offset += len(self.heads[name]["lanes"])
        lanes = _lane_of_rows(group)
        rows = np.array([offsets[where[lane][0]] + where[lane][1] for lane in lanes])
        # What callbacks remember may be in some files only.
        names = [k for k in parts[0] if all(k in part for part in parts)]
        return {k: np.concatenate([part[k] for part in parts])[rows] for k in names}


def _name(head: Mapping[str, Any]) -> str:
    """Return the name of the file with this head."""
    lanes = hashlib.sha256(str(head["lanes"]).encode()).hexdigest()[:8]
    return f"{head['what']}-{head['done']:08d}-{head['lanes'][0]:06d}-{lanes}.npz"


def _names(tree: PyTree) -> list[str]:
    return [leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _lane_of_rows(group: Group) -> np.ndarray:
    """Return the lane of each row of a group, with padding."""
    size = group.shapes.diverged_at.shape[0] if group.plan.program.lanes else 1
    return np.array(group.lanes)[padded_rows(0, size, len(group.lanes))]


def _as_rows(group: Group, x: Any) -> Any:
    """Return a row for each lane, without padding, from an array of a run."""
    return x[: len(group.lanes)] if group.plan.program.lanes else x[None]


def _as_run(group: Group, x: Any) -> Any:
    """Return an array of a run from rows: a run without lanes has a single row."""
    return x if group.plan.program.lanes else x[0]


def _placed(x: Any, sharding: Any) -> Any:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
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


def identity_of(
    plan: Plan, lane: Carry, report_every: int | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what decides a run's numbers, by the arguments' names: texts, numbers and digests.

    Programs count as they are lowered, for one lane, so that a function is known by what it
    computes: not by its name or where it is defined, not by the devices or the groups of lanes.
    The number of steps is not among it: a run can go on to more of them.

    Args:
      plan: the run; of an iterable, `data` are the shapes of a batch.
      lane: a single lane's carry, or its shapes.
      report_every: the argument.
      given: what there is more: at least "params", "optimizer" and "program".
    """
    key: Any = plan.key
    impl = "seed"
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl, key = str(jax.random.key_impl(key)), jax.random.key_data(key)
    batch, lane = _shapes((one_batch(plan.data, plan.program.batch_size), lane))
    loss = functools.partial(traced_loss, plan.program, lane.params, lane.model_state, batch)
    identity = {
        "function": plan.caller,
        "report_every": report_every,
        "batch_size": plan.program.batch_size,
        "has_aux": plan.program.has_aux,
        "needs_key": plan.program.needs_key,
        "vectorize": plan.program.lanes,
        "key": [impl, to_host(key).tolist()],
        "data": digest_of(plan.data) if plan.examples else f"an iterable of {_sizes(batch)}",
        "held_out": None,
        "metric_fn": None,
        "loss_fn": _digest_of_program(loss, (lane, batch)),
        "platform": jax.default_backend(),
        "versions": {k: importlib.metadata.version(k) for k in ("gdjax", "jax", "jaxlib")},
    }
    if plan.held_out is not None:
        assert plan.measure is not None, "a plan with held-out data has a metric"
        measure = plan.measure._replace(places=in_types(plan.measure.places))
        single = plan._replace(
            program=plan.program._replace(lanes="", lanes_axis=None), measure=measure
        )
        shapes = plan.held_out
        if is_stream(plan.held_out):
            shapes = first_batch(plan.held_out)
        shapes = _shapes(shapes)
        identity["held_out"] = (
            f"an iterable of {_sizes(shapes)}"
            if is_stream(plan.held_out)
            else digest_of(plan.held_out)
        )
        inputs = lane.params, lane.state, lane.model_state, shapes
        with weak_functions():
            identity["metric_fn"] = _digest_of_program(
                lambda: metric_program(single).trace(*inputs), inputs
            )
    return identity | dict(given)


def identity_of_lanes(
    configs: Sequence[Config],
    kinds: Sequence[Kind],
    report_every: int | None,
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what decides the numbers of a sweep, or of a race by some rules: name -> value."""
    plan, (params, model_state) = kinds[0].plan, kinds[0].given
    is_made = plan.program.has_model_state and model_state is None
    more = {
        "space": {k: words(v).tolist() for k, v in columns(configs).items()},
        "params": "a function" if params is None else digest_of(params),
        "model_state": "a function" if is_made else digest_of(model_state),
        "optimizer": [_digest_of_program(kind.traced_start, ()) for kind in kinds],
        "program": [digest_of_steps(kind.plan, kind.lane_shapes()) for kind in kinds],
        **rules,
    }
    return identity_of(plan, kinds[0].lane_shapes(), report_every, more)


def _known(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the versions, which alone do not make another sweep."""
    return {k: v for k, v in identity.items() if k != "versions"}


# How the text of a program says where its arrays are.
SHARDINGS = (
    r"\n *sdy\.mesh [^\n]*", r"<@[^ >]*, \[[^\]]*\][^>]*>", r"sdy\.sharding = #sdy\.sharding",
    r'mhlo\.sharding = "[^"]*"', r"mhlo\.num_\w+ = \d+ : i32",
)  # fmt: skip

# What is traced, and so looks different if only an argument has another shape -> such arguments.
FOLLOWS = {
    "metric_fn": {"loss_fn", "held_out", "params", "model_state"},
    "loss_fn": {"data", "params", "model_state", "batch_size", "has_aux", "needs_key"},
    "optimizer": {"params", "model_state", "space"},
    "state": {"params", "optimizer"},
}


def changed_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the arguments that differ, without what may follow from others."""
    texts = {k: json.dumps(v, sort_keys=True) for k, v in _known(before).items()}
    changed = [k for k, v in _known(now).items() if texts.get(k) != json.dumps(v, sort_keys=True)]
    if changed == ["program"]:
        changed = ["optimizer (its flags or functions)"]
        if before.get("versions") != now["versions"]:
            changed.append(f"versions ({before.get('versions')}, now {now['versions']})")
    elif now["params"] == "a function" and changed == ["optimizer", "program"]:
        changed = ["params (a function) or optimizer"]
    if "function" in changed:
        changed = [f"function ({before.get('function')}, now {now['function']})"]
    changed = [k for k in changed if k != "program"]
    return [k for k in changed if not FOLLOWS.get(k, set()) & set(changed)]


def digest_of_steps(plan: Plan, lane: Carry) -> str:
    """Return a digest of the program of a step, for one lane on one device."""
    places = in_types(plan.program.places)
    program = plan.program._replace(
        lanes="", own_keys=False, shards=1, places=places, lanes_axis=None
    )
    step, inputs = _step(plan._replace(program=program, data=_shapes(plan.data)))
    with weak_functions():
        lane = _shapes(lane)
        return _digest_of_program(lambda: step.trace(lane, *inputs), (lane, inputs))


def _step(plan: Plan) -> tuple[Any, tuple[Any, ...]]:
    """Return the jitted program of a step, and its arguments after the carry."""
    if plan.examples:
        return chunk_program(plan.program), (plan.data, plan.key, np.int32(0), 1)
    return stream_program(plan.program, True), (plan.data, plan.key, np.int32(0), np.int32(1))


def _sizes(tree: PyTree) -> PyTree:
    """Return shapes and dtypes only."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _shapes(tree: PyTree) -> PyTree:
    """Return shapes and dtypes; and shardings where they are part of the type."""

    def one(x):
        mesh = getattr(getattr(x, "sharding", None), "mesh", None)
        explicit = mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if explicit else None)

    return jax.tree.map(one, tree)


def _digest_of_program(trace: Callable[[], Any], arrays: PyTree) -> str:
    """Return a digest of a program that is the same in another process and on another mesh.

    `trace` gives a `jax.stages.Traced`, of a program that is given `arrays`.
    """
    traced, text = _lowered(trace, arrays)
    # Older versions of JAX write the address of a Python callback.
    text = re.sub(r'(callback.*?backend_config = ")\d+', r"\1", text)
    for where in SHARDINGS:  # what is computed is the same on another mesh
        text = re.sub(where, "", text)
    return digest_of([np.frombuffer(text.encode(), np.uint8), traced.jaxpr.consts])


def _lowered(trace: Callable[[], Any], arrays: PyTree) -> tuple[Any, str]:
    """Return a `jax.stages.Traced` and its text, which do not depend on `jax.set_mesh`."""
    for mesh in contexts_of_programs(arrays):
        with contextlib.suppress(Exception), set_mesh(mesh):  # a function may name axes
            traced = trace()
            return traced, traced.lower().as_text()
    traced = trace()
    return traced, traced.lower().as_text()


def digest_of_text(value: Mapping[str, Any]) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()


def digest_by_sums(tree: PyTree) -> str:
    """Return a digest of a tree of arrays that is the same however they are spread over hosts."""
    kinds = [[list(x.shape), str(x.dtype)] for x in jax.tree.leaves(tree)]
    return digest_of_text({"names": _names(tree), "kinds": kinds, "sums": sums_of(tree)})


def digest_of(tree: PyTree) -> str:
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
