"""A run's files on a host: what is listed, what is followed, what is removed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdht.node import files
from rdht.node.host import Folders, NodeError

RUN = "20261123-141502-shelf-3fa9"
EARLY = "2026-11-23T14:15:02.000000Z INFO server pi1: early"
LATE = "2026-11-23T14:15:09.000000Z INFO server pi1: late"


@pytest.fixture
def run(folders: Folders) -> Path:
    folder = folders.run(RUN)
    folder.mkdir(parents=True)
    return folder


def listing(folders: Folders) -> dict[str, Any]:
    return files.listing(folders, {"run": RUN}, b"")


def tail(
    folders: Folders, capsys: pytest.CaptureFixture[str], *, lines: int = 100, since: str = ""
) -> list[tuple[str, str]]:
    arguments = {"run": RUN, "lines": lines, "since": since, "follow": False}
    assert files.tail(folders, arguments, b"") == {}
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(document["log"], document["line"]) for document in documents]


def test_files_are_listed_with_size_and_checksum(folders: Folders, run: Path, home: Path) -> None:
    contents = {"results.json": b"{}\n", "server.log": b"x" * 100_000, "empty.log": b""}
    for name, content in contents.items():
        (run / name).write_bytes(content)
    answer = listing(folders)
    assert home / answer["folder"] == run
    assert answer["files"] == [
        {
            "name": name,
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name, content in sorted(contents.items())
    ]


def test_records_of_processes_and_half_written_files_are_not_listed(
    folders: Folders, run: Path
) -> None:
    names = ["server.process.json", "client.progress.json", ".results.json.17", "client.log"]
    for name in names:
        (run / name).write_text("{}", encoding="utf-8")
    (run / "folder").mkdir()
    assert [row["name"] for row in listing(folders)["files"]] == ["client.log"]


def test_a_host_that_had_no_part_in_a_run_lists_nothing(folders: Folders, home: Path) -> None:
    assert listing(folders)["files"] == []


def test_size_and_checksum_are_of_the_same_bytes_while_a_log_grows(
    folders: Folders, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = run / "server.log"
    log.write_bytes(b"first\n")
    digest_of = hashlib.file_digest

    def read_and_let_grow(content: Any, name: str) -> Any:
        digest = digest_of(content, name)
        with log.open("ab") as more:
            more.write(b"second\n")
        return digest

    monkeypatch.setattr(hashlib, "file_digest", read_and_let_grow)
    (row,) = listing(folders)["files"]
    listed = log.read_bytes()[: row["size_bytes"]]
    assert hashlib.sha256(listed).hexdigest() == row["sha256"]


def test_runs_are_listed_with_their_size(folders: Folders, run: Path) -> None:
    (run / "a.log").write_bytes(b"x" * 10)
    (run / "folder").mkdir()
    (run / "folder" / "b").write_bytes(b"x" * 5)
    folders.run("another").mkdir()
    listed = files.runs(folders, {}, b"")["runs"]
    assert [(row["run"], row["size_bytes"]) for row in listed] == [(RUN, 15), ("another", 0)]
    assert listed[0]["files"] == files.listing(folders, {"run": RUN}, b"")["files"]


def test_a_new_host_has_no_runs(folders: Folders) -> None:
    assert files.runs(folders, {}, b"")["runs"] == []


def test_purge_removes_only_the_runs_that_are_named(folders: Folders, run: Path) -> None:
    (run / "a.log").write_bytes(b"x" * 10)
    other = folders.run("another")
    other.mkdir()
    (other / "b.log").write_bytes(b"y")
    assert files.purge(folders, {"runs": [RUN]}, b"") == {"freed_bytes": 10}
    assert not run.exists()
    assert (other / "b.log").read_bytes() == b"y"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../releases", "missing", f"{RUN}/folder", f"{RUN}/..", "/nowhere"]
)
def test_purge_removes_nothing_that_is_no_run(folders: Folders, run: Path, name: str) -> None:
    kept = [folders.releases / "abc" / "rdht.py", run / "folder" / "a.log"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("kept", encoding="utf-8")
    with pytest.raises((NodeError, OSError)):
        files.purge(folders, {"runs": [name]}, b"")
    assert all(path.is_file() for path in kept)


def test_tail_tells_the_last_lines_of_each_log(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "server.log").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (run / "client.0.log").write_text("four\n", encoding="utf-8")
    (run / "results.json").write_text("no log\n", encoding="utf-8")
    assert tail(folders, capsys, lines=2) == [
        ("client.0", "four"),
        ("server", "two"),
        ("server", "three"),
    ]


def test_tail_leaves_out_a_line_that_is_not_complete(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "server.log").write_bytes(b"complete\nhal")
    assert tail(folders, capsys) == [("server", "complete")]


def test_tail_survives_bytes_that_are_no_text(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "server.log").write_bytes(b"caf\xe9\n")
    assert tail(folders, capsys) == [("server", "caf\N{REPLACEMENT CHARACTER}")]


def test_tail_leaves_out_lines_before_a_moment(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "server.log").write_text(f"{EARLY}\n{LATE}\n", encoding="utf-8")
    moment = "2026-11-23T14:15:05.000000Z"
    assert tail(folders, capsys, since=moment) == [("server", LATE)]
    assert tail(folders, capsys, since=LATE[:27]) == []


def test_tail_keeps_a_traceback_together(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traceback = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: x"]
    early, late = [EARLY, *traceback], [LATE, *traceback]
    (run / "server.log").write_text("\n".join([*early, *late]) + "\n", encoding="utf-8")
    moment = "2026-11-23T14:15:05.000000Z"
    assert [line for _, line in tail(folders, capsys, since=moment)] == late


def test_tail_of_a_run_that_is_not_here_is_empty(
    folders: Folders, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tail(folders, capsys) == []


def test_follow_goes_on_behind_what_it_has_told(
    folders: Folders,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = run / "server.log"
    log.write_text("one\ntwo\nthr", encoding="utf-8")
    growth: list[Callable[[], object]] = [
        lambda: log.open("a", encoding="utf-8").close(),
        lambda: _append(log, "ee\n"),
        lambda: _append(run / "client.log", "four\nfive\n"),
    ]

    class OperatorGoneError(Exception):
        pass

    def poll(_: float) -> None:
        if not growth:
            raise OperatorGoneError
        growth.pop(0)()

    monkeypatch.setattr("rdht.node.files.time.sleep", poll)
    arguments = {"run": RUN, "lines": 1, "since": "", "follow": True}
    with pytest.raises(OperatorGoneError):
        files.tail(folders, arguments, b"")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document["line"] for document in told if document] == ["two", "three", "five"]
    assert told.count({}) == 4  # after each look, so that a connection that ended is noticed


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(text)


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_tail_goes_on_behind_what_is_known_of_each_log(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traceback = ["Traceback (most recent call last):", "ValueError: caf\N{LATIN SMALL LETTER E}"]
    (run / "server.log").write_text("\n".join([EARLY, *traceback, LATE]) + "\n", encoding="utf-8")
    arguments: dict[str, Any] = {"run": RUN, "lines": 100, "since": "", "follow": False}
    files.tail(folders, arguments, b"")
    whole = told(capsys)
    assert [row["line"] for row in whole] == [EARLY, *traceback, LATE]
    assert whole[-1]["end"] == (run / "server.log").stat().st_size
    (run / "client.log").write_text(f"{EARLY}\n", encoding="utf-8")  # is new
    for number, row in enumerate(whole):
        last = {"end": row["end"], "time": row["time"]}
        files.tail(folders, {**arguments, "lines": 1, "ends": {"server": last}}, b"")
        rest = [{"log": "client", "time": EARLY[:27], "line": EARLY, "end": len(EARLY) + 1}]
        assert told(capsys) == rest + whole[number + 1 :]


def test_tail_of_a_log_that_a_power_cut_has_shortened_tells_what_is_new(
    folders: Folders, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "server.log").write_text("kept\n", encoding="utf-8")
    known = {"server": {"end": 1000, "time": ""}}
    arguments = {"run": RUN, "lines": 1, "since": "", "follow": False, "ends": known}
    files.tail(folders, arguments, b"")
    assert told(capsys) == []
    assert [line for line, _ in files._lines(run / "server.log", 0)] == ["kept"]
