"""Compare gdjax with peers in one run, both sides compiled, donated and synchronized.

Prints one table: workload, gdjax, the peer, their ratio (above 1 means that gdjax is better), the
target, and the fraction of the limit of the machine (the bytes that must be moved divided by the
bandwidth of a copy). Both sides run alternately; times are medians, and the outputs are compared,
so that wrong results fail. A workload that fails is reported at the end and does not stop the rest.

`--check` compares the ratios with the stored ones, see checking.py.

Run: python bench/run.py [--list] [--only NAME ...] [--device cpu|gpu] [--quick] [--save | --check]
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import traceback
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see README.md; read when SciPy is imported

import checking
import fitting
import hypergradients
import jax
import lanes
import matrix
import optax
import precondition
import programs
import recording
import report
import search
import solving
import steps
import sweeps
import wrapped
from harness import copy_bandwidth, median

import gdjax

MODULES = (
    programs, steps, matrix, precondition, wrapped, recording, hypergradients, fitting, sweeps,
    search, lanes, solving,
)  # fmt: skip
WORKLOADS = {
    f"{module.__name__}.{name}": run for module in MODULES for name, run in module.WORKLOADS.items()
}


def selected(names):
    """Return the workloads with these names: of a file, of a workload, or `file.workload`."""
    chosen = dict.fromkeys(
        full for name in names for full in WORKLOADS if name in (full, *full.split("."))
    )
    unknown = [name for name in names if not any(name in (f, *f.split(".")) for f in WORKLOADS)]
    if unknown:
        raise SystemExit(f"no workload is named {', '.join(unknown)}. There are:\n{listing()}")
    return list(chosen)


def listing():
    """Return one line for every workload, with its description."""
    return "\n".join(f"{name:28} {run.__doc__.splitlines()[0]}" for name, run in WORKLOADS.items())


def git(*command):
    """Run git in this repository."""
    here = Path(__file__).parent.parent
    return subprocess.run(["git", *command], capture_output=True, text=True, cwd=here)


def machine():
    """Return a description of the machine and the software."""
    commit = git("rev-parse", "--short", "HEAD").stdout.strip()
    changed = git("diff", "--quiet", "HEAD", "--", "src", "bench/*.py").returncode
    return {
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "cores": os.cpu_count(),
        "copy_bandwidth_gb_per_s": round(copy_bandwidth() / 1e9, 1),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "gdjax": gdjax.__version__,
        "python": platform.python_version(),
        "commit": commit + "-dirty" * bool(changed),
        "date": datetime.date.today().isoformat(),
    }


def measured(name, options):
    """Yield the rows of a workload as they are stored, and print each."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    for row in WORKLOADS[name](options):
        medians = {"ours": median(row.ours), "theirs": median(row.theirs)}
        spreads = {"spread": row.spread, "peer_spread": row.peer_spread}
        stored = {**row._asdict(), **medians, "ratio": row.ratio, **spreads}
        print(report.table([stored]).splitlines()[-1], file=sys.stderr, flush=True)
        yield {**stored, "name": name, "on": machine()}


def measure(names, options):
    """Return the rows of workloads, and the names of those that failed."""
    rows, failed = [], []
    for name in names:
        try:
            for row in measured(name, options):
                rows.append(row)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return rows, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the workloads")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads, or whole files")
    parser.add_argument("--device", help="cpu, gpu or tpu; the default is JAX's")
    parser.add_argument("--json", help="write the rows and the machine to this file")
    parser.add_argument(
        "--save",
        action="store_true",
        help="replace the old rows in bench/results/, and update the tables",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print which ratios are smaller than the stored ones, and fail if there are any",
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, as a quick check")
    options = parser.parse_args()
    if options.list:
        return print(listing())
    if options.quick and (options.save or options.check):
        parser.error("stored rows are of full sizes only: leave out --quick.")
    if options.save and options.check:
        parser.error("--check compares with the rows that --save would replace: choose one.")
    names = selected(options.only) if options.only else list(WORKLOADS)
    if options.device:
        jax.config.update("jax_platforms", options.device)
        jax.devices()  # fail now if there is none
    rows, failed = measure(names, options)
    if options.check:
        known = report.found().get(jax.default_backend(), [])
        doubtful = dict.fromkeys(row["name"] for row in checking.fallen(known, rows))
        again, more = measure(doubtful, options)
        rows, failed = checking.better(rows, again), failed + more
    print(f"\n{report.machine(rows)}\n\n{report.table(rows)}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    if options.save:
        report.save(jax.default_backend(), rows)
    fell = []
    if options.check:
        fell = checking.fallen(known, rows)
        print(f"\n{checking.text(known, rows)}")
    if failed:
        raise SystemExit(f"failed, see above: {', '.join(failed)}")
    if fell:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
