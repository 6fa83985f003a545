"""The tables of bench/README.md and README.md, made from what stands in bench/results/.

Run: python bench/report.py
"""

import json
from pathlib import Path

from tabulate import tabulate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SCALES = {"s": (1e3, "ms"), "B": (1, "B"), "MB": (1, "MB"), "": (1, "")}
HEADER = ["workload", "gdjax", "±", "peer", "it takes", "ratio", "target", "of the limit"]
BEGIN, END = "<!-- bench: made by bench/report.py -->", "<!-- end of bench -->"
HEADLINES = (  # beginnings of the workloads that README.md shows
    "sweep of 32",
    "step of clip + AdamW",
    "trace + lower",
    "update outside of jit",
    "L-BFGS",
    "import",
)


def table(rows, columns=None):
    """Return the rows of a result as a table in Markdown, or its first columns."""
    lines = []
    for row in rows:
        scale, unit = SCALES[row["unit"]]
        line = [
            row["workload"],
            f"{row['ours'] * scale:.3g} {unit}",
            "" if row["spread"] is None else f"{row['spread']:.0%}",
            row["peer"],
            f"{row['theirs'] * scale:.3g} {unit}",
            f"{row['ratio']:.2f}",
            "" if row["target"] is None else f"{row['target']:.2f}",
            "" if row["limit"] is None else f"{row['limit'] / row['ours']:.0%}",
        ]
        lines.append(line[:columns])
    return tabulate(lines, HEADER[:columns], tablefmt="github", disable_numparse=True)


def machine(found):
    """Return one line on what a result was measured on."""
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in found.items() if k != "rows") + "."


def found():
    """Return every stored result, by the name of its file."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))}


def full():
    """Return a section for each backend."""
    parts = [f"### {name}\n\n{machine(r)}\n\n{table(r['rows'])}" for name, r in found().items()]
    return "\n\n".join(parts)


def headlines():
    """Return the rows that README.md shows."""
    parts = []
    for result in found().values():
        rows = [r for r in result["rows"] if r["workload"].startswith(HEADLINES)]
        parts.append(f"{table(rows, columns=6)}\n\n{machine(result)}")
    return "\n\n".join(parts)


def refreshed(text, made):
    """Return a document with a new table between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


DOCUMENTS = {HERE / "README.md": full, HERE.parent / "README.md": headlines}


def refresh():
    """Write the tables."""
    for path, make in DOCUMENTS.items():
        path.write_text(refreshed(path.read_text(), make()))


if __name__ == "__main__":
    refresh()
