import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import parts
from rdht.coordinator import Command, Outgoing
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.execution import _CONFLICTS, _FINAL, Execution, Outcome
from rdht.limits import (
    COMMAND_TIMEOUT_S,
    RECONNECT_PAUSE_S,
    RETRY_BACKOFF_FIRST_S,
    RETRY_BACKOFF_MAX_S,
)
from rdht.messages import Flag, Message, Name, Operation, Reason, Status
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.ring import Replicas, Ring
from rdht.roster import Roster, ServerAddress

NOW_S = 1000.0
DEADLINE_S = NOW_S + COMMAND_TIMEOUT_S
SERVERS = tuple(ServerAddress(name, name, "127.0.0.1", 1) for name in "abc")
RING = Ring(Roster(SERVERS), 3)  # ranges: a and b, b and c, c and a
KEYS = {RING.range_of(b"%d" % number): b"%d" % number for number in range(20)}
PUT = Command(Operation.PUT, KEYS[0], b"value")
GET = Command(Operation.GET, KEYS[0])
FAR_PUT = Command(Operation.PUT, KEYS[1], b"far value")
YES, NO, DONE, ABORTED = Status.YES, Status.NO, Status.DONE, Status.ABORTED


def whole(pause_s: float) -> float:
    """Take no chance in a pause."""
    return pause_s


class Talk:
    """An execution, and what it has sent."""

    def __init__(
        self,
        commands: Sequence[Command] = (PUT,),
        profile: str = "fast",
        sequence: int = 4,
        epochs: dict[int, int] | None = None,
    ) -> None:
        self.epochs = {} if epochs is None else epochs
        self.execution = Execution(
            9, sequence, commands, RING, PROFILES[profile], self.epochs, NOW_S
        )
        self.sent: Outgoing = []

    def begin(self) -> "Talk":
        self.sent = self.execution.begin()
        return self

    def hear(
        self, server: str, status: Status, reason: Reason = Reason.NONE, **more: Any
    ) -> "Talk":
        now_s, attempt = more.pop("now_s", NOW_S), more.pop("attempt", self.execution._attempt)
        operation = Operation.MANY if len(self.execution.commands) > 1 else Operation.PUT
        name = Name(9, self.execution.sequence, attempt)
        message = Message(status, name, operation, reason, **more)
        self.sent = self.execution.receive(server, message, now_s, whole)
        return self

    def lose(self, server: str, *, reached: bool = True) -> "Talk":
        self.sent = self.execution.lost(server, NOW_S, whole, reached=reached)
        return self

    def sends(self) -> list[tuple[str, Status]]:
        return [(server, message.status) for server, message in self.sent]


def ended(execution: Execution) -> Outcome | None:
    return execution.outcome


def refused(
    *reasons: Reason, profile: str = "fast", now_s: float = NOW_S, **more: Any
) -> Execution:
    talk = Talk(profile=profile).begin()
    for server, reason in zip("ab", reasons, strict=True):
        talk.hear(server, NO, reason, now_s=now_s, **more)
    return talk.execution


# Success.


def test_a_fast_put_is_done_with_its_votes_and_nobody_answers_the_proceed() -> None:
    talk = Talk().begin()
    assert talk.execution.is_in_flight
    assert talk.sends() == [("a", Status.REQUEST), ("b", Status.REQUEST)]
    assert talk.hear("a", YES, version=3).sent == []
    assert talk.hear("b", YES, version=3).sends() == [("a", Status.PROCEED), ("b", Status.PROCEED)]
    assert all(message.flags == Flag.SILENT for _, message in talk.sent)
    assert talk.execution.outcome is Outcome.DONE
    assert talk.execution.results() == [Result(found=True, version=3)]
    assert not talk.execution.is_in_flight


@pytest.mark.parametrize("command", [PUT, GET])
def test_a_classic_command_is_done_when_both_say_so(command: Command) -> None:
    talk = Talk([command], "classic").begin()
    assert [message.flags for _, message in talk.sent] == [Flag.LATE] * 2
    talk.hear("a", YES).hear("b", YES)
    assert talk.sends() == [("a", Status.PROCEED), ("b", Status.PROCEED)]
    assert talk.execution.outcome is None
    talk.hear("a", DONE).hear("b", DONE)
    assert talk.execution.outcome is Outcome.DONE


def test_several_keys_are_done_when_all_say_so_in_every_profile() -> None:
    talk = Talk([PUT, FAR_PUT]).begin()
    one, two = (parts.pack_results([Result(found=True, version=0)] * count) for count in (1, 2))
    talk.hear("a", YES, value=one).hear("b", YES, value=two).hear("c", YES, value=one)
    assert talk.execution.outcome is None
    talk.hear("a", DONE).hear("b", DONE).hear("c", DONE)
    assert talk.execution.outcome is Outcome.DONE
    assert len(talk.execution.results()) == 2
    assert not talk.execution.is_unsettled


def test_a_fast_get_asks_one_replica_and_the_other_in_turn() -> None:
    asked: list[str] = []
    for sequence in (4, 5):
        talk = Talk([GET], sequence=sequence)
        assert talk.execution.reads_one
        servers = talk.execution.servers
        assert talk.begin().sends() == [(server, Status.READ) for server in servers]
        assert talk.hear(servers[0], DONE, version=2, value=b"v").sent == []
        assert talk.execution.outcome is Outcome.DONE
        assert talk.execution.results() == [Result(found=True, version=2, value=b"v")]
        asked += servers
    assert asked == ["a", "b"]


def test_a_get_that_is_refused_asks_the_other_replica_next() -> None:
    talk = Talk([GET]).begin()
    talk.hear("a", NO, Reason.SYNCING)
    assert talk.execution.servers == ("b",)
    assert talk.begin().sends() == [("b", Status.READ)]


def test_a_get_that_cannot_reach_its_replica_asks_the_other_next() -> None:
    talk = Talk([GET])
    assert talk.execution.servers == ("a",)
    talk.execution.postpone("no", NOW_S, whole)
    assert talk.execution.servers == ("b",)
    assert talk.begin().sends() == [("b", Status.READ)]


@pytest.mark.parametrize(
    ("commands", "profile", "servers"),
    [
        ([PUT], "fast", ("a", "b")),
        ([GET], "classic", ("a", "b")),
        ([PUT, FAR_PUT], "fast", ("a", "b", "c")),
        ([GET, FAR_PUT], "fast", ("a", "b", "c")),
    ],
)
def test_all_who_take_part_are_named_before_it_begins(
    commands: list[Command], profile: str, servers: tuple[str, ...]
) -> None:
    execution = Talk(commands, profile).execution
    assert not execution.reads_one
    assert execution.servers == servers
    assert {server for server, _ in execution.begin()} == set(servers)


# Refusals.


def test_a_condition_that_does_not_hold_is_an_outcome_with_the_version_that_is_there() -> None:
    execution = refused(Reason.BUSY, Reason.NOTHING, version=7)
    assert execution.outcome is Outcome.DONE
    assert execution.results() == [Result(found=False, version=7)]


@pytest.mark.parametrize("reason", sorted(_FINAL))
def test_what_no_retry_can_mend_ends_the_command(reason: Reason) -> None:
    execution = refused(Reason.BUSY, reason)
    assert (execution.outcome, execution.why) == (Outcome.ABORTED, _FINAL[reason])


@pytest.mark.parametrize("reason", sorted(set(Reason) - set(_FINAL) - {Reason.NOTHING}))
def test_any_other_refusal_is_followed_by_another_attempt(reason: Reason) -> None:
    execution = refused(reason, reason, profile="classic")
    assert execution.outcome is None
    assert execution.why
    is_absent = reason in {Reason.SYNCING, Reason.STOPPING}
    pause_s = RECONNECT_PAUSE_S if is_absent else RETRY_BACKOFF_FIRST_S
    assert execution.due_s == NOW_S + pause_s
    assert execution.conflicts == (reason in _CONFLICTS)
    assert not execution.is_in_flight
    assert {message.name.attempt for _, message in execution.begin()} == {2}
    assert execution.due_s is None


def test_the_pauses_grow_up_to_their_limit_and_are_left_to_chance() -> None:
    talk = Talk(profile="classic")
    pauses = []
    for _ in range(12):
        talk.begin().hear("a", NO, Reason.BUSY).hear("b", NO, Reason.BUSY)
        assert talk.execution.due_s is not None
        pauses.append(talk.execution.due_s - NOW_S)
    expected = [min(RETRY_BACKOFF_FIRST_S * 2**one, RETRY_BACKOFF_MAX_S) for one in range(12)]
    assert pauses == pytest.approx(expected)
    assert talk.execution.conflicts == 12
    talk.execution.postpone("no", NOW_S, lambda pause_s: pause_s / 4)
    assert talk.execution.due_s == pytest.approx(NOW_S + RETRY_BACKOFF_MAX_S / 4)


def test_a_busy_lock_is_waited_for_at_once_and_in_the_order_of_the_roster() -> None:
    talk = Talk().begin().hear("a", YES).hear("b", NO, Reason.BUSY)
    assert talk.sends() == [("a", Status.ABORT)]
    talk.hear("a", ABORTED)
    assert talk.execution.due_s == NOW_S
    talk.begin()
    assert [(server, message.flags) for server, message in talk.sent] == [("a", Flag.QUEUE)]
    assert talk.hear("a", YES).sends() == [("b", Status.REQUEST)]
    talk.hear("b", NO, Reason.SYNCING)
    talk.hear("a", ABORTED)
    assert talk.execution.due_s == NOW_S + RECONNECT_PAUSE_S
    assert talk.begin().sends() == [("a", Status.REQUEST)]
    talk.hear("a", NO, Reason.BUSY)
    assert talk.execution.due_s == NOW_S + RETRY_BACKOFF_MAX_S


def test_the_epoch_that_a_refusal_tells_is_used_next_and_never_a_lower_one() -> None:
    talk = Talk(epochs={0: 2}).begin()
    assert talk.sent[0][1].epoch == 2
    talk.hear("a", NO, Reason.STALE_EPOCH, epoch=5).hear("b", NO, Reason.SYNCING, epoch=4)
    assert talk.epochs == {0: 5}
    assert talk.begin().sent[0][1].epoch == 5
    talk.hear("a", NO, Reason.BUSY, epoch=9)
    assert talk.epochs == {0: 5}


def test_a_refusal_at_the_deadline_is_the_last() -> None:
    assert refused(Reason.BUSY, Reason.BUSY, now_s=DEADLINE_S - 0.001).outcome is None
    execution = refused(Reason.BUSY, Reason.BUSY, now_s=DEADLINE_S)
    assert (execution.outcome, execution.why) == (Outcome.ABORTED, "its lock was taken")
    assert execution.due_s is None


# Answers that come late or are of no use.


def test_an_answer_to_an_attempt_before_is_passed_over() -> None:
    talk = Talk().begin().hear("a", NO, Reason.VETOED).hear("b", NO, Reason.VETOED)
    talk.hear("a", YES)  # it is between two attempts
    assert (talk.sent, talk.epochs) == ([], {})
    talk.begin().hear("a", YES, Reason.STALE_EPOCH, attempt=1, epoch=9)
    assert (talk.sent, talk.epochs) == ([], {})
    talk.hear("a", YES).hear("b", YES)
    assert talk.execution.outcome is Outcome.DONE


def test_an_answer_that_was_not_asked_for_raises_and_changes_nothing() -> None:
    talk = Talk().begin()
    before = pickle.dumps(talk.execution)
    with pytest.raises(RemoteProtocolError, match="c sent NO"):
        talk.hear("c", NO, Reason.STALE_EPOCH, epoch=9)
    assert pickle.dumps(talk.execution) == before
    assert talk.epochs == {}


def test_what_has_not_begun_has_no_results_and_takes_no_answer() -> None:
    talk = Talk()
    with pytest.raises(LocalProtocolError, match="no attempt has begun"):
        talk.execution.results()
    with pytest.raises(LocalProtocolError, match="no attempt has begun"):
        talk.hear("a", YES)
    assert talk.execution.outcome is None


# Lost connections.


def test_a_request_that_reached_nobody_is_tried_again() -> None:
    talk = Talk().begin().lose("a", reached=False).lose("b", reached=False)
    assert talk.execution.due_s == NOW_S + RETRY_BACKOFF_FIRST_S
    assert talk.execution.why == "a server could not be reached"
    assert talk.execution.conflicts == 0


def test_what_waits_for_an_answer_is_sent_again() -> None:
    talk = Talk().begin().hear("a", YES).lose("b")
    assert talk.sent == []
    assert [server for server, _ in talk.execution.resend("b")] == ["b"]
    assert talk.execution.resend("a") == []
    talk.hear("b", YES)
    assert talk.execution.outcome is Outcome.DONE


def test_a_loss_before_or_between_attempts_is_of_no_account() -> None:
    talk = Talk()
    assert talk.lose("a").sent == talk.execution.resend("a") == []
    talk.execution.postpone("no", NOW_S, whole)
    before = pickle.dumps(talk.execution)
    assert talk.lose("a").sent == talk.execution.resend("a") == []
    assert pickle.dumps(talk.execution) == before


def test_what_cannot_be_connected_is_put_off_until_the_deadline() -> None:
    talk = Talk()
    talk.execution.postpone("nobody there", NOW_S, whole)
    assert talk.execution.due_s == NOW_S + RETRY_BACKOFF_FIRST_S
    assert talk.execution.outcome is None
    talk.execution.postpone("nobody there", DEADLINE_S, whole)
    assert talk.execution.why == "nobody there"
    assert ended(talk.execution) is Outcome.ABORTED


def test_a_command_names_its_ranges_and_can_be_refused_before_it_is_sent() -> None:
    talk = Talk([PUT, FAR_PUT])
    assert talk.execution.ranges == {0, 1}
    talk.execution.refuse(Reason.LOST)
    assert (talk.execution.outcome, talk.execution.why) == (Outcome.ABORTED, _FINAL[Reason.LOST])


# Giving up.


def test_what_has_not_begun_or_pauses_is_certainly_not_done() -> None:
    talk = Talk()
    talk.execution.give_up()
    assert talk.execution.outcome is Outcome.ABORTED
    pausing = refused(Reason.BUSY, Reason.BUSY)
    pausing.give_up()
    assert (pausing.outcome, pausing.why) == (Outcome.ABORTED, "its lock was taken")


def test_what_waits_for_votes_is_unknown() -> None:
    talk = Talk().begin().hear("a", YES)
    talk.execution.give_up()
    assert (talk.execution.outcome, talk.execution.why) == (Outcome.UNKNOWN, "no answer in time")
    assert talk.execution.is_unsettled
    talk.execution.give_up()
    assert talk.execution.outcome is Outcome.UNKNOWN


def test_what_waits_for_a_yes_to_be_taken_back_is_unknown() -> None:
    talk = Talk().begin().hear("a", YES).hear("b", NO, Reason.BUSY)
    talk.execution.give_up()
    assert talk.execution.outcome is Outcome.UNKNOWN


def test_what_all_have_voted_for_is_done_though_not_all_may_know() -> None:
    one, two = (parts.pack_results([Result(found=True, version=0)] * count) for count in (1, 2))
    talk = Talk([PUT, FAR_PUT]).begin()
    talk.hear("a", YES, value=one).hear("b", YES, value=two).hear("c", YES, value=one)
    talk.execution.give_up()
    assert talk.execution.outcome is Outcome.DONE
    assert talk.execution.is_unsettled
    single = Talk(profile="classic").begin().hear("a", YES).hear("b", YES)
    single.execution.give_up()
    assert single.execution.outcome is Outcome.DONE
    assert not single.execution.is_unsettled


def test_what_only_waits_for_others_to_let_go_is_certainly_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        RING, "ranges", (Replicas("a", "b"), Replicas("c", "d"), Replicas("c", "a"))
    )
    monkeypatch.setattr(RING, "servers", tuple("abcd"))
    for reason, outcome in ((Reason.BUSY, Outcome.ABORTED), (Reason.NOTHING, Outcome.DONE)):
        talk = Talk([PUT, FAR_PUT]).begin().hear("a", YES).hear("b", YES)
        talk.hear("c", NO, reason).hear("d", NO, reason)
        assert talk.sends() == [("a", Status.ABORT), ("b", Status.ABORT)]
        talk.execution.give_up()
        assert talk.execution.outcome is outcome
        assert not talk.execution.is_unsettled


def test_an_outcome_stays_what_it_is() -> None:
    talk = Talk().begin().hear("a", YES).hear("b", YES)
    talk.execution.give_up()
    assert talk.lose("a").sent == []
    assert talk.execution.outcome is Outcome.DONE
    assert not talk.execution.is_unsettled


# Whatever happens.

COMMANDS: list[list[Command]] = [[PUT], [GET], [PUT, FAR_PUT]]
STEPS = st.one_of(
    st.tuples(
        st.just("hear"),
        st.sampled_from("abc"),
        st.sampled_from([YES, NO, DONE, Status.DONE_NOTHING, ABORTED, Status.STATS]),
        st.sampled_from(Reason),
    ),
    st.tuples(st.sampled_from(["lose", "unreached", "resend"]), st.sampled_from("abc")),
)


@given(st.sampled_from(COMMANDS), st.sampled_from(sorted(PROFILES)), st.lists(STEPS, max_size=25))
def test_whatever_the_servers_answer_a_command_has_one_outcome(
    commands: list[Command], profile: str, steps: list[Any]
) -> None:
    talk = Talk(commands, profile).begin()
    execution = talk.execution
    happen: dict[str, Callable[..., object]] = {
        "hear": talk.hear,
        "lose": talk.lose,
        "unreached": lambda server: talk.lose(server, reached=False),
        "resend": execution.resend,
    }
    for what, *rest in steps:
        if execution.due_s is not None:
            talk.begin()
        before, outcome = pickle.dumps(execution), execution.outcome
        try:
            happen[what](*rest)
        except RemoteProtocolError:
            assert pickle.dumps(execution) == before
        assert outcome in {None, execution.outcome}
    execution.give_up()
    assert execution.outcome is not None
    if execution.outcome is Outcome.DONE:
        assert len(execution.results()) <= len(commands)
