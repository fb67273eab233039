"""One thread's commands in flight: windows, lost connections, deadlines, the end of a session."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rdht.client import Pipeline
from rdht.coordinator import Command
from rdht.errors import (
    AbortedError,
    ConnectError,
    OutcomeError,
    RemoteProtocolError,
    UnknownOutcomeError,
)
from rdht.execution import Execution, Outcome
from rdht.limits import CLIENT_TICK_S
from rdht.messages import Message, Operation, Reason, Status
from rdht.profiles import PROFILES
from rdht.roster import Roster
from rdht.session import Session
from rdht.table import Entry
from rdht.traffic import total
from tests.unit.rdht.table import KEY_RANGE, PATIENCE_S, ByHand, Table, answer_to, wait_until

KEY = b"key"
PUT = Command(Operation.PUT, KEY, b"mine")
FAKE_WELCOME = Message(
    Status.WELCOME,
    value=b'{"incarnation": 1, "ranges": {}, "founded": {}, "is_forgotten": false}',
)
both_profiles = pytest.mark.parametrize("profile", ["classic", "fast"])


@pytest.fixture
def make_session(table: Table) -> Iterator[Callable[..., Session]]:
    sessions = []

    def make(profile: str = "fast") -> Session:
        ring = table.ring
        session = Session(table.roster, ring, PROFILES[profile], "tester", 0, secret=None)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()


def puts(keys: list[bytes]) -> list[Command]:
    return [Command(Operation.PUT, key, b"value") for key in keys]


# Windows.


@both_profiles
def test_never_more_than_the_window_is_in_flight(
    table: Table, make_session: Callable[..., Session], profile: str
) -> None:
    session = make_session(profile)
    most = 0
    for command in puts(table.keys(100)):
        session.submit((command,), 7)
        most = max(most, len(session._running))
    session.drain()
    assert 1 < most <= 7
    assert not session._running
    assert len(table.values()) == 100


def test_commands_in_flight_do_not_get_far_apart(
    table: Table, make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.session.MAX_WINDOW", 10)
    holder = ByHand(table)
    requests = holder.requests(PUT)
    holder.vote(requests)
    session = make_session()
    ended: list[int] = []
    session.on_end = lambda execution: ended.append(execution.sequence)
    session.submit((Command(Operation.PUT, KEY, b"stuck"),), 100)
    with ThreadPoolExecutor(1) as pool:

        def submit_more() -> None:
            for command in puts(table.keys(20)):
                session.submit((command,), 100)
            session.drain()

        submitting = pool.submit(submit_more)
        wait_until(lambda: len(ended) == 8)
        time.sleep(0.05)  # nothing more may come to pass
        assert sorted(ended) == list(range(2, 10))
        holder.die()
        submitting.result(PATIENCE_S)
    assert sorted(ended) == list(range(1, 22))
    assert table.values()[KEY] == b"stuck"


# Lost connections.


def cut(table: Table, *names: str) -> None:
    """End all connections that clients have to these servers."""
    for name in names:
        for worker in table[name]._workers:
            for connection in list(worker.connections.values()):
                if connection.hello is not None and not connection.hello.is_server:
                    connection.hang_up()


@both_profiles
def test_a_lost_connection_is_made_again_without_a_word(table: Table, profile: str) -> None:
    client = table.client(profile)
    for version in range(1, 6):
        assert client.put(KEY, b"%d" % version) == version
        cut(table, *table.names)
        assert client.get(KEY) == b"%d" % version
        cut(table, table.names[version % 3])


@both_profiles
def test_connections_that_break_under_way_break_no_command(table: Table, profile: str) -> None:
    client = table.client(profile)
    stop = threading.Event()
    keys = table.keys(60)

    def cut_again_and_again() -> None:
        while not stop.wait(0.05):
            cut(table, *table.names)

    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut_again_and_again)
        try:
            for number in range(3):
                with client.pipeline(window=32) as pipeline:
                    for key in keys:
                        pipeline.put(key, b"%d" % number)
                client.put_many(dict.fromkeys(keys[:9], b"many"))
        finally:
            stop.set()
        cutting.result(PATIENCE_S)
    entries = table.entries()
    assert {key: entries[key] for key in keys[:9]} == dict.fromkeys(keys[:9], Entry(b"many", 6))
    assert {key: entries[key] for key in keys[9:]} == dict.fromkeys(keys[9:], Entry(b"2", 3))


def test_a_newer_connection_of_a_client_takes_the_place_of_the_older(table: Table) -> None:
    replicas = table.ring.replicas(KEY)
    client = ByHand(table)
    requests = client.requests(PUT)
    client.vote(requests)
    old = dict(client.connections)
    for name in replicas:
        client.connections[name] = table.connect(
            name, client.incarnation, resumes=table[name].incarnation
        )
        assert not client.connections[name].welcome["is_forgotten"]
        with pytest.raises(Exception, match=f"{name} closed the connection"):
            answer_to(old[name], requests[name])
    wait_until(lambda: not any(table[name].stats()["locks"] for name in replicas))
    for name in replicas:  # the votes have decided meanwhile, and the client is not forgotten
        assert [one.status for one in answer_to(client.connections[name], requests[name])] == [
            Status.DONE
        ]
    client.die()
    assert table.values() == {KEY: b"mine"}


def be_forgotten(table: Table) -> None:
    """Cut all connections; wait until no server knows a client, and each client was idle."""
    begin_s = time.monotonic()
    cut(table, *table.names)
    wait_until(lambda: not any(server.participant.memory.clients for server in table.servers()))
    wait_until(lambda: time.monotonic() > begin_s + 1.5 * CLIENT_TICK_S)


def test_a_client_that_was_forgotten_goes_on_without_noticing(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.memory.RESUME_TIMEOUT_S", 0.01)
    client = table.client()
    client.put(KEY, b"one")
    session = client._session()
    before = session._incarnation
    be_forgotten(table)
    assert client.put(KEY, b"two") == 2
    assert session._incarnation != before
    be_forgotten(table)
    assert client.get(KEY) == b"two"
    with client.pipeline() as pipeline:
        pending = [pipeline.put(key, b"value") for key in table.keys(20)]
    assert [one.result() for one in pending] == [1] * 20


def test_what_a_forgotten_client_had_in_flight_is_unknown(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.memory.RESUME_TIMEOUT_S", 0.01)
    holder = ByHand(table)
    holder.vote(holder.requests(PUT))
    client = table.client()
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(client.put, KEY, b"late")
        asked_first = table.ring.lock_order[table.ring.range_of(KEY)][0]
        wait_until(lambda: len(table[asked_first].participant.locks.queues) == 1)
        monkeypatch.setattr("rdht.session.RECONNECT_PAUSE_S", 0.3)
        first = next(iter(client._sessions))
        for name in table.names:
            first._next_connect_s[name] = time.monotonic() + 0.3
            first.lost[name] = ConnectError("not yet")
        incarnation = first._incarnation
        cut_client(table, incarnation)
        wait_until(
            lambda: (
                not any(
                    incarnation in server.participant.memory.clients for server in table.servers()
                )
            )
        )
        with pytest.raises(OutcomeError, match="put of key b'key'"):
            putting.result(PATIENCE_S)
    holder.die()
    assert table.client().get(KEY) == b"mine"


def cut_client(table: Table, incarnation: int) -> None:
    for server in table.servers():
        connection = server._current.get(incarnation)
        if connection is not None:
            connection.hang_up()


# Deadlines.


def test_a_classic_command_whose_key_stays_locked_is_aborted_in_the_end(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.15)
    holder = ByHand(table)
    holder.vote(holder.requests(PUT))
    client = table.client("classic")
    with pytest.raises(AbortedError, match=r"^put of key b'key' was not done: its lock was taken$"):
        client.put(KEY, b"value")
    assert client._session().conflicts > 3
    holder.die()
    assert table.client().get(KEY) == b"mine"


def test_a_fast_command_whose_key_stays_locked_waits_and_ends_as_unknown(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.15)
    holder = ByHand(table)
    holder.vote(holder.requests(PUT))
    client = table.client()
    with pytest.raises(UnknownOutcomeError, match="may have been done: no answer in time"):
        client.put(KEY, b"value")
    assert client.put(b"other", b"value") == 1
    holder.die()
    assert client.get(KEY) == b"mine"
    assert table.entries()[KEY].version == 1


@both_profiles
def test_servers_that_do_not_answer_leave_the_outcome_unknown(
    roster: Roster,
    fake_server: Callable[..., None],
    profile: str,
    monkeypatch: pytest.MonkeyPatch,
    impatience: None,
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.15)
    for member in roster.servers:
        fake_server(member, lambda _: [], FAKE_WELCOME)
    table = Table(roster, monkeypatch)
    begin_s = time.monotonic()
    with table.client(profile) as client:
        for _ in range(2):
            with pytest.raises(UnknownOutcomeError, match="put of key b'key' may have been done"):
                client.put(KEY, b"value")
    assert time.monotonic() - begin_s < 2


def test_servers_that_hang_up_on_every_request_leave_the_outcome_unknown(
    roster: Roster, fake_server: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.3)
    for member in roster.servers:
        fake_server(member, lambda _: None, FAKE_WELCOME)
    with Table(roster, monkeypatch).client() as client:
        begin_s = time.monotonic()
        with pytest.raises(UnknownOutcomeError):
            client.put(KEY, b"value")
        assert time.monotonic() - begin_s < 2


def test_servers_that_are_not_there_leave_a_command_undone(
    roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    table = Table(roster, monkeypatch)
    with table.client() as client:
        with pytest.raises(AbortedError, match=r"was not done: server s\d at .* refused") as caught:
            client.put(KEY, b"value")
        assert set(caught.value.lost) <= set(table.names)
        pipeline = Pipeline(client._session(), 20)
        for key in table.keys(10):
            pipeline.put(key, b"value")
        with pytest.raises(AbortedError, match="was not done"):
            pipeline.finish()


def test_connecting_names_the_first_server_that_is_not_there(
    table: Table, make_session: Callable[..., Session]
) -> None:
    table.stop("s1")
    session = make_session()
    with pytest.raises(ConnectError, match=r"server s1 at 127\.0\.0\.1:\d+: Connection refused"):
        session.connect()
    assert session.connections == 1


def test_another_key_range_is_told_to_whoever_runs_a_command(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.client().put(KEY, b"value")
    wait_until(lambda: all(server.rejoin.key_range for server in table.servers()))
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.1)
    monkeypatch.setattr("tests.unit.rdht.table.KEY_RANGE", KEY_RANGE + 1)
    with pytest.raises(AbortedError, match=f"use --key-range {KEY_RANGE}"):
        table.client().put(KEY, b"value")


# Queues that are full.


def test_a_full_queue_is_tried_again_until_there_is_room(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.locks.MAX_QUEUE", 1)
    refused: list[Reason] = []
    judge = Execution._judge_refusals

    def watch(execution: Execution, refusals: list[Message], *rest: object) -> None:
        refused.extend(one.reason for one in refusals)
        judge(execution, refusals, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Execution, "_judge_refusals", watch)
    holder = ByHand(table)
    holder.vote(holder.requests(PUT))
    with ThreadPoolExecutor(6) as pool:
        putting = [pool.submit(table.client().put, KEY, b"%d" % number) for number in range(6)]
        wait_until(lambda: Reason.OVERLOADED in refused)
        holder.die()
        assert sorted(one.result(PATIENCE_S) for one in putting) == [2, 3, 4, 5, 6, 7]
    assert table.entries()[KEY].version == 7


# The end of a session.


@both_profiles
def test_a_client_closed_by_another_thread_ends_what_is_under_way_and_claims_nothing(
    table: Table, profile: str
) -> None:
    holder = ByHand(table)
    holder.vote(holder.requests(PUT))
    client = table.client(profile)
    keys = table.keys(5)

    def work() -> list[Outcome | None]:
        session = client._session()
        running = [session.submit((Command(Operation.PUT, KEY, b"late"),), 10)]
        running += [session.submit((command,), 10) for command in puts(keys)]
        waiting.set()
        session.drain()
        with pytest.raises(AbortedError, match="the session is closed"):
            session.submit((PUT,))
        return [one.outcome for one in running]

    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert waiting.wait(PATIENCE_S)
        client.close()
        outcomes = working.result(PATIENCE_S)
    assert outcomes[0] in {Outcome.ABORTED, Outcome.UNKNOWN}
    assert None not in outcomes
    holder.die()
    values = table.values()
    for key, outcome in zip([KEY, *keys], outcomes, strict=True):
        if outcome is Outcome.ABORTED:
            assert values.get(key) != b"late"
            assert key == KEY or key not in values
        if outcome is Outcome.DONE:
            assert values[key] == b"value"


def test_replicas_that_differ_are_told_and_the_next_command_has_a_new_session(
    table: Table,
) -> None:
    client = table.client("classic")
    client.put(KEY, b"value")
    primary, backup = table.ring.replicas(KEY)
    number = table.ring.range_of(KEY)
    replica = table[backup].participant.replicas[number]
    replica.table[KEY] = Entry(b"other", 1)
    why = f"{primary}.* hold different copies of key b'key'|{backup}.* hold different copies"
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match=why):
            client.get(KEY)
    replica.table[KEY] = table[primary].participant.replicas[number].table[KEY]
    assert client.get(KEY) == b"value"


def test_pendings_of_a_session_that_broke_all_end(table: Table) -> None:
    client = table.client("classic")
    client.put(KEY, b"value")
    backup = table.ring.replicas(KEY).backup
    replica = table[backup].participant.replicas[table.ring.range_of(KEY)]
    replica.table[KEY] = Entry(b"other", 1)
    pipeline = Pipeline(client._session(), 20)
    first = pipeline.get(KEY)
    pendings = [pipeline.put(key, b"more") for key in table.keys(5)]
    with pytest.raises(RemoteProtocolError):
        pipeline.finish()
    replica.table[KEY] = Entry(b"value", 1)
    with pytest.raises(OutcomeError, match="get of key b'key'"):
        first.result()
    for pending in pendings:
        try:
            assert pending.result() == 1
        except OutcomeError:
            continue


def test_a_closed_session_does_nothing_more(make_session: Callable[..., Session]) -> None:
    session = make_session()
    assert session.execute((PUT,)).outcome is Outcome.DONE
    assert not session.is_closed
    session.close()
    assert session.is_closed
    with pytest.raises(AbortedError, match="the session is closed"):
        session.execute((PUT,))


def test_a_session_counts_what_it_has_moved(
    table: Table, make_session: Callable[..., Session]
) -> None:
    session = make_session("classic")
    session.connect()
    for command in puts(table.keys(10)):
        session.execute((command,))
    moved = total(session.traffic().values())
    assert (session.connections, session.conflicts) == (3, 0)
    assert moved.messages_sent == moved.messages_received == 3 + 4 * 10
    assert moved.sent[Status.REQUEST] == moved.sent[Status.PROCEED] == [20, 20 * 256]
    assert moved.received[Status.YES] == moved.received[Status.DONE] == [20, 20 * 256]
    assert 3 + 4 * 10 >= moved.segments_sent > 3
    assert 3 + 4 * 10 >= moved.segments_received > 3
    assert moved.waited_s > 0
    cut(table, *table.names)
    assert session.execute((PUT,)).outcome is Outcome.DONE
    later = total(session.traffic().values())
    assert later.messages_sent > moved.messages_sent
    assert later.bytes_received > moved.bytes_received
