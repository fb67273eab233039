"""Releases on a host: verified before they have a name, flipped at once, pruned with care."""

import gzip
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rdht.node import releases
from rdht.node.host import Folders, NodeError
from rdht.node.releases import KEPT_RELEASES

Bundle = Callable[[dict[str, bytes]], tuple[dict[str, str], bytes]]

CONTENTS = {"rdht/__init__.py": b"", "rdht/node/main.py": b"print('hello')\n" * 500}


def stage(folders: Folders, release: str, files: dict[str, str], bundle: bytes) -> object:
    return releases.stage(folders, {"release": release, "files": files}, bundle)


def flip(folders: Folders, release: str | None) -> object:
    """Flip as the operator does; return what was current."""
    was = folders.linked(folders.current)
    previous = folders.linked(folders.previous) if was == release else was
    releases.flip(folders, {"release": release, "previous": previous}, b"")
    return was


def probe(folders: Folders) -> dict[str, object]:
    answer = releases.probe(folders, {}, b"")
    return {name: answer[name] for name in ("current", "previous", "staged")}


@pytest.fixture
def staged(folders: Folders, make_bundle: Bundle) -> Callable[[str], Path]:
    """Return a function that stages a release; each is a minute younger than the one before."""
    times_s = iter(range(1_000_000_000, 2_000_000_000, 60))

    def make(release: str) -> Path:
        stage(folders, release, *make_bundle(CONTENTS))
        moment_s = next(times_s)
        os.utime(folders.releases / release, (moment_s, moment_s))
        return folders.releases / release

    return make


def test_a_host_that_never_had_a_release_has_none(folders: Folders) -> None:
    assert probe(folders) == {"current": None, "previous": None, "staged": []}


def test_a_release_arrives_whole_and_is_not_current_yet(
    folders: Folders, make_bundle: Bundle
) -> None:
    stage(folders, "abc", *make_bundle(CONTENTS))
    for name, content in CONTENTS.items():
        assert (folders.releases / "abc" / name).read_bytes() == content
    assert probe(folders) == {"current": None, "previous": None, "staged": ["abc"]}


def test_staging_again_changes_nothing(folders: Folders, make_bundle: Bundle) -> None:
    stage(folders, "abc", *make_bundle(CONTENTS))
    stage(folders, "abc", *make_bundle(CONTENTS))
    assert [path.name for path in folders.releases.iterdir()] == ["abc"]


def test_what_a_broken_attempt_left_is_in_nobodys_way(
    folders: Folders, make_bundle: Bundle
) -> None:
    left = folders.releases / "abc.tmp" / "rdht"
    left.mkdir(parents=True)
    (left / "stale.py").write_text("stale", encoding="utf-8")
    assert probe(folders)["staged"] == []
    stage(folders, "abc", *make_bundle(CONTENTS))
    assert not (folders.releases / "abc" / "rdht" / "stale.py").exists()
    assert [path.name for path in folders.releases.iterdir()] == ["abc"]


def _with_member(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return gzip.compress(tar.getvalue())


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("rdht/__init__.py")
    member.type, member.linkname = kind, target
    return member


def _folder() -> tarfile.TarInfo:
    member = tarfile.TarInfo("rdht")
    member.type = tarfile.DIRTYPE
    return member


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(_with_member(tarfile.TarInfo("rdht/more.py"), b"x"), id="one file more"),
        pytest.param(_with_member(tarfile.TarInfo("../../evil.py"), b"x"), id="upwards"),
        pytest.param(_with_member(tarfile.TarInfo("/tmp/evil.py"), b"x"), id="absolute"),
        pytest.param(_with_member(_folder()), id="a folder"),
        pytest.param(_with_member(_link(tarfile.SYMTYPE, "/etc/passwd")), id="a symbolic link"),
        pytest.param(_with_member(_link(tarfile.LNKTYPE, "/etc/passwd")), id="a hard link"),
    ],
)
def test_a_bundle_with_something_else_is_refused(
    folders: Folders, make_bundle: Bundle, bundle: bytes
) -> None:
    files, _ = make_bundle(CONTENTS)
    with pytest.raises((NodeError, KeyError)):
        stage(folders, "abc", files, bundle)
    assert list(folders.releases.iterdir()) == []
    assert [path.name for path in folders.base.rglob("*")] == ["releases"]


def test_a_bundle_that_lacks_a_file_is_refused(folders: Folders, make_bundle: Bundle) -> None:
    files, _ = make_bundle(CONTENTS)
    _, bundle = make_bundle({"rdht/__init__.py": b""})
    with pytest.raises(NodeError, match=r"rdht/node/main\.py"):
        stage(folders, "abc", files, bundle)
    assert list(folders.releases.iterdir()) == []


def test_a_file_with_one_changed_byte_is_refused(folders: Folders, make_bundle: Bundle) -> None:
    files, _ = make_bundle(CONTENTS)
    changed = {**CONTENTS, "rdht/node/main.py": CONTENTS["rdht/node/main.py"][:-1] + b"\r"}
    _, bundle = make_bundle(changed)
    with pytest.raises(NodeError, match=r"rdht/node/main\.py"):
        stage(folders, "abc", files, bundle)
    assert list(folders.releases.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "empty"])
def test_a_damaged_bundle_is_refused_and_leaves_nothing(
    folders: Folders, make_bundle: Bundle, damage: str
) -> None:
    files, bundle = make_bundle(CONTENTS)
    middle = len(bundle) // 2
    flipped = bytearray(bundle)
    flipped[middle] ^= 0xFF
    damaged = {
        "cut": bundle[:middle],
        "flipped": bytes(flipped),
        "no gzip": b"x" * len(bundle),
        "empty": b"",
    }
    with pytest.raises((NodeError, OSError, EOFError, tarfile.TarError)):
        stage(folders, "abc", files, damaged[damage])
    assert list(folders.releases.iterdir()) == []


def test_a_flip_changes_current_and_remembers_the_one_before(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("one", "two"):
        staged(name)
    assert flip(folders, "one") is None
    assert flip(folders, "two") == "one"
    assert (folders.current / "rdht" / "__init__.py").is_file()
    assert folders.linked(folders.current) == "two"
    assert folders.linked(folders.previous) == "one"


def test_a_flip_to_what_is_current_keeps_the_one_before(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("one", "two"):
        staged(name)
        flip(folders, name)
    assert flip(folders, "two") == "two"
    assert folders.linked(folders.previous) == "one"


def test_a_flip_to_what_is_not_staged_changes_nothing(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    staged("one")
    flip(folders, "one")
    with pytest.raises(NodeError, match="two"):
        flip(folders, "two")
    assert folders.linked(folders.current) == "one"


def test_a_flip_to_none_takes_back_the_first_deploy_of_all(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    staged("one")
    flip(folders, "one")
    releases.flip(folders, {"release": None, "previous": None}, b"")
    assert probe(folders) == {"current": None, "previous": None, "staged": ["one"]}
    releases.flip(folders, {"release": None, "previous": None}, b"")
    assert probe(folders) == {"current": None, "previous": None, "staged": ["one"]}


def test_there_is_a_current_release_at_every_moment(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("one", "two"):
        staged(name)
    flip(folders, "one")
    seen: set[str | None] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(folders.linked(folders.current))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(100):
            flip(folders, "two")
            flip(folders, "one")
    finally:
        done.set()
        looking.join()
    assert seen <= {"one", "two"}


def test_the_five_youngest_releases_stay(folders: Folders, staged: Callable[[str], Path]) -> None:
    names = [f"r{number}" for number in range(KEPT_RELEASES + 3)]
    for name in names:
        staged(name)
    flip(folders, names[-1])
    assert KEPT_RELEASES == 5
    assert sorted(path.name for path in folders.releases.iterdir()) == names[-5:]


def test_the_current_and_the_previous_release_stay_however_old(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("oldest", "old"):
        staged(name)
        flip(folders, name)
    for name in ("oldest", "old"):
        os.utime(folders.releases / name, (1, 1))
    for number in range(KEPT_RELEASES + 2):
        staged(f"r{number}")
    flip(folders, "old")
    os.utime(folders.releases / "old", (1, 1))
    flip(folders, "old")
    left = {path.name for path in folders.releases.iterdir()}
    assert {"oldest", "old"} <= left
    assert "r0" not in left


def test_a_release_that_processes_were_started_from_stays(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    names = [f"r{number}" for number in range(KEPT_RELEASES + 3)]
    for name in names:
        staged(name)
    run = folders.run("some-run")
    run.mkdir(parents=True)
    record = json.dumps({"release": "r1"})
    (run / "server.process.json").write_text(record, encoding="utf-8")
    flip(folders, names[-1])
    assert sorted(path.name for path in folders.releases.iterdir()) == ["r1", *names[-5:]]


def test_a_torn_record_of_a_process_fails_no_flip(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("one", "two"):
        staged(name)
    flip(folders, "one")
    run = folders.run("some-run")
    run.mkdir(parents=True)
    (run / "server.process.json").write_text("", encoding="utf-8")  # the disk was full
    flip(folders, "two")
    assert folders.linked(folders.current) == "two"


def test_a_rollback_makes_the_older_release_current_and_young(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    for name in ("one", "two"):
        staged(name)
        flip(folders, name)
        os.utime(folders.releases / name, (1_000_000_000, 1_000_000_000))
    flip(folders, "one")
    assert folders.linked(folders.current) == "one"
    assert folders.linked(folders.previous) == "two"
    assert probe(folders)["staged"] == ["two", "one"]


def test_what_is_half_removed_is_no_release(
    folders: Folders, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"r{number}" for number in range(KEPT_RELEASES + 1)]
    for name in names:
        staged(name)

    class PowerCutError(Exception):
        pass

    def cut(path: Path, **_: bool) -> None:
        (path / "rdht" / "__init__.py").unlink()
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut)
        with pytest.raises(PowerCutError):
            flip(folders, names[-1])
    assert folders.linked(folders.current) == names[-1]
    assert "r0" not in releases.probe(folders, {}, b"")["staged"]
    flip(folders, names[-1])
    assert sorted(path.name for path in folders.releases.iterdir()) == names[1:]


def test_an_old_release_that_cannot_be_removed_fails_no_flip(
    folders: Folders, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"r{number}" for number in range(KEPT_RELEASES + 1)]
    for name in names:
        staged(name)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    flip(folders, names[-1])
    assert folders.linked(folders.current) == names[-1]
    assert (folders.releases / "r0").is_dir()


def test_a_clock_that_went_back_removes_nothing_that_is_needed(
    folders: Folders, staged: Callable[[str], Path]
) -> None:
    names = [f"r{number}" for number in range(KEPT_RELEASES + 1)]
    for name in names:
        staged(name)
    flip(folders, names[-2])
    os.utime(folders.releases / names[-1], (0, 0))  # was staged in 1970
    flip(folders, names[-1])
    os.utime(folders.releases / names[-1], (0, 0))
    flip(folders, names[-1])
    assert folders.linked(folders.current) == names[-1]
    assert folders.linked(folders.previous) == names[-2]


def test_a_flip_is_on_the_disk_before_its_lock_goes(
    folders: Folders, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged("one")
    lock = folders.base / "deploy.lock"
    releases.probe(folders, {"wanted": {"current": "one"}, "lock": {"token": "t"}}, b"")
    seen: list[tuple[str | None, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda _: seen.append((folders.linked(folders.current), lock.exists()))
    )
    releases.flip(folders, {"release": "one", "previous": None, "lock": "t"}, b"")
    assert seen == [("one", True)]
    assert not lock.exists()


def test_a_full_disk_takes_no_lock_and_says_where(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match=r"No space left on device: .*deploy\.lock"):
        releases.probe(folders, {"wanted": {"current": "one"}, "lock": {"token": "t"}}, b"")
