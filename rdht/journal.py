"""What a durable server keeps on disk, and what may not leave before it is there."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from rdht.errors import ProtocolError, StorageError
from rdht.limits import SNAPSHOT_LOG_BYTES
from rdht.messages import Decoder, Message, Name, Reason, Status, encode
from rdht.participant import Participant
from rdht.replica import pack_pages
from rdht.store import Store

_EXIT_CRASHED = 70  # EX_SOFTWARE of sysexits.h: not what a clean stop or a mistake ends with
_DECIDED_HERE = {Status.DONE, Status.JOINED}  # without the client, or without the other replica
_To = TypeVar("_To")  # wherever its owner sends a message
_logger = logging.getLogger("rdht")


class Journal(threading.Thread, Generic[_To]):
    """The thread that syncs for all workers at once, and sends what waited for it."""

    def __init__(
        self,
        folder: Path,
        lock: threading.Lock,
        deliver: Callable[[list[tuple[_To, Message]]], None],
    ) -> None:
        """Keep files in `folder`; `lock` guards the participant, `deliver` sends.

        Raises StorageError if another process uses the folder.
        """
        super().__init__(name="journal", daemon=True)
        self._lock = lock
        self._deliver = deliver
        self._store = Store(folder)
        self._held: list[tuple[_To, Message]] = []  # until the next sync has ended
        self._appended = 0  # records so far,
        self._on_disk = 0  # those of them that are synced,
        self._telling = 0  # and the last that no vote has waited for: a read may tell of it
        self._fresh: set[Name] = set()  # requests whose yes was never sent: to be synced next,
        self._syncing: set[Name] = set()  # and being synced now,
        self._withdrawn: set[Name] = set()  # and those whose sync has failed
        self._changed = threading.Condition(lock)
        self._stopping = False
        self._snapshot: threading.Thread | None = None
        self._participant: Participant | None = None

    def recover(self, make: Callable[[], Participant], now_s: float) -> tuple[Participant, int]:
        """Return a participant as it was before, and the key range (0: not known).

        Damaged files are put aside, and the participant starts with nothing: its ranges come
        back from their other replicas.
        """
        try:
            found = self._replay(make(), now_s)
        except StorageError as error:
            self._store.close()
            folder = self._store.folder
            aside = folder.with_name(f"{folder.name}.damaged")
            number = 1
            while aside.exists():
                number += 1
                aside = folder.with_name(f"{folder.name}.damaged-{number}")
            folder.rename(aside)
            _logger.critical("%s; put aside as %s, starting with nothing", error, aside)
            self._store = Store(folder)
            found = self._replay(make(), now_s)
        self._participant = found[0]
        return found

    def _replay(self, participant: Participant, now_s: float) -> tuple[Participant, int]:
        key_range = 0

        def messages() -> Iterator[Message]:
            nonlocal key_range
            for record in self._store.recover():
                (message,) = Decoder().feed(record)
                if message.status is Status.WELCOME:
                    key_range = message.version
                else:
                    yield message

        try:
            participant.replay(messages(), now_s)
        except (ProtocolError, KeyError, ValueError) as error:
            why = f"{self._store.folder} does not fit this roster, or this release: {error!r}"
            raise StorageError(why) from error
        return participant, key_range

    def keep_key_range(self, key_range: int) -> None:
        """Remember how keys are placed; under the lock."""
        self._append(Message(Status.WELCOME, version=key_range))

    def take(self, out: list[tuple[_To, Message]]) -> list[tuple[_To, Message]]:
        """Return what may be sent at once of what a call returned; under the lock.

        The rest is sent as soon as what the call has left to be written is on disk.
        """
        participant = self._known
        taken, must_sync = participant.write_ahead.take()
        requests = {message.name for message in taken if message.status is Status.REQUEST}
        self._fresh |= requests
        for message in taken:
            self._append(message)
            self._appended += 1
            if message.status in _DECIDED_HERE:
                self._telling = self._appended
        if participant.unsafe:
            return self._refuse(out, requests)
        if must_sync or self._telling > self._on_disk:
            self._held += out
            self._changed.notify()
            return []
        return out

    @property
    def _known(self) -> Participant:
        if self._participant is None:
            why = "the journal is read before it is written"
            raise StorageError(why)
        return self._participant

    def _refuse(
        self, out: list[tuple[_To, Message]], requests: set[Name]
    ) -> list[tuple[_To, Message]]:
        """Return what may be sent of what a call returned whose records reach no disk any more.

        The `requests` were granted by it, after they had waited for a lock. All else that is
        prepared was on disk before, so the others may hear of it.
        """
        self._withdraw()
        unsafe: list[tuple[_To, Message]] = []
        for to, message in out:
            if message.status is Status.YES and message.name in requests:
                unsafe.append((to, _unsafe(message)))
            elif message.status is not Status.ABORTED:
                unsafe.append((to, message))
        return unsafe

    def _append(self, message: Message) -> None:
        if self._known.unsafe:
            return
        try:
            self._store.append(encode(message))
        except StorageError as error:
            self._fail(error)

    def _capture(self, key_range: int) -> tuple[int, Iterator[bytes]]:
        """Begin a snapshot; under the lock."""
        participant = self._known
        number = self._store.begin_snapshot()
        tables = [
            (replica.number, replica.table.pages())
            for replica in participant.replicas.values()
            if replica.intact
        ]
        rest = [Message(Status.WELCOME, version=key_range), *participant.snapshot()]

        def records() -> Iterator[bytes]:
            for range_, pages in tables:
                yield from map(encode, pack_pages(range_, pages))
            yield from map(encode, rest)

        return number, records()

    def run(self) -> None:
        """Sync what the workers have put down, then send what waited for it."""
        while True:
            with self._lock:
                while not (self._held or self._stopping):
                    self._changed.wait()
                held, self._held = self._held, []
                self._syncing, self._fresh = self._fresh, set()
                appended = self._appended
            if not held:
                return
            try:
                self._store.sync()
            except StorageError as error:
                with self._lock:
                    self._fail(error)
                    votes = [(to, one) for to, one in held + self._held if one.status is Status.YES]
                self._deliver(
                    [(to, _unsafe(one)) for to, one in votes if one.name in self._withdrawn]
                )
                return
            with self._lock:
                self._syncing = set()
                self._on_disk = appended
            self._deliver(held)

    def tidy(self, key_range: int) -> None:
        """Replace a long log by a snapshot, in a thread of its own."""
        is_busy = self._snapshot is not None and self._snapshot.is_alive()
        if is_busy or self._known.unsafe or self._store.log_bytes < SNAPSHOT_LOG_BYTES:
            return
        with self._lock:
            try:
                number, records = self._capture(key_range)
            except StorageError as error:  # a sync has just failed
                self._fail(error)
                return
        self._snapshot = threading.Thread(target=self._write, args=(number, records))
        self._snapshot.start()

    def _write(self, number: int, records: Iterator[bytes]) -> None:
        try:
            self._store.write_snapshot(number, records)
        except StorageError as error:
            with self._lock:
                self._fail(error)

    def stop(self, key_range: int) -> None:
        """End the thread, leave a snapshot and no log to replay, and close the files."""
        with self._lock:
            self._stopping = True
            self._changed.notify()
        self.join()
        if self._snapshot is not None:
            self._snapshot.join()
        if not self._known.unsafe:
            with self._lock:
                number, records = self._capture(key_range)
            self._write(number, records)
        self._store.close()

    def _fail(self, error: StorageError) -> None:
        """Promise nothing any more: a yes that was not sent yet becomes a no.

        That is true only if it is not on the disk either; otherwise a crash is the honest end.
        """
        if self._store.is_doubtful:
            _logger.critical("%s, and cannot be cut back: this server stops at once", error)
            os._exit(_EXIT_CRASHED)
        if not self._known.unsafe:
            self._known.unsafe = True
            self._fresh |= self._syncing
            self._withdraw()
            _logger.critical("%s; this server takes no more commands that write", error)

    def _withdraw(self) -> None:
        """Take back each yes that has not reached the disk, and was sent to nobody."""
        fresh, self._fresh = self._fresh, set()
        self._withdrawn |= fresh
        for name in fresh:
            self._known.withdraw(name, 0.0)


def _unsafe(vote: Message) -> Message:
    """Return the no that takes the place of a yes that is not on disk."""
    return Message(Status.NO, vote.name, vote.operation, Reason.UNSAFE)
