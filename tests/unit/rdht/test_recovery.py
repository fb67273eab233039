"""Clients that die or fall silent, servers that crash and come back, over real sockets."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rdht.coordinator import Command, Coordinator, Plan
from rdht.errors import AbortedError, OutcomeError, UnknownOutcomeError
from rdht.link import Link
from rdht.messages import Flag, Message, Operation, Status
from rdht.table import Entry
from tests.unit.rdht.table import PATIENCE_S, ByHand, Table, wait_until

KEY = b"key"
PUT = Command(Operation.PUT, KEY, b"mine")
both_profiles = pytest.mark.parametrize("profile", ["classic", "fast"])


def proceed(request: Message) -> Message:
    """Return the proceed that follows a request."""
    coordinator = Coordinator(Plan({"": request}, ()))
    coordinator.start()
    yes = Message(Status.YES, request.name, request.operation)
    ((_, message),) = coordinator.receive("", yes)
    return message._replace(flags=Flag.SILENT)


# Clients.


@pytest.mark.parametrize(
    ("voted", "told", "is_committed"),
    [
        ("", "", False),
        ("0", "", False),
        ("1", "", False),
        ("01", "", True),
        ("01", "0", True),
        ("01", "1", True),
        ("01", "01", True),
    ],
)
def test_a_client_that_dies_leaves_no_lock_and_equal_replicas(
    table: Table,
    voted: str,
    told: str,
    is_committed: bool,  # noqa: FBT001 - a case's expectation
) -> None:
    replicas = table.ring.replicas(KEY)
    dying = ByHand(table)
    requests = dying.requests(PUT)
    dying.vote(requests, [replicas[int(number)] for number in voted])
    for number in told:
        dying.tell(replicas[int(number)], proceed(requests[replicas[int(number)]]))
    dying.die()
    wait_until(table.is_settled)
    assert table.client().get(KEY) == (b"mine" if is_committed else None)
    assert table.client().put(KEY, b"next") == 1 + is_committed
    assert table.entries() == {KEY: Entry(b"next", 1 + is_committed)}


@pytest.mark.parametrize(
    ("voted", "told"),
    [
        *[(voted, "") for voted in ("0", "1", "2", "01", "02", "12")],
        *[("012", told) for told in ("", "0", "1", "2", "01", "012")],
    ],
)
def test_a_client_that_dies_leaves_all_of_many_keys_or_none(
    table: Table, voted: str, told: str
) -> None:
    keys = table.key_of_each_range()
    dying = ByHand(table)
    requests = dying.requests(*[Command(Operation.PUT, key, b"mine") for key in keys])
    dying.vote(requests, [f"s{number}" for number in voted])
    for number in told:
        dying.tell(f"s{number}", proceed(requests[f"s{number}"]))
    dying.die()
    wait_until(table.is_settled)
    is_committed = voted == "012"
    expected = dict.fromkeys(keys, b"mine" if is_committed else None)
    assert table.client().get_many(keys) == expected
    assert len(table.values()) == (len(keys) if is_committed else 0)


@pytest.mark.parametrize("voted", ["0", "1", "01"])
def test_a_client_that_falls_silent_is_not_waited_for(
    table: Table, voted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", 0.05)
    replicas = table.ring.replicas(KEY)
    silent = ByHand(table)
    requests = silent.requests(PUT)
    silent.vote(requests, [replicas[int(number)] for number in voted])
    wait_until(table.is_settled)
    assert table.client().put(KEY, b"next") == len(voted)
    is_committed = voted == "01"
    answer = silent.ask(replicas[int(voted[0])], requests[replicas[int(voted[0])]])
    assert answer.status is (Status.DONE if is_committed else Status.NO)
    assert table.values() == {KEY: b"next"}


@both_profiles
def test_whoever_waits_for_the_lock_of_a_client_that_dies_gets_it(
    table: Table, profile: str
) -> None:
    dying = ByHand(table)
    dying.vote(dying.requests(PUT))
    client = table.client(profile)
    with ThreadPoolExecutor(2) as pool:
        putting = pool.submit(client.put, KEY, b"next")
        getting = pool.submit(client.get, KEY)
        wait_until(lambda: sum(bool(one._running) for one in list(client._sessions)) == 2)
        assert not putting.done()
        dying.die()
        assert putting.result(PATIENCE_S) == 2
        assert getting.result(PATIENCE_S) in {b"mine", b"next"}
    assert table.entries() == {KEY: Entry(b"next", 2)}


# A server that comes back.


def epochs(table: Table) -> list[int]:
    return [
        table[pair.primary].participant.replicas[n].epoch
        for n, pair in enumerate(table.ring.ranges)
    ]


@both_profiles
@pytest.mark.parametrize("how", ["crash", "stop"])
def test_a_server_that_is_restarted_has_all_again_and_clients_notice_nothing(
    table: Table, how: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.rejoin.COPY_PAGE_BYTES", 200)
    client = table.client(profile)
    values = {key: b"of " + key for key in table.keys(100)}
    client.put_many(values)
    client.delete(min(values))
    assert epochs(table) == [1, 1, 1]
    getattr(table, how)("s1")
    table.start("s1")
    assert client.get_many(values) == values | {min(values): None}
    table.wait_served()
    assert epochs(table) == [2, 2, 1]
    assert client.put(max(values), b"new") == 2
    assert client.put(min(values), b"new") == 3
    assert table.values() == values | {min(values): b"new", max(values): b"new"}
    assert client._session().lost == {}


@both_profiles
def test_what_is_under_way_when_a_server_crashes_goes_on_when_it_is_back(
    table: Table, profile: str
) -> None:
    client = table.client(profile)
    (key,) = table.keys(1, "s0", "s1")
    client.put(key, b"before")
    wait_until(table.is_settled)
    table.crash("s1")
    with ThreadPoolExecutor(3) as pool:
        putting = pool.submit(client.put, key, b"after")
        many = pool.submit(client.put_many, dict.fromkeys([*table.key_of_each_range(), key], b"m"))
        getting = pool.submit(client.get, key)
        wait_until(lambda: len([one for one in client._sessions if "s1" in one.lost]) >= 2)
        table.start("s1")
        assert putting.result(PATIENCE_S) in {2, 3}
        many.result(PATIENCE_S)
        assert getting.result(PATIENCE_S) in {b"before", b"after", b"m"}
    assert table.entries()[key].version == 3


@both_profiles
def test_a_prepared_put_is_rolled_forward_by_the_replica_that_is_left(
    table: Table, profile: str
) -> None:
    primary, backup = table.ring.replicas(KEY)
    dying = ByHand(table)
    dying.vote(dying.requests(PUT))
    table.crash(backup)
    dying.die()
    wait_until(lambda: table[primary].stats()["in_doubt"] == 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
        with pytest.raises(AbortedError, match=f"server {backup} at .*: Connection refused"):
            table.client(profile).put(KEY, b"next")
    table.start(backup)
    assert table.client(profile).get(KEY) == b"mine"
    assert table.values() == {KEY: b"mine"}


def test_servers_hear_of_decisions_in_the_order_in_which_they_were_made(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A join that overtakes the news of its end would let the partner give its copy for ever.
    send = Link.send
    is_ordered: list[bool] = []

    def look_and_send(link: Link, messages: Iterable[Message]) -> None:
        server = link._connect.func.__self__  # type: ignore[attr-defined]
        is_ordered.append(server._lock.locked())
        send(link, messages)

    monkeypatch.setattr(Link, "send", look_and_send)
    table.crash("s1")
    table.start("s1")
    table.wait_served()
    assert len(is_ordered) > 5
    assert all(is_ordered)


def test_a_range_without_its_other_replica_is_read_and_not_written(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = table.client()
    (key,) = table.keys(1, "s0", "s1")
    (other,) = table.keys(1, "s2", "s0")
    client.put(key, b"value")
    wait_until(table.is_settled)
    table.crash("s1")
    assert {client.get(key) for _ in range(4)} == {b"value"}
    assert client.put(other, b"value") == 1
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(AbortedError, match=r"put of key .* was not done: ") as caught:
        client.put(key, b"new")
    assert set(caught.value.lost) == {"s1"}


def churn(
    table: Table, profile: str, stop: threading.Event, number: int
) -> dict[bytes, set[bytes]]:
    """Write keys of one's own until stopped; return what each may hold."""
    client = table.client(profile)
    keys = [b"%d %d" % (number, one) for one in range(5)]
    held = {key: {b""} for key in keys}
    turn = 0
    while not stop.is_set():
        turn += 1
        key, value = keys[turn % 5], b"%d" % turn
        try:
            if turn % 3:
                client.put(key, value)
                held[key] = {value}
            else:
                client.put_many(dict.fromkeys(keys, value))
                held = {key: {value} for key in keys}
        except UnknownOutcomeError:
            for one in [key] if turn % 3 else keys:
                held[one].add(value)
        except AbortedError:
            continue
        assert client.get(key) in held[key]
    return held


@both_profiles
def test_servers_that_crash_under_load_one_by_one_lose_nothing(table: Table, profile: str) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(churn, table, profile, stop, number) for number in range(4)]
        try:
            for name in ("s1", "s0", "s2", "s1"):
                before = table[name].stats()["bytes_received"]
                wait_until(lambda: table[name].stats()["bytes_received"] > before + 5000)  # noqa: B023 - called at once
                table.crash(name)
                table.start(name)
                table.wait_served()
        finally:
            stop.set()
        ends = [future.result(2 * PATIENCE_S) for future in working]
    values = table.values()
    for held in ends:
        for key, allowed in held.items():
            assert values.get(key, b"") in allowed
    assert epochs(table) == [4, 4, 3]


# Both replicas gone.


@both_profiles
def test_a_range_whose_replicas_are_both_restarted_is_lost_and_says_so(
    table: Table, profile: str
) -> None:
    client = table.client(profile)
    lost, first, second = table.key_of_each_range()
    assert table.ring.replicas(lost) == ("s0", "s1")
    for key in (lost, first, second):
        client.put(key, b"value")
    wait_until(table.is_settled)
    table.crash("s0", "s1")
    table.start("s0", "s1")
    why = "both replicas of its range have lost their memory"
    wait_until(lambda: table["s0"].stats()["ranges"]["0"]["mode"] == "lost")
    for attempt in (
        lambda: client.get(lost),
        lambda: client.put(lost, b"new"),
        lambda: client.put_many({lost: b"new", first: b"new"}),
    ):
        with pytest.raises(AbortedError, match=why):
            attempt()
    assert client.get_many([first, second]) == {first: b"value", second: b"value"}
    assert client.put(first, b"more") == 2
    wait_until(lambda: table["s1"].stats()["ranges"]["0"]["mode"] == "lost")
    modes = {
        number: one["mode"]
        for server in table.servers()
        for number, one in server.stats()["ranges"].items()
    }
    assert modes == {"0": "lost", "1": "serving", "2": "serving"}


def test_a_table_of_two_in_memory_restarted_as_a_whole_is_new(
    make_table: Callable[..., Table],
) -> None:
    table = make_table(2)
    table.start("s0")
    time.sleep(0)
    assert not table["s0"].is_ready
    table.start("s1")
    table.wait_served()
    client = table.client()
    client.put(KEY, b"value")
    wait_until(table.is_settled)
    table.crash()
    table.start()
    table.wait_served()
    for command in (lambda: client.get(KEY), lambda: client.put(KEY, b"new")):
        with pytest.raises(AbortedError, match="lost their memory"):
            command()
    another = table.client()
    assert another.get(KEY) is None
    assert another.put(KEY, b"new") == 1


def test_a_table_is_founded_only_when_all_servers_are_up(table: Table) -> None:
    assert epochs(table) == [1, 1, 1]
    table.crash()
    table.start("s0", "s1")
    wait_until(
        lambda: all(
            one._links["s0" if one is table["s1"] else "s1"].is_up for one in table.servers()
        )
    )
    client = table.client()
    (key,) = table.keys(1, "s0", "s1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.3)
        with pytest.raises(OutcomeError, match="waits for a replica to come back"):
            client.put(key, b"value")
    table.start("s2")
    table.wait_served()
    assert client.put(key, b"value") == 1
