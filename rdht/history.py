"""The history of a client: what each command was to do, when it began and ended, what it was told.

One file a process, and a mapped one: a row costs no system call, and is there even if the process
is killed right after. A file begins with MAGIC and a line of JSON. Then come rows, of beginnings
and of ends, in the order in which they happened:

    time u64 (ns, CLOCK_MONOTONIC) | sequence u32 | thread u16 | keys u16 | outcome u8 | kind u8

and for each key at a beginning: operation u8, length of the key u16, version that a cas expects
u64, hash of the value 8 bytes, and the key; at an end that was told what is there: found u8,
version u64, hash of the value 8 bytes. All in little-endian order. The hash is that which a scan
of the replicas has, but zeros for no value and for an empty one. A file that was closed is
compressed.
"""

import gzip
import itertools
import json
import logging
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from rdht.coordinator import Command
from rdht.errors import ConfigurationError
from rdht.execution import Execution, Outcome
from rdht.messages import Operation
from rdht.parts import Result
from rdht.scan import hash_value

SAMPLE_SHARE = 16  # a sample has one key of so many, with all that is done to it
THE_SERVERS = "the servers"  # whose history tells what stands at each key in the end
MAGIC = b"rdht history 1\n"
_GZIP = b"\x1f\x8b"
_GROWTH_BYTES = 1024 * 1024
_BEGUN, _ENDED, _CUT = 1, 2, 3  # the kinds of a row; 0 is what no row was written to yet
_HEAD = struct.Struct("<QIHHBB")
_HEAD_BYTES, _KIND_AT = _HEAD.size, _HEAD.size - 1
_ASKED = struct.Struct("<BHQ8s")
_TOLD = struct.Struct("<BQ8s")
_pack_asked, _pack_told = _ASKED.pack, _TOLD.pack
_monotonic_ns = time.monotonic_ns
_OUTCOMES = [None, Outcome.DONE, Outcome.ABORTED, Outcome.UNKNOWN]
_NUMBERS = {outcome: number for number, outcome in enumerate(_OUTCOMES)}
_NO_VALUE = bytes(8)
_OF_EMPTY = hash_value(b"")
_logger = logging.getLogger("rdht")


class Entry(NamedTuple):
    """One command of a history; a killed client's last ones have no end and no outcome.

    In `commands` and `told` a value is its hash, empty if there is none. `told` is empty for a
    command that is only known to be done.
    """

    thread: int
    commands: tuple[Command, ...]  # in order of their keys
    begun_ns: int
    ended_ns: int | None
    outcome: Outcome | None
    told: tuple[Result, ...]


class History(NamedTuple):
    """What a file of history holds; one that `is_cut` lacks what came last.

    One that is not closed may, too, if its host lost power.
    """

    client: str
    boot_id: str  # of the host, whose clock the times are of
    is_sample: bool
    workload: str  # empty if the client has none
    is_cut: bool
    is_closed: bool
    entries: list[Entry]


def is_sampled(key: bytes) -> bool:
    """Return whether a sample has this key."""
    return zlib.crc32(key) % SAMPLE_SHARE == 0


class Recorder:
    """Writes the history of one client process; its threads may write at the same time."""

    def __init__(self, path: Path, client: str, *, samples: bool, workload: str = "") -> None:
        """Begin the file; OSError if there is no place for it.

        It stands beside what is there of clients before, whose effects may be seen in this one.
        """
        self._path = path
        for number in itertools.count(1):
            if not self._path.exists():
                break
            self._path = path.with_name(f"{path.stem}.{number}{path.suffix}")
        self._samples = samples
        self._lock = threading.Lock()
        self._file = self._path.open("x+b")
        header = {"client": client, "boot_id": _boot_id(), "is_sample": samples}
        header["workload"] = workload
        start = MAGIC + json.dumps(header).encode() + b"\n"
        os.posix_fallocate(self._file.fileno(), 0, _GROWTH_BYTES)
        self._map = mmap.mmap(self._file.fileno(), _GROWTH_BYTES)
        self._map[: len(start)] = start
        self._at = len(start)
        self._is_cut = False

    def begin(self, thread: int, execution: Execution) -> None:
        """Put down a command that is about to be sent."""
        commands = execution.commands
        if self._samples or len(commands) > 1:
            commands = self._chosen(commands)
            if not commands:
                return
        body = b""
        for operation, key, value, version in commands:
            hashed = hash_value(value) if value else _NO_VALUE
            body += _pack_asked(operation, len(key), version, hashed) + key
        self._write(_BEGUN, 0, thread, execution.sequence, len(commands), body)

    def end(self, thread: int, execution: Execution, results: Sequence[Result]) -> None:
        """Put down how a command has ended, and what was found if it is done."""
        commands = execution.commands
        if self._samples or len(commands) > 1:
            chosen = self._chosen(commands)
            if not chosen:
                return
            if len(results) < len(commands):
                results = ()  # told too little
            elif len(chosen) < len(commands):
                keys = sorted(command.key for command in commands)
                pairs = zip(keys, results, strict=True)
                results = [result for key, result in pairs if is_sampled(key)]
        body = b""
        for found, version, value in results:
            body += _pack_told(found, version, hash_value(value) if value else _NO_VALUE)
        outcome = _NUMBERS[execution.outcome]
        self._write(_ENDED, outcome, thread, execution.sequence, len(results), body)

    def tell(self, number: int, key: bytes, told: Result, begun_ns: int) -> None:
        """Put down a key that was read by other means, whose value is known by its hash."""
        if self._samples and not is_sampled(key):
            return
        asked = _pack_asked(Operation.GET, len(key), 0, _NO_VALUE) + key
        self._write(_BEGUN, 0, 0, number, 1, asked, begun_ns)
        is_read = told.found and told.value != _OF_EMPTY
        row = _pack_told(told.found, told.version, told.value if is_read else _NO_VALUE)
        self._write(_ENDED, _NUMBERS[Outcome.DONE], 0, number, 1, row)

    def close(self) -> None:
        """Compress the file if there is room for that; what is there of it meanwhile is whole."""
        with self._lock:
            self._map.flush()
            self._map.close()
            self._file.truncate(self._at)
            self._file.seek(0)
            whole = self._path.with_suffix(self._path.suffix + ".new")
            try:
                with gzip.open(whole, "wb", compresslevel=1) as compressed:
                    while data := self._file.read(_GROWTH_BYTES):
                        compressed.write(data)
                whole.replace(self._path)
            except OSError as error:
                _logger.error("%s: not compressed: %s", self._path, error.strerror)  # noqa: TRY400
                whole.unlink(missing_ok=True)
            finally:
                self._file.close()

    def _chosen(self, commands: Sequence[Command]) -> Sequence[Command]:
        if self._samples:
            commands = [command for command in commands if is_sampled(command.key)]
        return commands if len(commands) <= 1 else sorted(commands, key=attrgetter("key"))

    def _write(  # noqa: PLR0913, PLR0917 - the parts of a row
        self,
        kind: int,
        outcome: int,
        thread: int,
        sequence: int,
        keys: int,
        body: bytes,
        time_ns: int = 0,
    ) -> None:
        with self._lock:
            at = self._at
            end = at + _HEAD_BYTES + len(body)
            if end + _HEAD_BYTES > len(self._map) and not self._has_grown(end - at):
                return
            self._map[at + _HEAD_BYTES : end] = body
            # AFTER the body, and its last byte after the rest: if the process is killed in
            # between, there is no such row.
            time_ns = time_ns or _monotonic_ns()
            _HEAD.pack_into(self._map, at, time_ns, sequence, thread, keys, outcome, kind)
            self._at = end

    def _has_grown(self, size: int) -> bool:
        """Make room for a row of that size and a head; if there is none, note that, once."""
        if self._is_cut:
            return False
        larger = len(self._map) + size + _GROWTH_BYTES
        try:
            # A mapped hole in a file that the disk has no place for would kill the process.
            os.posix_fallocate(self._file.fileno(), len(self._map), larger - len(self._map))
            self._map.resize(larger)
        except OSError as error:
            _logger.error("%s: the history ends here: %s", self._path, error.strerror)  # noqa: TRY400
            self._map[self._at + _KIND_AT] = _CUT
            self._at += _HEAD_BYTES
            self._is_cut = True
            return False
        return True


def read(path: Path) -> History:
    """Read a file of history, closed or not; ConfigurationError if it is none."""
    try:
        data = path.read_bytes()
        is_closed = data.startswith(_GZIP)
        if is_closed:
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        why = f"{path}: cannot read the history: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(why) from error
    if not data.startswith(MAGIC):
        why = f"{path}: not a history of a client"
        raise ConfigurationError(why)
    try:
        end = data.index(b"\n", len(MAGIC))
        header: dict[str, Any] = json.loads(data[len(MAGIC) : end])
        rows = _Rows(data, end + 1)
        entries = list(rows.entries())
        if is_closed and not rows.is_at_end:
            why = f"{path}: a history that ends within a row"
            raise ConfigurationError(why)
        return History(**header, is_cut=rows.is_cut, is_closed=is_closed, entries=entries)
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        why = f"{path}: a history with a damaged row: {error}"
        raise ConfigurationError(why) from error


class _Rows:
    """The rows of a file, from a place in it on."""

    def __init__(self, data: bytes, at: int) -> None:
        self.is_cut = False
        self._data = data
        self._at = at

    def entries(self) -> Iterator[Entry]:
        """Yield each command as it ends, and then those that have not."""
        data, open_ = self._data, dict[tuple[int, int], Entry]()
        while self._kind() in (_BEGUN, _ENDED):
            time_ns, sequence, thread, keys, outcome, kind = _HEAD.unpack_from(data, self._at)
            self._at += _HEAD_BYTES
            if kind == _BEGUN:
                commands = tuple([self._command() for _ in range(keys)])
                open_[thread, sequence] = Entry(thread, commands, time_ns, None, None, ())
                continue
            begun = open_.pop((thread, sequence))
            told = tuple([self._result() for _ in range(keys)])
            yield begun._replace(ended_ns=time_ns, outcome=_OUTCOMES[outcome], told=told)
        self.is_cut = self._kind() == _CUT
        yield from open_.values()

    @property
    def is_at_end(self) -> bool:
        """Whether nothing follows what was read."""
        return self.is_cut or self._at == len(self._data)

    def _kind(self) -> int | None:
        """Return the kind of the next row."""
        at = self._at + _KIND_AT
        return self._data[at] if at < len(self._data) else None

    def _command(self) -> Command:
        operation, length, version, value = _ASKED.unpack_from(self._data, self._at)
        key_at = self._at + _ASKED.size
        self._at = key_at + length
        key = self._data[key_at : self._at]
        return Command(Operation(operation), key, _hash_or_nothing(value), version)

    def _result(self) -> Result:
        found, version, value = _TOLD.unpack_from(self._data, self._at)
        self._at += _TOLD.size
        return Result(bool(found), version, _hash_or_nothing(value))


def _hash_or_nothing(value: bytes) -> bytes:
    return b"" if value == _NO_VALUE else value


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
