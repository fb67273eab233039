"""What a caller of the table sees: every method, in both profiles, from several threads."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdht.client import Client, Pending, Versioned
from rdht.errors import AbortedError, ConfigurationError
from rdht.limits import MAX_BODY_BYTES, MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES, MAX_WINDOW
from rdht.records import write_json
from rdht.table import Entry
from tests.unit.rdht.table import KEY_RANGE, PATIENCE_S, Table, wait_until

KEY = b"key"
both_profiles = pytest.mark.parametrize("profile", ["classic", "fast"])


def run_threads(count: int, work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result(3 * PATIENCE_S)


# Commands.


@both_profiles
def test_commands_do_what_they_say(table: Table, profile: str) -> None:
    client = table.client(profile)
    assert client.get(KEY) is None
    assert client.get_versioned(KEY) == Versioned(None, 0)
    assert client.put(KEY, b"one") == 1
    assert client.get(KEY) == b"one"
    assert client.put(KEY, b"two") == 2
    assert not client.add(KEY, b"three")
    assert client.get_versioned(KEY) == Versioned(b"two", 2)
    assert not client.cas(KEY, b"three", 1)
    assert client.cas(KEY, b"three", 2)
    assert client.get_versioned(KEY) == Versioned(b"three", 3)
    assert client.delete(KEY)
    assert not client.delete(KEY)
    assert client.get_versioned(KEY) == Versioned(None, 4)
    assert not client.cas(KEY, b"old", 0)
    assert client.add(KEY, b"four")
    assert client.get_versioned(KEY) == Versioned(b"four", 5)
    assert table.entries() == {KEY: Entry(b"four", 5)}


@both_profiles
def test_a_cas_may_make_a_key_and_a_deleted_ones_version_is_its_floor(
    table: Table, profile: str
) -> None:
    client = table.client(profile)
    assert client.cas(KEY, b"made", 0)
    assert client.delete(KEY)
    value, version = client.get_versioned(KEY)
    assert (value, version) == (None, 2)
    assert client.cas(KEY, b"again", version)
    assert not client.cas(KEY, b"late", version)
    assert client.get_versioned(KEY) == Versioned(b"again", 3)


@both_profiles
def test_many_keys_are_put_and_got_as_one(table: Table, profile: str) -> None:
    client = table.client(profile)
    keys = table.keys(50)
    client.put_many({key: b"of " + key for key in keys})
    assert client.get_many([*keys, b"absent"]) == {
        **{key: b"of " + key for key in keys},
        b"absent": None,
    }
    client.put_many({})
    assert client.get_many([]) == {}
    client.put_many({"one": "1"})
    assert client.get_many(["one", b"one"]) == {b"one": b"1"}
    assert len(table.entries()) == 51


def test_a_text_is_its_utf_8(table: Table) -> None:
    client = table.client()
    client.put("schlüssel", "wert €")
    assert client.get("schlüssel".encode()) == "wert €".encode()


@both_profiles
@pytest.mark.parametrize(
    ("key", "value"),
    [(b"\0", b""), (b"\0" * 9, b"\0" * 300), (b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES)],
    ids=["empty value", "zeros", "longest"],
)
def test_any_bytes_within_the_limits_are_key_and_value(
    key: bytes, value: bytes, profile: str, table: Table
) -> None:
    client = table.client(profile)
    client.put(key, value)
    assert client.get(key) == value
    assert client.get_many([key]) == {key: value}
    assert table.entries() == {key: Entry(value, 1)}


def test_what_is_over_its_limit_is_refused_here_and_harms_nothing(table: Table) -> None:
    client = table.client()
    twice: dict[bytes | str, bytes] = {"a": b"1", b"a": b"2"}
    client.put(KEY, b"before")
    with pytest.raises(ValueError, match="allowed are 1 to 1024 and up to 1048576"):
        client.put(KEY, b"v" * (MAX_VALUE_BYTES + 1))
    with pytest.raises(ValueError, match="a key of 1025 and a value of 0 bytes"):
        client.get(b"k" * (MAX_KEY_BYTES + 1))
    with pytest.raises(ValueError, match="a key of 0 and a value of 0 bytes"):
        client.get(b"")
    with pytest.raises(ValueError, match="a command on 1025 keys; allowed are 1 to 1024"):
        client.put_many(dict.fromkeys(table.keys(MAX_KEYS + 1), b""))
    with pytest.raises(ValueError, match="each once"):
        client.put_many(twice)
    with pytest.raises(ValueError, match=f"they share {MAX_BODY_BYTES}"):
        client.put_many({b"a": b"1" * MAX_VALUE_BYTES, b"b": b"2" * MAX_VALUE_BYTES})
    with client.pipeline() as pipeline, pytest.raises(ValueError, match="a value of"):
        pipeline.put(KEY, b"v" * (MAX_VALUE_BYTES + 1))
    assert client.get(KEY) == b"before"
    assert table.entries() == {KEY: Entry(b"before", 1)}


def test_as_many_keys_as_allowed_are_one_command(table: Table) -> None:
    client = table.client()
    values = dict.fromkeys(table.keys(MAX_KEYS), b"v" * 500)
    client.put_many(values)
    assert client.get_many(values) == values


def test_values_that_fit_no_message_together_are_refused_with_advice(table: Table) -> None:
    client = table.client()
    first, second = table.keys(2, "s0", "s1")
    for key in (first, second):
        client.put(key, b"v" * MAX_VALUE_BYTES)
    with pytest.raises(AbortedError, match="ask for fewer keys at once"):
        client.get_many([first, second])
    assert client.get(first) == b"v" * MAX_VALUE_BYTES


def test_keys_are_spread_over_all_servers(table: Table) -> None:
    client = table.client()
    keys = table.keys(60)
    for key in keys:
        client.put(key, b"of " + key)
    assert table.values() == {key: b"of " + key for key in keys}
    assert all(server.stats()["keys"] for server in table.servers())


def test_a_client_is_made_from_a_rosters_file(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    write_json(path, table.roster.to_json())
    with Client(path, key_range=KEY_RANGE) as client:
        assert client.put(KEY, b"value") == 1


def test_an_unknown_profile_or_window_is_a_configuration_error(table: Table) -> None:
    with pytest.raises(ConfigurationError, match="there is classic, fast"):
        table.client("no such profile")
    for window in (0, MAX_WINDOW):
        with (
            pytest.raises(ConfigurationError, match="allowed are 1 to 1023"),
            table.client().pipeline(window),
        ):
            pass


# Threads, and the end of a client.


def test_leaving_the_context_closes_the_connections_of_every_thread(table: Table) -> None:
    release = threading.Event()
    done = threading.Barrier(3)

    def use_and_stay(client: Client, number: int) -> None:
        for key in table.keys(20):
            client.put(b"%d " % number + key, b"value")
        done.wait(PATIENCE_S)
        release.wait(PATIENCE_S)

    def connections() -> list[int]:
        return [server.stats()["connections"] - 2 for server in table.servers()]  # of its links

    with ThreadPoolExecutor(2) as pool:
        with table.client() as client:
            using = [pool.submit(use_and_stay, client, number) for number in range(2)]
            done.wait(PATIENCE_S)
            assert connections() == [2, 2, 2]
        wait_until(lambda: connections() == [0, 0, 0])
        with pytest.raises(AbortedError, match="the client is closed"):
            client.get(KEY)
        release.set()
        for future in using:
            future.result(PATIENCE_S)


def test_a_thread_that_ends_takes_its_connections_with_it(table: Table) -> None:
    client = table.client()
    thread = threading.Thread(target=client.put, args=(KEY, b"value"))
    thread.start()
    thread.join(PATIENCE_S)
    gc.collect()
    wait_until(lambda: all(server.stats()["connections"] == 2 for server in table.servers()))
    assert client.get(KEY) == b"value"


@both_profiles
def test_threads_of_one_client_work_side_by_side(table: Table, profile: str) -> None:
    client = table.client(profile)

    def work(number: int) -> None:
        for turn in range(20):
            key = b"%d/%d" % (number, turn)
            client.put(key, key)
            assert client.get(key) == key

    run_threads(4, work)
    assert len(table.entries()) == 80


# Conflicts.


@both_profiles
def test_writers_of_one_key_all_finish_and_no_version_is_given_twice(
    table: Table, profile: str
) -> None:
    versions: list[int] = []

    def work(number: int) -> None:
        client = table.client(profile)
        versions.extend(client.put(KEY, b"%d/%d" % (number, turn)) for turn in range(30))

    run_threads(4, work)
    assert sorted(versions) == list(range(1, 121))
    (entry,) = table.entries().values()
    assert entry.version == 120
    assert entry.value in {b"%d/29" % number for number in range(4)}


@both_profiles
def test_increments_by_cas_are_never_lost(table: Table, profile: str) -> None:
    client = table.client(profile)
    client.put(KEY, b"0")

    def work(_number: int) -> None:
        for _ in range(15):
            done = False
            while not done:
                value, version = client.get_versioned(KEY)
                done = client.cas(KEY, b"%d" % (int(value or b"") + 1), version)

    run_threads(3, work)
    assert table.entries() == {KEY: Entry(b"45", 46)}


@both_profiles
def test_of_many_that_add_a_key_one_succeeds(table: Table, profile: str) -> None:
    client = table.client(profile)
    added: list[int] = []

    def work(number: int) -> None:
        if client.add(KEY, b"%d" % number):
            added.append(number)

    run_threads(4, work)
    (winner,) = added
    assert table.entries() == {KEY: Entry(b"%d" % winner, 1)}


@both_profiles
def test_conflicting_puts_of_many_keys_are_never_seen_in_part(table: Table, profile: str) -> None:
    client = table.client(profile)
    keys = [*table.key_of_each_range(), *table.keys(2)]
    client.put_many(dict.fromkeys(keys, b"first"))
    seen: set[bytes | None] = set()

    def work(number: int) -> None:
        for turn in range(15):
            if number < 3:
                order = keys if number % 2 else keys[::-1]
                client.put_many(dict.fromkeys(order, b"%d/%d" % (number, turn)))
            else:
                values = set(client.get_many(keys).values())
                assert len(values) == 1, values
                seen.update(values)

    run_threads(5, work)
    assert None not in seen
    entries = table.entries()
    assert {entry.version for entry in entries.values()} == {46}
    assert len({entry.value for entry in entries.values()}) == 1


# Pipelines.


@both_profiles
def test_a_pipelines_commands_on_one_key_keep_their_order(table: Table, profile: str) -> None:
    client = table.client(profile)
    with client.pipeline(window=16) as pipeline:
        puts = [pipeline.put(KEY, b"%d" % number) for number in range(20)]
        gone = pipeline.delete(KEY)
        none = pipeline.get(KEY)
        added = pipeline.add(KEY, b"added")
        swapped = pipeline.cas(KEY, b"swapped", 22)
        last = pipeline.get(KEY)
        again = pipeline.add(KEY, b"again")
    assert [pending.result() for pending in puts] == list(range(1, 21))
    assert (gone.result(), none.result(), added.result()) == (True, None, True)
    assert (swapped.result(), last.result(), again.result()) == (True, b"swapped", False)
    assert table.entries() == {KEY: Entry(b"swapped", 23)}


@both_profiles
def test_a_pipeline_over_many_keys_does_all_and_is_over_at_its_end(
    table: Table, profile: str
) -> None:
    client = table.client(profile)
    values = {key: b"of " + key for key in table.keys(300)}
    with client.pipeline(window=64) as pipeline:
        for key, value in values.items():
            pipeline.put(key, value)
        session = client._session()
        assert len(session._running) > 1
    assert not session._running
    assert table.values() == values
    with client.pipeline(window=64) as pipeline:
        pending = {key: pipeline.get(key) for key in values}
        assert {key: one.result() for key, one in pending.items()} == values


def test_an_error_that_nobody_collects_is_raised_at_the_pipelines_end(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = table.client()
    client.put(KEY, b"value")
    wait_until(table.is_settled)
    for server in table.servers():
        monkeypatch.setattr(server.participant, "unsafe", True)
    pendings: list[Pending[int]] = []

    def put_two() -> None:
        with client.pipeline() as pipeline:
            pendings.extend(pipeline.put(key, b"more") for key in (KEY, b"other"))

    with pytest.raises(AbortedError, match="put of key b'key' was not done"):
        put_two()
    assert len(pendings) == 2
    for pending in pendings:
        with pytest.raises(AbortedError, match="a server's disk has failed"):
            pending.result()
    with client.pipeline() as p:
        pending = p.put(KEY, b"more")
        with pytest.raises(AbortedError, match="a server's disk has failed"):
            pending.result()
        good = p.get(KEY)
    assert good.result() == b"value"


def test_a_pipeline_whose_block_raises_is_over_all_the_same(table: Table) -> None:
    client = table.client()
    keys = table.keys(40)

    def put_and_raise() -> None:
        with client.pipeline() as pipeline:
            for key in keys:
                pipeline.put(key, b"value")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        put_and_raise()
    assert not client._session()._running
    assert table.values() == dict.fromkeys(keys, b"value")
