"""fab compare as it is typed: what it shows and refuses, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from rdht.records import ClientRecord, Histogram, ThreadRecord
from tasks import results

Capture = pytest.CaptureFixture[str]
Write = Callable[..., str]
OPTIONS: dict[str, Any] = {"window": 1, "profile": "fast"}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that leaves a collected run in logs/, and returns its name."""
    monkeypatch.setattr(results, "LOGS", tmp_path)
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def write(name: str, rate: int, *, options: dict[str, Any] = OPTIONS, **noted: Any) -> str:
        folder = tmp_path / name / "hosts" / "pi1"
        folder.mkdir(parents=True)
        latency = Histogram({200: rate}, 200)
        completed = [rate // 10 + slot % 3 for slot in range(50)]
        threads = [
            ThreadRecord(n, ended_s=5.0, completed=completed, latency_get=latency) for n in range(4)
        ]
        rest = {"window": 1, "workload": "classic", "rate_per_s": None, "warmup_s": 1.0}
        ClientRecord("pi1", "fast", rest, 1.0, False, {}, [], threads, []).write(
            folder / "results.json"
        )
        same = {"run": name, "cluster": "pis", "release": "0123456789ab", "hosts": {"pi1": {}}}
        roster = {"servers": [{"name": "pi1", "host": "pi1"}]}
        placed = {
            "roster": roster,
            "servers": ["pi1"],
            "clients": ["pi1"],
            "parameters": {"clients": options},
        }
        manifest = json.dumps({**same, **placed, **noted})
        (tmp_path / name / "manifest.json").write_text(manifest, encoding="utf-8")
        return name

    return write


def compare(*sides: str, **options: Any) -> tuple[int | None, str]:
    """Type fab compare; return its exit code and its last words."""
    try:
        results.compare(Context(), *sides, **options)
    except Exit as end:
        return end.code, str(end.message)
    return 0, ""


def test_faster_is_0_and_slower_is_3(write: Write, capsys: Capture) -> None:
    a, b = write("a", 1000), write("b", 1200)
    assert compare(a, b) == (0, "")
    shown = capsys.readouterr().out
    assert "B is faster: B / A of commands/s is 1.19" in shown
    assert "one run of A and B: how much runs differ by themselves is not in" in shown
    assert "nothing differs: B repeats A" in shown
    assert compare(b, a) == (3, "B is slower")
    assert "B is slower: B / A of commands/s is 0.83" in capsys.readouterr().out


def test_no_difference_is_0_and_repeats_are_named_with_commas(
    write: Write, capsys: Capture
) -> None:
    a = ",".join(write(f"a{rate}", rate) for rate in (1000, 1200))
    b = ",".join(write(f"b{rate}", rate) for rate in (1050, 1190))
    assert compare(a, b) == (0, "")
    shown = capsys.readouterr().out
    assert "no difference shown" in shown
    assert "by themselves" not in shown
    assert compare(a, "b1050") == (0, "")
    assert "one run of B: how much" in capsys.readouterr().out


@pytest.mark.parametrize("slower", [True, False])
def test_json_is_one_document_whatever_the_verdict(
    write: Write, capsys: Capture, *, slower: bool
) -> None:
    sides = sorted([write("a", 1000), write("b", 1200)], reverse=slower)
    assert compare(*sides, json=True)[0] == (3 if slower else 0)
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == ("B is slower" if slower else "B is faster")
    assert [document[side][0]["run"] for side in ("a", "b")] == sides


def test_what_differs_in_more_is_refused_with_both_values_unless_told(
    write: Write, capsys: Capture
) -> None:
    a = write("a", 1000)
    b = write("b", 1200, options={"window": 32, "profile": "classic"})
    c = write("c", 1200, options={"window": 32, "profile": "fast"})
    code, why = compare(a, b)
    assert code == 2
    assert why.splitlines() == [
        "A and B differ in more than one thing:",
        "  window: 1 | 32",
        "  profile: fast | classic",
        "To compare them all the same: --force",
    ]
    assert capsys.readouterr().out == ""
    assert compare(a, b, force=True) == (0, "")
    shown = capsys.readouterr().out
    assert "compared all the same: A and B differ in more than one thing" in shown
    assert ["profile", "fast", "classic"] in [line.split() for line in shown.splitlines()]
    assert compare(a, c) == (0, "")
    assert ["window", "1", "32"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_an_incomplete_run_is_refused_unless_told(write: Write, capsys: Capture) -> None:
    a, b = write("a", 1000), write("b", 1200, clients=["pi1", "pi2"], unsafe_servers=["pi1"])
    code, why = compare(a, b)
    assert code == 2
    assert "run b is not complete: missing clients, unsafe servers" in why
    assert "--force" in why
    assert compare(a, b, force=True) == (0, "")
    shown = capsys.readouterr().out
    assert "compared all the same: run b is not complete" in shown
    assert "b: no results of client pi2" in shown


def test_doubts_about_a_run_are_said_with_the_result(
    write: Write, capsys: Capture, tmp_path: Path
) -> None:
    differing = {"keys": 7, "differing": [{"key": "x"}]}
    a, b = write("a", 1000), write("b", 1200, replicas=differing)
    counters = dict.fromkeys(
        ("segments_sent", "segments_sent_again", "clock_khz", "clock_offset_s"), 0
    )
    rest: dict[str, Any] = {**counters, "processes_cpu_s": {}, "network": {}, "temperature_c": 40}
    with (tmp_path / a / "samples.jsonl").open("w", encoding="utf-8") as samples:
        for second in range(8):
            cpu = {"busy": second, "idle": second, "stolen": 0}
            row = {"host": "pi1", "time_unix_s": second, "cpu_s": cpu, "throttled": "0x5", **rest}
            samples.write(json.dumps(row) + "\n")
    assert compare(a, b) == (0, "")
    shown = capsys.readouterr().out
    assert "a: pi1: throttled (0x5)" in shown
    assert "b: 7 keys, 1 DIFFER" in shown


def test_nothing_is_written_into_a_run(write: Write, tmp_path: Path) -> None:
    a, b = write("a", 1000), write("b", 1200)
    before = sorted(tmp_path.rglob("*"))
    compare(a, b)
    assert sorted(tmp_path.rglob("*")) == before


def test_latest_is_a_run_like_another(write: Write, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(write("a", 1000))
    assert compare("latest", write("b", 1200)) == (0, "")
    code, why = compare("latest", "a")
    assert code == 2
    assert "run a is named twice" in why


@pytest.mark.parametrize("side", ["a,,b", "a,", ""])
def test_a_list_of_runs_has_no_gap(write: Write, side: str) -> None:
    code, why = compare(side, write("a", 1000))
    assert code == 2
    assert "no list of runs" in why


def test_a_run_that_is_not_there_is_named(write: Write) -> None:
    assert compare(write("a", 1000), "b")[0] == 2
    assert "no run b" in compare("a", "b")[1]
