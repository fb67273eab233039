import pytest

from rdht.messages import Flag, Message, Reason, Status
from rdht.participant import Participant
from rdht.replica import Copy, pack_pages
from rdht.table import Table
from tests.unit.rdht.lone import (
    BUSY,
    DONE,
    FAR_KEY,
    NO,
    NOW_S,
    PREPARED,
    T1,
    T2,
    THERE,
    WAITING,
    YES,
    Happening,
    abort,
    act,
    after,
    answer,
    ask,
    hear,
    learned,
    nothing,
    proceed,
    read,
    request,
    serving,
    told,
)


def sync(happen: Happening, prepare: Happening) -> tuple[list[Status], bool]:
    """Return what a happening puts on the journal, and whether it must be on disk."""
    participant = after(prepare, durable=True)
    participant.write_ahead.take()
    happen(participant)
    records, must_sync = participant.write_ahead.take()
    return [message.status for message in records], must_sync


@pytest.mark.parametrize(
    ("prepare", "happen", "records", "must_sync"),
    [
        (nothing, PREPARED, [Status.REQUEST], True),
        (PREPARED, PREPARED, [], True),
        (WAITING, act(proceed(T2)), [Status.PROCEED, Status.REQUEST], True),
        (PREPARED, act(proceed(T1)), [Status.PROCEED], False),
        (PREPARED, act(abort(T1)), [Status.ABORT], True),
        (PREPARED, hear("b", answer(YES)), [DONE], False),
        (PREPARED, hear("b", answer(NO)), [Status.ABORT], True),
        (PREPARED, hear("b", ask(request(T1))), [], True),
        (learned, act(proceed(T1)), [], True),
        (nothing, act(read(T1)), [], False),
        (nothing, lambda participant: participant.freeze(0, NOW_S), [Status.JOINED], True),
        (BUSY, act(request(T1)), [], False),
        (BUSY, act(request(T1, flags=Flag.QUEUE)), [], False),
    ],
)
def test_what_must_outlive_a_crash_is_on_disk_before_anybody_hears_of_it(
    prepare: Happening, happen: Happening, records: list[Status], *, must_sync: bool
) -> None:
    assert sync(happen, prepare) == (records, must_sync)


def vetoed(participant: Participant) -> None:
    """Undo what is prepared, because of the other participant's no."""
    PREPARED(participant)
    hear("b", answer(NO))(participant)


def undone(participant: Participant) -> None:
    """Undo what is prepared, because of the client's abort."""
    PREPARED(participant)
    act(abort(T1))(participant)


@pytest.mark.parametrize(
    ("prepare", "happen"),
    [
        pytest.param(vetoed, act(abort(T1)), id="vetoed, then aborted"),
        pytest.param(vetoed, act(request(T1)), id="vetoed, then asked for again"),
        pytest.param(undone, act(abort(T1)), id="aborted twice"),
    ],
)
def test_what_was_undone_is_on_disk_before_it_is_said_again(
    prepare: Happening, happen: Happening
) -> None:
    assert sync(happen, prepare) == ([], True)


def test_a_server_in_memory_keeps_no_journal() -> None:
    participant = after(PREPARED, PREPARED, act(proceed(T1)), learned)
    assert (participant.write_ahead.records, participant.write_ahead.must_sync) == ([], False)


def test_an_advance_is_on_disk_before_anybody_hears_of_it() -> None:
    participant = serving(durable=True)
    participant.advance(0, 5)
    assert participant.write_ahead.records == [Message(Status.JOINED, range=0, epoch=5)]
    assert participant.write_ahead.must_sync


def test_a_copy_is_on_disk_before_anybody_hears_of_it() -> None:
    participant = serving(durable=True)
    pages = list(pack_pages(2, Table({FAR_KEY: THERE}).pages()))
    joined = Message(Status.JOINED, flags=Flag.INTACT, range=2, epoch=3, version=9)
    participant.install(joined, Copy(*pages), NOW_S)
    assert participant.write_ahead.take() == ([*pages, joined], True)


def test_a_yes_that_did_not_reach_the_disk_is_taken_back() -> None:
    participant = after(PREPARED)
    participant.withdraw(T1, NOW_S)
    participant.withdraw(T1, NOW_S)
    participant.withdraw(T2, NOW_S)
    assert participant.locks.holders == {}
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.VETOED)]
