"""Side by side with peers, in one run: both sides compiled, donated and synchronized.

Prints one table: workload, gdjax, the peer, their ratio (above 1: gdjax is better), the target, and
the share of what the machine could do at best (bytes that must move over the bandwidth of a copy).
Runs interleave the two sides; times are medians, and the outputs are compared, so that a fast wrong
answer fails.

Run: python bench/run.py [--only NAME ...] [--device cpu|gpu] [--json FILE] [--save] [--quick]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see README.md; read when SciPy is imported

import jax
import matrix
import optax
import precondition
import programs
import recording
import report
import solving
import steps
import sweeps
import wrapped
from harness import copy_bandwidth, median

import gdjax

MODULES = (programs, steps, matrix, precondition, wrapped, recording, sweeps, solving)
WORKLOADS = {name: run for module in MODULES for name, run in module.WORKLOADS.items()}


def machine():
    """Return what the numbers were measured on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=report.RESULTS.parent,
    )
    return {
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "copy_bandwidth_gb_per_s": round(copy_bandwidth() / 1e9, 1),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "gdjax": gdjax.__version__,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--device", help="cpu, gpu or tpu; the default is JAX's")
    parser.add_argument("--json", help="write the rows and what they ran on to this file")
    parser.add_argument(
        "--save", action="store_true", help="the same to bench/results/, and refresh the tables"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    if options.device:
        jax.config.update("jax_platforms", options.device)
    rows = []
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in WORKLOADS[name](options):
            medians = {"ours": median(row.ours), "theirs": median(row.theirs)}
            rows.append({**row._asdict(), **medians, "ratio": row.ratio, "spread": row.spread})
            print(report.table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    found = {**machine(), "rows": rows}
    print(f"\n{report.machine(found)}\n")
    print(report.table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    if options.save:
        report.RESULTS.mkdir(exist_ok=True)
        (report.RESULTS / f"{jax.default_backend()}.json").write_text(
            json.dumps(found, indent=1) + "\n"
        )
        report.refresh()


if __name__ == "__main__":
    main()
