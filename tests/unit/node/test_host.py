"""Folders, JSON files that are there whole or not at all, and who a process is."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rdht.node.host import (
    Folders,
    boot_id,
    exclusively,
    explain,
    read_json,
    start_ticks,
    write_json,
)

ROOT = Path(__file__).parents[3]


def test_a_cluster_keeps_everything_below_its_own_folder(home: Path) -> None:
    folders = Folders("lab")
    base = home / "rdht" / "lab"
    assert folders.base == base
    places = [folders.releases, folders.runs, folders.current, folders.previous]
    assert [place.parent for place in places] == [base] * 4
    assert folders.run("r1") == base / "runs" / "r1"


def test_a_link_names_its_release_only_if_that_is_there(folders: Folders) -> None:
    assert folders.linked(folders.current) is None
    release = folders.releases / "abc"
    release.mkdir(parents=True)
    folders.current.symlink_to(release)
    assert folders.linked(folders.current) == "abc"
    release.rmdir()
    assert folders.linked(folders.current) is None


def test_json_is_replaced_whole_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    with path.open(encoding="utf-8") as reader:  # as one who reads while it is replaced
        write_json(path, {"new": "é"})
        assert reader.read() == '{"old": 1}\n'
    assert read_json(path) == {"new": "é"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_document_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read_json(path) == {"old": 1}


@pytest.mark.parametrize("text", [None, "", "{", '{"a": ', "[1]", "7", "null"])
def test_what_is_no_json_object_reads_as_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert read_json(path) is None


def test_the_boot_id_stays_the_same() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


def test_a_running_process_has_a_start_time_and_keeps_it() -> None:
    own = start_ticks(os.getpid())
    assert own is not None
    assert own == start_ticks(os.getpid())
    before_us = start_ticks(os.getppid())
    assert before_us is not None
    assert before_us <= own


def test_a_process_that_is_gone_has_none(until: Callable[[Callable[[], bool]], None]) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    stat = Path(f"/proc/{child.pid}/stat")
    until(lambda: stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")
    assert start_ticks(child.pid) is None, "a zombie counts as gone"
    child.wait()
    assert start_ticks(child.pid) is None


def test_a_name_with_brackets_and_spaces_confuses_nobody(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        plain = subprocess.Popen(["/bin/sleep", "60"])
        try:
            odd_ticks, plain_ticks = start_ticks(child.pid), start_ticks(plain.pid)
        finally:
            plain.kill()
            plain.wait()
    finally:
        child.kill()
        child.wait()
    assert odd_ticks is not None
    assert plain_ticks is not None
    assert 0 <= plain_ticks - odd_ticks < 1000


def test_a_process_that_is_hidden_from_us_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(*_: object, **__: object) -> str:
        raise PermissionError(1, "Operation not permitted")  # as with hidepid=1

    monkeypatch.setattr(Path, "read_text", hide)
    assert start_ticks(os.getpid()) is None


def refusal(number: int, path: Path) -> str:
    return explain(OSError(number, os.strerror(number), str(path)))


def test_a_refusal_of_the_file_system_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rdht" / "lab"
    full = refusal(errno.ENOSPC, path)
    assert full.startswith(f"No space left on device: {path}; ")
    assert full.endswith("MB are free there: fab clean removes collected runs")
    assert "mount it writable" in refusal(errno.EROFS, path)
    tmp_path.chmod(0o510)
    denied = refusal(errno.EACCES, path)
    assert f"{path}; {tmp_path} belongs to {tmp_path.owner()}, mode 510, and this is" in denied
    assert refusal(errno.ENOTDIR, path) == f"Not a directory: {path}"
    assert explain(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_an_owner_without_a_name_is_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert f"belongs to user {os.getuid()}, " in refusal(errno.EACCES, tmp_path)


def test_a_full_disk_is_named_and_keeps_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_text

    def fill(path: Path, text: str, **named: str) -> None:
        whole(path, text[:3], **named)
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match=str(path)):
        write_json(path, {"new": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path) == {"old": 1}


def test_what_is_done_exclusively_is_done_by_one(folders: Folders) -> None:
    program = "from rdht.node.host import *\nwith exclusively(Folders('shelf')): print('in')"
    with exclusively(folders):
        other = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.communicate(timeout=0.5)
    assert other.communicate(timeout=20)[0] == "in\n"
