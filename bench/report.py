"""Write the tables of the documents (`DOCUMENTS`) from the results in bench/results/.

A result is a list of rows. Each row states where it was measured, so that rows can be replaced
separately.

Run: python bench/report.py
"""

import json
from pathlib import Path

from tabulate import tabulate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SPACE = "\u00a0"  # at which lines are not broken
SCALES = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
BEGIN, END = "<!-- bench: made by bench/report.py -->", "<!-- end of bench -->"
HEADLINES = (  # beginnings of the workloads that docs/guides/performance.md shows
    "import",
    "update outside of jit",
    "trace + lower",
    "step of clip + AdamW",
    "step of Lion, 38",
    "step of SGD with momentum, 38",
    "step of AdamW, one of 8",
    "peak memory of a step of clip",
    "Muon step",
    "sweep of 32",
    "d(validation loss)/d(rate), 400",
    "peak memory of d(validation loss)/d(rate), 400",
    "L-BFGS",
)
FIVE = (  # the workloads and peers that README.md shows
    ("sweep of 32 rates, 300 steps, with compile", "optax, Python loop over rates"),
    ("L-BFGS, Rosenbrock in 100 dimensions", "SciPy"),
    ("Muon step, 8 blocks of width 256", "optax"),
    ("step of clip + AdamW, 38 M parameters", "optax"),
    ("peak memory of d(validation loss)/d(rate), 400 steps of SGD", "optax + jax.checkpoint"),
)


def quantity(value, unit):
    """Return a number with three digits and its unit; seconds in s, ms or µs. No line break."""
    if unit != "s":
        return f"{value:.3g}{SPACE}{unit}".strip()
    scale, unit = next((s for s in SCALES if value >= s[0]), SCALES[-1])
    return f"{value / scale:#.3g}".rstrip(".") + SPACE + unit


def cells(row):
    """Return the cells of a row by column."""
    target = row["target"]
    missed = target is not None and round(row["ratio"], 2) < round(target, 2)
    return {
        "workload": row["workload"],
        "gdjax": quantity(row["ours"], row["unit"]),
        "±": "" if row["spread"] is None else f"{row['spread']:.0%}",
        "peer": row["peer"],
        "it takes": quantity(row["theirs"], row["unit"]),
        "ratio": f"{row['ratio']:.2f}",
        "target": "" if target is None else f"{target:.2f}" + ", missed" * missed,
        "of the limit": "" if row["limit"] is None else f"{row['limit'] / row['ours']:.0%}",
    }


def table(rows, without=()):
    """Return rows as a Markdown table."""
    lines = [{k: v for k, v in cells(row).items() if k not in without} for row in rows]
    return tabulate(lines, "keys", tablefmt="github", disable_numparse=True)


def machine(rows):
    """Return a few sentences on where rows were measured."""
    on = {}
    for key in dict.fromkeys(key for row in rows for key in row["on"]):
        on[key] = sorted({row["on"][key] for row in rows if key in row["on"]})
    speeds, days, commits = map(on.pop, ("copy_bandwidth_gb_per_s", "date", "commit"))
    parts = [f"bandwidth of a copy {speeds[0]} to {speeds[-1]} GB/s"]
    parts += [f"{key} {', '.join(map(str, values))}" for key, values in on.items()]
    text = ", ".join(parts)
    return (
        f"{text[0].upper()}{text[1:]}. Measured on {', '.join(days)}, commits {', '.join(commits)}."
    )


def found():
    """Return the rows of every stored result by the name of its file."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))}


def merged(old, new):
    """Return rows in which new ones replace old ones with the same workload and peer."""
    rows = {(row["workload"], row["peer"]): row for row in (*old, *new)}
    files = list(dict.fromkeys(row["name"].split(".")[0] for row in rows.values()))
    return sorted(rows.values(), key=lambda row: files.index(row["name"].split(".")[0]))


def save(backend, rows):
    """Merge rows into the result of a backend, and write the tables."""
    RESULTS.mkdir(exist_ok=True)
    rows = merged(found().get(backend, []), rows)
    lines = ",\n".join(map(json.dumps, rows))  # one row per line, for readable diffs
    (RESULTS / f"{backend}.json").write_text(f"[\n{lines}\n]\n")
    refresh()


def full():
    """Return a section for each backend."""
    parts = []
    for name, rows in found().items():
        parts.append(f"### {name.upper()}\n\n{machine(rows)}\n\n{table(rows)}")
    return "\n\n".join(parts)


def five():
    """Return the rows of README.md, each with the name by which `make bench` measures it."""
    rows = {(row["workload"], row["peer"]): row for row in found()["cpu"]}
    lines = []
    for key in FIVE:
        kept = {k: cells(rows[key])[k] for k in ("workload", "gdjax", "peer", "it takes", "ratio")}
        lines.append({**kept, "NAME": f"`{rows[key]['name']}`"})
    return tabulate(lines, "keys", tablefmt="github", disable_numparse=True)


def headlines():
    """Return the rows of docs/guides/performance.md, from the largest ratio to the smallest."""
    parts = []
    for rows in found().values():
        rows = [row for row in rows if row["workload"].startswith(HEADLINES)]
        rows.sort(key=lambda row: -row["ratio"])
        parts.append(f"{table(rows, without=('±', 'target', 'of the limit'))}\n\n{machine(rows)}")
    return "\n\n".join(parts)


def refreshed(text, made):
    """Return a document with a new table between its markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


DOCUMENTS = {
    HERE / "README.md": full,
    HERE.parent / "docs" / "guides" / "performance.md": headlines,
    HERE.parent / "README.md": five,
}


def refresh():
    """Write the tables."""
    for path, make in DOCUMENTS.items():
        path.write_text(refreshed(path.read_text(), make()))


if __name__ == "__main__":
    refresh()
