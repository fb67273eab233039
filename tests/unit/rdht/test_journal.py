"""What may leave a durable server and when, on a participant without sockets."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdht.coordinator import Command, plan
from rdht.errors import StorageError
from rdht.journal import Journal
from rdht.messages import Message, Name, Operation, Outgoing, Reason, Status
from rdht.participant import Participant
from rdht.replica import Mode
from rdht.ring import Ring
from rdht.table import Entry
from tests.unit.rdht.table import KEY_RANGE, PATIENCE_S, free_roster, wait_until

ROSTER = free_roster(2)
RING = Ring(ROSTER, KEY_RANGE)
KEYS = [b"a", b"b", b"c"]


class Disk:
    """Stands between the store and the kernel's fdatasync."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.works.set()
        self.fails = False
        self._sync = os.fdatasync

    def __call__(self, descriptor: int) -> None:
        assert self.works.wait(PATIENCE_S)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sync(descriptor)


class Bench:
    """A journal and its participant, and what they have sent."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.Lock()
        self.sent: list[Message] = []
        self.is_stopped = False
        self.journal = Journal(folder, self.lock, self._send)
        self.participant, self.key_range = self.journal.recover(
            lambda: Participant("s0", RING.ranges, durable=True), 0.0
        )
        for replica in self.participant.replicas.values():
            replica.intact = True
            replica.mode = Mode.SERVING
        self.journal.start()

    def _send(self, out: Outgoing) -> None:
        self.sent += [message for _, message in out]

    def do(self, *messages: Message) -> list[Message]:
        """Let the participant handle messages as one batch; return what leaves at once."""
        out: Outgoing = []
        with self.lock:
            for message in messages:
                self.participant.connect(message.name.client, 0.0, resume=False)
                out += self.participant.handle(message, 0.0)
            out = self.journal.take(out)
        return [message for _, message in out]

    def ask(self, message: Message) -> list[Message]:
        """Let the other server ask."""
        with self.lock:
            out = self.participant.handle_peer("s1", message, 0.0)
            out = self.journal.take(out)
        return [message for _, message in out]

    def stop(self) -> None:
        self.is_stopped = True
        self.journal.stop(KEY_RANGE)


def put(key: bytes, sequence: int, value: bytes = b"value", client: int = 1) -> Message:
    command = Command(Operation.PUT, key, value)
    return plan(Name(client, sequence, 1), (command,), RING, {}, 0).requests["s0"]


def proceed(request: Message) -> Message:
    return request._replace(status=Status.PROCEED, value=b"")


def statuses(messages: list[Message]) -> list[Status]:
    return [message.status for message in messages]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("rdht.store.os.fdatasync", disk)
    return disk


@pytest.fixture
def make_bench(disk: Disk, tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    benches: list[Bench] = []

    def make() -> Bench:
        benches.append(Bench(tmp_path / "files"))
        return benches[-1]

    yield make
    disk.works.set()
    for bench in benches:
        if not bench.is_stopped:
            bench.stop()


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()


def test_a_vote_waits_for_the_disk_and_a_result_does_not(bench: Bench, disk: Disk) -> None:
    assert bench.do(put(b"a", 1)) == []
    wait_until(lambda: statuses(bench.sent) == [Status.YES])
    assert statuses(bench.do(proceed(put(b"a", 1)))) == [Status.DONE]


def test_votes_that_come_during_a_sync_wait_for_the_next(bench: Bench, disk: Disk) -> None:
    disk.works.clear()
    assert bench.do(put(b"a", 1)) == []
    wait_until(lambda: bool(bench.journal._syncing))
    assert bench.do(put(b"b", 2), put(b"c", 3)) == []
    assert bench.sent == []
    disk.works.set()
    wait_until(lambda: len(bench.sent) == 3)
    assert [message.name.sequence for message in bench.sent] == [1, 2, 3]


def test_neither_a_repeated_vote_nor_an_opinion_overtakes_the_disk(
    bench: Bench, disk: Disk
) -> None:
    disk.works.clear()
    assert bench.do(put(b"a", 1)) == []
    assert bench.do(put(b"a", 1)) == []
    assert bench.ask(put(b"a", 1)._replace(status=Status.RESOLVE, value=b"")) == []
    disk.works.set()
    wait_until(lambda: statuses(bench.sent) == [Status.YES] * 3)


def test_reads_do_not_wait_for_the_disk(bench: Bench, disk: Disk) -> None:
    disk.works.clear()
    assert bench.do(put(b"a", 1)) == []
    read = put(b"b", 2)._replace(status=Status.READ, operation=Operation.GET)
    assert statuses(bench.do(read)) == [Status.DONE_NOTHING]


def test_all_comes_back_from_the_files(make_bench: Callable[[], Bench]) -> None:
    bench = make_bench()
    bench.journal.keep_key_range(KEY_RANGE)
    for key in KEYS:
        bench.do(put(key, 1, client=ord(key)))
    wait_until(lambda: len(bench.sent) == 3)
    bench.do(proceed(put(b"a", 1, client=ord("a"))))
    bench.do(put(b"b", 1, client=ord("b"))._replace(status=Status.ABORT))
    wait_until(lambda: len(bench.sent) == 4)
    bench.stop()
    for _ in range(2):  # from the snapshot, and from the one that it leads to
        again = make_bench()
        assert again.key_range == KEY_RANGE
        number = RING.range_of(b"a")
        assert again.participant.replicas[number].table == {b"a": Entry(b"value", 1)}
        assert set(again.participant.locks.holders) == {b"c"}
        assert again.participant.in_doubt == 1
        again.stop()


def test_a_vote_whose_sync_fails_becomes_a_no_on_disk_too(
    make_bench: Callable[[], Bench], disk: Disk
) -> None:
    bench = make_bench()
    disk.fails = True
    disk.works.clear()
    bench.do(put(b"a", 1))
    wait_until(lambda: bool(bench.journal._syncing))
    bench.do(put(b"b", 2))
    disk.works.set()
    wait_until(lambda: len(bench.sent) == 2)
    assert {(vote.status, vote.reason) for vote in bench.sent} == {(Status.NO, Reason.UNSAFE)}
    assert bench.participant.unsafe
    assert bench.participant.in_doubt == 0
    (answer,) = bench.ask(put(b"a", 1)._replace(status=Status.RESOLVE, value=b""))
    assert answer.status is Status.NO
    (answer,) = bench.do(put(b"c", 3))
    assert (answer.status, answer.reason) == (Status.NO, Reason.UNSAFE)
    bench.stop()
    disk.fails = False
    again = make_bench()
    assert again.participant.in_doubt == 0
    again.stop()


def test_a_server_ends_at_once_if_a_refused_vote_may_be_on_disk(
    bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    never = threading.Event()

    def end(_code: int) -> None:
        ended.set()
        never.wait()

    monkeypatch.setattr("rdht.journal.os._exit", end)
    disk.fails = True
    bench.journal._store.is_doubtful = True  # as when the log cannot be cut back either
    bench.do(put(b"a", 1))
    assert ended.wait(PATIENCE_S)
    assert bench.sent == []
    assert "cannot be cut back: this server stops at once" in caplog.text
    never.set()


def test_a_vote_that_was_on_disk_before_it_failed_still_counts(bench: Bench, disk: Disk) -> None:
    bench.do(put(b"a", 1))
    wait_until(lambda: statuses(bench.sent) == [Status.YES])
    disk.fails = True
    disk.works.clear()
    bench.do(put(b"b", 2, client=2))
    question = put(b"a", 1)._replace(status=Status.RESOLVE, value=b"")
    assert bench.do(put(b"a", 1)) == []  # asked again, while the sync is under way
    assert bench.ask(question) == []
    disk.works.set()
    wait_until(lambda: bench.participant.unsafe)
    assert bench.participant.in_doubt == 1
    assert statuses(bench.ask(question)) == [Status.YES]
    assert statuses(bench.do(put(b"a", 1))) == [Status.YES]
    assert statuses(bench.do(proceed(put(b"a", 1)))) == [Status.DONE]


def test_whoever_waited_for_a_lock_when_the_disk_failed_is_refused(
    bench: Bench, disk: Disk
) -> None:
    bench.do(put(b"a", 1))
    wait_until(lambda: statuses(bench.sent) == [Status.YES])
    waiter = put(b"a", 1, client=2)._replace(flags=1)
    assert bench.do(waiter) == []
    disk.fails = True
    bench.do(put(b"b", 2, client=3))
    wait_until(lambda: bench.participant.unsafe)
    done, refused = bench.do(proceed(put(b"a", 1)))
    assert done.status is Status.DONE
    assert (refused.name.client, refused.status, refused.reason) == (2, Status.NO, Reason.UNSAFE)
    assert bench.participant.in_doubt == 0


def test_a_long_log_is_replaced_while_others_go_on(
    bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rdht.journal.SNAPSHOT_LOG_BYTES", 1)
    bench.do(put(b"a", 1))
    wait_until(lambda: len(bench.sent) == 1)
    bench.journal.tidy(KEY_RANGE)
    wait_until((tmp_path / "files" / "snapshot-0000000002").exists)
    bench.do(put(b"b", 2))
    wait_until(lambda: len(bench.sent) == 2)
    wait_until(lambda: not (tmp_path / "files" / "log-0000000001").exists())


def test_a_snapshot_that_cannot_be_written_makes_the_server_unsafe(
    bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.journal.SNAPSHOT_LOG_BYTES", 1)
    bench.do(put(b"a", 1))
    wait_until(lambda: len(bench.sent) == 1)
    disk.fails = True
    bench.journal.tidy(KEY_RANGE)
    wait_until(lambda: bench.participant.unsafe)
    bench.journal.tidy(KEY_RANGE)


def test_tidying_right_after_a_failed_sync_does_not_raise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdht.journal.SNAPSHOT_LOG_BYTES", 0)
    bench.journal._store.failed = "no more"  # as the syncing thread leaves it before it says so
    bench.journal.tidy(KEY_RANGE)
    assert bench.participant.unsafe
    monkeypatch.setattr(bench.journal._store, "failed", None)


def test_a_journal_is_read_before_it_is_written(tmp_path: Path) -> None:
    journal: Journal[int] = Journal(tmp_path / "files", threading.Lock(), lambda _: None)
    with pytest.raises(StorageError, match="read before it is written"):
        journal.take([])
    journal._store.close()
