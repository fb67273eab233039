"""Durable servers: what they promised outlives their processes, and some of their disks' faults."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdht.client import Client, observe
from rdht.coordinator import Command
from rdht.errors import AbortedError, OutcomeError, StorageError, UnknownOutcomeError
from rdht.messages import Message, Operation, Reason, Status
from rdht.server import Server
from rdht.store import Store
from rdht.transport import read_json
from tests.unit.rdht.table import KEY_RANGE, PATIENCE_S, ByHand, Table, free_roster, wait_until

KEY = b"key"
PUT = Command(Operation.PUT, KEY, b"mine")
both_profiles = pytest.mark.parametrize("profile", ["classic", "fast"])
Held = dict[bytes, set[bytes]]


def restart(table: Table) -> None:
    table.crash()
    table.start()
    table.wait_served()


def write_until(stop: threading.Event, client: Client, prefix: bytes) -> Held:
    """Write keys of one's own until the servers are gone; return what each may hold."""
    keys = [prefix + b"%d" % number for number in range(5)]
    held: Held = {key: {b""} for key in keys}
    turn = 0
    while not stop.is_set():
        turn += 1
        written, value = keys if turn % 4 == 0 else [keys[turn % 5]], b"%d" % turn
        try:
            client.put_many(dict.fromkeys(written, value))
            held |= {key: {value} for key in written}
        except UnknownOutcomeError:
            for key in written:
                held[key].add(value)
        except AbortedError:
            continue
    return held


# Crashes.


@both_profiles
def test_all_that_was_acknowledged_is_there_after_all_servers_crashed(
    durable: Table, profile: str
) -> None:
    client = durable.client(profile)
    values = {key: b"of " + key for key in durable.keys(60)}
    client.put_many(values)
    for key in durable.keys(10):
        client.delete(key)
        del values[key]
    restart(durable)
    assert client.get_many(durable.keys(60)) == {**dict.fromkeys(durable.keys(10)), **values}
    assert durable.values() == values
    assert client.put(durable.keys(1)[0], b"again") == 3
    assert all(server.key_range == KEY_RANGE for server in durable.servers())


@both_profiles
def test_servers_that_all_crash_under_load_lose_nothing(
    durable: Table, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 1.0)
    monkeypatch.setattr("rdht.journal.SNAPSHOT_LOG_BYTES", 20_000)
    held: Held = {}
    for round_number in range(3):
        stop = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            writing = [
                pool.submit(
                    write_until, stop, durable.client(profile), b"%d/%d/" % (round_number, number)
                )
                for number in range(4)
            ]
            try:
                before = durable["s0"].stats()["bytes_received"]
                wait_until(lambda: durable["s0"].stats()["bytes_received"] > before + 50_000)  # noqa: B023 - called at once
                durable.crash()
                stop.set()
                durable.start()
            finally:
                stop.set()
            for future in writing:
                held |= future.result(PATIENCE_S)
    durable.wait_served()
    values = durable.values()
    for key, allowed in held.items():
        assert values.get(key, b"") in allowed


@pytest.mark.parametrize("voted", ["0", "1", "01"])
def test_votes_outlive_a_crash_and_are_settled_after_it(durable: Table, voted: str) -> None:
    replicas = durable.ring.replicas(KEY)
    dying = ByHand(durable)
    requests = dying.requests(PUT)
    dying.vote(requests, [replicas[int(number)] for number in voted])
    durable.crash()
    dying.die()
    durable.start()
    durable.wait_served()
    values = durable.values()
    assert values in ({}, {KEY: b"mine"})  # nobody was told of less than two votes
    if voted == "01":
        assert values


@pytest.mark.parametrize("voted", ["01", "12", "012"])
def test_votes_on_many_keys_outlive_a_crash_and_are_settled_after_it(
    durable: Table, voted: str
) -> None:
    keys = durable.key_of_each_range()
    dying = ByHand(durable)
    requests = dying.requests(*[Command(Operation.PUT, key, b"mine") for key in keys])
    dying.vote(requests, [f"s{number}" for number in voted])
    durable.crash()
    dying.die()
    durable.start()
    durable.wait_served()
    wait_until(durable.is_settled)
    values = durable.values()
    assert values in ({}, dict.fromkeys(keys, b"mine"))
    if voted == "012":
        assert values


def test_a_vote_leaves_only_when_it_is_on_disk(
    durable: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ByHand(durable)
    name = durable.ring.replicas(KEY).primary
    disk = threading.Event()
    sync = os.fdatasync

    def sync_later(descriptor: int) -> None:
        assert disk.wait(PATIENCE_S)
        sync(descriptor)

    monkeypatch.setattr("rdht.store.os.fdatasync", sync_later)
    request = client.requests(PUT)[name]
    connection = client.connections[name]
    for _ in range(2):  # neither the first time nor if asked again
        connection.queue(request)
        connection.flush()
        assert connection.receive() == []
        assert durable[name].stats()["locks"] == 1
    with observe(durable.roster, name) as observer:
        assert observer.ask(Message(Status.STATS)).status is Status.STATS
    disk.set()
    votes: list[Message] = []
    wait_until(lambda: votes.extend(connection.receive()) or len(votes) == 2)  # type: ignore[func-returns-value]
    assert {vote.status for vote in votes} == {Status.YES}
    client.die()
    assert durable.values() == {}


def test_a_vote_that_waited_for_the_disk_goes_to_no_newer_connection(
    durable: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is: nobody asks the others, who would veto.
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", PATIENCE_S)
    client = ByHand(durable)
    name = durable.ring.replicas(KEY).primary
    disk = threading.Event()
    sync = os.fdatasync

    def sync_later(descriptor: int) -> None:
        assert disk.wait(PATIENCE_S)
        sync(descriptor)

    monkeypatch.setattr("rdht.store.os.fdatasync", sync_later)
    request = client.requests(PUT)[name]
    client.tell(name, request)
    wait_until(lambda: durable[name].stats()["locks"] == 1)
    newer = durable.connect(name, client.incarnation, resumes=durable[name].incarnation)
    newer.queue(request)
    newer.flush()
    wait_until(lambda: durable[name].stats()["messages_received"].get("REQUEST") == 2)
    disk.set()
    votes: list[Message] = []
    wait_until(lambda: votes.extend(newer.receive()) or len(votes) == 1)  # type: ignore[func-returns-value]
    newer.queue(Message(Status.READ, request.name, Operation.GET, key=b"other", range=99))
    newer.flush()
    wait_until(lambda: votes.extend(newer.receive()) or len(votes) == 2)  # type: ignore[func-returns-value]
    assert [vote.reason for vote in votes] == [Reason.NONE, Reason.ELSEWHERE]
    newer.close()
    client.die()


# Real processes.


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes = []

    def start(roster: Path, name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "rdht", "server", "--roster", str(roster), "--name", name]
        reading, writing = os.pipe()
        log = (tmp_path / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [*words, "--durable", str(tmp_path / name), "--ready-fd", str(writing)],
            pass_fds=[writing],
            stderr=log,
        )
        log.close()
        os.close(writing)
        processes.append(process)
        with os.fdopen(reading) as pipe:
            assert pipe.read() == "ready\n", (tmp_path / f"{name}.log").read_text()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait(PATIENCE_S)


def test_processes_that_are_killed_come_back_with_all_that_was_acknowledged(
    spawn: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    roster = free_roster(2)
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(roster.to_json()), encoding="utf-8")
    names = [member.name for member in roster.servers]
    with Client(roster, key_range=KEY_RANGE) as client:
        processes = [spawn(path, name) for name in names]
        client.put(KEY, b"value")
        held: Held = {KEY: {b"value"}}
        stop = threading.Event()
        with ThreadPoolExecutor(3) as pool, observe(roster, "s0") as connection:
            prefixes = [b"%d/" % number for number in range(3)]
            writing = [pool.submit(write_until, stop, client, one) for one in prefixes]
            wait_until(lambda: read_json(connection.ask(Message(Status.STATS)))["keys"] == 16)
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.wait(PATIENCE_S)
            stop.set()
            processes = [spawn(path, name) for name in names]
            for future in writing:
                held |= future.result(PATIENCE_S)
        found = client.get_many(held)
        for key, allowed in held.items():
            assert (found[key] or b"") in allowed
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    for name in names:
        assert "Traceback" not in (tmp_path / f"{name}.log").read_text()


# Files.


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_server_that_stops_leaves_a_snapshot_and_an_empty_log(durable: Table) -> None:
    client = durable.client()
    values = {key: b"of " + key for key in durable.keys(50)}
    client.put_many(values)
    wait_until(durable.is_settled)
    assert durable.folder is not None
    folders = [durable.folder / name for name in durable.names]
    durable.stop()
    for folder in folders:
        names = sorted(files(folder))
        assert [name.partition("-")[0] for name in names] == ["lock", "log", "snapshot"]
        store = Store(folder)
        assert len(list(store.recover())) > 3
        assert store.torn_bytes == 0
        assert store.log_bytes == files(folder)[names[1]] < 100
        store.close()
    durable.start()
    durable.wait_served()
    assert client.get_many(values) == values


def test_a_long_log_is_replaced_by_a_snapshot_while_others_write(
    durable: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.journal.SNAPSHOT_LOG_BYTES", 5000)
    client = durable.client()
    assert durable.folder is not None
    folder = durable.folder / "s0"
    values: dict[bytes, bytes] = {}
    while not (folder / "log-0000000006").exists():
        values |= {b"%d" % (len(values) + number): b"v" * 50 for number in range(40)}
        client.put_many(dict(list(values.items())[-40:]))
    restart(durable)
    assert client.get_many(list(values)[:1000]) == dict(list(values.items())[:1000])
    assert durable.values() == values


@pytest.mark.parametrize("kind", ["snapshot", "log"])
def test_a_damaged_file_is_put_aside_and_the_copy_comes_from_the_other_replica(
    durable: Table, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = durable.client()
    values = {key: b"of " + key for key in durable.keys(50)}
    client.put_many(values)
    wait_until(durable.is_settled)
    durable.crash("s1") if kind == "log" else durable.stop("s1")
    assert durable.folder is not None
    folder = durable.folder / "s1"
    path = max(folder.glob(f"{kind}-*"))
    content = bytearray(path.read_bytes())
    content[30 if kind == "log" else len(content) // 2] ^= 1
    path.write_bytes(content)
    durable.start("s1")
    durable.wait_served()
    aside = durable.folder / "s1.damaged"
    assert (aside / path.name).read_bytes() == content
    assert any("starting with nothing" in line for line in caplog.messages)
    assert durable.values() == values
    restart(durable)
    assert client.get_many(values) == values


def test_a_second_damage_does_not_overwrite_the_first(durable: Table) -> None:
    assert durable.folder is not None
    for aside in ("s1.damaged", "s1.damaged-2"):
        durable.stop("s1")
        for path in (durable.folder / "s1").glob("snapshot-*"):
            path.write_bytes(b"")
        durable.start("s1")
        durable.wait_served()
        assert (durable.folder / aside).is_dir()


def test_a_folder_that_is_in_use_is_refused_and_the_address_left_free(durable: Table) -> None:
    roster = free_roster(3)
    assert durable.folder is not None
    for _ in range(2):
        with pytest.raises(StorageError, match="another process has this store open"):
            Server(roster, "s0", 1, durable=durable.folder / "s0")


# A disk that fails.


@pytest.fixture
def fail_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let all syncs of files in a folder fail from now on."""

    def fail(folder: Path) -> None:
        sync = os.fdatasync

        def fail_there(descriptor: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(folder):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr("rdht.store.os.fdatasync", fail_there)

    return fail


@both_profiles
def test_a_server_whose_disk_fails_refuses_writes_and_goes_on_reading(
    durable: Table,
    profile: str,
    fail_disk: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = durable.client("fast")
    (key,) = durable.keys(1, "s0", "s1")
    (other,) = durable.keys(1, "s2", "s0")
    client.put(key, b"before")
    client.put(other, b"before")
    wait_until(durable.is_settled)
    assert durable.folder is not None
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.5)
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", 0.1)
    fail_disk(durable.folder / "s1")
    writer = durable.client(profile)
    with pytest.raises(OutcomeError):  # who is under way when it happens may not be told why
        writer.put(key, b"during")
    assert any("takes no more commands that write" in line for line in caplog.messages)
    with pytest.raises(AbortedError, match="was not done: a server's disk has failed"):
        writer.put(key, b"after")
    with pytest.raises(AbortedError, match="a server's disk has failed"):
        writer.put_many({key: b"after", other: b"after"})
    assert durable["s1"].stats()["unsafe"]
    assert not durable["s0"].stats()["unsafe"]
    assert [client.get(key) for _ in range(4)] == [b"before"] * 4
    assert writer.put(other, b"after") == 2
    wait_until(durable.is_settled)
    monkeypatch.undo()
    durable.crash()
    durable.start()
    durable.wait_served()
    assert client.get_many([key, other]) == {key: b"before", other: b"after"}


def test_a_disk_that_fails_under_load_loses_nothing_that_was_acknowledged(
    durable: Table, fail_disk: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.5)
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", 0.1)
    assert durable.folder is not None
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        writing = [
            pool.submit(write_until, stop, durable.client(), b"%d/" % number) for number in range(4)
        ]
        try:
            wait_until(lambda: durable["s0"].stats()["bytes_received"] > 20_000)
            fail_disk(durable.folder / "s1")
            wait_until(lambda: durable["s1"].stats()["unsafe"])
        finally:
            stop.set()
        held: Held = {}
        for future in writing:
            held |= future.result(PATIENCE_S)
    monkeypatch.undo()
    durable.crash()
    durable.start()
    durable.wait_served()
    values = durable.values()
    for key, allowed in held.items():
        assert values.get(key, b"") in allowed


def test_a_server_whose_disk_has_failed_still_stops(
    durable: Table, fail_disk: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr("rdht.machine.PREPARED_TIMEOUT_S", 0.1)
    assert durable.folder is not None
    fail_disk(durable.folder)
    with pytest.raises(OutcomeError):
        durable.client().put(KEY, b"value")
    assert sum(server.stats()["unsafe"] for server in durable.servers()) >= 1
    monkeypatch.setattr("rdht.server.STOP_TIMEOUT_S", 0.2)
    durable.stop()
