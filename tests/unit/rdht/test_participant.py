import pickle
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rdht import parts
from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S
from rdht.messages import Flag, Message, Name, Operation, Outgoing, Reason, Status
from rdht.participant import Participant
from rdht.replica import Copy, Mode, pack_pages
from rdht.table import ABSENT, Entry, Table
from rdht.transaction import Transaction
from rdht.transitions import State
from tests.unit.rdht.lone import (
    BUSY,
    COMMITTED,
    DELETED,
    DONE,
    DONE_NOTHING,
    FAR_KEY,
    KEY,
    LAYOUT,
    NO,
    NOW_S,
    OTHER_KEY,
    PREPARED,
    SPANNING,
    T1,
    T2,
    T3,
    THERE,
    WAITING,
    YES,
    Happening,
    abort,
    act,
    after,
    answer,
    ask,
    attribute,
    decide,
    hear,
    leave,
    mode,
    nothing,
    proceed,
    read,
    request,
    serving,
    spanning,
    state_of,
    statuses,
    table,
    told,
    with_entry,
)


@pytest.mark.parametrize("prepare", [nothing, PREPARED, COMMITTED])
@pytest.mark.parametrize(
    "status",
    sorted(set(Status) - {Status.REQUEST, Status.PROCEED, Status.ABORT, Status.READ}),
)
def test_a_message_that_is_no_clients_raises_and_changes_nothing(
    status: Status, prepare: Happening
) -> None:
    participant = after(prepare)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} from a client"):
        participant.handle(request(T1, status=status), NOW_S)
    assert pickle.dumps(participant) == before


OF_SERVERS = {Status.RESOLVE, Status.PROCEED, YES, NO, DONE, Status.DONE_NOTHING}


@pytest.mark.parametrize("status", sorted(set(Status) - OF_SERVERS))
def test_a_message_that_is_no_servers_raises_and_changes_nothing(status: Status) -> None:
    participant = after(PREPARED)
    before = pickle.dumps(participant)
    with pytest.raises(RemoteProtocolError, match=f"takes no {status.name} from a server"):
        participant.handle_peer("b", request(T1, status=status), NOW_S)
    assert pickle.dumps(participant) == before


# Refusals.


REFUSALS: list[tuple[Happening, Message, Reason, int]] = [
    # what came before, the request, and why it is refused, with the epoch to know
    (BUSY, request(T1), Reason.BUSY, 0),
    (BUSY, spanning(T1), Reason.BUSY, 0),
    (attribute("stopping"), request(T1), Reason.STOPPING, 0),
    (attribute("unsafe"), request(T1), Reason.UNSAFE, 0),
    (nothing, request(T1, epoch=0), Reason.STALE_EPOCH, 1),
    (nothing, request(T1, epoch=2), Reason.STALE_EPOCH, 1),
    (nothing, request(T1, range=1), Reason.ELSEWHERE, 0),
    (mode(0, Mode.JOINING), request(T1), Reason.SYNCING, 1),
    (mode(0, Mode.GIVING), request(T1), Reason.SYNCING, 1),
    (mode(0, Mode.LOST), request(T1), Reason.LOST, 1),
    (mode(2, Mode.LOST), spanning(T1), Reason.LOST, 1),
    (
        nothing,
        spanning(T1, [request(T1), request(T1, key=b"x", range=1)], (0, 1)),
        Reason.ELSEWHERE,
        0,
    ),
]


@pytest.mark.parametrize(("prepare", "message", "reason", "epoch"), REFUSALS)
def test_a_refusal_says_why_and_leaves_no_trace(
    prepare: Happening, message: Message, reason: Reason, epoch: int
) -> None:
    participant = after(prepare)
    before = pickle.dumps(participant)
    ((to, vote),) = participant.handle(message, NOW_S)
    assert (to, vote.status, vote.reason, vote.epoch) == (1, NO, reason, epoch)
    assert vote.name == T1
    assert pickle.dumps(participant) == before


def test_a_request_may_wait_for_a_lock_but_for_nothing_else() -> None:
    participant = after(attribute("stopping"))
    out = participant.handle(request(T1, flags=Flag.QUEUE), NOW_S)
    assert told(out) == [(1, NO, Reason.STOPPING)]


def test_a_stopping_or_unsafe_server_still_carries_out_what_it_voted_yes_to() -> None:
    for name in ("stopping", "unsafe"):
        participant = after(PREPARED, attribute(name))
        assert statuses(participant.handle(request(T1), NOW_S), 1) == [YES]
        assert statuses(participant.handle(proceed(T1), NOW_S), 1) == [DONE]
        assert table(participant) == {KEY: Entry(b"1", 1)}


def test_a_refused_transaction_cannot_free_the_others_lock() -> None:
    participant = after(BUSY, PREPARED)
    before = pickle.dumps(participant)
    assert statuses(participant.handle(abort(T1), NOW_S), 1) == [Status.ABORTED]
    assert pickle.dumps(participant) == before


def test_a_silent_proceed_is_not_answered() -> None:
    participant = after(PREPARED)
    assert participant.handle(proceed(T1, flags=Flag.SILENT), NOW_S) == []
    assert table(participant) == {KEY: Entry(b"1", 1)}
    assert participant.handle(proceed(T1, flags=Flag.SILENT), NOW_S) == []


# Reads.


def test_a_read_needs_no_lock_and_tells_value_and_version() -> None:
    participant = with_entry(THERE)
    before = pickle.dumps(participant)
    ((to, found),) = participant.handle(read(T1), NOW_S)
    assert (to, found) == (1, Message(DONE, T1, Operation.GET, version=3, value=b"old"))
    assert pickle.dumps(participant) == before


@pytest.mark.parametrize(("entry", "version"), [(None, 0), (DELETED, 4)])
def test_a_read_that_finds_nothing_tells_the_version(entry: Entry | None, version: int) -> None:
    ((_, found),) = with_entry(entry).handle(read(T1), NOW_S)
    assert found == Message(DONE_NOTHING, T1, Operation.GET, version=version)


@pytest.mark.parametrize("decision", [proceed(T2), abort(T2)])
def test_a_read_of_a_locked_key_waits_for_the_decision(decision: Message) -> None:
    participant = after(BUSY)
    assert participant.handle(read(T1), NOW_S) == []
    out = participant.handle(decision, NOW_S)
    expected = b"2" if decision.status is Status.PROCEED else b""
    assert [message.value for to, message in out if to == 1] == [expected]
    assert participant.locks.queues == {}


def test_a_read_of_a_client_that_is_gone_is_forgotten_and_no_other() -> None:
    participant = after(BUSY, act(read(T1), read(T3)), leave(1))
    out = participant.handle(proceed(T2), NOW_S)
    assert [to for to, _ in out] == [2, 3]


@pytest.mark.parametrize(
    ("prepare", "message", "reason"),
    [
        (nothing, read(T1, epoch=0), Reason.STALE_EPOCH),
        (nothing, read(T1, range=1), Reason.ELSEWHERE),
        (mode(0, Mode.JOINING), read(T1), Reason.SYNCING),
        (mode(0, Mode.LOST), read(T1), Reason.LOST),
        (mode(0, Mode.GIVING), read(T1, epoch=2), Reason.STALE_EPOCH),
    ],
)
def test_a_read_is_refused_where_the_value_may_be_of_the_past(
    prepare: Happening, message: Message, reason: Reason
) -> None:
    assert told(after(prepare).handle(message, NOW_S)) == [(1, NO, reason)]


def test_a_replica_that_gives_its_copy_can_still_be_read() -> None:
    assert told(after(mode(0, Mode.GIVING)).handle(read(T1), NOW_S)) == [
        (1, DONE_NOTHING, Reason.NONE)
    ]


# Giving the range to its other replica.


def test_a_range_that_is_frozen_rolls_forward_what_it_alone_decides() -> None:
    participant = after(PREPARED, act(request(T2, key=FAR_KEY)))
    assert not participant.is_quiet(0)
    assert participant.freeze(0, NOW_S) == []
    assert participant.replicas[0].mode is Mode.GIVING
    assert table(participant) == {KEY: Entry(b"1", 1)}
    assert state_of(participant) is State.COMMITTED
    assert state_of(participant, T2) is State.PREPARED
    assert participant.is_quiet(0)
    assert not participant.is_quiet(2)
    assert participant.in_doubt == 1


def test_a_range_that_is_frozen_asks_about_commands_of_other_ranges_as_well() -> None:
    participant = after(SPANNING)
    out = participant.freeze(0, NOW_S)
    assert told(out) == [(one, Status.RESOLVE, Reason.NONE) for one in ("b", "c")]
    assert state_of(participant) is State.PREPARED
    participant.handle_peer("c", answer(YES), NOW_S)
    assert state_of(participant) is State.COMMITTED


def test_a_range_that_is_frozen_sends_the_waiting_away_and_answers_its_readers() -> None:
    far = spanning(T3, [request(T3, key=FAR_KEY), request(T3)], flags=Flag.QUEUE)
    participant = after(WAITING, act(far, read(T1)))
    assert told(participant.freeze(0, NOW_S)) == [
        (1, NO, Reason.SYNCING),
        (3, NO, Reason.SYNCING),
        (1, DONE, Reason.NONE),
    ]
    assert (participant.locks.holders, participant.locks.queues) == ({}, {})


def test_a_vote_of_a_replica_that_decides_alone_says_so_and_is_a_pledge() -> None:
    participant = after(SPANNING)
    participant.freeze(0, NOW_S)
    ((_, said),) = participant.handle_peer("c", ask(spanning(T1)), NOW_S)
    assert (said.status, said.reason, said.value) == (YES, Reason.ALONE, b"\0\0")
    asked = participant.handle(decide(Status.ABORT, spanning(T1)), NOW_S)
    assert {message.status for _, message in asked} == {Status.RESOLVE}
    assert participant.tick(NOW_S) == []
    assert state_of(participant) is State.PREPARED
    certain = decide(Status.ABORT, spanning(T1), reason=Reason.VETOED)
    assert statuses(participant.handle(certain, NOW_S), 1) == [Status.ABORTED]
    assert told(participant.tick(NOW_S)) == [(1, Status.ABORTED, Reason.NONE)]


def test_a_range_that_has_advanced_serves_at_its_new_epoch_only() -> None:
    participant = serving()
    participant.freeze(0, NOW_S)
    participant.advance(0, 2)
    assert participant.write_ahead.records == []
    assert told(participant.handle(request(T1), NOW_S)) == [(1, NO, Reason.STALE_EPOCH)]
    assert statuses(participant.handle(request(T1, epoch=2), NOW_S), 1) == [YES]


def test_a_copy_replaces_what_was_there_and_the_prepared_with_it() -> None:
    far = spanning(T3, [request(T3, key=b"far, too", range=2)], (2,))
    participant = after(act(spanning(T1), request(T2, key=OTHER_KEY), far))
    memory = Message(DONE, Name(5, 1, 1), Operation.PUT, epoch=1)
    mode(0, Mode.JOINING)(participant)
    copy = Copy(*pack_pages(0, Table({KEY: THERE}).pages()))
    copy.memories.append(memory)
    participant.install(Message(Status.JOINED, epoch=4, version=9), copy, NOW_S)
    replica = participant.replicas[0]
    assert (replica.epoch, replica.founded, replica.table) == (4, 9, Table({KEY: THERE}))
    replica.mode = Mode.SERVING
    assert participant.transactions.keys() == {T1, T3, Name(5, 1, 1)}
    assert participant.locks.holders.keys() == {FAR_KEY, b"far, too"}
    assert participant.memory.clients[5] == NOW_S
    assert participant.write_ahead.records == []
    participant.handle(decide(Status.PROCEED, spanning(T1)), NOW_S)
    assert table(participant) == {KEY: THERE}
    assert table(participant, 2) == {FAR_KEY: Entry(b"1", 1)}


# What outlives a crash.


def recovered(records: Iterable[Message]) -> Participant:
    participant = Participant("a", LAYOUT, durable=True)
    participant.replay(records, NOW_S)
    assert participant.write_ahead.records == []
    return participant


def test_a_recovered_yes_asks_nobody_until_its_range_has_come_back() -> None:
    participant = recovered([request(T1)])
    assert participant.tick(NOW_S + 100) == []
    assert state_of(participant) is State.PREPARED
    participant.replicas[0].mode = Mode.SERVING
    assert told(participant.tick(NOW_S + 200)) == [("b", Status.RESOLVE, Reason.NONE)]


@pytest.mark.parametrize("asked", [request(T1), spanning(T1)])
@pytest.mark.parametrize("status", [Status.PROCEED, DONE])
def test_a_recovered_commit_is_applied_again(asked: Message, status: Status) -> None:
    participant = recovered([asked, Message(status, T1)])
    assert [entry.version for entry in table(participant).values()] == [1]
    assert participant.locks.holders == {}


def test_a_recovered_abort_is_undone_again() -> None:
    participant = recovered([request(T1), Message(Status.ABORT, T1)])
    assert table(participant) == {}
    assert participant.locks.holders == {}
    assert participant.transactions == {}


def essence(participant: Participant) -> object:
    """Return what a crash must not take."""
    holders = participant.locks.holders
    locks = {key: tx.name for key, tx in holders.items() if tx.state is State.PREPARED}
    results = {
        tx.name: (tx.result, len(tx.staged))
        for tx in participant.transactions.values()
        if tx.state is State.PREPARED
    }
    replicas = [(one.table, one.epoch, one.intact) for one in participant.replicas.values()]
    return replicas, locks, results, {memory.name for memory in participant.memory.commits()}


def test_a_snapshot_has_all_that_a_crash_must_not_take() -> None:
    participant = after(COMMITTED, act(request(T2), request(T3, flags=Flag.QUEUE)), durable=True)
    participant.handle(request(Name(3, 2, 1), Operation.GET, OTHER_KEY), NOW_S)
    participant.replicas[2].intact = False
    participant.replicas[2].table = Table()
    entries = pack_pages(0, table(participant).pages())
    again = recovered([*entries, *participant.snapshot()])
    assert [one.epoch for one in again.replicas.values()] == [1, 0]
    again.replicas[2].epoch = 1
    assert essence(again) == essence(participant)
    assert all(one.mode is Mode.JOINING for one in again.replicas.values())
    assert again.memory.clients == {1: NOW_S, 2: NOW_S, 3: NOW_S}
    assert again.transactions[T2].deadline_s == NOW_S  # its client may be gone: ask at once
    assert again.write_ahead.is_durable


def test_a_journal_that_ends_what_it_does_not_begin_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="which it does not begin"):
        serving(durable=True).replay([Message(Status.PROCEED, T1)], NOW_S)


def pages(number: int, *entries: tuple[bytes, Entry]) -> list[Message]:
    """Return a page for each entry."""
    return [
        page._replace(version=version)
        for version, entry in enumerate(entries)
        for page in pack_pages(number, Table([entry]).pages())
    ]


def test_a_copy_replaces_what_the_disk_had_and_the_prepared_with_it() -> None:
    participant = after(act(request(T1), proceed(T1), request(T2)), durable=True)
    mode(0, Mode.JOINING)(participant)
    copied = pages(0, (OTHER_KEY, THERE), (b"third", THERE))
    participant.install(Message(Status.JOINED, epoch=4, version=9), Copy(*copied), NOW_S)
    again = recovered(participant.write_ahead.records)
    assert table(again) == {OTHER_KEY: THERE, b"third": THERE}
    assert (again.replicas[0].epoch, again.replicas[0].founded) == (4, 9)
    assert again.locks.holders == {}


def test_a_copy_that_a_crash_has_cut_off_is_no_part_of_the_next_one() -> None:
    cut, whole = pages(0, (KEY, THERE), (OTHER_KEY, THERE))[:1], pages(0, (b"third", THERE))
    end = Message(Status.JOINED, flags=Flag.INTACT, epoch=4)
    assert table(recovered(cut)) == {}
    assert table(recovered([*cut, *whole, end])) == {b"third": THERE}


def test_an_epoch_alone_leaves_the_table_as_it_is() -> None:
    end = Message(Status.JOINED, flags=Flag.INTACT, epoch=4)
    again = recovered([*pages(0, (KEY, THERE)), end, Message(Status.JOINED, epoch=5, version=9)])
    assert table(again) == {KEY: THERE}
    assert again.replicas[0].epoch == 5


# Whatever happens.


CLIENTS, NUMBERS = st.sampled_from([1, 2, 3]), st.sampled_from([1, 2])
NAMES = st.builds(Name, CLIENTS, NUMBERS, NUMBERS)
KEYS = st.sampled_from([KEY, OTHER_KEY, FAR_KEY])
OPERATIONS = st.sampled_from(
    [one for one in Operation if one not in {Operation.NONE, Operation.MANY}]
)
FLAGS = st.integers(0, 7)
SINGLE = st.builds(
    request, NAMES, OPERATIONS, KEYS, st.just(b"v"), version=st.integers(0, 2), flags=FLAGS
)


@st.composite
def several(draw: st.DrawFn) -> Message:
    name = draw(NAMES)
    keys = draw(st.sets(KEYS, min_size=1))
    asked = [request(name, draw(OPERATIONS), key) for key in sorted(keys)]
    numbers = {one.range for one in asked} | draw(st.sets(st.integers(0, 2), max_size=1))
    return spanning(name, asked, tuple(sorted(numbers)), draw(FLAGS))


REQUESTS = SINGLE | several()


@given(st.lists(SINGLE, max_size=12))
def test_commands_one_after_another_do_what_a_dictionary_does(commands: list[Message]) -> None:
    participant = serving()
    model: dict[bytes, bytes] = {}
    versions = dict.fromkeys([KEY, OTHER_KEY, FAR_KEY], 0)
    for number, command in enumerate(commands):
        message = command._replace(name=Name(1, number, 1), flags=Flag.LATE)
        key, operation = message.key, message.operation
        was = model.get(key)
        succeeds = {
            Operation.GET: was is not None,
            Operation.PUT: True,
            Operation.ADD: was is None,
            Operation.DELETE: was is not None,
            Operation.CAS: versions[key] == message.version,
        }[operation]
        assert statuses(participant.handle(message, NOW_S), 1) == [YES]
        ((_, result),) = participant.handle(decide(Status.PROCEED, message), NOW_S)
        assert (result.status is DONE) == succeeds
        assert result.version == versions[key]
        assert result.value == (was or b"" if operation is Operation.GET else b"")
        if succeeds and operation is Operation.DELETE:
            del model[key]
        elif succeeds and operation is not Operation.GET:
            model[key] = message.value
        versions[key] += succeeds and operation is not Operation.GET
    held = {**table(participant), **table(participant, 2)}
    assert {key: one.value for key, one in held.items() if one.value is not None} == model


class Clients(RuleBasedStateMachine):
    """Several clients and servers at one participant, none of which keeps to any order."""

    def __init__(self) -> None:
        super().__init__()
        self.participant = serving(durable=True)
        self.now_s = NOW_S
        self.asked: dict[Name, Message] = {}
        self.reads = 0  # that wait for an answer
        self.journal: list[Message] = []
        self.versions: dict[bytes, int] = {}

    def do(self, happen: Callable[[Participant], Outgoing]) -> Outgoing:
        before = pickle.dumps(self.participant)
        try:
            out = happen(self.participant)
        except RemoteProtocolError:
            assert pickle.dumps(self.participant) == before
            return []
        self.reads -= sum(to in {1, 2, 3} and one.name.attempt == 9 for to, one in out)
        self.journal += self.participant.write_ahead.records
        self.participant.write_ahead.records = []
        return out

    @rule(message=REQUESTS)
    def request(self, message: Message) -> None:
        message = self.asked.setdefault(message.name, message)
        number = {replica.epoch for replica in self.participant.replicas.values()}
        if message.operation is not Operation.MANY and len(number) == 1:
            message = message._replace(epoch=number.pop())
        out = self.do(act(message))
        if statuses(out, message.name.client) == [YES]:
            assert state_of(self.participant, message.name) is State.PREPARED

    @rule(name=NAMES, flags=FLAGS)
    def proceed(self, name: Name, flags: int) -> None:
        if name in self.asked:
            self.do(act(decide(Status.PROCEED, self.asked[name], flags=flags)))

    @rule(name=NAMES, reason=st.sampled_from([Reason.NONE, Reason.VETOED]))
    def abort(self, name: Name, reason: Reason) -> None:
        self.do(act(decide(Status.ABORT, self.asked.get(name, request(name)), reason=reason)))

    @rule(client=CLIENTS, key=KEYS)
    def read(self, client: int, key: bytes) -> None:
        if self.participant.memory.clients.get(client, 0.0) is None:
            self.reads += 1
            number = 2 if key == FAR_KEY else 0
            epoch = self.participant.replicas[number].epoch
            self.do(act(read(Name(client, 1, 9), key, epoch=epoch)))

    @rule(client=CLIENTS)
    def disconnect(self, client: int) -> None:
        self._drop_reads(client)
        self.do(lambda participant: participant.disconnect(client, self.now_s))
        assert not any(
            one.name.client == client
            for queue in self.participant.locks.queues.values()
            for one in queue
        )

    @rule(client=CLIENTS)
    def connect(self, client: int) -> None:
        self._drop_reads(client)
        self.do(lambda one: one.connect(client, self.now_s, resume=False) or [])

    def _drop_reads(self, client: int) -> None:
        queued = self.participant.locks.queues.values()
        self.reads -= sum(
            isinstance(one, Message) and one.name.client == client
            for queue in queued
            for one in queue
        )

    @rule(later_s=st.sampled_from([0.0, 1.0, PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S]))
    def tick(self, later_s: float) -> None:
        self.now_s += later_s
        self.do(lambda participant: participant.tick(self.now_s))

    @rule(
        server=st.sampled_from("bc"),
        name=NAMES,
        status=st.sampled_from(sorted({Status.RESOLVE, YES, NO, DONE, Status.PROCEED})),
        reason=st.sampled_from([Reason.NONE, Reason.SYNCING]),
    )
    def hear(self, server: str, name: Name, status: Status, reason: Reason) -> None:
        if name in self.asked:
            self.do(hear(server, decide(status, self.asked[name], reason=reason)))

    @rule(number=st.sampled_from([0, 2]))
    def freeze(self, number: int) -> None:
        self.do(lambda participant: participant.freeze(number, self.now_s))

    @rule(number=st.sampled_from([0, 2]))
    def advance(self, number: int) -> None:
        replica = self.participant.replicas[number]
        if replica.mode is Mode.GIVING and self.participant.is_quiet(number):
            self.participant.advance(number, replica.epoch + 1)
            self.do(nothing)

    @invariant()
    def a_key_is_locked_by_who_is_prepared_or_waits_for_more(self) -> None:
        expected: dict[bytes, Name] = {}
        for tx in self.participant.transactions.values():
            if tx.state is State.PREPARED:
                assert tx.held == len(tx.parts)
            elif tx.state is State.WAITING:
                assert tx.held < len(tx.parts)
            else:
                assert tx.held == 0
            expected |= {part.key: tx.name for part in tx.parts[: tx.held]}
        assert {key: tx.name for key, tx in self.participant.locks.holders.items()} == expected
        assert self.participant.in_doubt == sum(
            state_of(self.participant, name) is State.PREPARED for name in self.asked
        )

    @invariant()
    def every_waiter_is_in_the_queue_of_one_locked_key_and_nobody_else_is(self) -> None:
        participant = self.participant
        assert participant.locks.freed == []
        assert participant.locks.queues.keys() <= participant.locks.holders.keys()
        queued = [(key, one) for key, queue in participant.locks.queues.items() for one in queue]
        waiters = [(key, one.name) for key, one in queued if isinstance(one, Transaction)]
        assert sorted(waiters) == sorted(
            (tx.parts[tx.held].key, tx.name)
            for tx in participant.transactions.values()
            if tx.state is State.WAITING
        )
        assert len(queued) - len(waiters) == self.reads

    @invariant()
    def what_is_over_and_remembered_can_be_forgotten(self) -> None:
        over = [
            tx.name
            for tx in self.participant.transactions.values()
            if tx.state in {State.COMMITTED, State.ABORTED}
        ]
        remembered = set().union(*self.participant.memory.remembered.values())
        assert remembered == set(over)

    @invariant()
    def versions_only_rise(self) -> None:
        for number in (0, 2):
            for key, entry in table(self.participant, number).items():
                assert entry.version >= self.versions.get(key, ABSENT.version)
                self.versions[key] = entry.version

    def teardown(self) -> None:
        again = serving(durable=True)
        again.replay(self.journal, NOW_S)
        now, then = essence(self.participant), essence(again)
        assert then[:3] == now[:3]  # type: ignore[index]
        for name, message in self.asked.items():
            if state_of(self.participant, name) in {State.PREPARED, State.WAITING}:
                self.do(act(decide(Status.ABORT, message, reason=Reason.VETOED)))
        assert (self.participant.locks.holders, self.participant.locks.queues) == ({}, {})
        assert self.reads == 0
        assert self.participant.in_doubt == 0


TestClients = Clients.TestCase


GARBAGE = st.builds(
    Message,
    status=st.sampled_from(Status),
    name=NAMES,
    operation=st.sampled_from(Operation),
    reason=st.sampled_from(Reason),
    flags=st.integers(0, 255),
    range=st.integers(0, 4),
    epoch=st.integers(0, 2),
    version=st.integers(0, 3) | st.just(2**64 - 1),
    key=KEYS | st.binary(max_size=3),
    value=st.binary(max_size=8)
    | several().map(lambda one: one.value)
    | st.builds(
        lambda ranges: parts.pack(ranges, ()),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=2),
    ),
)
HAPPENINGS = st.one_of(
    st.builds(act, GARBAGE | REQUESTS),
    st.builds(hear, st.sampled_from("bcx"), GARBAGE),
    st.builds(leave, CLIENTS),
    st.builds(
        lambda later_s: lambda participant: participant.tick(NOW_S + later_s),
        st.sampled_from([0.0, PREPARED_TIMEOUT_S, RESUME_TIMEOUT_S]),
    ),
    st.builds(mode, st.sampled_from([0, 2]), st.sampled_from([Mode.JOINING, Mode.SERVING])),
    st.builds(
        lambda number: lambda participant: participant.freeze(number, NOW_S),
        st.sampled_from([0, 2]),
    ),
)


@given(st.lists(HAPPENINGS, max_size=15))
def test_any_message_is_taken_or_raises_a_remote_protocol_error_and_changes_nothing(
    happenings: list[Happening],
) -> None:
    participant = serving(durable=True)
    for happen in happenings:
        before = pickle.dumps(participant)
        try:
            happen(participant)
        except RemoteProtocolError:
            assert pickle.dumps(participant) == before
