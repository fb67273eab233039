"""A sweep's rows, of runs whose figures are known."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from analysis import summary, sweep
from rdht.errors import ConfigurationError
from rdht.records import Histogram, ThreadRecord
from tests.unit.analysis.test_summary import MANIFEST, PARAMETERS, client

DURATION_S = 5.0
SLOTS = 50
BOUND = {"throughput_per_s": 1000.0, "links": []}
T_OF_3, T_OF_2 = 4.302653, 12.706205  # Student's, as in any table
AXES: dict[str, list[Any]] = {"window": [1, 32], "durable": [False]}


def write_run(folder: Path, a_slot: int, latency_us: int, **changed: Any) -> None:
    """Write a run of one thread that did so much in each slot; `changed` is of its summary."""
    commands = a_slot * SLOTS
    record = ThreadRecord(
        0,
        ended_s=DURATION_S,
        gets=commands,
        conflicts=changed.pop("conflicts", 0),
        completed=[a_slot] * SLOTS,
        latency_get=Histogram({latency_us: commands} if commands else {}, latency_us),
    )
    (folder / "hosts" / "pi1").mkdir(parents=True)
    parameters = {**PARAMETERS, "rate_per_s": changed.pop("rate_per_s", None)}
    client(record, parameters=parameters).write(folder / "hosts" / "pi1" / "results.json")
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "run": folder.name}), "utf-8")
    made, _ = summary.assemble(folder)
    (folder / "summary.json").write_text(json.dumps({**made, **changed}), encoding="utf-8")


def write_sweep(folder: Path, *points: list[str]) -> Path:
    """Write what a sweep says of its points, each with its runs."""
    rows = [
        {"part": "", "values": {"window": window, "durable": False}, "runs": runs, "figures": []}
        for window, runs in zip((1, 32, 64), points, strict=False)
    ]
    folder.mkdir(exist_ok=True)
    document = {"sweep": folder.name, "parts": {"": AXES}, "points": rows}
    (folder / sweep.STATE).write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of which one point has three runs, one a single one, and one none yet."""
    marked = {"marks": ["pi1 was throttled"], "limit": "the processor of pi1"}
    write_run(tmp_path / "runs" / "a", 10, 100, conflicts=50, bound={**BOUND, "share": 0.1})
    write_run(tmp_path / "runs" / "b", 11, 110, bound={**BOUND, "share": 0.3}, **marked)
    write_run(tmp_path / "runs" / "c", 12, 200, **marked)
    write_run(tmp_path / "runs" / "d", 20, 50, limit="the link of pi2, outward")
    return write_sweep(tmp_path, ["a", "b", "c"], ["d"], [])


def test_a_row_has_what_a_points_runs_did_together(folder: Path) -> None:
    plan, (row, _) = sweep.assemble(folder)
    assert plan["parts"] == {"": AXES}
    half = T_OF_3 * 10 / math.sqrt(3)  # of 100, 110 and 120 a second
    assert (row["window"], row["durable"], row["runs"]) == (1, False, 3)
    assert row["throughput_per_s"] == 110.0
    assert row["throughput_low"] == pytest.approx(110 - half, abs=0.06)
    assert row["throughput_high"] == pytest.approx(110 + half, abs=0.06)
    assert row["conflicts_share"] == pytest.approx(50 / (500 + 550 + 600))
    assert row["bound_share"] == 0.2, "of the runs that have a bound"
    assert row["limit"] == "the processor of pi1"
    assert row["doubtful"] == 2


def test_percentiles_are_of_all_commands_and_not_means_of_the_runs(folder: Path) -> None:
    _, (row, _) = sweep.assemble(folder)
    # 500 of 100 us, 550 of 110 and 600 of 200: the 825th of them is one of 110.
    assert row["latency_us_p50"] == 110
    assert [row[f"latency_us_{name}"] for name in ("p90", "p99", "p999")] == [200, 200, 200]
    assert (row["latency_us_p99_least"], row["latency_us_p99_most"]) == (100, 200)


def test_of_one_run_there_is_no_interval(folder: Path) -> None:
    _, (_, row) = sweep.assemble(folder)
    assert (row["throughput_low"], row["throughput_high"]) == (None, None)
    assert (row["runs"], row["throughput_per_s"], row["conflicts_share"]) == (1, 200.0, 0.0)
    assert (row["bound_share"], row["limit"]) == (None, "the link of pi2, outward")


def test_runs_in_which_nothing_was_done_have_a_row(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / "runs" / name, 0, 1)
    _, (row,) = sweep.assemble(write_sweep(tmp_path, ["a", "b"]))
    assert (row["throughput_per_s"], row["throughput_low"], row["throughput_high"]) == (0, 0, 0)
    assert (row["latency_us_p99"], row["conflicts_share"]) == (None, 0)


def test_the_table_is_left_in_the_folder(folder: Path) -> None:
    _, rows = sweep.assemble(folder)
    with (folder / sweep.POINTS).open(encoding="utf-8", newline="") as table:
        written = list(csv.DictReader(table))
    assert list(written[0]) == ["part", *AXES, *sweep.FIGURES]
    assert written == [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ]
    assert [set(row) for row in rows] == [{"part", *AXES, *sweep.FIGURES}] * 2


@pytest.mark.parametrize("lacking", ["sweep.json", "runs/b/summary.json"])
def test_a_file_that_cannot_be_read_is_named(folder: Path, lacking: str) -> None:
    (folder / lacking).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"{folder / lacking} cannot be read .*: bring it"):
        sweep.assemble(folder)
    (folder / lacking).unlink()
    with pytest.raises(ConfigurationError, match=f"{folder / lacking} cannot be read .*: bring it"):
        sweep.assemble(folder)
    assert not (folder / sweep.POINTS).exists()


def test_repeats_agree_on_throughput_and_at_a_fixed_rate_on_the_p99(tmp_path: Path) -> None:
    for name, rate_per_s in (("closed", None), ("open", 100.0)):
        write_run(tmp_path / name, 10, 123, rate_per_s=rate_per_s)
    closed, fixed = (
        json.loads((tmp_path / name / "summary.json").read_text("utf-8"))
        for name in ("closed", "open")
    )
    assert sweep.figure(closed) == 100.0
    assert sweep.figure(fixed) == 123.0
    assert sweep.figure({**fixed, "latency_us": {"p99": None}}) == 0.0


@pytest.mark.parametrize(
    ("figures", "precision", "is_sure"),
    [
        ([], 0.05, False),
        ([100.0], 0.05, False),
        ([100.0, 100.0], 0.99, False),  # by chance
        ([100.0, 100.0, 100.0], 0.001, True),
        ([98.0, 100.0, 102.0], 0.0497, True),  # half of the interval is 4.97
        ([98.0, 100.0, 102.0], 0.0496, False),
        ([0.98, 1.0, 1.02], 0.0497, True),
        ([98.0, 100.0, 102.0, 100.0], 0.0261, True),  # 2.60 of four
        ([98.0, 100.0, 102.0, 100.0], 0.0259, False),
        ([0.0, 0.0, 0.0], 0.05, True),
    ],
)
def test_a_point_is_sure_once_half_its_interval_is_as_small_as_wanted(
    figures: list[float], precision: float, *, is_sure: bool
) -> None:
    assert sweep.is_sure(figures, precision) == is_sure


def test_what_varies_has_several_values() -> None:
    assert sweep.varied(AXES) == ["window"]
