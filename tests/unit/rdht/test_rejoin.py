import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import parts
from rdht.errors import RemoteProtocolError
from rdht.limits import (
    COPY_PAGE_BYTES,
    COPY_RETRY_S,
    JOIN_RETRY_S,
    KNOWN_INTERVAL_S,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    MAX_VALUE_BYTES,
)
from rdht.messages import Flag, Message, Name, Operation, Outgoing, Reason, Status, encode
from rdht.participant import Participant
from rdht.rejoin import Rejoin
from rdht.replica import Mode
from rdht.ring import Replicas
from rdht.table import Entry, Table, pack_row

SERVERS = ("a", "b", "c")
LAYOUT = (Replicas("a", "b"), Replicas("b", "c"), Replicas("c", "a"))
PAIR = (Replicas("a", "b"), Replicas("b", "a"))
T1 = Name(1, 1, 1)
KEY = b"key"


class Server:
    """A server process: what it holds, and its coming back."""

    def __init__(
        self, name: str, incarnation: int, layout: tuple[Replicas, ...], *, durable: bool
    ) -> None:
        self.participant = Participant(name, layout, durable=durable)
        servers = SERVERS[: len(layout)]
        self.rejoin = Rejoin(self.participant, servers, incarnation)

    def modes(self) -> set[Mode]:
        return {one.mode for one in self.participant.replicas.values()}

    def epochs(self) -> dict[int, int]:
        return {number: one.epoch for number, one in self.participant.replicas.items()}


class World:
    """Servers that can reach each other, and a clock."""

    def __init__(self, layout: tuple[Replicas, ...] = LAYOUT, *, durable: bool = False) -> None:
        self.layout = layout
        self.durable = durable
        self.now_s = 100.0
        self.started = 0
        self.servers: dict[str, Server] = {}
        self.held: Callable[[str, str, Message], bool] = lambda _from, _to, _message: False
        self.sent: list[tuple[str, str, Message]] = []

    def start(self, *names: str) -> "World":
        for name in names:
            self.started += 1
            self.servers[name] = Server(name, self.started, self.layout, durable=self.durable)
        return self

    def deliver(self, sender: str, out: Outgoing) -> None:
        """Let servers talk until nothing is left to say."""
        todo = deque((sender, to, message) for to, message in out)
        while todo:
            came_from, to, message = todo.popleft()
            if isinstance(to, int) or self.held(came_from, str(to), message):
                continue
            self.sent.append((came_from, str(to), message))
            if len(encode(message)) > MAX_FRAME_BYTES:
                raise AssertionError(message)
            if to in self.servers:
                replies = self.give(str(to), came_from, message)
                todo.extend((str(to), other, reply) for other, reply in replies)

    def give(self, to: str, sender: str, message: Message) -> Outgoing:
        server = self.servers[to]
        if message.status in {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}:
            return server.rejoin.handle(sender, message, self.now_s)
        return server.participant.handle_peer(sender, message, self.now_s)

    def pass_time(self, rounds: int = 1) -> "World":
        for _ in range(rounds):
            self.now_s += KNOWN_INTERVAL_S
            for name, server in list(self.servers.items()):
                self.deliver(name, server.participant.tick(self.now_s))
                self.deliver(name, server.rejoin.tick(self.now_s))
        return self

    def put(self, server: str, name: Name, key: bytes = KEY, number: int = 0) -> Message:
        """Let a client ask one server to put a key; return its vote."""
        participant = self.servers[server].participant
        epoch = participant.replicas[number].epoch
        fields: dict[str, Any] = {"range": number, "epoch": epoch, "key": key, "value": b"v"}
        ((_, vote),) = participant.handle(
            Message(Status.REQUEST, name, Operation.PUT, **fields), self.now_s
        )
        return vote

    def tables(self, number: int = 0) -> list[Table]:
        return [self.servers[one].participant.replicas[number].table for one in self.layout[number]]


def founded(layout: tuple[Replicas, ...] = LAYOUT, *, durable: bool = False) -> World:
    world = World(layout, durable=durable).start(*SERVERS[: len(layout)]).pass_time(4)
    assert all(server.modes() == {Mode.SERVING} for server in world.servers.values())
    return world


def keep(world: World, number: int, *rows: tuple[bytes, Entry]) -> None:
    for table in world.tables(number):
        table.update(rows)


# The first start.


@pytest.mark.parametrize("layout", [PAIR, LAYOUT])
def test_new_ranges_are_served_at_epoch_one_by_both_replicas(
    layout: tuple[Replicas, ...],
) -> None:
    world = founded(layout)
    assert {epoch for one in world.servers.values() for epoch in one.epochs().values()} == {1}
    assert all(
        one.intact for s in world.servers.values() for one in s.participant.replicas.values()
    )


def test_the_number_of_a_ranges_first_table_goes_with_its_copies_and_is_another_for_a_new_one() -> (
    None
):
    def founded_by(world: World) -> set[int]:
        return {world.servers[one].participant.replicas[0].founded for one in PAIR[0]}

    world = founded(PAIR)
    (number,) = founded_by(world)
    assert number
    world.start("b").pass_time(2)
    world.start("a").pass_time(2)
    assert founded_by(world) == {number}
    world.start("a", "b").pass_time(4)  # two servers that both forget have nobody to tell them
    (another,) = founded_by(world)
    assert another not in {0, number}


@pytest.mark.parametrize("present", ["a", "ab", "bc"])
def test_nothing_is_served_before_all_servers_were_there(present: str) -> None:
    world = World().start(*present).pass_time(10)
    assert all(server.modes() == {Mode.JOINING} for server in world.servers.values())
    absent = set(SERVERS) - set(present)
    world.start(*absent).pass_time(4)
    assert all(server.modes() == {Mode.SERVING} for server in world.servers.values())


def test_all_others_hear_of_a_new_range_before_it_is_served() -> None:
    world = World().start(*SERVERS)
    known: dict[str, set[int]] = {name: set() for name in SERVERS}

    def watch(_sender: str, to: str, message: Message) -> bool:
        if message.status is Status.KNOWN:
            known[to] = world.servers[to].rejoin._known_ranges() | {
                int.from_bytes(message.value[at : at + 2]) for at in range(0, len(message.value), 2)
            }
        if message.status is Status.COPY:
            third = next(one for one in SERVERS if one not in LAYOUT[message.range])
            assert message.range in known[third]
        return False

    world.held = watch
    world.pass_time(4)
    assert all(server.modes() == {Mode.SERVING} for server in world.servers.values())


def test_a_new_range_of_which_another_server_cannot_hear_is_not_served() -> None:
    world = World().start(*SERVERS)
    news = Status.KNOWN
    world.held = lambda _, to, message: (
        to == "c" and message.status is news and message.value != b""
    )
    world.pass_time(5)
    assert world.servers["a"].rejoin._announced == {0}
    assert world.servers["a"].participant.replicas[0].mode is Mode.JOINING
    world.held = lambda _sender, _to, _message: False
    world.pass_time(2)
    assert world.servers["a"].modes() == {Mode.SERVING}


def test_servers_that_were_all_there_once_may_start_one_after_the_other() -> None:
    world = World()
    for name in "cba":
        world.start(name).pass_time(2)
    world.pass_time(4)
    assert all(server.modes() == {Mode.SERVING} for server in world.servers.values())


# Coming back.


def test_a_server_that_comes_back_takes_its_copies_and_both_move_to_the_next_epoch() -> None:
    world = founded()
    rows = {b"%d" % number: Entry(b"v%d" % number, number) for number in range(1, 9)}
    keep(world, 0, *rows.items(), (b"gone", Entry(None, 7)))
    world.start("b").pass_time(2)
    assert world.tables(0) == [{**rows, b"gone": Entry(None, 7)}] * 2
    assert world.servers["b"].modes() == {Mode.SERVING}
    assert world.servers["a"].epochs() == {0: 2, 2: 1}
    assert world.servers["b"].epochs() == {0: 2, 1: 2}
    assert world.servers["c"].epochs() == {1: 2, 2: 1}


def test_a_long_copy_comes_page_by_page_and_each_fits_into_a_frame() -> None:
    world = founded()
    rows = {b"%04d" % number: Entry(b"v" * 1000, 1) for number in range(1000)}
    rows[b"0000"] = rows[b"0500"] = Entry(b"v" * MAX_VALUE_BYTES, 1)
    keep(world, 0, *rows.items())
    world.start("b")
    world.sent.clear()
    world.pass_time(2)
    assert world.tables(0) == [rows, rows]
    pages = [one for _, _, one in world.sent if one.status is Status.COPY and one.range == 0]
    assert len(pages) > 3
    assert sum(one.name.attempt for one in pages) == len(rows)
    assert [bool(one.flags & Flag.INTACT) for one in pages] == [False] * (len(pages) - 1) + [True]


def test_a_copy_goes_on_where_a_lost_page_ended_it() -> None:
    world = founded()
    rows = {b"%04d" % number: Entry(b"v" * 1000, 1) for number in range(1000)}
    keep(world, 0, *rows.items())
    lost: list[Message] = []

    def lose_second(_sender: str, _to: str, message: Message) -> bool:
        is_second = message.status is Status.COPY and message.version > 0 and not lost
        lost.extend([message] if is_second else [])
        return is_second

    world.start("b")
    world.held = lose_second
    world.sent.clear()
    world.pass_time(2)
    assert len(lost) == 1
    assert world.tables(0) == [rows, rows]
    starts = [
        one.version for _, _, one in world.sent if one.status is Status.COPY and one.range == 0
    ]
    assert starts == sorted(set(starts))


def test_a_page_that_may_be_on_its_way_is_not_asked_for_again() -> None:
    world = founded()
    keep(world, 0, *((b"%04d" % number, Entry(b"v" * 1000, 1)) for number in range(1000)))
    copied: list[Message] = []

    def lose_third(_sender: str, _to: str, message: Message) -> bool:
        is_ours = message.status is Status.COPY and message.range == 0
        copied.extend([message] if is_ours else [])
        return is_ours and len(copied) == 3

    world.held = lose_third
    world.start("b").pass_time()
    assert len(copied) == 3
    assert len(copied[0].value) < COPY_PAGE_BYTES // 8, "it may be asked for while it is on its way"
    server = world.servers["b"]
    asked = [
        [one.version for _, one in server.rejoin.tick(world.now_s + after_s) if one.range == 0
         and one.status is Status.JOIN]
        for after_s in (0, JOIN_RETRY_S, *(number * COPY_RETRY_S for number in range(1, 9)))
    ]  # fmt: skip
    start = copied[2].version
    # Each repeat may be on its way, too, and makes a slow link slower: after 1, 2, 4 and 8 s.
    assert asked == [[], [], [start], [start], [], [start], [], [], [], [start]]


def test_a_first_page_is_empty_where_a_row_would_make_it_long() -> None:
    world = founded()
    value = b"v" * MAX_VALUE_BYTES
    keep(world, 0, *((b"%04d" % number, Entry(value, 1)) for number in range(3)))
    copied: list[int] = []

    def look(_sender: str, _to: str, message: Message) -> bool:
        if message.status is Status.COPY and message.range == 0:
            copied.append(len(message.value))
        return False

    world.held = look
    world.start("b").pass_time()
    first, *others = copied
    assert first == 0
    assert len(others) == 3
    assert len(world.servers["b"].participant.replicas[0].table) == 3


def test_a_copy_that_was_begun_by_a_giver_before_starts_anew() -> None:
    world = founded()
    joiner = World().start("b").servers["b"]
    page = pack_row(b"of before", Entry(b"x", 1))
    copy = Message(Status.COPY, Name(77, 1, 1), range=0, epoch=9, value=page)
    ((_, join),) = joiner.rejoin.handle("a", copy, world.now_s)
    assert (join.version, join.name.sequence) == (1, 77)
    giver = world.servers["a"].rejoin
    ((_, first),) = giver.handle("b", join, world.now_s)
    assert (first.version, first.epoch) == (0, 2)
    joiner.rejoin.handle("a", first, world.now_s)
    assert joiner.participant.replicas[0].table == {}
    assert joiner.participant.replicas[0].mode is Mode.SERVING


def test_what_the_survivor_had_promised_is_rolled_forward_and_copied() -> None:
    world = founded()
    assert world.put("a", T1).status is Status.YES
    world.start("b").pass_time(2)
    assert world.tables(0) == [{KEY: Entry(b"v", 1)}] * 2
    ((_, again),) = world.servers["b"].participant.handle(
        Message(Status.REQUEST, T1, Operation.PUT, key=KEY, epoch=1), world.now_s
    )
    assert again.status is Status.DONE


def test_the_copy_waits_until_nothing_is_in_doubt() -> None:
    world = founded()
    asked = [
        Message(Status.REQUEST, T1, Operation.PUT, range=number, key=b"%d" % number, value=b"v")
        for number in (0, 2)
    ]
    whole = Message(Status.REQUEST, T1, Operation.MANY, value=parts.pack([(0, 1), (2, 1)], asked))
    participant = world.servers["a"].participant
    participant.handle(whole, world.now_s)
    world.held = lambda sender, to, _message: "c" in {sender, to}
    world.start("b").pass_time(5)
    assert participant.replicas[0].mode is Mode.GIVING
    assert world.servers["b"].participant.replicas[0].mode is Mode.JOINING
    participant.handle(whole._replace(status=Status.PROCEED), world.now_s)
    world.pass_time(2)
    assert world.tables(0) == [{b"0": Entry(b"v", 1)}] * 2


def test_many_memories_of_commits_come_page_by_page_too() -> None:
    world = founded()
    keep(world, 0, (KEY, Entry(b"v", 1)))
    participant = world.servers["a"].participant
    read = Message(Status.DONE, T1, Operation.GET, key=KEY, value=b"v" * MAX_VALUE_BYTES)
    memories = [read._replace(name=Name(1, sequence, 1)) for sequence in range(4)]
    assert sum(len(encode(one)) for one in memories) > MAX_BODY_BYTES
    participant.memory.recall(memories, world.now_s)
    world.start("b").pass_time(2)
    assert world.servers["b"].modes() == {Mode.SERVING}
    assert world.tables(0) == [{KEY: Entry(b"v", 1)}] * 2
    remembered = world.servers["b"].participant.memory.commits(0)
    assert {one.name for one in remembered} == {one.name for one in memories}


def test_no_two_receivers_are_given_the_same_epoch() -> None:
    # The first has served and voted in its epoch, and crashed before the giver heard of it.
    world = founded()
    world.held = lambda _sender, _to, message: message.status is Status.JOINED
    world.start("b").pass_time()
    assert world.servers["b"].epochs()[0] == 2
    assert world.put("b", T1).status is Status.YES
    world.start("b").pass_time()
    assert world.servers["b"].epochs()[0] == 3
    world.held = lambda _sender, _to, _message: False
    world.pass_time()
    assert world.servers["a"].epochs()[0] == 3
    late = Message(Status.REQUEST, T1, Operation.PUT, key=KEY, epoch=2)
    ((_, vote),) = world.servers["a"].participant.handle(late, world.now_s)
    assert (vote.status, vote.reason) == (Status.NO, Reason.STALE_EPOCH)


def test_a_receiver_that_was_not_heard_says_again_that_it_has_joined() -> None:
    world = founded()
    world.held = lambda _sender, _to, message: message.status is Status.JOINED
    world.start("b").pass_time()
    giver, receiver = world.servers["a"], world.servers["b"]
    assert (giver.epochs()[0], receiver.epochs()[0]) == (1, 2)
    assert receiver.rejoin._joined == {0: 2, 1: 2}
    world.held = lambda _sender, _to, _message: False
    world.pass_time()
    assert (giver.epochs()[0], receiver.epochs()[0]) == (2, 2)
    assert giver.participant.replicas[0].mode is Mode.SERVING
    assert receiver.rejoin._joined == {}
    world.sent.clear()
    world.pass_time(3)
    assert {message.status for _, _, message in world.sent} == {Status.KNOWN}


def test_a_giver_that_was_restarted_takes_the_copy_from_the_receiver() -> None:
    world = founded()
    keep(world, 0, (KEY, Entry(b"v", 1)))
    world.held = lambda _sender, _to, message: message.status is Status.JOINED
    world.start("b").pass_time()
    world.held = lambda _sender, _to, _message: False
    world.start("a").pass_time(2)
    assert world.tables(0) == [{KEY: Entry(b"v", 1)}] * 2
    assert (world.servers["a"].epochs()[0], world.servers["b"].epochs()[0]) == (3, 3)
    assert world.servers["b"].rejoin._joined == {}


def test_a_durable_replica_has_the_copy_on_disk_before_it_says_so() -> None:
    world = founded(durable=True)
    keep(world, 0, (KEY, Entry(b"v", 1)))
    server = world.start("b").servers["b"]
    world.pass_time(2)
    again = Participant("b", server.participant.layout, durable=True)
    records, must_sync = server.participant.write_ahead.take()
    again.replay(records, 0.0)
    assert must_sync
    assert again.replicas[0].table == {KEY: Entry(b"v", 1)}
    assert again.replicas[0].intact


@pytest.mark.parametrize(
    ("of_a", "of_b", "giver"),
    [(3, 2, "a"), (2, 3, "b"), (2, 2, "a"), (None, 2, "b"), (2, None, "a")],
)
def test_of_two_that_come_back_the_intact_one_of_the_higher_epoch_gives_and_else_the_primary(
    of_a: int | None, of_b: int | None, giver: str
) -> None:
    world = World(durable=True).start(*SERVERS)
    for name, epoch in (("a", of_a), ("b", of_b)):
        replica = world.servers[name].participant.replicas[0]
        replica.intact, replica.epoch = epoch is not None, epoch or 0
        replica.table = Table({KEY: Entry(name.encode(), 1)})
    world.pass_time(2)
    assert world.tables(0) == [{KEY: Entry(giver.encode(), 1)}] * 2
    assert world.servers["a"].epochs()[0] == world.servers["b"].epochs()[0]
    assert world.servers["a"].epochs()[0] > max(of_a or 0, of_b or 0)


# Both replicas lost.


def test_a_range_whose_replicas_have_both_lost_their_memory_is_lost_for_ever() -> None:
    world = founded()
    world.start("a", "b").pass_time(4)
    assert [world.servers[one].participant.replicas[0].mode for one in "ab"] == [Mode.LOST] * 2
    assert world.servers["a"].participant.replicas[2].mode is Mode.SERVING
    assert world.servers["b"].participant.replicas[1].mode is Mode.SERVING
    world.start("b").pass_time(4)
    assert world.servers["b"].participant.replicas[0].mode is Mode.LOST
    world.start("a").pass_time(4)
    assert world.servers["a"].participant.replicas[0].mode is Mode.LOST


# Who knows of which range.


def test_servers_tell_each_other_what_they_know_and_how_keys_are_placed() -> None:
    server = World().start("a").servers["a"]
    server.rejoin.key_range = 500
    ((to, news), (other, _), *_) = server.rejoin.tick(0.0)
    assert (to, other) == ("b", "c")
    assert news == Message(Status.KNOWN, version=500)
    told = Message(Status.KNOWN, version=700, value=b"\0\1\0\2")
    ((to, reply),) = server.rejoin.handle("c", told, 0.0)
    assert to == "c"
    assert reply == news._replace(flags=Flag.SILENT, value=b"\0\1\0\2")
    assert server.rejoin.key_range == 500
    assert server.rejoin.handle("c", told._replace(flags=Flag.SILENT), 0.0) == []


def test_how_keys_are_placed_is_learned_from_another_server() -> None:
    server = World().start("a").servers["a"]
    server.rejoin.handle("c", Message(Status.KNOWN, version=700), 0.0)
    assert server.rejoin.key_range == 700


def test_servers_ask_often_until_they_are_back_and_then_rarely() -> None:
    lone = World().start("a").servers["a"].rejoin
    assert len(lone.tick(0.0)) == 4  # two servers told, two ranges asked for
    assert lone.tick(JOIN_RETRY_S / 2) == []
    assert len(lone.tick(JOIN_RETRY_S)) == 4
    world = founded()
    served = world.servers["a"].rejoin
    world.pass_time(2)
    begin_s = served._next_s
    assert [message.status for _, message in served.tick(begin_s)] == [Status.KNOWN] * 2
    assert served.tick(begin_s + KNOWN_INTERVAL_S - 0.001) == []


# What is refused or of no account.


@pytest.mark.parametrize(
    ("server", "message", "why"),
    [
        ("c", Message(Status.JOIN), "c shares no range 0 with a"),
        ("b", Message(Status.JOIN, range=1), "b shares no range 1 with a"),
        ("b", Message(Status.JOIN, range=9), "b shares no range 9 with a"),
        ("b", Message(Status.STATS), "takes no STATS from a server"),
        ("b", Message(Status.KNOWN, value=b"\0\1\0"), "a list of ranges is cut"),
    ],
)
def test_what_no_server_sends_raises_and_changes_nothing(
    server: str, message: Message, why: str
) -> None:
    rejoin = World().start("a").servers["a"].rejoin
    before = pickle.dumps(rejoin)
    with pytest.raises(RemoteProtocolError, match=why):
        rejoin.handle(server, message, 0.0)
    assert pickle.dumps(rejoin) == before


ROW = pack_row(b"k", Entry(b"v", 1))
BAD_MEMORY = Message(Status.DONE, T1, Operation.MANY, value=parts.pack([(3, 1)], ()))


@pytest.mark.parametrize(
    ("count", "value"),
    [(2, ROW), (1, ROW[:-1]), (1, ROW + bytes(60)), (1, ROW + encode(BAD_MEMORY)),
     (1, ROW + encode(Message(Status.DONE, T1, Operation.MANY, value=b"\0")))],
)  # fmt: skip
@pytest.mark.parametrize("flags", [0, int(Flag.INTACT)])
def test_a_page_that_is_malformed_raises_and_changes_nothing(
    count: int, value: bytes, flags: int
) -> None:
    rejoin = World().start("a").servers["a"].rejoin
    page = Message(Status.COPY, Name(7, 1, count), flags=flags, epoch=1, value=value)
    before = pickle.dumps(rejoin)
    with pytest.raises(RemoteProtocolError):
        rejoin.handle("b", page, 0.0)
    assert pickle.dumps(rejoin) == before


def test_an_answer_to_what_was_asked_before_is_of_no_account() -> None:
    rejoin = World().start("a").servers["a"].rejoin
    before = pickle.dumps(rejoin)
    page = Message(Status.COPY, Name(7, 99, 1), flags=Flag.INTACT, epoch=1, value=ROW)
    assert rejoin.handle("b", page, 0.0) == []
    assert rejoin.handle("b", page._replace(reason=Reason.LOST), 0.0) == []
    assert pickle.dumps(rejoin) == before
    served = founded().servers["a"].rejoin
    before = pickle.dumps(served)
    assert served.handle("b", page._replace(name=Name(7, 1, 1)), 0.0) == []
    assert pickle.dumps(served) == before


def test_a_join_that_its_own_joined_has_overtaken_stops_nobody() -> None:
    world = founded().start("b").pass_time(2)
    joins = [message for sender, to, message in world.sent if (sender, to) == ("b", "a")]
    late = [message for message in joins if message.status is Status.JOIN][-1]
    giver = world.servers["a"]
    assert giver.modes() == {Mode.SERVING}
    assert giver.rejoin.handle("b", late, world.now_s) == []
    assert giver.modes() == {Mode.SERVING}


def test_a_page_that_does_not_follow_what_is_here_is_of_no_account() -> None:
    server = World().start("a").servers["a"]
    page = Message(Status.COPY, Name(7, 1, 1), flags=Flag.INTACT, epoch=1, version=5, value=ROW)
    assert server.rejoin.handle("b", page, 0.0) == []
    assert server.participant.replicas[0].mode is Mode.JOINING


@pytest.mark.parametrize(
    "joined",
    [
        Message(Status.JOINED, Name(99, 0, 0), epoch=2),  # another process
        Message(Status.JOINED, Name(4, 0, 0), epoch=3),  # another epoch
        Message(Status.JOINED, Name(1, 0, 0), epoch=9),  # an echo of what was never said
    ],
)
def test_news_of_a_copy_that_was_not_given_is_of_no_account(joined: Message) -> None:
    world = founded()
    world.held = lambda _sender, _to, message: message.status is Status.JOINED
    world.start("b").pass_time()
    giver = world.servers["a"]
    assert giver.participant.replicas[0].mode is Mode.GIVING
    assert giver.rejoin.handle("b", joined, world.now_s) == []
    assert giver.participant.replicas[0].mode is Mode.GIVING
    assert giver.epochs()[0] == 1


def test_the_echo_of_another_epoch_does_not_end_the_saying_of_this_one() -> None:
    world = founded()
    world.held = lambda _sender, _to, message: message.status is Status.JOINED
    world.start("b").pass_time()
    receiver = world.servers["b"].rejoin
    receiver.handle("a", Message(Status.JOINED, Name(4, 0, 0), epoch=1), world.now_s)
    assert receiver._joined[0] == 2


def test_who_serves_already_confirms_to_the_other_that_it_has_joined() -> None:
    world = founded()
    joined = Message(Status.JOINED, Name(9, 0, 0), epoch=1)
    assert world.servers["a"].rejoin.handle("b", joined, 0.0) == [("b", joined)]


# Whatever happens.

GARBAGE = st.builds(
    Message,
    status=st.sampled_from([*Status, *[Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN] * 6]),
    name=st.builds(Name, st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)),
    operation=st.sampled_from(Operation),
    reason=st.sampled_from(Reason),
    flags=st.integers(0, 255),
    range=st.integers(0, 3),
    epoch=st.integers(0, 3),
    version=st.integers(0, 3) | st.just(2**64 - 1),
    key=st.binary(max_size=2),
    value=st.binary(max_size=20)
    | st.lists(st.sampled_from([ROW, encode(BAD_MEMORY), b"\0\0", b"\0\1"]), max_size=3).map(
        b"".join
    ),
)
STEPS = st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), GARBAGE) | st.none()


@given(st.booleans(), st.lists(STEPS, max_size=20))
def test_any_message_is_taken_or_raises_a_remote_protocol_error_and_changes_nothing(
    begun: bool,  # noqa: FBT001 - an example's
    steps: list[tuple[str, str, Message] | None],
) -> None:
    world = founded() if begun else World().start(*SERVERS)
    for step in steps:
        if step is None:
            world.start("b")
            continue
        to, sender, message = step
        server = world.servers[to]
        before = pickle.dumps((server.participant, server.rejoin))
        try:
            world.give(to, sender, message)
        except RemoteProtocolError:
            assert pickle.dumps((server.participant, server.rejoin)) == before
        server.rejoin.tick(world.now_s)
        server.participant.tick(world.now_s)


ROWS = st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(max_size=4), max_size=4)


@given(
    st.lists(st.sampled_from("abc"), max_size=6),
    st.lists(st.booleans(), max_size=200),
    ROWS,
)
def test_crashes_one_at_a_time_and_lost_messages_lose_no_key(
    crashes: list[str], losses: list[bool], rows: dict[bytes, bytes]
) -> None:
    world = founded()
    entries = {key: Entry(value, 1) for key, value in rows.items()}
    for number in range(3):
        keep(world, number, *entries.items())
    left = list(losses)
    world.held = lambda _sender, _to, _message: bool(left and left.pop())
    for name in crashes:
        world.start(name)
        while not all(one.modes() == {Mode.SERVING} for one in world.servers.values()):
            world.pass_time()
    assert [world.tables(number) for number in range(3)] == [[entries, entries]] * 3
    for number, pair in enumerate(LAYOUT):
        assert len({world.servers[one].epochs()[number] for one in pair}) == 1


def test_a_page_is_as_long_as_is_declared() -> None:
    assert COPY_PAGE_BYTES + MAX_VALUE_BYTES + 4096 <= MAX_BODY_BYTES
