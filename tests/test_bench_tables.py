"""The tables of numbers in the documents are those that were measured and stored."""

import runpy
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"


def test_the_tables_show_the_stored_results():
    report = runpy.run_path(str(BENCH / "report.py"))
    assert report["found"](), "bench/results/ is empty: run `make bench FLAGS=--save`"
    for path, make in report["DOCUMENTS"].items():
        text = path.read_text()
        assert report["refreshed"](text, make()) == text, "run `python bench/report.py`"


def test_a_row_reads_as_it_should():
    report = runpy.run_path(str(BENCH / "report.py"))
    row = dict(
        workload="w", ours=0.002, peer="p", theirs=0.003, target=1.2, limit=0.001, unit="s",
        ratio=1.5, spread=0.04, name="file.w", on={"commit": "a"},
    )  # fmt: skip
    cells = [c.strip() for c in report["table"]([row]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["w", "2.00\u00a0ms", "4%", "p", "3.00\u00a0ms", "1.50", "1.20", "50%"]
    missed = {**row, "ratio": 1.1, "ours": 2.0, "theirs": 2.2}
    assert report["cells"](missed)["target"] == "1.20, missed"
    assert report["cells"](missed)["gdjax"] == "2.00\u00a0s"


def test_new_rows_take_the_place_of_old_ones_and_leave_the_others():
    merged = runpy.run_path(str(BENCH / "report.py"))["merged"]
    row = lambda w, file, ours: dict(workload=w, peer="p", name=f"{file}.f", ours=ours)  # noqa: E731
    old = [row("a", "one", 1), row("b", "two", 2)]
    new = [row("c", "one", 3), row("b", "two", 4)]
    assert [(r["workload"], r["ours"]) for r in merged(old, new)] == [("a", 1), ("c", 3), ("b", 4)]
