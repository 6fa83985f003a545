"""Side by side with optax, in one run: both sides compiled, donated and synchronized.

Prints one table: workload, gdjax, the peer, their ratio (above 1: gdjax is faster) and the target.
Runs interleave the two sides; times are medians, and the outputs are compared, so that a fast wrong
answer fails.

Run: python bench/run.py [--only NAME ...] [--json FILE] [--repeats N] [--quick]
"""

import argparse
import json
import platform
import sys

import jax
import optax
import recording
import steps
import sweeps
from tabulate import tabulate

import gdjax

WORKLOADS = steps.WORKLOADS | sweeps.WORKLOADS | recording.WORKLOADS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--json", help="write the rows and what they ran on to this file")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += WORKLOADS[name](options)
    header = ["workload", "gdjax, ms", "peer", "peer, ms", "ratio", "target"]
    table = [(r.workload, 1e3 * r.ours, r.peer, 1e3 * r.theirs, r.ratio, r.target) for r in rows]
    device = jax.devices()[0]
    print(f"\n{device.device_kind}, {platform.machine()}, jax {jax.__version__}")
    print(tabulate(table, header, tablefmt="github", floatfmt=".3g"))
    if options.json:
        machine = {
            "device": device.device_kind,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "gdjax": gdjax.__version__,
            "python": platform.python_version(),
        }
        with open(options.json, "w") as file:
            json.dump({**machine, "rows": [r._asdict() for r in rows]}, file, indent=1)


if __name__ == "__main__":
    main()
