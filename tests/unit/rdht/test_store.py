import contextlib
import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.errors import StorageError
from rdht.limits import MAX_RECORD_BYTES, SNAPSHOT_WRITE_BYTES
from rdht.store import Store

PATIENCE_S = 10.0
HEADER_BYTES = 40
FRAME_BYTES = 16
CALLS = ["mkdir", "open", "write", "ftruncate", "fsync", "fdatasync", "rename", "unlink"]
BATCHES = [[b"one", b"two" * 9], [b"\0" * 12], [b"f", b"five", b"six"]]
RECORDS = [record for batch in BATCHES for record in batch]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Store, list[bytes]]]:
    with contextlib.closing(Store(folder)) as store:
        yield store, list(store.recover())


def recovered(folder: Path) -> list[bytes]:
    with opened(folder) as (_, records):
        return records


def add(store: Store, *records: bytes) -> None:
    for record in records:
        store.append(record)
    store.sync()


def take_snapshot(store: Store, *records: bytes) -> None:
    store.write_snapshot(store.begin_snapshot(), records)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def log_of(folder: Path, number: int = 1) -> Path:
    return folder / f"log-{number:010}"


def with_file(folder: Path, copy: Path, name: str, content: bytes) -> Path:
    """Copy a folder with one file's content replaced."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / name).write_bytes(content)
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def batches(folder: Path) -> Path:
    """Return a folder with a log of three batches."""
    with opened(folder) as (store, _):
        for batch in BATCHES:
            add(store, *batch)
    return folder


@pytest.fixture
def break_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], list[int]]:
    def install(name: str, error: BaseException) -> list[int]:
        calls = []

        def fail(descriptor: int, *_: object) -> int:
            calls.append(descriptor)
            raise error

        monkeypatch.setattr(os, name, fail)
        return calls

    return install


def test_what_was_synced_comes_back_in_order(folder: Path) -> None:
    with opened(folder) as (store, records):
        assert (store.fresh, store.torn_bytes, store.failed, records) == (True, 0, None, [])
        add(store, b"one", b"two")
        add(store)
        add(store, b"three")
        store.append(b"never synced")
    with opened(folder) as (store, records):
        assert (store.fresh, store.torn_bytes) == (False, 0)
        assert records == [b"one", b"two", b"three"]
        add(store, b"four")
    assert recovered(folder) == [b"one", b"two", b"three", b"four"]


@given(st.lists(st.lists(st.binary(min_size=1, max_size=50))), st.integers(0, 9))
def test_any_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], snapshot_after: int
) -> None:
    folder = tmp_path_factory.mktemp("any") / "store"
    kept: list[bytes] = []
    for number, batch in enumerate(batches):
        with opened(folder) as (store, records):
            assert records == kept
            add(store, *batch)
            kept += batch
            if number == snapshot_after:
                kept = [b"".join(kept) or b"nothing"]
                take_snapshot(store, *kept)
    assert recovered(folder) == kept


def test_only_its_owner_may_read_it(folder: Path) -> None:
    with opened(folder) as (store, _):
        take_snapshot(store, b"all")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_second_store_is_refused_until_the_first_is_closed(folder: Path) -> None:
    with opened(folder) as (store, _):
        with pytest.raises(StorageError, match="store: another process has this store open"):
            Store(folder)
        add(store, b"one")
    assert recovered(folder) == [b"one"]


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        Store(tmp_path / "missing" / "store")


def test_nothing_is_appended_before_recover_has_ended_nor_after_close(folder: Path) -> None:
    store = Store(folder)
    with pytest.raises(StorageError, match="not recovered"):
        store.append(b"early")
    store.close()
    for call in (store.sync, store.begin_snapshot):
        with pytest.raises(StorageError):
            call()
    with opened(folder) as (store, _):
        pass
    with pytest.raises(StorageError, match="closed"):
        store.append(b"late")


def test_a_record_too_large_or_empty_is_refused_and_nothing_else(folder: Path) -> None:
    largest = b"x" * MAX_RECORD_BYTES
    with opened(folder) as (store, _):
        for record in (b"", largest + b"x"):
            with pytest.raises(StorageError, match=f"of {len(record)} bytes, not 1 to"):
                store.append(record)
            with pytest.raises(StorageError, match=f"of {len(record)} bytes, not 1 to"):
                take_snapshot(store, record)
        add(store, largest)
    assert recovered(folder) == [largest]


def test_a_cut_anywhere_leaves_the_records_before_it(
    batches: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = log_of(batches).read_bytes()
    ends = [HEADER_BYTES]
    for record in RECORDS:
        ends.append(ends[-1] + FRAME_BYTES + len(record))
    assert ends[-1] == len(content)
    for cut in range(HEADER_BYTES, len(content) + 1):
        copy = with_file(batches, tmp_path / "copy", log_of(batches).name, content[:cut])
        whole = sum(end <= cut for end in ends) - 1
        caplog.clear()
        with opened(copy) as (store, records):
            assert records == RECORDS[:whole]
            assert store.torn_bytes == cut - ends[whole]
            cut_off = f"cut off {store.torn_bytes} bytes of an unfinished write"
            line = f"{log_of(copy)}: {cut_off} after byte {ends[whole]}"
            assert caplog.messages == ([line] if store.torn_bytes else [])
            add(store, b"more")
        assert recovered(copy) == [*records, b"more"]


def test_a_spoilt_byte_is_damage_unless_it_is_in_the_last_batch(
    batches: Path, tmp_path: Path
) -> None:
    content = log_of(batches).read_bytes()
    last_batch = len(content) - sum(FRAME_BYTES + len(record) for record in BATCHES[-1])
    for at in range(len(content)):
        spoilt = bytearray(content)
        spoilt[at] ^= 0x5A
        copy = with_file(batches, tmp_path / "copy", log_of(batches).name, bytes(spoilt))
        if at < last_batch:
            with pytest.raises(
                StorageError, match=r"log-0000000001: .*byte \d+.*; move the folder"
            ):
                recovered(copy)
            assert log_of(copy).read_bytes() == spoilt
        else:
            records = recovered(copy)
            assert records == RECORDS[: len(records)]
            assert len(records) >= 3


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_a_log_is_never_shorter_than_its_header(batches: Path, length: int) -> None:
    os.truncate(log_of(batches), length)
    with pytest.raises(StorageError, match="not the header of log 1 in format 1"):
        recovered(batches)


def test_a_batch_whose_later_part_alone_reached_the_disk_is_torn(folder: Path) -> None:
    with opened(folder) as (store, _):
        add(store, b"synced")
        start = log_of(folder).stat().st_size
        add(store, b"first", b"second", b"third")
    content = bytearray(log_of(folder).read_bytes())
    content[start : start + FRAME_BYTES + 5] = bytes(FRAME_BYTES + 5)
    log_of(folder).write_bytes(content)
    with opened(folder) as (store, records):
        assert records == [b"synced"]
        assert store.torn_bytes == len(content) - start


def test_a_zeroed_tail_is_no_record(batches: Path) -> None:
    with log_of(batches).open("ab") as file:
        file.write(bytes(5000))
    with opened(batches) as (store, records):
        assert records == RECORDS
        assert store.torn_bytes == 5000


def test_another_log_inside_a_torn_value_is_not_taken_for_records(
    batches: Path, tmp_path: Path
) -> None:
    value = log_of(batches).read_bytes()
    with opened(tmp_path / "other") as (store, _):
        add(store, b"synced")
        add(store, b"x" + value + b"x")
    log = log_of(tmp_path / "other")
    os.truncate(log, log.stat().st_size - 1)
    assert recovered(tmp_path / "other") == [b"synced"]


def test_a_snapshot_replaces_what_was_before_it(folder: Path) -> None:
    large = b"x" * (SNAPSHOT_WRITE_BYTES // 2)
    with opened(folder) as (store, _):
        add(store, b"one", b"two")
        store.append(b"three")
        assert store.log_bytes == HEADER_BYTES + 3 * FRAME_BYTES + 11
        number = store.begin_snapshot()
        assert store.log_bytes == 0
        store.append(b"four")
        add(store, b"five")
        store.write_snapshot(number, iter([b"all", large, large, large]))
        add(store, b"six")
        assert store.log_bytes == 3 * FRAME_BYTES + 11
    after = ["lock", "log-0000000002", "snapshot-0000000002"]
    assert names(folder) == after
    with opened(folder) as (store, records):
        assert records == [b"all", large, large, large, b"four", b"five", b"six"]
        assert store.log_bytes == log_of(folder, 2).stat().st_size
        take_snapshot(store)
        add(store, b"seven")
    assert recovered(folder) == [b"seven"]
    assert names(folder) == ["lock", "log-0000000003", "snapshot-0000000003"]


def test_a_snapshot_given_up_leaves_the_logs(folder: Path) -> None:
    def records() -> Iterator[bytes]:
        yield b"half"
        raise KeyError

    with opened(folder) as (store, _):
        add(store, b"one")
        with pytest.raises(KeyError):
            store.write_snapshot(store.begin_snapshot(), records())
        add(store, b"two")
    assert names(folder) == ["lock", "log-0000000001", "log-0000000002"]
    with opened(folder) as (store, found):
        assert found == [b"one", b"two"]
        store.begin_snapshot()
        store.begin_snapshot()
        add(store, b"three")
    assert recovered(folder) == [b"one", b"two", b"three"]


def test_a_snapshot_cut_or_spoilt_anywhere_is_damage(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as (store, _):
        take_snapshot(store, b"one", b"two")
    name = "snapshot-0000000002"
    content = (folder / name).read_bytes()
    second = HEADER_BYTES + FRAME_BYTES + 3
    without_one = content[:HEADER_BYTES] + content[second:]
    spoilt = [without_one, content + b"x", content + content[second:]]
    for at in range(len(content)):
        spoilt += [content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]]
    for changed in spoilt:
        copy = with_file(folder, tmp_path / "copy", name, changed)
        with pytest.raises(StorageError, match=rf"{name}: .*byte \d+.*; move the folder"):
            recovered(copy)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_log_is_damage(folder: Path, missing: int) -> None:
    with opened(folder) as (store, _):
        add(store, b"one")
        for record in (b"two", b"three"):
            store.begin_snapshot()
            add(store, record)
    log_of(folder, missing).unlink()
    with pytest.raises(StorageError, match=r"store: has the logs \[.*3\], not all from 1 on"):
        recovered(folder)


def test_a_snapshot_without_its_log_is_damage(folder: Path) -> None:
    with opened(folder) as (store, _):
        take_snapshot(store, b"one")
    log_of(folder, 2).unlink()
    with pytest.raises(StorageError, match=r"has the logs \[\], not all from 2 on"):
        recovered(folder)


def test_a_torn_end_of_a_log_that_another_follows_is_damage(folder: Path) -> None:
    with opened(folder) as (store, _):
        add(store, b"one")
        store.begin_snapshot()
        add(store, b"two")
    os.truncate(log_of(folder), HEADER_BYTES + FRAME_BYTES)
    with contextlib.closing(Store(folder)) as store:
        with pytest.raises(StorageError, match=f"log-0000000001: damaged at byte {HEADER_BYTES}"):
            list(store.recover())
        assert store.failed is not None
        with pytest.raises(StorageError, match="log-0000000001: damaged"):
            store.append(b"more")


@pytest.mark.parametrize(
    ("call", "error"), [("write", errno.ENOSPC), ("fdatasync", errno.EIO), ("write", errno.EIO)]
)
def test_a_failed_sync_is_final(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_disk: Callable[[str, BaseException], list[int]],
    call: str,
    error: int,
) -> None:
    with opened(folder) as (store, _):
        add(store, b"one")
        store.append(b"two")
        calls = break_disk(call, OSError(error, os.strerror(error)))
        why = f"{log_of(folder)}: {os.strerror(error)}"
        actions: list[Callable[[], None]] = [
            store.sync,
            store.sync,
            lambda: store.append(b"three"),
            lambda: store.write_snapshot(2, [b"all"]),
        ]
        for action in actions:
            with pytest.raises(StorageError, match=why):
                action()
        assert store.failed == why
        assert len(calls) == 1
        monkeypatch.undo()
        with pytest.raises(StorageError, match=why):
            store.sync()
        assert not store.is_doubtful
    assert recovered(folder) == [b"one"]


@pytest.mark.parametrize("writes", range(4))
def test_nothing_is_left_of_a_failed_sync_of_two_logs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    write, left = os.write, [writes]

    def fail_later(descriptor: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with opened(folder) as (store, _):
        add(store, b"one")
        store.append(b"two")
        store.begin_snapshot()
        store.append(b"three")
        monkeypatch.setattr(os, "write", fail_later)
        with contextlib.suppress(StorageError):
            store.sync()
        assert (store.failed is None) == (writes == 3)
        assert not store.is_doubtful
    assert recovered(folder) == [b"one", b"two", b"three"][: None if writes == 3 else 1]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_log_that_cannot_be_cut_back_is_doubtful(
    folder: Path, break_disk: Callable[[str, BaseException], list[int]], call: str
) -> None:
    with opened(folder) as (store, _):
        store.append(b"one")
        broken = OSError(errno.EIO, os.strerror(errno.EIO))
        break_disk("fdatasync", broken)
        break_disk(call, broken)
        with pytest.raises(StorageError):
            store.sync()
        assert store.is_doubtful


def test_a_snapshot_that_cannot_be_written_is_final_and_loses_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_disk: Callable[[str, BaseException], list[int]],
) -> None:
    with opened(folder) as (store, _):
        add(store, b"one")
        number = store.begin_snapshot()
        add(store, b"two")
        break_disk("write", OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(StorageError, match="snapshot-0000000002: No space left on device"):
            store.write_snapshot(number, [b"all"])
        with pytest.raises(StorageError, match="No space left"):
            store.append(b"three")
        monkeypatch.undo()
    assert names(folder) == ["lock", "log-0000000001", "log-0000000002"]
    assert recovered(folder) == [b"one", b"two"]


def test_a_sync_that_ends_otherwise_is_final_too(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_disk: Callable[[str, BaseException], list[int]],
) -> None:
    with opened(folder) as (store, _):
        store.append(b"one")
        break_disk("write", MemoryError())
        with pytest.raises(MemoryError):
            store.sync()
        monkeypatch.undo()
        with pytest.raises(StorageError, match="sync ended by MemoryError"):
            store.sync()


def test_short_writes_are_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    with opened(folder) as (store, _):
        add(store, b"one" * 20, b"two")
    assert recovered(folder) == [b"one" * 20, b"two"]


def test_what_is_appended_during_a_sync_goes_into_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def slow(descriptor: int) -> None:
        reached.set()
        assert go_on.wait(PATIENCE_S)
        fdatasync(descriptor)

    with opened(folder) as (store, _):
        store.append(b"one")
        monkeypatch.setattr(os, "fdatasync", slow)
        thread = threading.Thread(target=store.sync)
        thread.start()
        assert reached.wait(PATIENCE_S)
        store.append(b"two")
        store.begin_snapshot()
        store.append(b"three")
        go_on.set()
        thread.join(PATIENCE_S)
        shutil.copytree(folder, folder.with_name("between"))
        store.sync()
    assert recovered(folder.with_name("between")) == [b"one"]
    assert recovered(folder) == [b"one", b"two", b"three"]


def test_many_threads_append_while_one_syncs_and_one_takes_snapshots(folder: Path) -> None:
    state: list[bytes] = []
    lock = threading.Lock()  # the server's
    done = threading.Event()

    def append(thread: int) -> None:
        for number in range(500):
            with lock:
                state.append(b"%d %d" % (thread, number))
                store.append(state[-1])

    def sync() -> None:
        while not done.is_set():
            store.sync()

    def snapshot() -> None:
        while not done.is_set():
            with lock:
                number, records = store.begin_snapshot(), state.copy()
            store.write_snapshot(number, records)

    with opened(folder) as (store, _):
        helpers = [threading.Thread(target=target) for target in (sync, snapshot)]
        appenders = [threading.Thread(target=append, args=(thread,)) for thread in range(4)]
        for thread in helpers + appenders:
            thread.start()
        for thread in appenders:
            thread.join(PATIENCE_S)
        done.set()
        for thread in helpers:
            thread.join(PATIENCE_S)
        store.sync()
    assert len(state) == 2000
    assert recovered(folder) == state


class PowerCutError(BaseException):
    """The machine stops: this system call and all later ones do not happen."""


class Machine:
    """Stop a store before one of its system calls, and say what may be on disk then.

    Certainly on disk are a file's bytes as of its last sync, and a folder's names as of its last;
    whatever came later may be there or not.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls_left: int) -> None:
        self.calls_left = calls_left
        self.files: dict[int, int] = {}  # inode to a descriptor, so that no number is used twice
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        for name in CALLS:
            monkeypatch.setattr(os, name, self.limited(name, getattr(os, name)))

    def limited(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self.calls_left:
                raise PowerCutError
            self.calls_left -= 1
            result = real(*args, **options)
            if name == "open" and (inode := os.fstat(result).st_ino) not in self.files:
                self.files[inode] = real(f"/proc/self/fd/{result}", os.O_RDONLY)
            elif name in {"fsync", "fdatasync"}:
                self.synced(os.fstat(args[0]).st_ino, Path(f"/proc/self/fd/{args[0]}"))
            return result

        return call

    def synced(self, inode: int, path: Path) -> None:
        if path.is_dir():
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[inode] = path.read_bytes()

    def write_disk(self, folder: Path, to: Path, late: set[str]) -> None:
        """Write what is on disk into another folder; of the unsynced that which is in `late`."""
        if "names" in late:
            for path in (folder.parent, folder):
                if path.exists():
                    self.synced(path.stat().st_ino, path)
        if "contents" in late:
            for inode, descriptor in self.files.items():
                path = Path(f"/proc/self/fd/{descriptor}")
                if path.is_file():
                    self.synced(inode, path)
        found = self.names.get(folder.parent.stat().st_ino, {}).get(folder.name)
        if found is not None:
            to.mkdir()
            for name, file in self.names.get(found, {}).items():
                (to / name).write_bytes(self.contents.get(file, b""))

    def close(self) -> None:
        for descriptor in self.files.values():
            os.close(descriptor)


def live(folder: Path, appended: list[bytes], synced: list[bytes]) -> None:
    """Do all that a store can, twice; keep up what was appended, and what surely is on disk."""
    for life in (b"a", b"b"):
        with contextlib.closing(Store(folder)) as store:
            appended[:] = store.recover()
            assert appended == synced

            def append(name: bytes, life: bytes = life, store: Store = store) -> None:
                appended.append(life + name)
                store.append(life + name)

            for number in (b"0", b"1"):
                append(number + b" first")
                store.sync()
                synced[:] = appended
                append(number + b" before the snapshot")
                snapshot, records = store.begin_snapshot(), appended.copy()
                append(number + b" after it began")
                if number == b"1":  # else the snapshot's own sync is the first
                    store.sync()
                    synced[:] = appended
                store.write_snapshot(snapshot, records)
                synced[:] = appended
        with max(folder.glob("log-*")).open("ab") as file:
            file.write(b"torn")


@pytest.mark.parametrize("late", [set(), {"names"}, {"contents"}, {"names", "contents"}])
def test_a_power_cut_before_any_system_call_loses_and_doubles_nothing(
    tmp_path: Path, late: set[str]
) -> None:
    ended = False
    cuts = 0
    while not ended:
        folder, disk = tmp_path / f"{cuts}" / "store", tmp_path / f"{cuts} disk" / "store"
        folder.parent.mkdir()
        disk.parent.mkdir()
        appended: list[bytes] = []
        synced: list[bytes] = []
        with pytest.MonkeyPatch.context() as monkeypatch:
            machine = Machine(monkeypatch, cuts)
            with contextlib.suppress(PowerCutError):
                live(folder, appended, synced)
                ended = True
        machine.write_disk(folder, disk, late)
        machine.close()
        with opened(disk) as (store, records):
            assert len(records) >= len(synced)
            # While `recover` runs, nothing is appended yet, and all that was synced is there.
            assert records == (appended or synced)[: len(records)]
            add(store, b"more")
        assert recovered(disk) == [*records, b"more"]
        assert not list(disk.glob("*.tmp"))
        assert len(list(disk.glob("snapshot-*"))) <= 1
        cuts += 1
    assert cuts > 100


def test_what_recover_found_is_on_disk_before_it_counts(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Written by a process that ended, it may so far have been in memory only.
    machine = Machine(monkeypatch, -1)
    assert recovered(batches) == RECORDS
    machine.write_disk(batches, tmp_path / "disk", set())
    machine.close()
    assert recovered(tmp_path / "disk") == RECORDS
