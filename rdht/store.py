"""Records on disk: an append-only log with checksums and snapshots, in one folder.

    log-0000000001         records in the order in which they were appended
    snapshot-0000000002    what all logs before log 2 amount to
    log-0000000002         goes on from there
    lock                   locked by the process that has the store open

A file begins with a header: kind, format, number, salt, CRC-32. A record is

    length u32 · synced u64 · CRC-32 u32 · payload        (big-endian; a payload is never empty)

`synced` says how far the log was known to be on disk when the record was written: where its batch
begins. The checksum begins with the header's, so bytes of another file are never taken for a
record, not even inside a value. A snapshot ends with a mark: the count of its records, under the
inverted checksum, which no record can carry.

Torn or damaged: a crash can leave any part of the last batch unwritten, in any order, but nothing
older. So where the last log stops making sense, all that follows is searched for a record that was
written after that place had been synced. If there is one, synced bytes were lost: that is damage,
an error. If there is none, the rest is taken for a torn batch and cut off. What this cannot tell:
when a disk spoils or loses synced bytes, and all that was synced after them, that looks torn too.
Headers, snapshots and all logs but the last are on disk before they count: never torn.
"""

import errno
import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from rdht.errors import StorageError
from rdht.limits import MAX_RECORD_BYTES, SNAPSHOT_WRITE_BYTES

FORMAT = 1
_LOG, _SNAPSHOT = "log", "snapshot"
_IDENTITY = struct.Struct("!16sIQ8s")  # kind, format, number, salt
_START = struct.Struct("!IQ")  # length, synced
_SALT_BYTES = 8
_CRC_BYTES = 4
_FRAME_BYTES = _START.size + _CRC_BYTES  # of a record, without its payload

_logger = logging.getLogger("rdht")


class Store:
    """An append-only log of records with snapshots, in one folder.

    Many threads may append; one syncs, and that one or another writes snapshots, one at a time.
    Any StorageError but that of a refused record is final: `failed` says why, and every later call
    raises it. After a failed sync the kernel may have dropped what it could not write, so a second
    try would report as saved what is lost; what that sync should have saved is cut off again, or
    `is_doubtful` says that it may be on disk all the same. `fresh` says that the folder held
    nothing; `torn_bytes` how much `recover` cut off; `log_bytes` how much was appended since a
    snapshot was last begun.
    """

    def __init__(self, folder: Path) -> None:
        """Lock the folder, and make it (0700) if it is missing; its parent must be there."""
        self.folder = folder
        self.failed: str | None = f"{folder}: not recovered"
        self.is_doubtful = False
        self.torn_bytes = 0
        self.log_bytes = 0
        self._memory = threading.Lock()  # guards what is appended
        self._disk = threading.Lock()  # guards the log file
        self._log = -1
        self._log_number = self._number = 1  # of the open file, and of what is appended now
        self._pending: dict[int, list[bytes]] = {}
        with self._fatal(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(folder.parent)
            self._lock = _lock(folder / "lock")
            self.fresh = not (self._numbers(_LOG) or self._numbers(_SNAPSHOT))

    def recover(self) -> Iterator[bytes]:
        """Yield the newest snapshot's records, then the logs', and make ready to append.

        To be read to its end, once, before anything else. StorageError if something is damaged or
        missing: then what it yielded is not the whole, and counts for nothing.
        """
        with self._fatal(self.folder):
            snapshots = self._numbers(_SNAPSHOT)
            base = max(snapshots, default=1)
            if self.fresh:
                os.close(self._create(self._path(_LOG, 1), [_new_header(_LOG, 1)]))
            logs = [number for number in self._numbers(_LOG) if number >= base]
            if not logs or logs != list(range(base, logs[-1] + 1)):
                _damaged(f"has the logs {logs}, not all from {base} on")
            if snapshots:
                yield from self._read_snapshot(base)
            for number in logs:
                yield from self._read_log(number, last=number == logs[-1])
            self._open_log(logs[-1])
            # The names may be in memory only: on disk BEFORE older files go.
            _sync_folder(self.folder)
            self._delete_before(base)
            for path in self.folder.glob("*.tmp"):
                path.unlink()
        self._number = self._log_number
        self._pending = {self._number: []}
        self.failed = None

    def append(self, record: bytes) -> None:
        """Take a record into the next batch, in memory only."""
        self._check()
        _check_size(record)
        with self._memory:
            self._pending[self._number].append(record)
            self.log_bytes += _FRAME_BYTES + len(record)

    def sync(self) -> None:
        """Return when all that was appended before the call is on disk."""
        with self._disk:
            self._check()
            with self._memory:
                batches, self._pending = self._pending, {self._number: []}
            number = self._log_number
            try:
                with self._fatal(self._path(_LOG, number)):
                    self._write_batches(batches)
            except BaseException as error:
                self.failed = self.failed or f"{self.folder}: sync ended by {error!r}"
                raise

    def begin_snapshot(self) -> int:
        """Let all that is appended from now on go to a new log; return the snapshot's number.

        The records for `write_snapshot` are those of exactly this moment, so call it under the
        lock under which records are appended. It touches no file.
        """
        self._check()
        with self._memory:
            self._number += 1
            self._pending[self._number] = []
            self.log_bytes = 0
            return self._number

    def write_snapshot(self, number: int, records: Iterable[bytes]) -> None:
        """Write the records as the snapshot that was begun as `number`; delete what it replaces.

        What `records` raises passes through: the snapshot is given up, and the logs remain.
        """
        # The log that goes on from here must be there BEFORE its snapshot, whole ones before it.
        self.sync()
        path = self._path(_SNAPSHOT, number)
        with self._fatal(path):
            os.close(self._create(path, _snapshot(_new_header(_SNAPSHOT, number), records)))
            self._delete_before(number)

    def close(self) -> None:
        """Release the files and the lock, once; what was not synced is lost."""
        with self._disk:
            self.failed = self.failed or f"{self.folder}: closed"
            if self._log >= 0:
                os.close(self._log)
            os.close(self._lock)

    @contextmanager
    def _fatal(self, path: Path) -> Iterator[None]:
        """Turn an OSError into a StorageError after which the store is not used again."""
        try:
            yield
        except OSError as error:
            self.failed = f"{path}: {error.strerror}"
            raise StorageError(self.failed) from error

    def _check(self) -> None:
        if self.failed is not None:
            raise StorageError(self.failed)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:010}"

    def _numbers(self, kind: str) -> list[int]:
        names = [path.name.partition("-") for path in self.folder.iterdir()]
        return sorted(int(digits) for name, _, digits in names if name == kind and digits.isdigit())

    def _create(self, path: Path, chunks: Iterable[bytes]) -> int:
        """Make a file that is there whole or not at all; return its descriptor, to append."""
        temporary = path.with_name(f"{path.name}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        descriptor = os.open(temporary, flags, 0o600)
        try:
            for chunk in chunks:
                _write(descriptor, chunk)
                # A little at a time: the log's own syncs wait for all that is unwritten.
                os.fdatasync(descriptor)
            temporary.rename(path)
            _sync_folder(self.folder)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor

    def _write_batches(self, batches: dict[int, list[bytes]]) -> None:
        number, end = self._log_number, self._end
        try:
            for batch in batches.items():
                self._write_batch(*batch)
        except BaseException:
            self._cut_back(number, end)  # BEFORE anybody can see that the store has failed
            raise

    def _write_batch(self, number: int, records: list[bytes]) -> None:
        if number != self._log_number:
            # The older log is synced by now: had it a torn end, this one must not be there.
            header = _new_header(_LOG, number)
            descriptor = self._create(self._path(_LOG, number), [header])
            os.close(self._log)
            self._log, self._log_number = descriptor, number
            self._end, self._seed = len(header), _seed(header)
        if records:
            batch = b"".join(_frame(record, self._end, self._seed) for record in records)
            _write(self._log, batch)
            os.fdatasync(self._log)
            self._end += len(batch)

    def _cut_back(self, number: int, end: int) -> None:
        """Let the log end where it did before a sync that failed."""
        try:
            for newer in self._numbers(_LOG):
                if newer > number:
                    self._path(_LOG, newer).unlink()
            _sync_folder(self.folder)  # BEFORE the older log may look torn
            with self._path(_LOG, number).open("r+b") as log:
                log.truncate(end)
                os.fsync(log.fileno())
        except OSError:
            self.is_doubtful = True

    def _delete_before(self, number: int) -> None:
        for kind in (_LOG, _SNAPSHOT):
            for older in self._numbers(kind):
                if older < number:
                    self._path(kind, older).unlink()

    def _read_snapshot(self, number: int) -> Iterator[bytes]:
        path = self._path(_SNAPSHOT, number)
        with self._fatal(path), path.open("rb") as file:
            seed = _read_header(file, _SNAPSHOT, number)
            count = 0
            for record in _records(file, seed):
                yield record
                count += 1
            end = file.tell()
            if file.read() != _end_mark(count, seed):
                _damaged(f"damaged at byte {end}")

    def _read_log(self, number: int, *, last: bool) -> Iterator[bytes]:
        path = self._path(_LOG, number)
        with self._fatal(path), path.open("rb") as file:
            seed = _read_header(file, _LOG, number)
            yield from _records(file, seed)
            end, rest = file.tell(), file.read()
            if rest and (not last or _was_synced(rest, end, seed)):
                _damaged(f"damaged at byte {end}, before records that were synced later")
        self._end, self._seed, self.torn_bytes = end, seed, len(rest)
        self.log_bytes += end

    def _open_log(self, number: int) -> None:
        path = self._path(_LOG, number)
        with self._fatal(path):
            self._log, self._log_number = os.open(path, os.O_WRONLY | os.O_APPEND), number
            if self.torn_bytes:
                why = "%s: cut off %d bytes of an unfinished write after byte %d"
                _logger.warning(why, path, self.torn_bytes, self._end)
                os.ftruncate(self._log, self._end)
            os.fsync(self._log)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(error.errno, "another process has this store open") from error
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _damaged(what: str) -> NoReturn:
    advice = "move the folder away to start with nothing, and copy from the other replica"
    raise OSError(errno.EBADMSG, f"{what}; {advice}")


def _header(kind: str, number: int, salt: bytes) -> bytes:
    body = _IDENTITY.pack(f"rdht {kind}".encode(), FORMAT, number, salt)
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES)


def _new_header(kind: str, number: int) -> bytes:
    return _header(kind, number, os.urandom(_SALT_BYTES))


def _seed(header: bytes) -> int:
    """Return what the checksums of a file's records begin with."""
    return int.from_bytes(header[-_CRC_BYTES:])


def _read_header(file: BinaryIO, kind: str, number: int) -> int:
    """Return the seed of the checksums."""
    # What a failed sync could not write may still stand in memory, as if it were on disk.
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    header = file.read(_IDENTITY.size + _CRC_BYTES)
    salt = header[-_SALT_BYTES - _CRC_BYTES : -_CRC_BYTES]
    if header != _header(kind, number, salt):
        _damaged(f"byte 0: not the header of {kind} {number} in format {FORMAT}")
    return _seed(header)


def _check_size(record: bytes) -> None:
    if not 0 < len(record) <= MAX_RECORD_BYTES:
        why = f"a record of {len(record)} bytes, not 1 to {MAX_RECORD_BYTES}"
        raise StorageError(why)


def _frame(record: bytes, synced: int, seed: int) -> bytes:
    start = _START.pack(len(record), synced)
    checksum = zlib.crc32(record, zlib.crc32(start, seed))
    return start + checksum.to_bytes(_CRC_BYTES) + record


def _end_mark(count: int, seed: int) -> bytes:
    return _frame(count.to_bytes(8), 0, seed ^ 0xFFFF_FFFF)


def _snapshot(header: bytes, records: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of a snapshot file."""
    part, seed, count = bytearray(header), _seed(header), 0
    for record in records:
        _check_size(record)
        part += _frame(record, 0, seed)
        count += 1
        if len(part) >= SNAPSHOT_WRITE_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part) + _end_mark(count, seed)


def _records(file: BinaryIO, seed: int) -> Iterator[bytes]:
    """Yield records up to the first that is not whole; leave the file standing there."""
    end = file.tell()
    while len(head := file.read(_FRAME_BYTES)) == _FRAME_BYTES:
        length, synced = _START.unpack_from(head)
        if not 0 < length <= MAX_RECORD_BYTES:
            break
        record = file.read(length)
        if head + record != _frame(record, synced, seed):
            break
        yield record
        end += _FRAME_BYTES + length
    file.seek(end)


def _was_synced(rest: bytes, start: int, seed: int) -> bool:
    """Tell whether `rest`, the log from `start` on, has a record of a batch begun after `start`."""
    for at in range(1, len(rest) - _FRAME_BYTES):
        length, synced = _START.unpack_from(rest, at)
        if start < synced <= start + at and 0 < length <= MAX_RECORD_BYTES:
            frame = rest[at : at + _FRAME_BYTES + length]
            if frame == _frame(frame[_FRAME_BYTES:], synced, seed):
                return True
    return False
