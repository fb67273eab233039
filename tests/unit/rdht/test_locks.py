from rdht.limits import MAX_QUEUE
from rdht.messages import Flag, Name, Reason, Status
from rdht.transitions import State
from tests.unit.rdht.lone import (
    ADD_WAITING,
    BUSY,
    DONE,
    KEY,
    NO,
    NOW_S,
    OTHER_KEY,
    T1,
    T2,
    T3,
    WAITING,
    YES,
    abort,
    act,
    after,
    leave,
    proceed,
    read,
    request,
    spanning,
    state_of,
    statuses,
    told,
)


def test_a_lock_is_of_one_key_only() -> None:
    participant = after(BUSY, act(request(T1, key=OTHER_KEY)))
    holders = participant.locks.holders
    assert {key: tx.name for key, tx in holders.items()} == {KEY: T2, OTHER_KEY: T1}


def test_a_lock_is_handed_on_in_the_order_in_which_it_was_asked_for() -> None:
    participant = after(
        act(request(T2), request(T1, flags=Flag.QUEUE), request(T3, flags=Flag.QUEUE), read(T2))
    )
    assert told(participant.handle(proceed(T2), NOW_S)) == [
        (2, DONE, Reason.NONE),
        (1, YES, Reason.NONE),
    ]
    out = participant.handle(abort(T1), NOW_S)
    assert [(to, one.status, one.version) for to, one in out] == [
        (1, Status.ABORTED, 0),
        (3, YES, 1),
    ]
    out = participant.handle(proceed(T3), NOW_S)
    assert [(to, one.status, one.version) for to, one in out] == [(3, DONE, 1), (2, DONE, 2)]
    assert participant.locks.queues == {}


def test_a_waiter_whose_condition_fails_lets_the_next_one_come() -> None:
    participant = after(ADD_WAITING, act(request(T3, flags=Flag.QUEUE)))
    assert told(participant.handle(proceed(T2), NOW_S)) == [
        (2, DONE, Reason.NONE),
        (1, NO, Reason.NOTHING),
        (3, YES, Reason.NONE),
    ]
    assert participant.locks.queues == {}


def test_a_waiter_that_leaves_is_passed_over() -> None:
    participant = after(WAITING, act(request(T3, flags=Flag.QUEUE)), leave(1))
    assert statuses(participant.handle(proceed(T2), NOW_S), 3) == [YES]


def test_who_waits_for_several_locks_holds_those_before_in_order_of_the_keys() -> None:
    whole = spanning(T1, [request(T1, key=key) for key in (b"c", b"a", b"b")], (0,), Flag.QUEUE)
    participant = after(act(request(T2, key=b"b"), whole))
    assert {key: tx.name for key, tx in participant.locks.holders.items()} == {b"a": T1, b"b": T2}
    assert told(participant.handle(request(T3, key=b"a"), NOW_S)) == [(3, NO, Reason.BUSY)]
    assert statuses(participant.handle(request(T3, key=b"c"), NOW_S), 3) == [YES]
    assert participant.handle(proceed(T2, key=b"b", flags=Flag.SILENT), NOW_S) == []
    assert state_of(participant) is State.WAITING
    out = participant.handle(proceed(T3, key=b"c", flags=Flag.SILENT), NOW_S)
    assert statuses(out, 1) == [YES]
    assert participant.locks.holders.keys() == {b"a", b"b", b"c"}


def test_a_waiter_that_leaves_gives_up_the_locks_that_it_holds() -> None:
    whole = spanning(T1, [request(T1, key=key) for key in (b"a", b"b")], (0,), Flag.QUEUE)
    waits = request(T3, key=b"a", flags=Flag.QUEUE)
    participant = after(act(request(T2, key=b"b"), whole, waits))
    assert told(participant.disconnect(1, NOW_S)) == [(3, YES, Reason.NONE)]
    assert {key: tx.name for key, tx in participant.locks.holders.items()} == {b"a": T3, b"b": T2}


def test_a_queue_that_is_full_takes_no_more() -> None:
    participant = after(BUSY)
    for number in range(MAX_QUEUE):
        name = Name(3, number, 1)
        message = read(name) if number % 2 else request(name, flags=Flag.QUEUE)
        assert participant.handle(message, NOW_S) == []
    refused = [(1, NO, Reason.OVERLOADED)]
    assert told(participant.handle(request(T1, flags=Flag.QUEUE), NOW_S)) == refused
    assert told(participant.handle(read(T1), NOW_S)) == refused
