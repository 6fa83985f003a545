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
        ratio=1.5, spread=0.04,
    )  # fmt: skip
    cells = [c.strip() for c in report["table"]([row]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["w", "2 ms", "4%", "p", "3 ms", "1.50", "1.20", "50%"]
