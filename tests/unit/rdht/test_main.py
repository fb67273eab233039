"""The command lines, in this process, with servers in threads."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rdht import __main__, history, records
from rdht.parts import Result
from rdht.scan import hash_value
from rdht.table import Table as Entries
from rdht.ycsb import key_of
from tests.unit.rdht.table import KEY_RANGE, Table

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def roster_file(table: Table, tmp_path: Path) -> Path:
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(table.roster.to_json()), encoding="utf-8")
    return path


@pytest.fixture
def run(
    roster_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Type `python -m rdht`; return the exit code and what was printed."""
    for effect in ("_on_term", "_end_on_thread_failure"):
        monkeypatch.setattr(__main__, effect, lambda _: None)
    monkeypatch.setattr("rdht.log.set_up", lambda _: None)

    def type_in(command: str, *words: str) -> tuple[int, str, str]:
        line = ["rdht", command, "--roster", str(roster_file), *words]
        monkeypatch.setattr(sys, "argv", line)
        try:
            code = __main__.main()
        except SystemExit as end:
            code = int(str(end.code))
        sys.stdout.flush()
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return type_in


def test_a_key_is_put_got_and_deleted(run: Run) -> None:
    assert run("get", "k") == (1, "", "key 'k' has no value\n")
    assert run("put", "k", "wert €") == (0, "", "")
    assert run("get", "k") == (0, "wert €\n", "")
    assert run("delete", "k") == (0, "", "")
    assert run("delete", "k") == (1, "", "key 'k' has no value\n")


def test_bytes_that_are_no_text_are_taken_and_given_as_they_are(run: Run, table: Table) -> None:
    key, value = os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")
    placed = ("--key-range", str(KEY_RANGE))
    assert run("put", key, value, *placed)[0] == 0
    assert run("get", key, *placed) == (0, "\ufffd\n", "")  # as the terminal shows it
    assert table.values() == {b"\xff": b"\xfe"}


def test_another_key_range_is_refused_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.execution.COMMAND_TIMEOUT_S", 0.2)
    assert run("put", "k", "v", "--key-range", str(KEY_RANGE))[0] == 0
    code, _, error = run("get", "k")
    assert code == 1
    assert f"use --key-range {KEY_RANGE}" in error
    assert error.count("\n") == 1


def test_a_ping_names_each_server_and_how_long_it_took(run: Run) -> None:
    code, out, _ = run("ping")
    assert code == 0
    answers = json.loads(out)
    assert list(answers) == ["s0", "s1", "s2"]
    assert all(answer["handshake_ms"] > 0 for answer in answers.values())


def test_a_ping_tells_who_is_not_there_and_who_waits_for_whom(
    run: Run, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "_SERVED_TIMEOUT_S", 0.1)
    table.crash("s0", "s1")
    table.start("s0")
    code, out, _ = run("ping")
    answers = json.loads(out)
    assert code == 1
    assert answers["s0"]["error"].startswith("server s0: range 0 is joining")
    assert "Connection refused" in answers["s1"]["error"]
    assert "handshake_ms" in answers["s2"]
    table.start("s1")
    code, out, _ = run("ping")
    assert code == 1
    assert "range 0 is lost" in json.loads(out)["s1"]["error"]


def test_the_status_of_a_server_is_json(run: Run) -> None:
    code, out, _ = run("status", "--name", "s1")
    assert code == 0
    figures = json.loads(out)
    assert figures["server"] == "s1"
    assert {one["mode"] for one in figures["ranges"].values()} == {"serving"}
    code, _, error = run("status", "--name", "s9")
    assert (code, error) == (
        1,
        "rdht status: the roster names no server 's9'; it names s0, s1, s2\n",
    )


def test_the_records_of_a_workload_are_written(run: Run, table: Table) -> None:
    words = [
        "--key-range",
        str(KEY_RANGE),
        "--records",
        "30",
        "--value-bytes",
        "2000",
        "--seed",
        "7",
    ]
    assert run("load", *words)[:2] == (0, '{"records": 30}\n')
    entries = table.entries()
    assert set(entries) == set(map(key_of, range(30)))
    assert {len(entry.value or b"") for entry in entries.values()} == {2000}


def test_verify_tells_what_differs(run: Run, table: Table) -> None:
    client = table.client()
    for key in table.keys(20):
        client.put(key, b"value")
    table.entries()
    assert run("verify")[:2] == (0, '{"keys": 20, "key_range": 100, "differing": []}\n')
    (key,) = table.keys(1, "s0", "s1")
    replica = table["s0"].participant.replicas[table.ring.range_of(key)]
    replica.table = Entries(pair for pair in replica.table.items() if pair[0] != key)
    code, out, _ = run("verify")
    assert code == 1
    (row,) = json.loads(out)["differing"]
    assert row == {"key": key.decode(), "servers": ["s0", "s1"]}


def test_verify_puts_down_what_stands_at_each_key(run: Run, table: Table, tmp_path: Path) -> None:
    client = table.client()
    kept, deleted, empty = table.keys(3)
    for value in (b"first", b"value"):
        client.put(kept, value)
    client.put(deleted, b"value")
    client.delete(deleted)
    client.put(empty, b"")
    began_ns = time.monotonic_ns()
    assert run("verify", "--history", str(tmp_path / "last.bin"))[0] == 0
    found = history.read(tmp_path / "last.bin")
    told = {entry.commands[0].key: entry.told[0] for entry in found.entries}
    assert told == {
        kept: Result(True, 2, hash_value(b"value")),
        deleted: Result(False, 2),
        empty: Result(True, 1),
    }
    for entry in found.entries:
        assert began_ns <= entry.begun_ns <= (entry.ended_ns or 0) <= time.monotonic_ns()


@pytest.mark.parametrize("profile", ["classic", "fast"])
def test_a_client_leaves_its_record_and_its_progress(
    run: Run, tmp_path: Path, profile: str
) -> None:
    results = tmp_path / "c1.json"
    options = ["--threads", "2", "--commands", "30", "--key-range", "100", "--profile", profile]
    if profile == "fast":
        options += ["--window", "4"]
    code, _, error = run("client", "--name", "c1", "--results", str(results), *options)
    assert (code, error) == (0, "")
    record = records.read(results)
    assert (record.client, record.profile) == ("c1", profile)
    assert sum(thread.commands for thread in record.threads) == 60


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--window", "0"], "'0' is not a number from 1 on"),
        (["--window", "1024"], "'1024' is not a number from 1 to 1023"),
        (["--frame-bytes", "65537"], "'65537' is not a number from 1 to 65536"),
        (["--threads", "x"], "'x' is not a number from 1 on"),
        (["--get-ratio", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--duration", "nan"], "'nan' is not a positive number of seconds"),
        (["--profile", "slow"], "invalid choice: 'slow'"),
        (["--duration", "1", "--commands", "1"], "not allowed with argument"),
    ],
)
def test_an_option_that_cannot_be_is_refused(run: Run, words: list[str], why: str) -> None:
    code, _, error = run("client", "--results", "/x", *words)
    assert code == 2
    assert why in error


def test_results_without_a_folder_are_refused_before_the_run(run: Run, tmp_path: Path) -> None:
    code, _, error = run("client", "--results", str(tmp_path / "none" / "c1.json"))
    assert code == 1
    assert "there is no folder" in error


def test_a_server_that_cannot_start_says_why_in_one_line(run: Run) -> None:
    code, _, error = run("server", "--name", "s0")
    assert code == 1
    assert "rdht server: cannot listen on 127.0.0.1 port" in error
    code, _, error = run("server", "--name", "s9")
    assert (code, "names no server 's9'" in error) == (1, True)
