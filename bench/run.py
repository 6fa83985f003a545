"""Side by side with peers, in one run: both sides compiled, donated and synchronized.

Prints one table: workload, gdjax, the peer, their ratio (above 1: gdjax is better), the target, and
the share of what the machine could do at best (bytes that must move over the bandwidth of a copy).
Runs interleave the two sides; times are medians, and the outputs are compared, so that a fast wrong
answer fails.

Run: python bench/run.py [--only NAME ...] [--device cpu|gpu] [--json FILE] [--save] [--quick]
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import jax
import optax
import precondition
import programs
import steps
import sweeps
from harness import copy_bandwidth, median
from tabulate import tabulate

import gdjax

WORKLOADS = programs.WORKLOADS | steps.WORKLOADS | sweeps.WORKLOADS | precondition.WORKLOADS
RESULTS = Path(__file__).parent / "results"
SCALES = {"s": (1e3, "ms"), "B": (1, "B"), "MB": (1, "MB")}
HEADER = ["workload", "gdjax", "±", "peer", "it takes", "ratio", "target", "of the limit"]


def table(rows):
    """Return the rows, as they are in the JSON file, as a table in Markdown."""
    lines = []
    for row in rows:
        scale, unit = SCALES[row["unit"]]
        lines.append(
            [
                row["workload"],
                f"{row['ours'] * scale:.3g} {unit}",
                "" if row["spread"] is None else f"{row['spread']:.0%}",
                row["peer"],
                f"{row['theirs'] * scale:.3g} {unit}",
                f"{row['ratio']:.2f}",
                f"{row['target']:.2f}",
                "" if row["limit"] is None else f"{row['limit'] / row['ours']:.0%}",
            ]
        )
    return tabulate(lines, HEADER, tablefmt="github", disable_numparse=True)


def machine():
    """Return what the numbers were measured on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
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
    parser.add_argument("--save", action="store_true", help="the same to bench/results/")
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
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    found = {**machine(), "rows": rows}
    print("\n" + ", ".join(f"{k} {v}" for k, v in found.items() if k != "rows") + "\n")
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{jax.default_backend()}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
