"""A server's one-way connection to another one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rdht.limits import MAX_BODY_BYTES
from rdht.link import Link
from rdht.messages import Message, Name, Status
from rdht.roster import Roster
from rdht.transport import ClientConnection
from tests.unit.rdht.table import PATIENCE_S, make_hello, wait_until


class Ear:
    """A fake server's memory of what it was sent, which it never answers."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.hang_up_at: int | None = None

    def __call__(self, message: Message) -> list[Message] | None:
        if message.name.sequence == self.hang_up_at:
            return None
        self.heard.append(message.name.sequence)
        return []


def news(*numbers: int) -> list[Message]:
    return [Message(Status.RESOLVE, Name(1, number, 1)) for number in numbers]


@pytest.fixture
def ear() -> Ear:
    return Ear()


def connecting(roster: Roster) -> Callable[[float], ClientConnection]:
    """Return what connects to the first server as another server does."""
    hello = make_hello(roster, "s0", is_server=True)
    return lambda timeout_s: ClientConnection(roster.servers[0], hello, None, timeout_s)


@pytest.fixture
def link(roster: Roster, impatience: None) -> Iterator[Link]:
    with running(Link("s0", connecting(roster))) as link:
        yield link


@contextmanager
def running(link: Link) -> Iterator[Link]:
    link.start()
    yield link
    link.stop()
    link.join(PATIENCE_S)
    assert not link.is_alive()
    assert not link.is_up


def test_what_is_sent_arrives_in_order(
    link: Link, ear: Ear, roster: Roster, fake_server: Callable[..., None]
) -> None:
    fake_server(roster.servers[0], ear)
    wait_until(lambda: link.is_up)
    for number in range(0, 1000, 2):
        link.send(news(number, number + 1))
    wait_until(lambda: len(ear.heard) == 1000)
    assert ear.heard == list(range(1000))


def test_what_is_sent_while_it_is_down_is_dropped(
    ear: Ear,
    roster: Roster,
    fake_server: Callable[..., None],
    impatience: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def complaints() -> int:
        return sum("no link to s0" in record.getMessage() for record in caplog.records)

    # Not the fixture's: nothing is logged for a test between its setup and its call.
    with running(Link("s0", connecting(roster))) as link:
        wait_until(lambda: complaints() == 1)
        link.send(news(1, 2))
        assert not link._queue
        fake_server(roster.servers[0], ear)
        wait_until(lambda: link.is_up)
        link.send(news(3))
        wait_until(lambda: bool(ear.heard))
    assert ear.heard == [3]
    assert complaints() == 1


def test_what_was_meant_for_a_lost_connection_does_not_reach_the_next(
    link: Link, ear: Ear, roster: Roster, fake_server: Callable[..., None]
) -> None:
    fake_server(roster.servers[0], ear)
    wait_until(lambda: link.is_up)
    ear.hang_up_at = 5
    link.send(news(*range(10)))
    wait_until(lambda: ear.heard == [0, 1, 2, 3, 4])
    ear.hang_up_at = None
    sent = iter(range(100, 1000))

    def is_heard_again() -> bool:
        link.send(news(next(sent)))
        return len(ear.heard) > 10

    wait_until(is_heard_again)
    later = ear.heard[5:]
    assert later == sorted(later)
    assert later[0] >= 100


def test_a_link_far_behind_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdht.link.MAX_LINK_MESSAGES", 3)
    link = Link("s1", lambda _: pytest.fail("its thread was never started"))
    link.is_up = True
    for number in range(5):
        link.send(news(number))
    assert [message.name.sequence for message in link._queue] == [0, 1, 2]


def test_what_is_queued_when_it_is_stopped_is_still_sent(
    ear: Ear, roster: Roster, fake_server: Callable[..., None], impatience: None
) -> None:
    fake_server(roster.servers[0], ear)
    link = Link("s0", connecting(roster))
    link.start()
    wait_until(lambda: link.is_up)
    link.send(news(*range(50)))
    link.stop()
    link.join(PATIENCE_S)
    wait_until(lambda: len(ear.heard) == 50)


def test_a_message_that_no_frame_can_carry_does_not_end_the_thread(
    link: Link, ear: Ear, roster: Roster, fake_server: Callable[..., None]
) -> None:
    fake_server(roster.servers[0], ear)
    wait_until(lambda: link.is_up)
    link.send([Message(Status.COPY, value=bytes(MAX_BODY_BYTES + 1))])

    def is_heard() -> bool:
        link.send(news(7))
        return bool(ear.heard)

    wait_until(is_heard)
    assert link.is_alive()


def test_many_threads_may_send(
    link: Link, ear: Ear, roster: Roster, fake_server: Callable[..., None]
) -> None:
    fake_server(roster.servers[0], ear)
    wait_until(lambda: link.is_up)

    def send(first: int) -> None:
        for number in range(first, first + 200):
            link.send(news(number))

    threads = [threading.Thread(target=send, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    wait_until(lambda: len(ear.heard) == 800)
    for number in range(4):
        mine = [one for one in ear.heard if one // 1000 == number]
        assert mine == sorted(mine)
