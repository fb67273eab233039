import pickle

import pytest

from rdht import parts
from rdht.limits import MAX_NEWS, MAX_NEWS_RETRY_S, RESOLVE_RETRY_S, RESUME_TIMEOUT_S
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.replica import Mode
from rdht.table import Entry
from rdht.transitions import State
from tests.unit.rdht.lone import (
    COMMITTED,
    DONE,
    FAR_KEY,
    KEY,
    LATER_S,
    MUCH_LATER_S,
    NO,
    NOW_S,
    OTHER_KEY,
    PREPARED,
    SPANNING,
    T1,
    T2,
    THERE,
    WAITING,
    YES,
    abort,
    act,
    after,
    answer,
    ask,
    hear,
    learned,
    leave,
    mode,
    proceed,
    request,
    serving,
    spanning,
    state_of,
    table,
    told,
    with_entry,
)


def test_the_end_of_a_clients_connection_asks_the_other_replica() -> None:
    participant = after(PREPARED, act(request(T2, key=OTHER_KEY)))
    out = participant.disconnect(1, NOW_S)
    assert out == [("b", ask(request(T1)))]
    assert state_of(participant) is State.PREPARED
    assert participant.disconnect(3, NOW_S) == []


def test_a_question_tells_the_version_that_was_there_before() -> None:
    participant = with_entry(THERE)
    participant.handle(request(T1), NOW_S)
    ((_, question),) = participant.disconnect(1, NOW_S)
    assert (question.operation, question.version) == (Operation.PUT, 3)


def test_a_yes_waits_for_its_client_and_then_asks_again_and_again() -> None:
    participant = after(PREPARED)
    assert participant.tick(LATER_S - 0.001) == []
    question = [("b", ask(request(T1)))]
    assert participant.tick(LATER_S) == question
    assert participant.tick(LATER_S + RESOLVE_RETRY_S - 0.001) == []
    assert participant.tick(LATER_S + RESOLVE_RETRY_S) == question


def test_a_command_of_several_ranges_asks_all_their_servers() -> None:
    participant = after(act(spanning(T1, [request(T1)], (0, 1))))
    out = participant.disconnect(1, NOW_S)
    assert [to for to, _ in out] == ["b", "c"]
    assert {message for _, message in out} == {ask(spanning(T1, [request(T1)], (0, 1)))}


ALONE_0 = answer(YES, reason=Reason.ALONE, value=b"\0\0")
ALONE_1 = answer(YES, reason=Reason.ALONE, value=b"\0\1")
# T1 has touched the ranges 0 (a and b) and 1 (b and c); a has voted yes.
ANSWERS: list[tuple[list[tuple[str, Message]], State]] = [
    ([], State.PREPARED),
    ([("b", answer(YES))], State.PREPARED),
    ([("b", answer(YES)), ("c", answer(YES))], State.COMMITTED),
    ([("c", answer(DONE))], State.COMMITTED),
    ([("b", answer(NO))], State.ABORTED),
    ([("c", answer(NO))], State.PREPARED),
    ([("b", answer(YES)), ("c", answer(NO))], State.PREPARED),
    ([("c", answer(NO)), ("b", answer(NO))], State.ABORTED),
    ([("b", answer(YES)), ("c", ALONE_1)], State.COMMITTED),
    ([("b", ALONE_1)], State.COMMITTED),
    ([("b", ALONE_0)], State.PREPARED),
    ([("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(NO))], State.ABORTED),
    ([("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(YES))], State.PREPARED),
    ([("b", answer(YES)), ("b", answer(NO, reason=Reason.SYNCING)), ("c", answer(YES))],
     State.PREPARED),
    ([("b", answer(NO, value=b"\0\0")), ("c", answer(YES))], State.PREPARED),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "state"), ANSWERS)
def test_the_votes_that_are_known_decide(answers: list[tuple[str, Message]], state: State) -> None:
    participant = after(act(spanning(T1, [request(T1)], (0, 1))))
    for server, message in answers:
        assert participant.handle_peer(server, message, NOW_S) == []
    assert state_of(participant) is state
    assert (KEY in table(participant)) == (state is State.COMMITTED)
    assert (KEY in participant.locks.holders) == (state is State.PREPARED)


def test_both_replicas_of_another_range_have_to_say_no_before_a_yes_is_undone() -> None:
    participant = after(act(spanning(T1, [request(T1, key=FAR_KEY)], (1, 2))))
    participant.handle_peer("b", answer(NO), NOW_S)
    assert state_of(participant) is State.PREPARED
    participant.handle_peer("c", answer(NO), NOW_S)
    assert state_of(participant) is State.ABORTED


def test_an_answer_about_what_is_over_changes_nothing() -> None:
    participant = serving()
    before = pickle.dumps(participant)
    assert participant.handle_peer("b", answer(YES), NOW_S) == []
    assert pickle.dumps(participant) == before


def test_what_is_learned_is_not_asked_for_again() -> None:
    participant = after(PREPARED, hear("b", answer(DONE)))
    assert participant.tick(LATER_S) == []
    assert participant.disconnect(1, LATER_S) == []
    assert table(participant) == {KEY: Entry(b"1", 1)}


def test_who_has_applied_and_forgotten_says_so_by_the_keys_version() -> None:
    participant = after(PREPARED, act(proceed(T1)))
    assert participant.transactions == {}
    out = participant.handle_peer("b", ask(request(T1)), NOW_S)
    assert told(out) == [("b", DONE, Reason.NONE)]
    assert participant.transactions == {}


def test_who_has_not_applied_it_vetoes() -> None:
    participant = with_entry(THERE)
    out = participant.handle_peer("b", ask(request(T1), version=3), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.VETOED)]


@pytest.mark.parametrize("operation", [Operation.GET, Operation.MANY])
def test_a_version_says_nothing_of_what_does_not_write_or_is_remembered(
    operation: Operation,
) -> None:
    message = spanning(T1) if operation is Operation.MANY else request(T1, operation)
    out = with_entry(THERE).handle_peer("b", ask(message, key=KEY), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]


def test_what_writes_nothing_is_asked_for_as_a_get() -> None:
    participant = with_entry(THERE)
    participant.handle(request(T1, Operation.ADD, flags=Flag.LATE), NOW_S)
    ((_, question),) = participant.disconnect(1, NOW_S)
    assert question.operation is Operation.GET
    assert participant.handle_peer("b", answer(NO), NOW_S) == []
    assert participant.transactions == {}  # its proceed may still come: no veto
    assert participant.locks.holders == {}


def test_a_question_about_a_range_of_others_is_vetoed() -> None:
    out = serving().handle_peer("b", ask(request(T1, range=1)), NOW_S)
    assert told(out) == [("b", NO, Reason.VETOED)]


def test_a_server_that_has_not_come_back_cannot_say() -> None:
    participant = after(mode(0, Mode.JOINING))
    out = participant.handle_peer("b", ask(request(T1)), NOW_S)
    assert told(out) == [("b", NO, Reason.SYNCING)]
    assert participant.transactions == {}


def test_a_server_that_has_come_back_in_one_range_speaks_for_that_one_only() -> None:
    participant = after(mode(0, Mode.JOINING))
    ((_, said),) = participant.handle_peer("c", ask(spanning(T1)), NOW_S)
    assert (said.status, said.reason, said.value) == (NO, Reason.VETOED, b"\0\0")


def test_an_abort_that_cannot_be_answered_yet_is_answered_later() -> None:
    participant = after(mode(0, Mode.JOINING), act(abort(T1), abort(T2)))
    assert participant.tick(NOW_S) == []
    participant.disconnect(2, NOW_S)
    mode(0, Mode.SERVING)(participant)
    assert told(participant.tick(NOW_S)) == [(1, Status.ABORTED, Reason.NONE)]
    assert participant.tick(NOW_S) == []


def test_a_proceed_of_another_server_is_answered_to_that_server() -> None:
    participant = after(SPANNING)
    news = Message(Status.PROCEED, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    for _ in range(2):
        out = participant.handle_peer("c", news, NOW_S)
        assert told(out) == [("c", DONE, Reason.NONE)]
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}


def test_a_lock_that_another_server_frees_is_handed_on() -> None:
    participant = after(WAITING)
    out = participant.handle_peer("b", answer(DONE, T2), NOW_S)
    assert told(out) == [(1, YES, Reason.NONE)]


def test_a_commit_of_several_keys_is_spread_once_its_client_is_gone() -> None:
    participant = after(COMMITTED)
    assert participant.tick(LATER_S) == []
    assert participant.disconnect(1, LATER_S) == []
    news = Message(Status.PROCEED, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    assert participant.tick(LATER_S) == [("b", news), ("c", news)]
    assert participant.tick(LATER_S) == []
    participant.handle_peer("b", answer(DONE), LATER_S)
    assert participant.tick(LATER_S + RESOLVE_RETRY_S) == [("c", news)]
    assert participant.tick(LATER_S + RESUME_TIMEOUT_S) == [("c", news)]
    assert state_of(participant) is State.COMMITTED
    participant.handle_peer("c", answer(DONE), LATER_S)
    assert participant.tick(LATER_S + RESUME_TIMEOUT_S + MAX_NEWS_RETRY_S) == []
    assert (participant.transactions, participant.memory.remembered) == ({}, {})
    assert 1 not in participant.memory.clients


def test_a_commit_is_spread_after_ever_longer_pauses() -> None:
    participant = after(COMMITTED, leave(1))
    told_s = [at_s for at_s in range(150) if participant.tick(NOW_S + at_s)]
    assert told_s == [2, 4, 8, 16, 32, 64, 96, 128]


def test_of_many_commits_a_part_is_spread_at_a_time() -> None:
    participant = after(COMMITTED, leave(1))
    (commit,) = participant.memory.commits()
    commits = [commit._replace(name=Name(1, 1 + number, 1)) for number in range(MAX_NEWS)]
    participant.memory.recall(commits, NOW_S)
    rounds = [participant.tick(LATER_S + number * 1e-3) for number in range(3)]
    assert [len(out) for out in rounds] == [MAX_NEWS, MAX_NEWS, 0]  # to two servers each
    assert {message.name for out in rounds for _, message in out} == {one.name for one in commits}


def test_a_commit_of_one_key_is_not_spread_but_forgotten_with_its_client() -> None:
    participant = after(learned, leave(1))
    assert participant.tick(MUCH_LATER_S - 0.001) == []
    assert state_of(participant) is State.COMMITTED
    assert participant.tick(MUCH_LATER_S) == []
    assert participant.transactions == {}
    assert 1 not in participant.memory.clients
