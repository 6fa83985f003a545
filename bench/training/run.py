"""Measure how many steps optimizers take to targets on six workloads; see README.md here.

  targets     200 quasi-random trials of each of four methods, 20 reruns of the best, a target
  candidates  5 studies of 3 trials of each method
  score       print the scores
  report      write the tables of README.md
  seconds     measure the time of a step of each method

Every sweep that is finished is a line in the store, bench/results/training, so that a call goes on
where one was stopped. With another --store everything is computed anew.

Run: python bench/training/run.py targets|candidates|score|report|seconds [--only NAME ...]
     [--workloads NAME ...] [--store DIR] [--quick]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK is called from several threads
flags = "--xla_cpu_multi_thread_eigen=false"  # groups of lanes run in a thread for each core
if "candidates" in sys.argv:  # most of the time is XLA's compiler: 40 % less, and 10 % slower steps
    flags += " --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from methods import METHODS, TARGET_SETTERS, configs  # noqa: E402
from scoring import steps_to_target  # noqa: E402
from workloads import HELD_OUT, WORKLOADS  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "training"
OUTPUT = Path(__file__).parents[1] / "output" / "training"
REPORTS = ("score", "report", "seconds")  # functions of report.py
TRIALS, RERUNS = 200, 20  # for a target
TRANSFERRED = 10  # configs of each method that are tried on a variant, for its target
STUDIES, PER_STUDY = 5, 3
LANES, FEW_LANES = 10, 5  # in a program, with many and with few trials
BUDGET = {False: 4 / 3, True: 2.0}  # times the steps of the targets; the latter if self-tuning


def sweep(store, name, workload, method, rows, steps=None, curves=True):
    """Return a record for each config; from the store if it is there.

    The store is a folder of .jsonl files, one for each method and kind of run, a line for a sweep.
    """
    path = store / f"{name.rpartition('/')[0]}.jsonl"
    found = stored(path).get(name)
    if found is not None and [r["config"] for r in found] == rows:
        return found
    began, cpu = time.perf_counter(), time.process_time()
    steps = workload.steps if steps is None else steps
    size = FEW_LANES if workload in HELD_OUT else LANES
    result = workload.run(method.build(steps), rows, steps, lanes_per_program=size)
    records = [record(result, lane, config, curves) for lane, config in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(packed(name, records) + "\n")
    best = min((r["best"] for r in records if r["best"] is not None), default=float("nan"))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    bad = int((result.diverged_at >= 0).sum())
    print(
        f"{name}: {len(rows)} trials, best {best:.4g}, {bad} diverged, "
        f"{wall:.0f} s, {cpu:.0f} CPU s",
        flush=True,
    )
    return records


def record(result, lane, config, curves):
    """Return what is kept of a trial; a lane that diverged is not measured after that."""
    curve = np.array(result.history["held_out"][lane], float)
    diverged = int(result.diverged_at[lane])
    if diverged >= 0:
        curve[result.history["step"] > diverged] = np.nan
    values = [float(f"{x:.4g}") if np.isfinite(x) else None for x in curve]
    known = [x for x in values if x is not None]
    return {
        "config": config,
        "best": min(known, default=None),
        "diverged_at": diverged,
        "every": int(result.history["step"][0]),
        "curve": values if curves else None,
    }


def packed(name, records):
    """Return the line of a sweep."""
    columns = {key: [r[key] for r in records] for key in ("best", "diverged_at", "curve")}
    names = list(records[0]["config"])
    rows = [list(r["config"].values()) for r in records]
    line = {"sweep": name, "every": records[0]["every"], "names": names, "rows": rows, **columns}
    return json.dumps(line, separators=(",", ":"))


def stored(path):
    """Return name -> records of a file."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        read = json.loads(line)
        columns = zip(read["rows"], read["best"], read["diverged_at"], read["curve"])
        found[read["sweep"]] = [
            {
                "config": dict(zip(read["names"], row)),
                "best": best,
                "diverged_at": diverged_at,
                "every": read["every"],
                "curve": curve,
            }
            for row, best, diverged_at, curve in columns
        ]
    return found


def with_seeds(rows, seed):
    return [config | {"seed": seed + i} for i, config in enumerate(rows)]


def best_first(records):
    """Return records in the order of their best metric."""
    return sorted(records, key=lambda r: np.inf if r["best"] is None else r["best"])


def without_seed(config):
    return {k: v for k, v in config.items() if k != "seed"}


def target(options, base, variant):
    """Return the targets of a workload and its variant, with what they were made from."""
    trials, reruns = (6, 2) if options.quick else (TRIALS, RERUNS)
    transferred = 2 if options.quick else TRANSFERRED
    found, transfers = [], []
    for index, name in enumerate(TARGET_SETTERS):
        method = METHODS[name]
        rows = with_seeds(configs(method, trials, 1000 + index), 10000)
        place = f"targets/{name}/{base.name}"
        records = best_first(sweep(options.store, place, base, method, rows, curves=False))
        found.append((name, records))
    for name, records in found:
        method = METHODS[name]
        rows = [without_seed(r["config"]) for r in records[:transferred]]
        place = f"targets/{name}/{variant.name}"
        rows = with_seeds(rows, 20000)
        records = sweep(options.store, place, variant, method, rows, curves=False)
        transfers.append((name, best_first(records)))
    out = {}
    for workload, tried in ((base, found), (variant, transfers)):
        medians, again = {}, {}
        for name, records in tried:
            config = without_seed(records[0]["config"])
            rows = with_seeds([config] * reruns, 30000)
            place = f"targets/{name}.reruns/{workload.name}"
            seen = sweep(options.store, place, workload, METHODS[name], rows)
            again[name] = [np.inf if r["best"] is None else r["best"] for r in seen]
            medians[name] = float(f"{np.median(again[name]):.4g}")
        name = min(medians, key=lambda n: medians[n])
        out[workload.name] = {
            "target": medians[name],
            "steps": workload.steps,
            "batch_size": workload.batch_size,
            "method": name,
            "config": without_seed(dict(tried)[name][0]["config"]),
            "reruns": [x if np.isfinite(x) else None for x in again[name]],
            "medians": {n: x if np.isfinite(x) else None for n, x in medians.items()},
            "best_of": {n: records[0]["best"] for n, records in tried},
            "trials": {n: len(records) for n, records in tried},
        }
    return out


def targets(options):
    """Compute the targets and write them."""
    found = {}
    for base, variant in zip(WORKLOADS, HELD_OUT):
        if not options.workloads or base.name in options.workloads:
            found |= target(options, base, variant)
            print(base.name, found[base.name]["target"], found[base.name]["method"], flush=True)
    path = options.store / "targets.json"
    if path.exists():
        found = json.loads(path.read_text()) | found
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    path.write_text(f"{{\n{lines}\n}}\n")


def known_targets(options):
    """Return workload -> target."""
    path = options.store / "targets.json"
    path = path if path.exists() else RESULTS / "targets.json"
    return {k: v["target"] for k, v in json.loads(path.read_text()).items()}


def candidate(options, name, base, variant, goals):
    """Run the studies of a method on a workload, and its best trials on the variant."""
    method = METHODS[name]
    studies = 2 if options.quick else STUDIES
    per_study = 1 if method.self_tuning else PER_STUDY
    steps = round(base.steps * BUDGET[method.self_tuning])
    rows = []
    for study in range(studies):
        count = 1 if method.self_tuning else per_study
        seed = 50000 + 100 * study
        rows += with_seeds(configs(method, count, seed), seed)
    records = sweep(options.store, f"candidates/{name}/{base.name}", base, method, rows, steps)
    picked = []
    for study in range(studies):
        part = records[study * per_study : (study + 1) * per_study]
        picked.append(min(part, key=lambda r: order(r, goals[base.name])))
    rows = with_seeds([without_seed(r["config"]) for r in picked], 60000)
    steps = round(variant.steps * BUDGET[method.self_tuning])
    sweep(options.store, f"candidates/{name}/{variant.name}", variant, method, rows, steps)


def steps_of(r, goal):
    """Return the steps of a record to a target."""
    curve = [np.nan if x is None else x for x in r["curve"]]
    return steps_to_target(curve, r["every"] * np.arange(1, len(curve) + 1), goal)


def order(r, goal):
    """Return a key by which the best trial of a study is first."""
    return steps_of(r, goal), np.inf if r["best"] is None else r["best"]


def candidates(options):
    """Run all methods, or those that are named, and those workloads that have targets."""
    goals = known_targets(options)
    for name in options.only or METHODS:
        for base, variant in zip(WORKLOADS, HELD_OUT):
            if base.name in goals and (not options.workloads or base.name in options.workloads):
                candidate(options, name, base, variant, goals)
        jax.clear_caches()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["targets", "candidates", *REPORTS])
    parser.add_argument("--only", nargs="+", help="methods", choices=METHODS)
    parser.add_argument("--workloads", nargs="+", choices=[w.name for w in WORKLOADS])
    parser.add_argument("--store", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a few trials, as a quick check")
    options = parser.parse_args()
    if options.quick:
        options.store = OUTPUT / "quick" if options.store == RESULTS else options.store / "quick"
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if options.what == "targets":
        targets(options)
    elif options.what == "candidates":
        candidates(options)
    else:
        import report

        getattr(report, options.what)(options)


if __name__ == "__main__":
    main()
