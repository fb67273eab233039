"""The history of a client: every row comes back, whatever became of the process."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import history
from rdht.coordinator import Command
from rdht.errors import ConfigurationError
from rdht.execution import Outcome
from rdht.history import Recorder, is_sampled, read
from rdht.messages import Operation
from rdht.parts import Result
from rdht.scan import hash_value

GET, PUT, CAS = Operation.GET, Operation.PUT, Operation.CAS
COMMANDS = st.builds(
    Command,
    st.sampled_from([GET, PUT, CAS, Operation.ADD, Operation.DELETE]),
    st.binary(min_size=1, max_size=20),
    st.binary(max_size=20),
    st.integers(0, 2**64 - 1),
)


def execution(
    sequence: int,
    commands: Sequence[Command],
    outcome: Outcome = Outcome.DONE,
    results: Sequence[Result] = (),
) -> Any:
    """Stand for a command that was carried out."""
    return SimpleNamespace(
        sequence=sequence, commands=commands, outcome=outcome, results=lambda: list(results)
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "history.bin", "pi1", samples=False)


def test_what_was_told_comes_back_with_its_times(recorder: Recorder, tmp_path: Path) -> None:
    got = execution(1, [Command(GET, b"a")], results=[Result(True, 7, b"x")])
    put = execution(1, [Command(PUT, b"a", b"y")], results=[Result(True, 7)])
    for thread, one in enumerate([got, put]):
        recorder.begin(thread, one)
    for thread, one in reversed(list(enumerate([got, put]))):
        recorder.end(thread, one, one.results())
    recorder.close()
    found = read(tmp_path / "history.bin")
    assert (found.client, found.is_sample, found.is_cut) == ("pi1", False, False)
    second, first = found.entries
    assert first.commands == (Command(GET, b"a"),)
    assert first.told == (Result(True, 7, hash_value(b"x")),)
    assert second.commands == (Command(PUT, b"a", hash_value(b"y")),)
    assert second.told == (Result(True, 7),)
    assert first.begun_ns <= second.begun_ns <= (second.ended_ns or 0) <= (first.ended_ns or 0)


@pytest.mark.parametrize("outcome", [Outcome.ABORTED, Outcome.UNKNOWN])
def test_what_was_not_done_has_an_end_and_was_told_nothing(
    recorder: Recorder, tmp_path: Path, outcome: Outcome
) -> None:
    one = execution(3, [Command(PUT, b"a", b"y")], outcome)
    recorder.begin(0, one)
    recorder.end(0, one, one.results())
    recorder.close()
    (entry,) = read(tmp_path / "history.bin").entries
    assert (entry.outcome, entry.told) == (outcome, ())
    assert entry.ended_ns


def test_a_command_on_many_keys_is_one_entry(recorder: Recorder, tmp_path: Path) -> None:
    commands = [Command(GET, b"b"), Command(GET, b"a")]
    results = [Result(True, 1, b"x"), Result(False, 0)]  # in order of the keys
    recorder.begin(0, execution(1, commands))
    recorder.end(0, execution(1, commands), results)
    recorder.close()
    (entry,) = read(tmp_path / "history.bin").entries
    assert [command.key for command in entry.commands] == [b"a", b"b"]
    assert entry.told == (Result(True, 1, hash_value(b"x")), Result(False, 0))


def test_what_is_only_known_to_be_done_was_told_nothing(recorder: Recorder, tmp_path: Path) -> None:
    commands = [Command(PUT, b"a", b"x"), Command(PUT, b"b", b"y")]
    recorder.begin(0, execution(1, commands))
    recorder.end(0, execution(1, commands), [Result(True, 1)])
    recorder.close()
    (entry,) = read(tmp_path / "history.bin").entries
    assert (entry.outcome, entry.told) == (Outcome.DONE, ())


def test_a_sample_has_all_of_its_keys_and_nothing_of_others(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.bin", "pi1", samples=True)
    keys = [b"key%d" % number for number in range(400)]
    for number, key in enumerate(keys, start=1):
        commands = [Command(GET, key), Command(GET, b"a" + key)]
        results = [Result(False, 0), Result(False, number)]
        recorder.begin(0, execution(number, commands))
        recorder.end(0, execution(number, commands), results)
    recorder.close()
    found = read(tmp_path / "history.bin")
    kept = {one.key: told for entry in found.entries for one, told in _pairs(entry)}
    assert kept.keys() == {key for each in keys for key in (each, b"a" + each) if is_sampled(key)}
    assert 10 < len(kept) < 100
    for key, told in kept.items():
        # The results are in order of the keys, and those with an "a" come first.
        assert told.version == (0 if key.startswith(b"a") else keys.index(key) + 1)


def _pairs(entry: history.Entry) -> list[tuple[Command, Result]]:
    return list(zip(entry.commands, entry.told, strict=True))


def test_a_file_grows_and_is_read_before_it_is_closed(recorder: Recorder, tmp_path: Path) -> None:
    key = b"k" * 1024
    for number in range(3000):  # 3 MiB
        recorder.begin(0, execution(number, [Command(GET, key)]))
    found = read(tmp_path / "history.bin")
    assert len(found.entries) == 3000
    assert {entry.outcome for entry in found.entries} == {None}
    assert not found.is_closed
    recorder.close()
    assert read(tmp_path / "history.bin") == found._replace(is_closed=True)
    assert (tmp_path / "history.bin").stat().st_size < 200_000  # compressed


def test_a_history_that_no_room_is_left_to_compress_stays_as_it_is(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.begin(0, execution(1, [Command(GET, b"k")]))

    def full(path: Path, *_words: Any, **_more: Any) -> NoReturn:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rdht.history.gzip.open", full)
    recorder.close()
    assert [entry.commands for entry in read(tmp_path / "history.bin").entries] == [
        (Command(GET, b"k"),)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["history.bin"]


def test_a_full_disk_cuts_the_history_and_not_the_client(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(3000):
        recorder.begin(0, execution(number, [Command(GET, b"k" * 1024)]))
    recorder.close()
    found = read(tmp_path / "history.bin")
    assert found.is_cut
    assert 900 < len(found.entries) < 1024


def test_nothing_is_written_over(recorder: Recorder, tmp_path: Path) -> None:
    Recorder(tmp_path / "history.bin", "pi1", samples=False).close()
    recorder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.1.bin", "history.bin"]


def test_what_was_begun_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from rdht.coordinator import Command
from rdht.history import Recorder
from rdht.messages import Operation
recorder = Recorder(Path({str(tmp_path / "history.bin")!r}), "pi1", samples=False)
one = SimpleNamespace(sequence=5, commands=[Command(Operation.PUT, b"a", b"x")])
recorder.begin(2, one)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    (entry,) = read(tmp_path / "history.bin").entries
    assert (entry.thread, entry.ended_ns, entry.outcome) == (2, None, None)


@given(st.lists(st.tuples(COMMANDS, st.booleans(), st.integers(0, 2**64 - 1)), max_size=20))
def test_every_command_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Command, bool, int]]
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.bin"
    recorder = Recorder(path, "pi1", samples=False)
    for number, (command, found, version) in enumerate(rows):
        value = b"v" if command.operation is GET and found else b""
        one = execution(number, [command], results=[Result(found, version, value)])
        recorder.begin(0, one)
        recorder.end(0, one, one.results())
    recorder.close()
    for entry, (command, found, version) in zip(read(path).entries, rows, strict=True):
        value = hash_value(command.value) if command.value else b""
        assert entry.commands == (command._replace(value=value),)
        told = hash_value(b"v") if command.operation is GET and found else b""
        assert entry.told == (Result(found, version, told),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a history"),
        (b"rdht history 1\n{}\n", "damaged"),
        (b"rdht history 1\n", "damaged"),
        (b"\x1f\x8b\x08broken", "cannot read"),
    ],
)
def test_what_is_no_history_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "history.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        read(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        read(tmp_path / "missing.bin")
