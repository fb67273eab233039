"""Summary: a run's threads → figures of hosts and cluster."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import summary
from analysis.summary import PERCENTILES, THREAD_COLUMNS, HostRecord
from rdht.errors import ConfigurationError
from rdht.messages import Operation, Status
from rdht.records import SLOT_S, ClientRecord, Histogram, Second, ThreadRecord
from rdht.traffic import Traffic

PARAMETERS: dict[str, Any] = {
    "threads": 2,
    "seed": 1,
    "window": 32,
    "workload": "classic",
    "rate_per_s": None,
    "warmup_s": 1.0,
}
MANIFEST = {
    "run": "20261123-141502-shelf-3fa9",
    "cluster": "shelf",
    "release": "0123456789ab",
    "servers": ["pi1", "pi2"],
    "roster": {"servers": [{"name": "pi1", "host": "pi1"}, {"name": "pi2", "host": "pi2"}]},
}


@dataclass
class Raw:
    """What one thread really did: when it ran, and when each command was done."""

    started_s: float
    ended_s: float
    done_s: list[float]


@st.composite
def raw_threads(draw: st.DrawFn) -> list[Raw]:
    """Draw threads whose times overlap much, little or not at all."""
    threads = []
    for _ in range(draw(st.integers(1, 5))):
        started_s = draw(st.floats(0, 1.5))
        ended_s = started_s + draw(st.floats(0, 3))
        moments = st.floats(started_s, ended_s)
        threads.append(Raw(started_s, ended_s, draw(st.lists(moments, max_size=60))))
    return threads


def recorded(raw: Raw, thread: int = 0) -> ThreadRecord:
    record = ThreadRecord(thread, started_s=raw.started_s, ended_s=raw.ended_s)
    for moment_s in raw.done_s:
        record.count_done(Operation.GET, moment_s, 0.001, found=True)
    return record


def client(*threads: ThreadRecord, name: str = "pi1", **changed: Any) -> ClientRecord:
    fields: dict[str, Any] = {
        "client": name,
        "profile": "classic",
        "parameters": PARAMETERS,
        "started_unix_s": 1.0,
        "interrupted": False,
        "lost": {},
        "errors": [],
        "threads": list(threads),
        "seconds": [],
    }
    return ClientRecord(**{**fields, **changed})


def summarized(*threads: ThreadRecord) -> dict[str, Any]:
    return summary.summarize([HostRecord("pi1", client(*threads))], MANIFEST)


@given(raw_threads())
def test_throughput_is_what_was_done_while_all_threads_ran(threads: list[Raw]) -> None:
    begin_s = max(raw.started_s for raw in threads)
    end_s = min(raw.ended_s for raw in threads)
    figures = summarized(*map(recorded, threads))
    duration_s = max(0.0, end_s - begin_s)
    assert figures["duration_s"] == round(duration_s, 3)
    if not duration_s:
        assert figures["throughput_per_s"] == 0
        return
    done = sum(begin_s <= moment_s <= end_s for raw in threads for moment_s in raw.done_s)
    cut_slots = {int(begin_s / SLOT_S), int(end_s / SLOT_S)}
    uncertain = sum(
        int(moment_s / SLOT_S) in cut_slots for raw in threads for moment_s in raw.done_s
    )
    told = figures["throughput_per_s"]
    rounding = 0.05 + 1e-9 * done / duration_s
    assert told <= (done + uncertain) / duration_s + rounding
    assert told >= (done - uncertain) / duration_s - rounding


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_an_even_load_is_measured_to_within_a_slot(seed: int, threads: int) -> None:
    rng = random.Random(seed)
    raws = []
    for _ in range(threads):
        started_s, ended_s = rng.uniform(0, 1), rng.uniform(2, 3)
        gap_s = 0.001
        amount = int((ended_s - started_s) / gap_s)
        raws.append(Raw(started_s, ended_s, [started_s + i * gap_s for i in range(amount)]))
    told = summarized(*map(recorded, raws))["throughput_per_s"]
    assert told == pytest.approx(threads * 1000, rel=0.01)


def test_averages_of_threads_that_ran_at_other_times_are_not_added() -> None:
    short = Raw(0.0, 1.0, [i / 1000 for i in range(1000)])
    late = Raw(0.0, 10.0, [9.05 + i / 2000 for i in range(1000)])
    # Both threads' own averages, 1000 and 100, are 1100 together.
    assert summarized(recorded(short), recorded(late))["throughput_per_s"] == 1000.0


def test_threads_that_never_ran_together_have_no_throughput() -> None:
    figures = summarized(recorded(Raw(0.0, 1.0, [0.5])), recorded(Raw(2.0, 3.0, [2.5])))
    assert (figures["duration_s"], figures["throughput_per_s"]) == (0.0, 0.0)
    assert figures["commands"] == 2


@given(st.lists(st.lists(st.integers(0, 10_000_000), max_size=40), min_size=1, max_size=6))
def test_percentiles_are_those_of_all_latencies_together(latencies: list[list[int]]) -> None:
    everything = Histogram()
    threads = []
    for number, values in enumerate(latencies):
        record = ThreadRecord(number, started_s=0.0, ended_s=1.0)
        for at, value_us in enumerate(values):
            (record.latency_get if at % 2 else record.latency_put).add(value_us)
            everything.add(value_us)
        threads.append(record)
    expected = {name: everything.percentile(percent) for name, percent in PERCENTILES.items()}
    maximum = max((value for values in latencies for value in values), default=None)
    latency = summarized(*threads)["latency_us"]
    assert latency == {**expected, "max": maximum}
    (row,) = summary.host_rows([HostRecord("pi1", client(*threads))])
    assert {name: row[f"latency_us_{name}"] for name in latency} == latency


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=200))
def test_a_percentile_is_within_a_bucket_of_the_true_one(values: list[int]) -> None:
    record = ThreadRecord(0, started_s=0.0, ended_s=1.0)
    for value_us in values:
        record.latency_get.add(value_us)
    latency = summarized(record)["latency_us"]
    ordered = sorted(values)
    for name, percent in PERCENTILES.items():
        rank = next(n for n in count(1) if n >= percent / 100 * len(values))
        true_us = ordered[rank - 1]
        assert true_us <= latency[name] <= true_us * (1 + 1 / 128) + 1


def test_a_run_without_a_command_has_no_latency() -> None:
    figures = summarized(ThreadRecord(0, started_s=0.0, ended_s=1.0))
    assert set(figures["latency_us"].values()) == {None}
    assert figures["throughput_per_s"] == 0


@pytest.fixture
def found() -> list[HostRecord]:
    """Two hosts with two clients of two threads each, no two numbers of which are alike."""
    numbers = count(1)
    names = [
        *("gets", "puts", "succeeded", "not_found", "already_there", "conflicts", "aborted"),
        *("unknown", "connections"),
    ]

    def thread(number: int) -> ThreadRecord:
        record = recorded(Raw(0.0, 1.0, [0.5] * next(numbers)), number)
        for name in names:
            setattr(record, name, next(numbers) ** 2)
        for server in ("pi1", "pi2"):
            traffic = record.traffic[server] = Traffic()
            for tally, kind in ((traffic.sent, Status.REQUEST), (traffic.received, Status.YES)):
                tally[kind] = [next(numbers), next(numbers) ** 2]
        return record

    second = Second(1.0, 5, 4, 3, 2, Histogram({7: 5}, 7))
    return [
        HostRecord(host, client(thread(0), thread(1), name=f"{host}.{index}", seconds=[second]))
        for host in ("pi1", "pi2")
        for index in (0, 1)
    ]


def test_a_summary_has_all_that_belongs_into_it(found: list[HostRecord]) -> None:
    figures = summary.summarize(found, MANIFEST)
    threads = [thread for row in found for thread in row.record.threads]
    same = {name: MANIFEST[name] for name in ("run", "cluster", "release")}
    totals = {
        name: sum(getattr(thread, name) for thread in threads)
        for name in (
            *("connections", "commands", "gets", "puts", "succeeded", "not_found"),
            *("conflicts", "aborted", "unknown", "bytes_sent", "bytes_received"),
        )
    }
    expected = {
        **same,
        **totals,
        "profile": "classic",
        "window": 32,
        "servers": 2,
        "clients": 4,
        "threads": 8,
        "duration_s": 1.0,
        "throughput_per_s": sum(sum(thread.completed) for thread in threads),
    }
    assert {name: figures[name] for name in expected} == expected
    everything = [traffic for thread in threads for traffic in thread.traffic.values()]
    sent = [traffic.sent[Status.REQUEST] for traffic in everything]
    received = [traffic.received[Status.YES] for traffic in everything]
    sent_sums, received_sums = (
        [sum(column) for column in zip(*pairs, strict=True)] for pairs in (sent, received)
    )
    assert figures["kinds"] == {
        "sent": {"REQUEST": {"messages": sent_sums[0], "bytes": sent_sums[1]}},
        "received": {"YES": {"messages": received_sums[0], "bytes": received_sums[1]}},
    }
    assert figures["messages"] == sent_sums[0] + received_sums[0]
    assert (figures["bytes_sent"], figures["bytes_received"]) == (sent_sums[1], received_sums[1])
    assert set(figures["latency_us"]) == {"p50", "p90", "p99", "p999", "max"}
    assert json.loads(json.dumps(figures)) == figures


def test_a_summary_tells_what_was_lost_and_what_went_wrong(found: list[HostRecord]) -> None:
    found[2].record.lost["pi1"] = "connection refused"
    found[3].record.errors.append("a defect")
    figures = summary.summarize(found, {**MANIFEST, "replicas": {"keys": 1, "differing": []}})
    assert figures["lost"] == {"pi2: client pi2.0": {"pi1": "connection refused"}}
    assert figures["errors"] == ["pi2: client pi2.1: a defect"]
    assert figures["replicas"] == {"keys": 1, "differing": []}
    assert summary.summarize(found, MANIFEST)["replicas"] is None


def test_flaws_are_lines_of_what_is_missing_and_what_is_doubtful(
    collected: Callable[[list[HostRecord]], Path], found: list[HostRecord]
) -> None:
    def flaws_now() -> list[str]:
        flaws: list[str] = summary.assemble(collected(found))[0]["flaws"]
        return [line for line in flaws if "stands out" not in line]  # as no two are alike here

    assert flaws_now() == []
    found[2].record.lost["pi1"] = "connection refused"
    found[3].record.errors.append("a defect")
    found[0].record.threads[0].not_begun = 10**9
    found[0].record.interrupted = True
    flaws = flaws_now()
    assert flaws[0].startswith("the table did not keep up: 1,000,000,000 of 1,")
    assert flaws[1:] == [
        "the run was interrupted before its end",
        "pi2: client pi2.0 lost server pi1: connection refused",
        "pi2: client pi2.1: a defect",
    ]
    found[0].record.threads[0].not_begun = 1  # some are always due just before the end
    assert "keep up" not in flaws_now()[0]


def test_links_that_carried_more_than_was_measured_are_said(
    collected: Callable[[list[HostRecord]], Path],
    found: list[HostRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = {"throughput_per_s": 1.0, "share": 1.2, "links": []}
    monkeypatch.setattr("analysis.limits.bound", lambda *_: bound)
    (flaw, *_) = summary.assemble(collected(found))[0]["flaws"]
    assert flaw == "the links carried more than they were measured to: the bound is too low"


@pytest.mark.parametrize(
    "noted", [{"lost_ranges": {"3": ["pi4", "pi5"]}}, {"unsafe_servers": ["pi2"]}]
)
def test_a_run_that_lost_a_range_or_a_disk_is_not_complete(
    found: list[HostRecord], noted: dict[str, Any]
) -> None:
    assert summary.is_complete(summary.summarize(found, MANIFEST))
    figures = summary.summarize(found, {**MANIFEST, **noted})
    assert {name: figures[name] for name in noted} == noted
    assert not summary.is_complete(figures)


FAULTS_MADE = {
    "made": {"cut": 2, "kill client": 1},
    "not_made": ["slow link of pi2, 1gbit: would not slow"],
    "killed_clients": ["pi2.0"],
    "joined_clients": ["pi2.0.1"],
    "recoveries": 3,
    "worst_recovery_s": 1.25,
    "healed_s": 8.0,
    "late_s": 2.5,
}


def test_who_was_killed_on_purpose_is_not_missing_and_who_took_its_place_is_not_waited_for() -> (
    None
):
    late = recorded(Raw(4.0, 10.0, [5.0] * 10))
    late.joined = True
    found = [
        HostRecord("pi1", client(recorded(Raw(0.0, 10.0, [1.0] * 90)), lost={"pi2": "gone"})),
        HostRecord("pi2", client(late, name="pi2.0.1")),
    ]
    manifest = {**MANIFEST, "clients": ["pi1", "pi2.0"], "nemesis": FAULTS_MADE}
    figures = summary.summarize(found, manifest)
    assert (figures["missing_clients"], figures["duration_s"]) == ([], 10.0)
    assert figures["throughput_per_s"] == 10.0
    assert summary.is_complete(figures)  # what was lost, was on purpose
    assert summary._faults_said(figures["faults"]) == [
        "faults on purpose: 3 (cut 2, kill client 1)",
        "1 could not be made: the manifest says why",
        "1 client was killed on purpose: what it did is not in these figures",
        "the clients had ended 2.5 s before all was as it was: run it longer",
        "3 servers came back, the slowest to its place within 1.2 s",
    ]
    assert summary.summarize(found[:1], manifest)["missing_clients"] == ["pi2.0.1"]
    assert not summary.is_complete(summary.summarize(found, {**manifest, "nemesis": None}))
    alone = summary.summarize(found[1:], manifest)
    assert alone["duration_s"] == 6.0  # all others were killed


def test_there_is_a_row_a_thread_with_its_own_figures(found: list[HostRecord]) -> None:
    rows = summary.thread_rows(found)
    assert [(row["host"], row["client"], row["thread"]) for row in rows] == [
        (host, f"{host}.{index}", thread)
        for host in ("pi1", "pi2")
        for index in (0, 1)
        for thread in (0, 1)
    ]
    threads = [thread for row in found for thread in row.record.threads]
    for row, thread in zip(rows, threads, strict=True):
        assert list(row) == THREAD_COLUMNS
        assert None not in row.values()
        for name in ("commands", "conflicts", "aborted", "unknown", "bytes_sent"):
            assert row[name] == getattr(thread, name)
        assert row["throughput_per_s"] == sum(thread.completed)
        assert row["latency_us_p99"] == thread.latency().percentile(99)


def test_a_host_row_takes_all_of_its_clients_together(found: list[HostRecord]) -> None:
    rows = summary.host_rows(found)
    assert [row["host"] for row in rows] == ["pi1", "pi2"]
    threads = [thread for row in found[:2] for thread in row.record.threads]
    assert rows[0]["threads"] == 4
    for name in ("commands", "conflicts", "unknown"):
        assert rows[0][name] == sum(getattr(thread, name) for thread in threads)


@pytest.fixture
def collected(tmp_path: Path) -> Callable[[list[HostRecord]], Path]:
    """Return a function that writes a run's folder as `fab collect` leaves it."""

    def write(found: list[HostRecord]) -> Path:
        for number, row in enumerate(found):
            folder = tmp_path / "hosts" / row.host
            folder.mkdir(parents=True, exist_ok=True)
            row.record.write(folder / f"results.{number}.json")
            (folder / "server.log").write_text("no result", encoding="utf-8")
        (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
        return tmp_path

    return write


def test_only_what_a_host_did_while_the_figures_were_taken_counts(
    collected: Callable[[list[HostRecord]], Path],
) -> None:
    thread = ThreadRecord(0, ended_s=3.0)
    folder = collected([HostRecord("pi1", client(thread, started_unix_s=100.0))])
    counters = dict.fromkeys(("segments_sent", "segments_sent_again"), 0)
    state = dict.fromkeys(("clock_khz", "temperature_c", "throttled", "clock_offset_s"))
    rest: dict[str, Any] = {"processes_cpu_s": {}, "network": {}, **counters, **state}
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as samples:
        for second in range(98, 106):
            busy = max(0, min(second, 103) - 100)  # from the start to the end, and only then
            cpu = {"busy": busy, "idle": second - busy, "stolen": 0}
            row = {"host": "pi1", "time_unix_s": second, "cpu_s": cpu, **rest}
            samples.write(json.dumps(row) + "\n")
    figures, _ = summary.assemble(folder)
    assert figures["hosts"]["pi1"]["watched_s"] == 3
    assert figures["busiest"]["cpu_busy"] == 1.0
    assert figures["limit"] == "the processor of pi1"


def test_assembling_writes_what_it_returns(
    collected: Callable[[list[HostRecord]], Path], found: list[HostRecord]
) -> None:
    folder = collected(found)
    figures, host_rows = summary.assemble(folder)
    unknown: dict[str, Any] = {"hosts": {}, "marks": [], "busiest": None, "bound": None}
    expected = summary.summarize(found, MANIFEST) | unknown
    assert {name: figures[name] for name in expected} == expected
    more = {"response_us", "outliers", "limit", "flaws", "verdict"}
    assert set(figures) - set(expected) == more
    assert figures["verdict"]["reasons"][0] == "no history was kept (--history off)"
    assert set(figures["response_us"]) == {"pi1", "pi2"}
    assert host_rows == summary.host_rows(found)
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == figures
    for name, rows in (
        ("threads.csv", summary.thread_rows(found)),
        ("seconds.csv", summary.second_rows(found)),
    ):
        with (folder / name).open(newline="", encoding="utf-8") as source:
            lines = list(csv.DictReader(source))
        assert lines
        assert lines == [{column: str(value) for column, value in row.items()} for row in rows]


def test_assembling_twice_gives_the_same_files(
    collected: Callable[[list[HostRecord]], Path], found: list[HostRecord]
) -> None:
    folder = collected(found)
    contents = []
    for _ in range(2):
        summary.assemble(folder)
        contents.append([(folder / name).read_bytes() for name in ("summary.json", "threads.csv")])
    assert contents[0] == contents[1]


def test_results_of_another_run_are_refused_and_named(
    collected: Callable[[list[HostRecord]], Path], found: list[HostRecord]
) -> None:
    found[3].record.parameters = {**PARAMETERS, "seed": 2}
    folder = collected(found)
    with pytest.raises(ConfigurationError, match=r"mixes runs.*pi2.*pi1") as caught:
        summary.assemble(folder)
    assert "'seed': 2" in str(caught.value)
    assert not (folder / "summary.json").exists()


def test_a_folder_without_results_says_to_collect_first(
    collected: Callable[[list[HostRecord]], Path],
) -> None:
    with pytest.raises(ConfigurationError, match="collect"):
        summary.assemble(collected([]))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2, "threads": [{}]}', "\x00"])
def test_a_result_file_that_cannot_be_read_is_named(
    collected: Callable[[list[HostRecord]], Path], found: list[HostRecord], text: str
) -> None:
    folder = collected(found)
    broken = folder / "hosts" / "pi1" / "results.0.json"
    broken.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        summary.assemble(folder)
    assert str(broken) in str(caught.value)


@pytest.mark.parametrize(("share", "whole"), [(None, None), (1000 / 3, 1000.0)])
def test_the_rate_of_a_run_is_that_of_its_clients_together(
    share: float | None, whole: float | None
) -> None:
    parameters = {**PARAMETERS, "rate_per_s": share}
    rows = [
        HostRecord(f"pi{number}", client(ThreadRecord(0, not_begun=2), parameters=parameters))
        for number in range(3)
    ]
    figures = summary.summarize(rows, MANIFEST)
    assert figures["target_rate_per_s"] == whole
    assert (figures["warmup_s"], figures["not_begun"]) == (1.0, 6)
