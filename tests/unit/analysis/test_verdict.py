"""A run's verdict: from its histories by the desk's clock, its replicas and its locks."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import verdict
from analysis.history import OK, UNKNOWN, VIOLATED
from rdht import history
from rdht.coordinator import Command
from rdht.execution import Outcome
from rdht.history import THE_SERVERS, Recorder
from rdht.messages import Operation
from rdht.parts import Result
from rdht.ycsb import load_commands

GET, PUT = Operation.GET, Operation.PUT
MIXED = {"history": "all", "workload": "mixed"}
REPLICAS = {"keys": 9, "differing": []}
Rows = list[tuple[float, float, Command, Result | None]]
Write = Callable[..., Path]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(history, "_monotonic_ns", lambda: round(now.s * 1e9))
    return now


@pytest.fixture
def write(tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that leaves the history of a host's client, by that host's clock."""

    def write(host: str, rows: Rows, client: str = "") -> Path:
        monkeypatch.setattr(history, "_boot_id", lambda: f"boot of {host}")
        folder = tmp_path / "hosts" / host
        folder.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(folder / "history.bin", client or host, samples=False)
        for number, (begun_s, ended_s, command, told) in enumerate(rows):
            outcome = Outcome.UNKNOWN if told is None else Outcome.DONE
            one: Any = SimpleNamespace(sequence=number, commands=[command], outcome=outcome)
            clock.s = begun_s
            recorder.begin(0, one)
            clock.s = ended_s
            recorder.end(0, one, [] if told is None else [told])
        recorder.close()
        return recorder._path

    return write


def reading(at_s: float, **hosts: tuple[float, float]) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "hosts": {
            host: {"boot_id": f"boot of {host}", "offset_s": offset_s, "error_s": error_s}
            for host, (offset_s, error_s) in hosts.items()
        },
    }


def manifest(*clocks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    names = [host for one in clocks[:1] for host in one["hosts"]]
    return {
        "clients": names,
        "clocks": list(clocks),
        "parameters": {"clients": MIXED},
        "replicas": REPLICAS,
        "unsettled": [],
        "lost_ranges": {},
        **changed,
    }


# pi1 writes from 10.000 to 10.001 s; pi2 has read nothing, by its own clock from 110.002 s on.
WRITTEN: Rows = [(10.000, 10.001, Command(PUT, b"k", b"x"), Result(True, 0))]
NOT_SEEN: Rows = [(110.002, 110.003, Command(GET, b"k"), Result(False, 0))]
STANDS: Rows = [(12.0, 12.001, Command(GET, b"k"), Result(True, 1, b"x"))]


@pytest.mark.parametrize(
    ("offset_s", "error_s", "expected"),
    [
        (100.0, 0.000_1, VIOLATED),  # it began 1 ms after the write had ended
        (100.0, 0.002, OK),  # or before that
        (100.0015, 0.000_1, OK),
        (99.0, 0.002, VIOLATED),
    ],
)
def test_histories_are_laid_side_by_side_as_far_as_the_clocks_are_known(
    tmp_path: Path, write: Write, offset_s: float, error_s: float, expected: str
) -> None:
    write("pi1", WRITTEN)
    write("pi1", STANDS, THE_SERVERS)
    write("pi2", NOT_SEEN)
    clocks = reading(9.0, pi1=(0.0, 0.0), pi2=(offset_s, error_s))
    later = reading(11.0, pi1=(0.0, 0.0), pi2=(offset_s, error_s))
    found = verdict.of(tmp_path, manifest(clocks, later))
    assert found["verdict"] == expected
    assert found["clock_error_s"] == pytest.approx(error_s)
    assert found["counts"]["commands"] == 3


def test_a_clock_that_drifted_is_known_to_within_its_drift(tmp_path: Path, write: Write) -> None:
    write("pi1", WRITTEN)
    write("pi1", STANDS, THE_SERVERS)
    write("pi2", NOT_SEEN)
    before = reading(0.0, pi1=(0.0, 0.0), pi2=(99.998, 0.0))
    after = reading(20.0, pi1=(0.0, 0.0), pi2=(100.002, 0.0))
    found = verdict.of(tmp_path, manifest(before, after))
    assert (found["verdict"], found["clock_error_s"]) == (OK, pytest.approx(0.002))


def test_a_clock_that_was_read_long_before_may_have_drifted(tmp_path: Path, write: Write) -> None:
    write("pi1", WRITTEN)
    write("pi1", STANDS, THE_SERVERS)
    write("pi2", NOT_SEEN)
    clocks = reading(-90.0, pi1=(0.0, 0.0), pi2=(100.0, 0.000_1))
    found = verdict.of(tmp_path, manifest(clocks))
    assert found["verdict"] == OK
    assert found["clock_error_s"] == pytest.approx(0.0001 + 100.002 * verdict.MAX_DRIFT, abs=1e-6)


CLOCKS = reading(0.0, pi1=(0.0, 0.0))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"clients": ["pi1", "pi2"]}, "there is no history of pi2"),
        ({"clocks": [reading(0.0)], "clients": ["pi1"]}, "pi1: the history of pi1 is left out"),
        ({}, "there is no history of the servers"),
        ({"replicas": None}, "the replicas were not compared"),
        ({"unsettled": None}, "a server was away"),
        ({"lost_ranges": {"3": ["pi4", "pi5"]}}, "range 3 was lost"),
        ({"parameters": {"clients": {**MIXED, "history": "off"}}}, "no history was kept"),
        ({"parameters": {}}, "no history was kept"),
    ],
)
def test_what_is_missing_makes_a_verdict_unknown(
    tmp_path: Path, write: Write, changed: dict[str, Any], reason: str
) -> None:
    write("pi1", WRITTEN)
    found = verdict.of(tmp_path, manifest(CLOCKS, **changed))
    assert found["verdict"] == UNKNOWN
    assert any(line.startswith(reason) for line in found["reasons"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"replicas": {"keys": 9, "differing": [{"key": "k"}]}}, "1 of 9 keys differ"),
        ({"unsettled": ["server pi2: 1 keys locked, 0 transactions in doubt"]}, "server pi2: 1"),
    ],
)
def test_what_the_servers_show_is_a_violation_by_itself(
    tmp_path: Path, write: Write, changed: dict[str, Any], reason: str
) -> None:
    write("pi1", WRITTEN)
    found = verdict.of(tmp_path, manifest(CLOCKS, **changed))
    assert found["verdict"] == VIOLATED
    assert found["reasons"][0].startswith(reason)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"replicas": None}, VIOLATED), ({"lost_ranges": {"3": ["pi4", "pi5"]}}, UNKNOWN)],
)
def test_only_what_histories_may_lack_excuses_what_they_show(
    tmp_path: Path, write: Write, changed: dict[str, Any], expected: str
) -> None:
    write("pi1", [*WRITTEN, (10.002, 10.003, Command(GET, b"k"), Result(False, 0))])
    write("pi1", STANDS, THE_SERVERS)
    assert verdict.of(tmp_path, manifest(CLOCKS))["verdict"] == VIOLATED
    assert verdict.of(tmp_path, manifest(CLOCKS, **changed))["verdict"] == expected


def test_a_key_of_which_the_servers_tell_nothing_is_not_there(tmp_path: Path, write: Write) -> None:
    write("pi1", [*WRITTEN, (10.002, 10.003, Command(PUT, b"gone", b"y"), Result(True, 0))])
    write("pi1", STANDS, THE_SERVERS)
    found = verdict.of(tmp_path, manifest(CLOCKS))
    assert found["verdict"] == VIOLATED
    (reason,) = found["reasons"]
    assert "key gone is not linearizable" in reason
    assert "the servers" in reason


@pytest.mark.parametrize(
    ("faults", "expected"),
    [([], UNKNOWN), ([{"host": "pi1", "text": "power cut of pi1"}], OK)],
)
def test_a_history_that_was_open_when_its_host_lost_power_may_lack_its_end(
    tmp_path: Path, write: Write, faults: list[dict[str, str]], expected: str
) -> None:
    path = write("pi1", WRITTEN)
    path.write_bytes(gzip.decompress(path.read_bytes()))  # as it is before it is closed
    write("pi2", [(112.0, 112.1, Command(GET, b"k"), Result(True, 1, b"x"))], THE_SERVERS)
    again = reading(20.0, pi1=(5.0, 0.0), pi2=(100.0, 0.0))
    again["hosts"]["pi1"]["boot_id"] = "another boot of pi1"
    clocks = reading(0.0, pi1=(0.0, 0.0), pi2=(100.0, 0.0))
    document = manifest(clocks, again, clients=["pi1"], faults=faults)
    found = verdict.of(tmp_path, document)
    assert found["verdict"] == expected
    lost = "pi1: the history of pi1 may lack its end: power was lost"
    assert (lost in found["reasons"]) == (expected == UNKNOWN)


def test_a_file_that_is_damaged_is_named(tmp_path: Path, write: Write) -> None:
    path = write("pi1", WRITTEN)
    path.write_bytes(struct.pack("<Q", 7))
    found = verdict.of(tmp_path, manifest(CLOCKS))
    assert found["verdict"] == UNKNOWN
    assert found["reasons"][0].startswith(str(path))


def test_records_that_were_written_before_are_known(tmp_path: Path, write: Write) -> None:
    first = next(iter(load_commands(5, 100, 7)))
    found: Rows = [(1.0, 2.0, Command(GET, first.key), Result(True, 1, first.value))]
    write("pi1", found)
    write("pi1", found, THE_SERVERS)
    options = {"history": "all", "workload": "ycsb-a", "records": 5, "value_bytes": 100, "seed": 7}
    document = manifest(CLOCKS, parameters={"clients": options})
    assert verdict.of(tmp_path, document)["verdict"] == OK
    options["seed"] = 8
    assert verdict.of(tmp_path, document)["verdict"] == VIOLATED


def test_a_verdict_is_kept_until_its_grounds_change(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("pi1", WRITTEN)
    document = manifest(CLOCKS)
    found = verdict.of(tmp_path, document)
    verdict.keep(tmp_path, document, found)
    with monkeypatch.context() as patched:
        patched.setattr(verdict, "judge", None)  # it is not called
        assert verdict.of(tmp_path, document) == found
    assert verdict.of(tmp_path, {**document, "unsettled": ["server pi1"]})["verdict"] == VIOLATED
    path.unlink()
    assert verdict.of(tmp_path, document) == found
