import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

import pytest

from rdht.errors import AbortedError, RdhtError
from rdht.limits import CLIENT_TICK_S
from rdht.loop import Loop, Programme
from rdht.session import Session

BROKEN = AbortedError("broken", {})


class FakeSession:
    """Stands for a Session: one connection, on which the test itself sends."""

    def __init__(self) -> None:
        self.is_whole = True
        self.changes = 0
        self.taken = b""
        self.overdue = 0
        self.left_s = CLIENT_TICK_S
        self.on_act: Callable[[], None] = lambda: None
        self.on_flush: Callable[[], None] = lambda: None
        self.on_turn: Callable[[], None] = lambda: None
        self.turns: list[float | None] = []
        self.open()

    def open(self) -> None:
        self.mine, self.other = socket.socketpair()
        self.descriptors = [self.mine.fileno()]
        self.changes += 1

    def take(self, descriptor: int) -> None:
        assert descriptor == self.mine.fileno()
        self.taken += self.mine.recv(100)
        if self.taken.endswith(b"!"):
            raise BROKEN

    def flush(self) -> None:
        self.on_flush()

    def act(self) -> float:
        assert self.is_whole, "it would connect in the loop's thread"
        self.on_act()
        return self.left_s

    def turn(self, until_s: float | None) -> None:
        self.on_turn()
        self.turns.append(until_s)
        self.is_whole = len(self.turns) >= 3

    def end_overdue(self) -> None:
        self.overdue += 1

    def close(self) -> None:
        self.mine.close()
        self.other.close()


@pytest.fixture
def sessions() -> list[FakeSession]:
    return [FakeSession(), FakeSession()]


@pytest.fixture(autouse=True)
def closed(sessions: list[FakeSession]) -> object:
    with ExitStack() as stack:
        for session in sessions:
            stack.callback(session.close)
        yield


def nothing() -> Programme:
    """End at once; a loop of one session alone would not need to be one."""
    yield from ()


def run(*pairs: tuple[FakeSession, Programme]) -> None:
    Loop((cast("Session", session), programme) for session, programme in pairs).run()


def test_what_comes_for_a_session_is_taken_and_its_programme_goes_on(
    sessions: list[FakeSession],
) -> None:
    one, two = sessions
    heard: list[str] = []

    def talk() -> Programme:
        one.other.send(b"a")
        while one.taken != b"a":
            yield None
        heard.append("a")
        one.close()
        one.open()  # as a session does that is a new client
        one.other.send(b"b")
        while one.taken != b"ab":
            yield None
        heard.append("b")
        two.other.send(b"c")

    def listen() -> Programme:
        while not two.taken:
            yield None
        heard.append("c")

    run((one, talk()), (two, listen()))
    assert heard == ["a", "b", "c"]


def test_a_programme_waits_until_the_time_that_it_names(sessions: list[FakeSession]) -> None:
    late_s: list[float] = []

    def wait() -> Programme:
        for _ in range(20):
            until_s = time.monotonic() + 0.0031
            while time.monotonic() < until_s:
                yield until_s
            late_s.append(time.monotonic() - until_s)

    run((sessions[0], wait()), (sessions[1], nothing()))
    assert min(late_s) < 0.0005  # a poll would always oversleep to the next millisecond


def test_a_session_acts_when_something_of_its_own_is_due(sessions: list[FakeSession]) -> None:
    session = sessions[0]
    session.left_s = 0.001
    acts: list[float] = []
    session.on_act = lambda: acts.append(time.monotonic())

    def wait() -> Programme:
        while len(acts) < 5:
            yield None

    run((session, wait()), (sessions[1], nothing()))
    assert acts[-1] - acts[0] < 4 * CLIENT_TICK_S


def test_commands_without_an_answer_end_though_others_have_theirs(
    sessions: list[FakeSession],
) -> None:
    busy, silent = sessions

    def chat() -> Programme:
        while silent.overdue < 2:
            busy.other.send(b"x")
            yield None

    def wait() -> Programme:
        while silent.overdue < 2:
            yield None

    run((busy, chat()), (silent, wait()))
    assert not silent.taken


@pytest.mark.parametrize("where", ["take", "act", "turn"])
def test_a_programme_hears_of_its_sessions_errors(sessions: list[FakeSession], where: str) -> None:
    session = sessions[0]
    heard: list[RdhtError] = []

    def fail() -> None:
        raise BROKEN

    def listen() -> Programme:
        if where == "take":
            session.other.send(b"!")
        elif where == "act":
            session.on_act = fail
        try:
            while True:
                yield None
        except AbortedError as error:
            heard.append(error)

    if where == "turn":
        session.is_whole = False
        session.on_turn = fail
    run((session, listen()), (sessions[1], nothing()))
    assert heard == [BROKEN]


def test_a_session_that_lacks_a_connection_has_a_thread_of_its_own_until_it_is_back(
    sessions: list[FakeSession],
) -> None:
    session, other = sessions
    threads: list[int] = []
    here = threading.get_ident()

    def lose() -> Programme:
        threads.append(threading.get_ident())
        session.is_whole = False
        yield 7.0
        while not session.is_whole:
            threads.append(threading.get_ident())
            yield None
        while threading.get_ident() != here:
            yield None
        threads.append(threading.get_ident())
        other.other.send(b"it is back")

    def wait() -> Programme:
        while not other.taken:
            assert threading.get_ident() == here
            yield None

    run((session, lose()), (other, wait()))
    assert len(session.turns) == 3
    first, *alone, last = threads
    assert first == last == here
    assert alone
    assert here not in alone


def test_a_session_that_would_wait_to_send_or_connect_does_so_in_a_thread_of_its_own(
    sessions: list[FakeSession],
) -> None:
    session, other = sessions

    def lose() -> None:
        session.is_whole = bool(session.turns)

    def wait() -> Programme:
        while not session.turns:
            yield None

    session.on_flush = lose
    run((session, wait()), (other, nothing()))
    assert session.turns


def test_a_programme_may_end_in_a_thread_of_its_own(sessions: list[FakeSession]) -> None:
    session = sessions[0]
    session.is_whole = False

    def end() -> Programme:
        yield None

    run((session, end()), (sessions[1], nothing()))
    assert session.turns == [None]


def test_one_session_alone_takes_its_turns(sessions: list[FakeSession]) -> None:
    session = sessions[0]
    heard: list[RdhtError] = []

    def talk() -> Programme:
        yield 5.0
        session.on_turn = fail
        try:
            yield None
        except AbortedError as error:
            heard.append(error)

    def fail() -> None:
        raise BROKEN

    run((session, talk()))
    assert session.turns == [5.0]
    assert heard == [BROKEN]
