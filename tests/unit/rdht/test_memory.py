import pytest

from rdht import parts
from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_WINDOW
from rdht.messages import Message, Name, Operation
from rdht.transitions import State
from tests.unit.rdht.lone import (
    COMMITTED,
    DONE,
    MUCH_LATER_S,
    NOW_S,
    OTHER_KEY,
    T1,
    T2,
    act,
    after,
    answer,
    ask,
    hear,
    request,
    serving,
    spanning,
    state_of,
    statuses,
)


def test_a_client_that_comes_back_in_time_is_known_and_one_that_does_not_is_refused() -> None:
    participant = serving()
    participant.disconnect(1, NOW_S)
    participant.disconnect(2, NOW_S)
    participant.tick(MUCH_LATER_S - 0.001)
    assert participant.connect(1, NOW_S, resume=True) == []
    participant.tick(MUCH_LATER_S)
    assert participant.connect(1, NOW_S, resume=True) == []
    assert participant.connect(2, NOW_S, resume=True) is None
    assert participant.memory.clients == {1: None, 3: None}
    assert participant.connect(2, NOW_S, resume=False) == []


def test_a_client_that_was_never_here_is_forgotten_too() -> None:
    stranger = Name(9, 1, 1)
    participant = after(hear("b", ask(request(stranger))))
    for now_s in (NOW_S, MUCH_LATER_S - 0.001):
        participant.tick(now_s)
        assert state_of(participant, stranger) is State.ABORTED
    participant.tick(MUCH_LATER_S)
    assert (participant.transactions, participant.memory.remembered) == ({}, {})
    participant.tick(MUCH_LATER_S)
    assert participant.memory._strangers == {}


def test_what_a_client_cannot_ask_about_any_more_is_forgotten() -> None:
    participant = after(*(hear("b", ask(request(Name(1, one, 1)))) for one in (1, 2)))
    participant.handle(request(Name(1, MAX_WINDOW, 1), key=OTHER_KEY), NOW_S)
    assert len(participant.memory.remembered[1]) == 2
    participant.handle(request(Name(1, MAX_WINDOW + 1, 1)), NOW_S)
    assert participant.memory.remembered == {1: {Name(1, 2, 1)}}
    participant.handle(request(Name(1, MAX_WINDOW + 2, 1)), NOW_S)
    assert participant.memory.remembered == {}


def test_the_values_of_a_command_that_is_over_are_not_kept() -> None:
    (tx,) = after(COMMITTED).transactions.values()
    assert tx.state is State.COMMITTED
    assert not any((tx.parts, tx.staged, tx.answers, tx.request.value))


def test_memories_of_commits_are_told_of_one_range_or_of_all() -> None:
    participant = after(COMMITTED, act(request(T2)), hear("b", answer(DONE, T2)))
    whole = Message(DONE, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], ()))
    single = Message(DONE, T2, Operation.PUT, epoch=1, version=1)
    assert participant.memory.commits() == [whole, single]
    assert participant.memory.commits(2) == [whole]
    assert participant.memory.commits(1) == []


def test_what_was_remembered_elsewhere_is_answered_as_if_it_had_been_here() -> None:
    participant = serving()
    memories = after(COMMITTED, act(request(T2)), hear("b", answer(DONE, T2))).memory.commits()
    participant.check(memories)
    for _ in range(2):
        participant.memory.recall(memories, NOW_S)
    assert participant.memory.commits() == memories
    assert statuses(participant.handle(spanning(T1), NOW_S), 1) == [DONE]
    ((_, result),) = participant.handle(request(T2), NOW_S)
    assert (result.status, result.version) == (DONE, 1)


@pytest.mark.parametrize("number", [3, 9])
def test_a_memory_of_a_range_that_is_not_there_is_refused(number: int) -> None:
    memory = Message(DONE, T1, Operation.MANY, value=parts.pack([(number, 1)], ()))
    with pytest.raises(RemoteProtocolError, match=f"there is no range {number}"):
        serving().check([memory])
