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


def _row(ratio, workload="w", unit="s", on=(), **spreads):
    here = {"device": "cpu", "cores": 2, "jax": "1"} | dict(on)
    return dict(
        workload=workload, peer="p", name="file.w", ratio=ratio, unit=unit, on=here, **spreads
    )


def test_a_ratio_fell_if_it_lost_more_than_the_spreads_of_both_sides_in_both_runs():
    check = runpy.run_path(str(BENCH / "checking.py"))
    fallen, spreads = check["fallen"], dict(spread=0.02, peer_spread=0.03)  # 0.1 together
    old = [_row(2.0, **spreads)]
    assert not fallen(old, [_row(1.81, **spreads)])
    assert fallen(old, [_row(1.79, **spreads)]) == [_row(1.79, **spreads)]
    # the peer's spread was not stored: twice our own; a single measurement: 15 %
    assert not fallen([_row(2.0, spread=0.02)], [_row(1.83, **spreads)])
    assert fallen([_row(2.0, spread=0.02)], [_row(1.81, **spreads)])
    assert not fallen([_row(2.0, spread=None)], [_row(1.61, **spreads)])
    # bytes do not vary, and what is compared with nothing cannot fall
    assert fallen([_row(2.0, unit="B")], [_row(1.95, unit="B")])
    assert not fallen(old, [_row(0.5, "another")])


def test_a_fall_on_another_machine_is_listed_apart():
    check = runpy.run_path(str(BENCH / "checking.py"))
    old, new = [_row(2.0), _row(2.0, "v")], [_row(1.0, on={"cores": 4}), _row(1.9, "v")]
    assert check["fallen"](old, new) == []
    listed = check["text"](old, new)
    assert "1 ratios compared with the stored ones, 0 fell" in listed
    assert "file.w: w, p: 2.00 -> 1.00, tolerance 30% (cores 2, now 4)" in listed
    fell = check["text"](old, [_row(1.0)])
    assert "1 ratios compared with the stored ones, 1 fell:\n  file.w: w, p: 2.00 -> 1.00" in fell


def test_a_second_measurement_replaces_a_worse_one():
    better = runpy.run_path(str(BENCH / "checking.py"))["better"]
    first, second = [_row(1.0), _row(3.0, "v")], [_row(2.0), _row(2.0, "v")]
    assert [r["ratio"] for r in better(first, second)] == [2.0, 3.0]
