import threading
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdht import records
from rdht.coordinator import Command
from rdht.errors import ConfigurationError, ConnectError, DeadlineError, RdhtError
from rdht.execution import Outcome
from rdht.messages import Operation, Status
from rdht.records import Histogram
from rdht.roster import Roster
from rdht.session import Session
from rdht.table import Entry
from rdht.traffic import Traffic, total
from rdht.workload import START_TIMEOUT_S, ClientProcess, Pace
from rdht.workloads import Parameters, classic_commands
from tests.unit.rdht.table import KEY_RANGE, Table, wait_until

BASE: dict[str, Any] = {
    "threads": 3,
    "key_size": 2,
    "key_range": KEY_RANGE,
    "get_ratio": 0.6,
    "commands": 40,
    "duration_s": None,
    "seed": 7,
    "profile": "classic",
    "window": 1,
}


def parameters(**changed: Any) -> Parameters:
    return Parameters(**{**BASE, **changed})


def first(count: int, client: str = "c1", thread: int = 0, **changed: Any) -> list[Command]:
    return list(islice(classic_commands(parameters(**changed), client, thread), count))


def ignore(_progress: dict[str, object]) -> None:
    """Report nothing."""


def test_the_same_seed_client_and_thread_give_the_same_commands() -> None:
    assert first(100) == first(100)


def test_another_seed_client_or_thread_gives_other_commands() -> None:
    runs = [first(20), first(20, seed=8), first(20, client="c2"), first(20, thread=1)]
    assert len(set(map(tuple, runs))) == len(runs)


def test_the_classic_mix_gets_as_often_as_asked_and_else_adds() -> None:
    commands = first(5000, key_size=3)
    gets = [command for command in commands if command.operation is Operation.GET]
    adds = [command for command in commands if command.operation is Operation.ADD]
    assert len(gets) + len(adds) == 5000
    assert len(gets) / 5000 == pytest.approx(0.6, abs=0.03)
    assert {len(command.key) for command in commands} == {3}
    assert set(b"".join(command.key for command in commands)) == set(b"abcdefghijklmnopqrstuvwxyz")
    assert {command.value for command in adds} == {b"%d" % number for number in range(100)}
    assert {command.value for command in gets} == {b""}


@pytest.mark.parametrize(("get_ratio", "operation"), [(0.0, Operation.ADD), (1.0, Operation.GET)])
def test_a_mix_may_be_of_one_kind(get_ratio: float, operation: Operation) -> None:
    assert {command.operation for command in first(200, get_ratio=get_ratio)} == {operation}


def test_at_a_fixed_rate_each_command_has_its_time() -> None:
    chosen = parameters(rate_per_s=60.0)  # 20 a thread
    pace = Pace(chosen, "c1", 0, 100.0)
    times = [pace.begin_s(number) for number in range(40)]
    assert 100 <= times[0] < 100.05
    assert [later - one for one, later in pairwise(times)] == pytest.approx([0.05] * 39)
    assert pace.due(102.0) == 40
    assert (pace.due(100.0), pace.due(99.0)) == (0, 0)
    assert Pace(chosen, "c1", 0, 100.0).begin_s(0) == times[0]
    others = [Pace(chosen, "c1", 1, 100.0), Pace(chosen, "c2", 0, 100.0)]
    assert times[0] not in {other.begin_s(0) for other in others}


class SlowSession:
    """Stands for a Session: each command takes as long as `takes_s` says by its number."""

    def __init__(self, takes_s: Callable[[int], float]) -> None:
        self.on_end: Callable[[Any], None]
        self.lost: dict[str, RdhtError] = {}
        self.number = 0
        self._takes_s = takes_s

    def __call__(self, *_: object, **_named: object) -> "SlowSession":
        return self

    def submit(self, commands: tuple[Command, ...], window: int, intended_s: float | None) -> None:
        assert window == 1
        begun_s = time.monotonic()
        time.sleep(self._takes_s(self.number))  # the time that is measured is the real one
        self.number += 1
        result = SimpleNamespace(found=True)
        began_s = begun_s if intended_s is None else intended_s
        self.on_end(
            SimpleNamespace(
                commands=commands, outcome=Outcome.DONE, begun_s=began_s, results=lambda: [result]
            )
        )

    def has_room(self, _keys: tuple[bytes], _window: int) -> bool:
        return True

    def turn(self, until_s: float | None) -> None:
        if until_s:
            time.sleep(max(0.0, until_s - time.monotonic()))  # as a session with nothing to take

    def drain(self) -> None:
        """All have ended."""

    close = drain

    conflicts = connections = 0
    is_whole = is_busy = False

    def traffic(self) -> dict[str, Traffic]:
        return {}


def _slower_than(limit_us: int, latency: Histogram) -> int:
    each = {bucket: Histogram({bucket: 1}, latency.max_us) for bucket in latency.counts}
    return sum(
        count
        for bucket, count in latency.counts.items()
        if (each[bucket].percentile(100) or 0) > limit_us
    )


@pytest.mark.parametrize(("rate_per_s", "least", "most"), [(100.0, 20, 90), (None, 1, 8)])
def test_at_a_fixed_rate_all_that_a_stall_delays_have_waited(
    roster: Roster,
    monkeypatch: pytest.MonkeyPatch,
    rate_per_s: float | None,
    least: int,
    most: int,
) -> None:
    stalls = SlowSession(lambda number: 0.4 if number == 10 else 0.0 if rate_per_s else 0.01)
    monkeypatch.setattr("rdht.workload.Session", stalls)
    limits = parameters(threads=1, commands=None, duration_s=1.0, rate_per_s=rate_per_s)
    record = ClientProcess(roster, "c1", limits, trace=False).run(time.time(), ignore)
    (thread,) = record.threads
    assert least <= _slower_than(150_000, thread.latency()) <= most


def test_a_fixed_rate_that_is_not_kept_up_with_is_said(
    roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.workload.Session", SlowSession(lambda _: 0.02))
    limits = parameters(threads=1, commands=None, duration_s=0.3, rate_per_s=1000.0)
    record = ClientProcess(roster, "c1", limits, trace=False).run(time.time(), ignore)
    (thread,) = record.threads
    assert thread.commands + thread.not_begun == 300
    assert thread.commands <= 16
    assert thread.ended_s < 10


@pytest.mark.parametrize("window", [1, 8])
def test_a_table_is_asked_at_a_fixed_rate(table: Table, window: int) -> None:
    limits = parameters(
        commands=None, duration_s=0.5, profile="fast", window=window, rate_per_s=120.0
    )
    record = ClientProcess(table.roster, "c1", limits, trace=False).run(time.time(), ignore)
    assert not record.errors
    for thread in record.threads:
        assert thread.commands + thread.not_begun == 20
        assert thread.latency().total == thread.commands > 0
        assert thread.ended_s >= 0.45


def test_a_warm_up_counts_for_nothing(table: Table) -> None:
    limits = parameters(threads=1, commands=10, key_size=8, get_ratio=0.0, warmup_s=1.0)
    client = ClientProcess(table.roster, "c1", limits, trace=False)
    client.connect()
    start_unix_s = time.time()
    record = client.run(start_unix_s, ignore)
    (thread,) = record.threads
    assert record.started_unix_s == start_unix_s + 1.0
    assert (thread.commands, thread.latency().total, sum(thread.completed)) == (10, 10, 10)
    # Of the warm-up's last command, which was in flight at the start, some may be counted.
    traffic = total(thread.traffic.values())
    assert 4 * 10 <= traffic.messages_sent <= 4 * 11
    assert 4 * 10 <= traffic.messages_received <= 4 * 11
    assert thread.started_s == 0
    assert thread.connections == 3
    counted = {command.key for command in first(10, threads=1, key_size=8, get_ratio=0.0)}
    keys = set(table.entries())
    assert counted <= keys
    assert len(keys) > len(counted)  # the warm-up's commands are its own


def test_a_key_range_that_cannot_be_is_refused(roster: Roster) -> None:
    with pytest.raises(ConfigurationError, match="key range 2 is below the number of servers"):
        ClientProcess(roster, "c1", parameters(key_range=2), trace=False)


def test_more_connections_than_a_rate_can_be_kept_on_are_refused(roster: Roster) -> None:
    with pytest.raises(ConfigurationError, match=r"301 threads with 3 servers: .* at most 900"):
        ClientProcess(roster, "c1", parameters(threads=301, rate_per_s=5.0), trace=False)


def test_a_server_that_is_not_there_is_named_before_the_start(roster: Roster) -> None:
    with pytest.raises(ConnectError, match="server s0 at "):
        ClientProcess(roster, "c1", parameters(), trace=False).connect()


@pytest.mark.parametrize(("profile", "window"), [("classic", 1), ("fast", 1), ("fast", 8)])
def test_a_run_of_counted_commands_records_each_of_them(
    table: Table, profile: str, window: int
) -> None:
    chosen = parameters(profile=profile, window=window)
    client = ClientProcess(table.roster, "c1", chosen, trace=False)
    client.connect()
    start_unix_s = time.time() + 0.05
    record = client.run(start_unix_s, ignore)
    assert (record.client, record.profile) == ("c1", profile)
    assert record.parameters == vars(chosen)
    assert record.started_unix_s == start_unix_s
    assert not record.interrupted
    assert not record.lost
    assert not record.errors
    assert [thread.thread for thread in record.threads] == [0, 1, 2]
    expected: dict[bytes, set[bytes]] = {}
    for thread in record.threads:
        commands = first(40, thread=thread.thread)
        gets = sum(command.operation is Operation.GET for command in commands)
        assert (thread.gets, thread.puts) == (gets, 40 - gets)
        assert thread.succeeded + thread.not_found + thread.already_there == 40
        assert (thread.aborted, thread.unknown) == (0, 0)
        assert (thread.latency_get.total, thread.latency_put.total) == (gets, 40 - gets)
        assert sum(thread.completed) == 40
        assert thread.connections == 3
        if profile == "classic":
            # A handshake for each connection, 4 messages out and 4 back for each command, and
            # the same or less again for each attempt that met a lock.
            traffic = total(thread.traffic.values())
            assert traffic.messages_sent == traffic.messages_received
            assert 0 <= traffic.messages_sent - (3 + 4 * 40) <= 4 * thread.conflicts
        assert 0 <= thread.started_s <= thread.ended_s
        for command in commands:
            if command.operation is Operation.ADD:
                expected.setdefault(command.key, set()).add(command.value)
    entries = table.entries()
    assert set(entries) == set(expected)
    for key, entry in entries.items():
        assert entry.version == 1
        assert entry.value in expected[key]


@pytest.mark.parametrize("frame_bytes", [None, 1, 3000])
def test_the_bytes_that_a_run_counts_are_those_that_the_servers_count(
    table: Table, monkeypatch: pytest.MonkeyPatch, frame_bytes: int | None
) -> None:
    def moved() -> list[int]:
        workers = [worker for server in table.servers() for worker in server._workers]
        moved = [0, 0]
        for worker in workers:
            for connection in list(worker.connections.values()):
                if connection.hello is not None and not connection.hello.is_server:
                    moved[0] += connection.bytes_received
                    moved[1] += connection.bytes_sent
        return moved

    chosen = parameters(frame_bytes=frame_bytes)
    client = ClientProcess(table.roster, "c1", chosen, trace=False)
    close = Session.close

    def compare_and_close(session: Session) -> None:
        if not session.is_closed and all(one.ended_s for one in client._records):
            sent = sum(one.bytes_sent for one in client._records)
            received = sum(one.bytes_received for one in client._records)
            wait_until(lambda: moved() == [sent, received])
            compared.append(True)
            monkeypatch.undo()
        close(session)

    compared: list[bool] = []
    monkeypatch.setattr(Session, "close", compare_and_close)
    client.run(time.time(), ignore)
    assert compared


@pytest.mark.parametrize(
    ("profile", "frame_bytes", "least", "most"),
    [
        ("classic", None, 256, 256),
        ("classic", 1000, 1000, 1000),
        ("classic", 1, 1, 255),
        ("fast", None, 1, 255),
        ("fast", 1000, 1000, 1000),
    ],
)
def test_all_frames_but_the_handshakes_have_the_size_that_is_asked_for(
    table: Table, profile: str, frame_bytes: int | None, least: int, most: int
) -> None:
    chosen = parameters(profile=profile, frame_bytes=frame_bytes)
    record = ClientProcess(table.roster, "c1", chosen, trace=False).run(time.time(), ignore)
    assert not record.errors
    for thread in record.threads:
        moved = total(thread.traffic.values())
        for tally, expected in ((moved.sent, Status.REQUEST), (moved.received, Status.YES)):
            assert expected in tally
            for status in set(tally) - {Status.HELLO, Status.WELCOME}:
                messages, size_bytes = tally[status]
                assert least * messages <= size_bytes <= most * messages


def test_a_run_for_a_time_ends_after_it_and_reports_its_progress(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.workload.PROGRESS_INTERVAL_S", 0.05)
    limits = parameters(commands=None, duration_s=0.3)
    reports: list[dict[str, Any]] = []
    record = ClientProcess(table.roster, "c1", limits, trace=False).run(time.time(), reports.append)
    for thread in record.threads:
        assert thread.commands > 0
        assert thread.ended_s >= 0.3
        assert sum(thread.completed[:3]) > 0
    assert len(reports) >= 3
    assert [report["elapsed_s"] for report in reports[:3]] == [0.05, 0.1, 0.15]
    counts = [report["commands"] for report in reports]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= sum(thread.commands for thread in record.threads)
    assert reports[-1]["client"] == "c1"
    assert reports[-1]["latency_us_p99"] > 0
    assert reports[-1]["conflicts"] >= 0
    ends_s = [second.ended_s for second in record.seconds]
    assert ends_s == sorted(ends_s)
    assert [second.commands for second in record.seconds[:-1]] == [
        after - before for before, after in pairwise([0, *counts])
    ]
    latency = Histogram()
    for second in record.seconds:
        assert second.latency.total == second.commands
        latency.merge(second.latency)
    everything = Histogram()
    for thread in record.threads:
        everything.merge(thread.latency())
    assert latency.counts == everything.counts


def test_a_run_that_is_stopped_ends_and_says_so(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.workload.PROGRESS_INTERVAL_S", 0.05)
    limits = parameters(commands=None, duration_s=60.0)
    client = ClientProcess(table.roster, "c1", limits, trace=False)
    record = client.run(time.time(), lambda _: client.stop())
    assert record.interrupted
    assert not record.errors
    assert all(thread.ended_s < 30 for thread in record.threads)


@pytest.mark.parametrize("window", [1, 4])
def test_a_run_survives_a_server_that_comes_back(
    table: Table, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.workload.PROGRESS_INTERVAL_S", 0.05)
    limits = parameters(commands=None, duration_s=60.0, profile="fast", window=window)
    client = ClientProcess(table.roster, "c1", limits, trace=False)
    client.connect()
    counts: list[int] = []

    def report(progress: dict[str, Any]) -> None:
        counts.append(progress["commands"])
        if len(counts) == 2:
            table.crash("s1")
            table.start("s1")
            table.wait_served()
        is_back = not any(session.lost for session in client._sessions)
        if len(counts) > 4 and counts[-1] > counts[3] + 50 and is_back:
            client.stop()

    record = client.run(time.time(), report)
    assert (record.lost, record.errors, record.interrupted) == ({}, [], True)
    for thread in record.threads:
        ended = (thread.succeeded, thread.not_found, thread.already_there)
        assert sum(ended) + thread.unknown == thread.commands
    table.entries()


def test_a_run_whose_server_stays_away_ends_and_names_it(
    table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rdht.workload.PROGRESS_INTERVAL_S", 0.05)
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    limits = parameters(commands=None, duration_s=1.0)
    client = ClientProcess(table.roster, "c1", limits, trace=False)
    client.connect()
    begun: list[bool] = []

    def report(_progress: dict[str, object]) -> None:
        if not begun:
            begun.append(True)
            table.crash("s1")

    record = client.run(time.time(), report)
    assert set(record.lost) == {"s1"}
    assert not record.interrupted
    for thread in record.threads:
        assert thread.ended_s < 5
        assert thread.aborted + thread.unknown > 0
        ended = (thread.succeeded, thread.not_found, thread.already_there)
        assert sum(ended) + thread.aborted + thread.unknown == thread.commands
    record.write(tmp_path / "c1.json")
    assert records.read(tmp_path / "c1.json").lost == record.lost
    table.start("s1")
    table.wait_served()


def test_a_run_that_finds_its_replicas_apart_ends_and_says_so(table: Table) -> None:
    for number in range(26):
        key = b"%c" % (97 + number)
        for replica in table["s0"].participant.replicas.values():
            replica.table[key] = Entry(b"lone", 1)
    limits = parameters(threads=1, key_size=1)
    record = ClientProcess(table.roster, "c1", limits, trace=False).run(time.time(), ignore)
    (error,) = record.errors
    assert "hold different copies of key" in error
    assert not record.lost


def test_the_start_is_waited_for_and_read(roster: Roster, tmp_path: Path) -> None:
    client = ClientProcess(roster, "c1", parameters(), trace=False)
    path = tmp_path / "start.json"
    writer = threading.Timer(0.05, records.write_json, (path, {"start_unix_s": 123.5}))
    writer.start()
    assert client.wait_for_start(path) == 123.5
    writer.join()


def test_a_start_that_nobody_gives_is_not_waited_for_for_ever(
    roster: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.workload.START_TIMEOUT_S", 0.05)
    client = ClientProcess(roster, "c1", parameters(), trace=False)
    with pytest.raises(DeadlineError):
        client.wait_for_start(tmp_path / "start.json")


def test_a_client_that_is_stopped_does_not_wait_for_the_start(
    roster: Roster, tmp_path: Path
) -> None:
    client = ClientProcess(roster, "c1", parameters(), trace=False)
    client.stop()
    begin_s = time.monotonic()
    with pytest.raises(DeadlineError):
        client.wait_for_start(tmp_path / "start.json")
    assert time.monotonic() - begin_s < START_TIMEOUT_S / 10


def test_a_late_start_is_recorded_as_late(table: Table) -> None:
    client = ClientProcess(table.roster, "c1", parameters(threads=1, commands=1), trace=False)
    record = client.run(time.time() - 5.0, ignore)
    assert record.threads[0].started_s >= 5.0


@pytest.mark.parametrize("warmup_s", [0.0, 2.0])
def test_one_that_joins_begins_now_and_ends_with_the_others(table: Table, warmup_s: float) -> None:
    limits = parameters(commands=None, duration_s=1000.4, warmup_s=warmup_s, rate_per_s=100.0)
    client = ClientProcess(table.roster, "c1", limits, trace=False)
    begin_s = time.monotonic()
    record = client.run(time.time() - 1000.0 - warmup_s, ignore, joins=True)  # without a connection
    assert 0.4 <= time.monotonic() - begin_s < 10
    assert record.started_unix_s == pytest.approx(time.time() - 1000, abs=10)
    for thread in record.threads:
        assert thread.joined
        assert thread.started_s >= 1000
        assert thread.ended_s >= 1000.4
        assert sum(thread.completed[:10_000]) == 0
        assert 0 < thread.commands < 100  # at that rate, and none that was due before
    assert len(record.seconds) < 10


@pytest.mark.parametrize("off_s", [-2 * START_TIMEOUT_S, 2 * START_TIMEOUT_S])
def test_a_start_far_from_now_is_refused(roster: Roster, off_s: float) -> None:
    client = ClientProcess(roster, "c1", parameters(), trace=False)
    with pytest.raises(ConfigurationError, match="clock"):
        client.run(time.time() + off_s, ignore)
