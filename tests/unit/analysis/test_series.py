"""A run's records → the rows behind its charts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import physics, series
from analysis.series import Clock
from analysis.summary import HostRecord, host_rows, read_run
from rdht.records import ClientRecord, Histogram, ThreadRecord
from tests.unit.analysis import run_folder
from tests.unit.analysis.run_folder import CLOCKS_S, CUT_S, DURATION_S, HOSTS, MANIFEST, SLOW

NO_OFFSET = Clock(100.0, {})


def row(host: str, *threads: ThreadRecord, started_unix_s: float = 100.0) -> HostRecord:
    record = ClientRecord(host, "classic", {}, started_unix_s, False, {}, [], list(threads), [])
    return HostRecord(host, record)


def thread(completed: list[int], **changed: Any) -> ThreadRecord:
    fields = {"ended_s": len(completed) / 10, **changed}
    return ThreadRecord(0, completed=completed, **fields)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[HostRecord]:
    return read_run(run_folder.write(tmp_path_factory.mktemp("run")))


def test_a_host_whose_clock_is_wrong_is_at_its_place_in_time(found: list[HostRecord]) -> None:
    clock = series.run_clock(found, MANIFEST)
    assert clock.start_unix_s == pytest.approx(run_folder.START_UNIX_S)
    for host, offset_s in CLOCKS_S.items():
        assert clock.seconds(run_folder.START_UNIX_S + offset_s + 5, host) == pytest.approx(5)
    assert clock.seconds(run_folder.START_UNIX_S + 5) == pytest.approx(5)
    assert series.duration_s(found, clock) == pytest.approx(DURATION_S)


def test_throughput_is_what_each_host_and_all_together_completed() -> None:
    pair = [row("pi1", thread([1] * 20), thread([2] * 20)), row("pi2", thread([5] * 10 + [0] * 10))]
    assert series.throughput(pair, NO_OFFSET, 1.0) == [
        {"until_s": 1.0, "cluster": 80.0, "pi1": 30.0, "pi2": 50.0},
        {"until_s": 2.0, "cluster": 30.0, "pi1": 30.0, "pi2": 0.0},
    ]


def test_an_interval_that_the_end_cuts_is_not_drawn() -> None:
    ones = series.throughput([row("pi1", thread([1] * 13))], NO_OFFSET, 0.5)
    assert [(one["until_s"], one["cluster"]) for one in ones] == [(0.5, 10.0), (1.0, 10.0)]


def test_a_client_that_started_later_counts_later() -> None:
    pair = [row("pi1", thread([1] * 20)), row("pi2", thread([1] * 10), started_unix_s=101.0)]
    assert [one["pi2"] for one in series.throughput(pair, NO_OFFSET, 1.0)] == [0.0, 10.0]


@given(st.lists(st.integers(0, 9), min_size=5, max_size=60), st.sampled_from((0.1, 0.5)))
def test_no_command_of_a_whole_interval_is_lost(completed: list[int], width_s: float) -> None:
    rows = series.throughput([row("pi1", thread(completed))], NO_OFFSET, width_s)
    slots = round(width_s * 10)
    whole = len(completed) // slots * slots
    assert sum(one["cluster"] for one in rows) * width_s == pytest.approx(sum(completed[:whole]))


@given(st.floats(0, 1e5))
def test_a_run_of_any_length_is_drawn_in_a_number_of_intervals_that_can_be_seen(
    duration_s: float,
) -> None:
    assert duration_s / series.interval_s(duration_s) <= max(240, duration_s / 300)


def test_the_fault_is_seen_in_the_middle_of_the_run(found: list[HostRecord]) -> None:
    clock = series.run_clock(found, MANIFEST)
    rows = series.throughput(found, clock, 0.5)
    assert len(rows) == 40
    within = [one for one in rows if CUT_S[0] < one["until_s"] <= CUT_S[1]]
    without = [one for one in rows if one not in within]
    assert max(one["cluster"] for one in within) < 0.7 * min(one["cluster"] for one in without)


def test_events_are_faults_within_the_run_and_steps_that_began_in_it(
    found: list[HostRecord],
) -> None:
    clock = series.run_clock(found, MANIFEST)
    cut = {"kind": "fault", "what": "", "from_s": 8.0, "until_s": 13.0}
    again = {"kind": "step", "what": "", "from_s": 13.5, "until_s": 13.5}
    assert series.events(MANIFEST, clock, DURATION_S) == [
        {**cut, "text": "pi2: cut from pi3"},
        {**again, "text": "start pi2 again"},
    ]


def test_a_fault_is_cut_at_the_runs_ends_and_one_outside_is_none() -> None:
    spans = [(90.0, 105.0), (106.0, 106.0), (108.0, 900.0)]
    spans += [(10.0, 99.0), (99.0, 99.0), (120.0, 130.0), (120.0, 120.0)]
    faults = [
        {"host": "pi1", "text": "pause", "from_unix_s": begin, "until_unix_s": end}
        for begin, end in spans
    ]
    rows = series.events({"steps": [], "faults": faults}, NO_OFFSET, 10.0)
    seen = [(one["from_s"], one["until_s"]) for one in rows]
    assert seen == [(0.0, 5.0), (6.0, 6.0), (8.0, 10.0)]  # a kill is a moment


def test_a_scheduled_fault_says_its_kind_and_its_own_hosts() -> None:
    times = {"from_unix_s": 103.0, "until_unix_s": 104.0}
    fault = {"host": "pi1", "text": "kill of server pi1", "kind": "kill server", **times}
    (row,) = series.events({"steps": [], "faults": [fault]}, NO_OFFSET, 10.0)
    assert (row["what"], row["text"]) == ("kill server", "kill of server pi1")


def test_latency_curves_are_the_percentiles_of_all_threads_together() -> None:
    record = thread([])
    for value_us in range(1, 201):
        record.latency_get.add(value_us)
    rows = series.latency_curves([row("pi1", record), row("pi2", record)])
    assert {one["operation"] for one in rows} == {"get"}
    assert rows[0] == {"operation": "get", "percentile": 0.0, "latency_ms": 0.001}
    assert rows[-1]["percentile"] == pytest.approx(100 - 100 / 400, abs=0.001)  # one of 400
    assert rows[-1]["latency_ms"] == 0.2
    middle = min(rows, key=lambda one: abs(one["percentile"] - 50))
    assert middle["latency_ms"] == pytest.approx(0.1, abs=0.002)


def test_latency_over_time_merges_what_ended_in_the_same_interval() -> None:
    def second(ended_s: float, *values_us: int) -> dict[str, Any]:
        latency = Histogram()
        for value_us in values_us:
            latency.add(value_us)
        return {"ended_s": ended_s, "commands": len(values_us), "latency": latency}

    # A client is somewhat late with a row, and its last one is short.
    rows = [second(1.0, 100, 100), second(2.2, 200), second(1.1, 50), second(3.0), second(3.2, 7)]
    assert series.latency_over_time(rows, 0.5) == [
        {"until_s": 1.0, "commands": 3, "p50_ms": 0.1, "p99_ms": 0.1},
        {"until_s": 2.0, "commands": 1, "p50_ms": 0.2, "p99_ms": 0.2},
        {"until_s": 3.0, "commands": 1, "p50_ms": 0.007, "p99_ms": 0.007},
    ]
    (first, second_) = series.latency_over_time(rows, 2.0)
    assert (first["commands"], second_["until_s"]) == (4, 4.0)


def test_failures_are_shares_of_a_hosts_own_commands(found: list[HostRecord]) -> None:
    rows = {one["host"]: one for one in series.failures(host_rows(found))}
    assert list(rows) == list(HOSTS)
    assert rows["pi2"]["aborted"] == 24
    assert rows["pi2"]["aborted_share"] == pytest.approx(24 / rows["pi2"]["commands"], abs=1e-6)
    assert rows[SLOW]["conflicts"] < rows["pi1"]["conflicts"] / 5
    assert 0.02 < rows[SLOW]["conflicts_share"] < 0.07


def test_a_host_without_a_command_has_no_share() -> None:
    (one,) = series.failures(host_rows([row("pi1", thread([]))]))
    assert (one["commands"], one["conflicts_share"]) == (0, 0.0)


def test_processors_are_busy_between_samples_of_the_run(
    found: list[HostRecord], tmp_path: Path
) -> None:
    samples = physics.read_samples(run_folder.write(tmp_path))
    clock = series.run_clock(found, MANIFEST)
    rows = series.processors(samples, clock, DURATION_S, 0.5)
    assert {one["host"] for one in rows} == set(HOSTS)
    slow = [one for one in rows if one["host"] == SLOW]
    assert [one["until_s"] for one in slow] == pytest.approx(list(range(1, 21)))
    assert {one["cpu_busy"] for one in slow} == {0.9}
    assert slow[-1]["temperature_c"] == 56.0
    apart = series.processors(samples, clock, DURATION_S, 5.0)
    assert [one["until_s"] for one in apart if one["host"] == SLOW] == pytest.approx(
        [4, 9, 14, 19]  # the first sample is a second before the start
    )


def test_responses_are_a_row_a_pair() -> None:
    table = {"pi1": {"a": 1.0, "b": 2.0}, "pi2": {"a": 3.0}}
    rows = series.responses(table)
    assert [tuple(one.values()) for one in rows] == [
        ("pi1", "a", 1.0),
        ("pi1", "b", 2.0),
        ("pi2", "a", 3.0),
    ]
