"""The page of a sweep: its verdict, its points, and curves over whatever has several values."""

from pathlib import Path
from typing import Any

import pytest

from analysis import sweep_report
from analysis.sweep import FIGURES
from tests.unit.analysis.test_report import Reader


def row(part: str, throughput: float, **values: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        **dict.fromkeys(FIGURES),
        "runs": 3,
        "throughput_per_s": throughput,
        "throughput_low": 0.9 * throughput,
        "throughput_high": 1.1 * throughput,
        **{f"latency_us_{name}": 1000 for name in ("p50", "p90", "p99", "p999")},
        "latency_us_p99_least": 900,
        "latency_us_p99_most": 1200,
        "conflicts_share": 0.25,
        "bound_share": 0.5,
        "limit": "nothing was full: each thread waits",
        "doubtful": 0,
    }
    return {"part": part, **values, **figures}


def plan(rows: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    parts: dict[str, dict[str, list[Any]]] = {}
    for one in rows:
        axes = parts.setdefault(one["part"], {})
        for name, value in one.items():
            if name not in (*FIGURES, "part"):
                values = axes.setdefault(name, [])
                values += [value] * (value not in values)
    made: dict[str, Any] = {
        "sweep": "sweep-20261127-100000-shelf-3fa9",
        "suite": "",
        "cluster": "shelf",
        "release": "0123456789ab",
        "started": "2026-11-27T10:00:00.000+00:00",
        "ended": "2026-11-27T10:10:00.000+00:00",
        "between_runs": "the servers are started anew",
        "precision": 0.05,
        "repeat": 3,
        "failures": [],
        "parts": parts,
        "points": [{"runs": ["a", "b", "c"], "is_sure": True} for _ in rows],
    }
    return {**made, **changed}


ROWS = [
    row("", 100.0 * window * (1 + durable), window=window, durable=durable, duration=4.0)
    for window in (1, 8)
    for durable in (False, True)
]


def test_a_curve_is_drawn_over_each_thing_that_varies_and_a_line_for_each_other() -> None:
    charts = sweep_report.sweep_charts("", ["window", "durable"], ROWS)
    assert [chart.title for chart in charts] == [
        "Throughput and window",
        "p99 latency and window",
        "Throughput and durable",
        "p99 latency and durable",
    ]
    assert [tuple(one.values()) for one in charts[0].rows] == [
        ("durable no", 1, 100.0, 90.0, pytest.approx(110.0)),
        ("durable no", 8, 800.0, 720.0, pytest.approx(880.0)),
        ("durable yes", 1, 200.0, 180.0, pytest.approx(220.0)),
        ("durable yes", 8, 1600.0, 1440.0, pytest.approx(1760.0)),
    ]
    assert [one["durable"] for one in charts[2].rows] == ["no", "yes", "no", "yes"]
    assert {(one["low"], one["middle"], one["high"]) for one in charts[3].rows} == {(0.9, 1.0, 1.2)}


def test_points_of_one_run_have_no_interval_and_are_drawn_all_the_same() -> None:
    single = [{**one, "runs": 1, "throughput_low": None, "throughput_high": None} for one in ROWS]
    chart = sweep_report.sweep_charts("", ["window"], single[::2])[0]
    assert [(one["low"], one["middle"], one["high"]) for one in chart.rows] == [
        (100.0, 100.0, 100.0),
        (800.0, 800.0, 800.0),
    ]


def test_more_lines_than_can_be_told_apart_are_one_mean() -> None:
    many = [row("", 10.0 * n, window=w, threads=n) for w in (1, 8) for n in range(1, 11)]
    chart = sweep_report.sweep_charts("", ["window", "threads"], many)[0]
    assert [(one["window"], one["low"], one["middle"], one["high"]) for one in chart.rows] == [
        (window, 9.0, 55.0, pytest.approx(110.0)) for window in (1, 8)
    ]
    assert "least to the most" in chart.rows[0]["series"]


@pytest.mark.parametrize(
    ("changed", "level", "told"),
    [
        ({}, "good", "All 4 points are known to within 5% of the mean."),
        ({"ended": None}, "bad", "The sweep has not ended."),
        (
            {"points": [{"runs": [], "is_sure": sure} for sure in (True, False)]},
            "doubtful",
            "1 of 2 points are not known to within 5% of the mean after 3 runs.",
        ),
    ],
)
def test_the_verdict_says_how_sure_a_sweep_is(
    changed: dict[str, Any], level: str, told: str
) -> None:
    found = sweep_report.verdict(plan(ROWS, **changed), ROWS)
    assert (found["level"], found["text"], found["reasons"]) == (level, told, [])


def test_runs_that_failed_or_are_doubtful_are_said() -> None:
    marked = [{**ROWS[0], "doubtful": 2}, *ROWS[1:]]
    found = sweep_report.verdict(plan(marked, failures=["--window 8: pi2 died"]), marked)
    assert found["level"] == "doubtful"
    assert found["reasons"][0] == "a run that does not count: --window 8: pi2 died"
    assert found["reasons"][1].startswith("2 runs have marks")


def test_a_page_has_each_parts_points_and_pictures_and_escapes_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        *(row("size", 100.0 * n, key_size=n, duration=4.0) for n in (1, 2)),
        *(row("loss", 50.0, one_loss=n, duration=4.0) for n in (0, 5)),
    ]
    evil = "<script>&"
    document = plan(rows, suite="original", failures=[evil])
    monkeypatch.setattr("analysis.sweep.assemble", lambda _folder: (document, rows))
    files = sweep_report.write(tmp_path, tables=True)
    assert files[0] == tmp_path / "report.html"
    assert len(files) == 1 + 2 * 2 * 3  # charts, and SVG, PNG and CSV of each
    reader = Reader(files[0].read_text(encoding="utf-8"))
    assert "script" not in reader.tags
    assert evil in reader.text
    for told in ("suite original", "4 points · 12 runs", "90 to 110", "1.0 ms", "nothing was full"):
        assert told in " ".join(reader.text.split())
    for told in ("size: throughput and key size", "loss: p99 latency and one loss"):
        assert told in reader.text
