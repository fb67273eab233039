"""Explore every order in which messages, crashes and timeouts can meet in a small world.

The world is made of the real `Participant`, `Rejoin` and `Execution` objects. A breadth-first
search visits every state that can be reached, so the first failing trace is a shortest one.

An object's step depends on nothing but its own state and what comes in. So each state of a server
or client is frozen to a plain value, numbered, and each step is worked out once, by thawing the
object and calling it; a state of the world is a short tuple of such numbers. Time is no part of
it: every call is made at the same instant, and timeouts are actions of their own.

Run `python -m tests.model.explorer` for the configurations of the test, with `--all` for all of
them and for the mutants.
"""

import argparse
import enum
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

from rdht import coordinator
from rdht.coordinator import Command
from rdht.execution import Execution, Outcome
from rdht.limits import RESOLVE_RETRY_S
from rdht.messages import Flag, Message, Operation, Reason, Status
from rdht.participant import Participant
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.rejoin import Rejoin
from rdht.replica import ABSENT, Entry, Mode
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
from rdht.transaction import Transaction
from rdht.transitions import State

NOW_S = 0.0
MUTANT_LIMIT = 250_000  # states; each mutant is caught long before
HURRIED_S = 1.0  # when a server asks about what it need not ask about yet
_NEVER_S = 1e9
_SERVERS = "abcd"
_CLIENTS = "vwxyz"

Programme = tuple[tuple[Command, ...], ...]  # commands one after the other; several keys are one
History = tuple["Called | None", ...]
WorldState = tuple[int, ...]


class Configuration(NamedTuple):
    """A small world, and what may befall it."""

    name: str
    programmes: tuple[Programme, ...]  # a client each
    servers: int = 2
    ranges: int = 1  # of the ring's ranges, only the first so many are used
    profile: str = "fast"
    attempts: int = 2  # a command that would need more is aborted
    client_crashes: int = 0
    crashing_clients: str = _CLIENTS
    server_crashes: int = 0
    crashing_servers: str = _SERVERS
    prelude: tuple[str, ...] = ()  # what has happened already: how lines of a trace begin
    breaks: int = 0  # connections of clients that break
    give_ups: int = 0  # commands that are given up while they run
    hurries: int = 0  # times that a server asks the others although the client is there
    stopping: str = ""  # servers that refuse all requests
    slow_links: bool = False  # what is sent to a server that was started anew may still be lost
    founding: bool = False  # start with servers that have never served
    may_lose: bool = False  # a range may end as lost


class Called(NamedTuple):
    """A command that was called: which were done before, and how it ended."""

    before: tuple[int, ...]
    outcome: Outcome | None = None  # none: it is running, or its client has crashed
    results: tuple[Result, ...] = ()


class Verdict(NamedTuple):
    """What an exploration has found."""

    name: str
    states: int
    transitions: int
    depth: int
    seconds: float
    is_complete: bool
    fault: str = ""
    trace: tuple[str, ...] = ()

    def row(self) -> str:
        """Return a line of a table."""
        verdict = self.fault or ("holds, complete" if self.is_complete else "holds so far")
        return (
            f"{self.name:36} {self.states:>9} {self.transitions:>11} {self.depth:>5} "
            f"{self.seconds:>7.1f}  {verdict}"
        )


class Fault(Exception):  # noqa: N818 - it is what the search looks for
    """An invariant does not hold."""


# Objects as values and back.


class _Reference(NamedTuple):
    """An object that was met before, by the order of meeting."""

    number: int


class _Frozen(NamedTuple):
    """A container or object as a value."""

    kind: type
    content: tuple[Any, ...]


_ATOMS = (int, str, bytes, float, type(None), enum.Enum)
_STEADY: dict[str, float | str] = {  # attributes that are no part of the state
    "next_s": 0.0,
    "due_s": 0.0,
    "_backoff_s": 0.0,
    "conflicts": 0,
    "why": "",
}


class Codec:
    """Turns objects into values and back; an object that is shared stays shared."""

    def __init__(self, constants: Iterable[object]) -> None:
        """Take `constants` as they are."""
        self._constants = {id(one): one for one in constants}

    def freeze(self, root: object) -> object:
        """Return a value; equal ones stand for the same state."""
        return self._freeze(root, {})

    def _freeze(self, one: Any, met: dict[int, int]) -> object:
        kind = type(one)
        if (
            isinstance(one, _ATOMS)
            or id(one) in self._constants
            or (isinstance(one, tuple) and kind is not tuple)
        ):
            return one
        if kind is tuple:
            return _Frozen(kind, tuple(self._freeze(item, met) for item in one))
        if id(one) in met:
            return _Reference(met[id(one)])
        met[id(one)] = len(met)
        if kind is set:
            return _Frozen(kind, tuple(sorted(one)))
        if kind in {list, deque}:
            return _Frozen(kind, tuple(self._freeze(item, met) for item in one))
        pairs = one.items() if kind is dict else _attributes(one)
        return _Frozen(kind, tuple((key, self._freeze(value, met)) for key, value in pairs))

    def thaw(self, frozen: object) -> Any:
        """Return new objects that stand for the value."""
        return self._thaw(frozen, [])

    def _thaw(self, one: Any, met: list[Any]) -> Any:
        if type(one) is _Reference:
            return met[one.number]
        if type(one) is not _Frozen:
            return one
        kind, content = one
        if kind is tuple:
            return tuple(self._thaw(item, met) for item in content)
        result: Any = object.__new__(kind) if _is_ours(kind) else kind()
        met.append(result)
        if kind is set:
            result.update(content)
        elif kind is dict:
            for key, value in content:
                result[key] = self._thaw(value, met)
        elif kind in {list, deque}:
            result.extend(self._thaw(item, met) for item in content)
        else:
            for key, value in content:
                setattr(result, key, self._thaw(value, met))
        return result


def _is_ours(kind: type) -> bool:
    return kind.__module__ != "builtins" and kind is not deque


def _attributes(one: object) -> Iterator[tuple[str, object]]:
    names = getattr(type(one), "__slots__", None) or vars(one)
    for name in names:
        value = getattr(one, name)
        is_steady = name in _STEADY and value is not None
        yield name, _STEADY[name] if is_steady else value


# A client and a server of the world.


class ClientStep(NamedTuple):
    """What came of a client's step."""

    sends: tuple[tuple[str, Message], ...] = ()
    called: bool = False
    returned: tuple[Outcome, tuple[Result, ...]] | None = None
    closes: bool = False


class Client:
    """A session that carries out a programme, one command at a time."""

    def __init__(self, number: int, setting: "Setting", epochs: dict[int, int]) -> None:
        """Be connected to all servers, and know the epochs of their ranges."""
        self.number = number
        self.at = 0
        self.epochs = epochs
        self.processes = {server: _process(server, 0) for server in setting.ring.servers}
        self.down: list[str] = []
        self.execution: Execution | None = None
        self.setting = setting
        self._prepare()

    def _prepare(self) -> None:
        programme = self.setting.configuration.programmes[self.number - 1]
        self.execution = None
        if self.at < len(programme):
            self.execution = Execution(
                self.number,
                self.at + 1,
                programme[self.at],
                self.setting.ring,
                PROFILES[self.setting.configuration.profile],
                self.epochs,
                NOW_S,
            )

    @property
    def is_idle(self) -> bool:
        """Whether the next thing to do is to begin an attempt."""
        execution = self.execution
        return execution is not None and (execution.due_s is not None or not execution._attempt)

    def begin(self) -> ClientStep:
        """Begin a command, or its next attempt."""
        assert self.execution is not None
        is_first = not self.execution._attempt
        return self._end(self.execution.begin())._replace(called=is_first)

    def receive(self, server: str, message: Message) -> ClientStep:
        """Take an answer."""
        execution = self.execution
        if execution is None or message.name.sequence != execution.sequence:
            return ClientStep()
        return self._end(execution.receive(server, message, NOW_S, _no_jitter))

    def lose(self, server: str) -> ClientStep:
        """Take note that a connection has ended."""
        self.down = sorted([*self.down, server])
        if self.execution is None:
            return ClientStep()
        return self._end(self.execution.lost(server, NOW_S, _no_jitter))

    def connect(self, server: str, process: int, epochs: tuple[tuple[int, int], ...]) -> ClientStep:
        """Be connected again."""
        self.down.remove(server)
        self.processes[server] = process
        for number, epoch in epochs:
            self.epochs[number] = max(epoch, self.epochs.get(number, 0))
        if self.execution is None:
            return ClientStep()
        return self._end(self.execution.resend(server))

    def give_up(self) -> ClientStep:
        """End the command that is running."""
        assert self.execution is not None
        self.execution.give_up()
        return self._end([])

    def settle(self) -> None:
        """Make what nothing depends on no part of the state."""
        execution = self.execution
        attempt = None if execution is None else execution._coordinator
        if execution is None or attempt is None:
            return
        is_last = self.at + 1 == len(self.setting.configuration.programmes[self.number - 1])
        if is_last and execution._attempt >= self.setting.configuration.attempts:
            self.epochs.clear()  # no request will bear one any more
        _sort(attempt._votes)
        if attempt.state is not coordinator.State.VOTING:
            attempt._lost.clear()
            attempt._asked_again.clear()

    def _end(self, out: list[tuple[str, Message]]) -> ClientStep:
        """Send what can be sent, and see whether the command has ended."""
        execution = self.execution
        assert execution is not None
        sends = []
        while out:
            server, message = out.pop(0)
            if server in self.down:
                out += execution.lost(server, NOW_S, _no_jitter, reached=False)
            else:
                sends.append((server, message))
        attempts = self.setting.configuration.attempts
        if execution.due_s is not None and execution._attempt >= attempts:
            execution.give_up()
        if execution.outcome is None:
            return ClientStep(tuple(sends))
        is_done = execution.outcome is Outcome.DONE
        results = tuple(execution.results()) if is_done else ()
        closes = execution.outcome is Outcome.UNKNOWN or execution.is_unsettled
        self.at = sys.maxsize if closes else self.at + 1
        self._prepare()
        return ClientStep(tuple(sends), False, (execution.outcome, results), closes)


def _no_jitter(pause_s: float) -> float:
    return pause_s


def _process(server: str, life: int) -> int:
    return (_FIRST_PROCESS + _SERVERS.index(server)) * _PROCESSES + life


class Server:
    """A participant with its rejoining."""

    def __init__(self, me: str, life: int, setting: "Setting") -> None:
        """Start with nothing."""
        self.me = me
        self.life = life
        self.setting = setting
        self.participant = Participant(me, setting.layout)
        self.participant.stopping = me in setting.configuration.stopping
        self.rejoin = Rejoin(self.participant, setting.ring.servers, _process(me, life))

    def settle(self) -> None:
        """Make the times part of no state: only what may be asked about is due."""
        asked_s = {NOW_S, NOW_S + RESOLVE_RETRY_S, HURRIED_S + RESOLVE_RETRY_S}
        participant, memory = self.participant, self.participant.memory
        for tx in participant.transactions.values():
            client_left = memory.clients.get(tx.name.client) is not None
            tx.deadline_s = NOW_S if client_left or tx.deadline_s in asked_s else HURRIED_S
        self.rejoin._next_s = NOW_S if self.setting.configuration.founding else _NEVER_S
        memory._strangers = dict.fromkeys(memory._strangers, NOW_S)
        for one in (memory.clients, participant.locks.holders, memory.remembered):
            _sort(one)
        for tx in participant.transactions.values():
            _sort(tx.answers)
        for replica in participant.replicas.values():
            _sort(replica.table)


def _sort(unordered: dict[Any, Any]) -> None:
    """Make the order of a mapping, on which nothing depends, no part of the state."""
    pairs = sorted(unordered.items())
    unordered.clear()
    unordered.update(pairs)


class Setting:
    """What all states of a world have in common."""

    def __init__(self, configuration: Configuration) -> None:
        """Lay out the ring; each server stands on a host of its own."""
        self.configuration = configuration
        names = _SERVERS[: configuration.servers]
        roster = Roster(
            tuple(
                ServerAddress(name, f"host-{name}", "127.0.0.1", 4000 + index)
                for index, name in enumerate(names)
            )
        )
        self.ring = Ring(roster, key_range=len(names))
        self.layout = self.ring.ranges[: configuration.ranges]
        self.ring.ranges = self.layout
        self.ring.lock_order = self.ring.lock_order[: configuration.ranges]


def keys(servers: int, ranges: int) -> list[bytes]:
    """Return a key of each of the ranges that such a configuration uses."""
    ring = Setting(Configuration("", (), servers=servers, ranges=ranges)).ring
    found: dict[int, bytes] = {}
    for number in range(1000):
        key = b"k%d" % number
        found.setdefault(ring.range_of(key), key)
    return [found[number] for number in range(ranges)]


# What a history has to obey.

_Table = dict[bytes, Entry]


def _carry_out(commands: tuple[Command, ...], table: _Table) -> tuple[_Table, tuple[Result, ...]]:
    """Return what the specification says becomes of the table, and the results by key."""
    after = dict(table)
    results = []
    for operation, key, value, version in sorted(commands, key=lambda command: command.key):
        value_before, version_before = table.get(key, ABSENT)
        is_present = value_before is not None
        found = {
            Operation.GET: is_present,
            Operation.PUT: True,
            Operation.ADD: not is_present,
            Operation.DELETE: is_present,
            Operation.CAS: version == version_before,
        }[operation]
        if found and operation is not Operation.GET:
            after[key] = Entry(None if operation is Operation.DELETE else value, version_before + 1)
        read = value_before if operation is Operation.GET and value_before is not None else b""
        results.append(Result(found, version_before, read))
    return after, tuple(results)


def is_linearizable(
    commands: tuple[tuple[Command, ...], ...], history: History, final: _Table
) -> bool:
    """Return whether some order of the commands explains all results and the final table.

    What is done took effect once, between call and return; what was aborted, never; anything else
    at most once, at any time after its call.
    """
    called = {index: one for index, one in enumerate(history) if one is not None}
    done = {index for index, one in called.items() if one.outcome is Outcome.DONE}
    possible = {index for index, one in called.items() if one.outcome is not Outcome.ABORTED}

    def search(placed: frozenset[int], table: _Table) -> bool:
        if done <= placed and table == final:
            return True
        for index in possible - placed:
            one = called[index]
            if not placed.issuperset(one.before):
                continue
            after, results = _carry_out(commands[index], table)
            if index in done and not _explains(results, one.results):
                continue
            if search(placed | {index}, after):
                return True
        return False

    return search(frozenset(), {})


def _explains(results: tuple[Result, ...], seen: tuple[Result, ...]) -> bool:
    """Compare results; one that another participant told may lack the version."""
    if len(results) != len(seen):
        return len(results) > 1  # several keys: only what the one that told it holds
    return all(
        (mine.found, mine.value) == (theirs.found, theirs.value)
        and theirs.version in {mine.version, 0}
        for mine, theirs in zip(results, seen, strict=True)
    )


# The world.

_ANSWERS = {Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING}
_REJOINING = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}
_QUESTION, _ANSWER, _REJOIN_QUESTION, _REJOIN_ANSWER = 1, 2, 4, 8
_JOINED = 16  # times two to the power of the number of the server that has joined
_END = 0  # the message number of a connection's end
_DEAD = 0  # the number of a client that has crashed
_FIRST_PROCESS, _PROCESSES = 10, 100  # incarnations of servers: 1000, 1001…, 1100, 1101…

Action = tuple[Any, ...]


class ServerTraits(NamedTuple):
    """What the search needs to know of a server's state."""

    life: int
    modes: tuple[tuple[int, Mode], ...]
    epochs: tuple[tuple[int, int], ...]
    tables: dict[int, dict[bytes, Entry]]
    locked: frozenset[bytes]
    busy: str  # what is under way, if anything is
    may_settle: bool
    may_hurry: bool
    may_rejoin: bool


class ClientTraits(NamedTuple):
    """What the search needs to know of a client's state."""

    number: int
    at: int
    begins: bool
    runs: bool
    reconnects: tuple[str, ...]
    processes: dict[str, int]
    down: tuple[str, ...]
    is_over: bool


class Explorer:
    """Searches a configuration."""

    def __init__(self, configuration: Configuration) -> None:
        """Number the ends of the channels: first the servers, then the clients."""
        self.configuration = configuration
        self.setting = Setting(configuration)
        self.servers = self.setting.ring.servers
        self.commands = [one for programme in configuration.programmes for one in programme]
        self._first = [0]  # the number of each client's first command
        for programme in configuration.programmes:
            self._first.append(self._first[-1] + len(programme))
        layout = self.setting.layout
        constants = [self.setting, self.setting.ring, layout, *self.commands]
        self._codec = Codec(constants)
        self._server_numbers: dict[object, int] = {}
        self._server_values: list[object] = []
        self._server_traits: list[ServerTraits] = []
        self._client_numbers: dict[object, int] = {}
        self._client_values: list[object] = [None]
        self._client_traits: list[ClientTraits | None] = [None]
        self._messages: list[Message | None] = [None]
        self._message_numbers: dict[Message, int] = {}
        self._contents: list[tuple[bool, tuple[int, ...]]] = []
        self._content_numbers: dict[tuple[bool, tuple[int, ...]], int] = {}
        self._kinds: list[int] = []
        self._histories: list[History] = []
        self._history_numbers: dict[History, int] = {}
        self._server_steps: dict[tuple[Any, ...], Any] = {}
        self._client_steps: dict[tuple[Any, ...], Any] = {}
        self._appended: dict[tuple[int, int], int] = {}
        self._checked: dict[tuple[int, ...], str] = {}
        self._empty = self._content(is_broken=False, messages=())
        self._broken = self._content(is_broken=True, messages=())
        server_count, client_count = len(self.servers), len(configuration.programmes)
        ends = range(server_count + client_count)
        pairs = [
            (one, other)
            for one in ends
            for other in ends
            if one != other and min(one, other) < server_count
        ]
        self._clients_at = server_count
        channels_at = server_count + client_count
        self._channels = {pair: channels_at + index for index, pair in enumerate(pairs)}
        self._pairs = {at: pair for pair, at in self._channels.items()}
        self._history_at = channels_at + len(pairs)
        self._crash_at, self._server_crash_at, self._break_at, self._give_up_at, self._hurry_at = (
            range(self._history_at + 1, self._history_at + 6)
        )

    # Numbers for values.

    def _content(self, *, is_broken: bool, messages: tuple[int, ...]) -> int:
        content = is_broken, messages
        number = self._content_numbers.get(content)
        if number is None:
            number = self._content_numbers[content] = len(self._contents)
            self._contents.append(content)
            kinds = 0
            for one in messages:
                message = self._messages[one]
                if message is not None:
                    kinds |= _kind(message)
            self._kinds.append(kinds)
        return number

    def _append(self, content: int, message: int) -> int:
        number = self._appended.get((content, message))
        if number is None:
            is_broken, messages = self._contents[content]
            number = (
                content
                if is_broken
                else self._content(is_broken=False, messages=(*messages, message))
            )
            self._appended[content, message] = number
        return number

    def _message(self, message: Message) -> int:
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self._messages)
            self._messages.append(message)
        return number

    def _history(self, history: History) -> int:
        number = self._history_numbers.get(history)
        if number is None:
            number = self._history_numbers[history] = len(self._histories)
            self._histories.append(history)
        return number

    def _server(self, server: Server) -> int:
        server.settle()
        value = self._codec.freeze(server)
        number = self._server_numbers.get(value)
        if number is None:
            number = self._server_numbers[value] = len(self._server_values)
            self._server_values.append(value)
            self._server_traits.append(_server_traits(server))
        return number

    def _client(self, client: Client) -> int:
        client.settle()
        value = self._codec.freeze(client)
        number = self._client_numbers.get(value)
        if number is None:
            number = self._client_numbers[value] = len(self._client_values)
            self._client_values.append(value)
            self._client_traits.append(_client_traits(client))
        return number

    # Steps of one object, each worked out once.

    def _server_step(self, number: int, event: Action) -> tuple[int, tuple[tuple[int, int], ...]]:
        key = number, event
        step = self._server_steps.get(key)
        if step is None:
            server: Server = self._codec.thaw(self._server_values[number])
            out = self._call_server(server, event)
            sends = tuple((self._end_of(to), self._message(message)) for to, message in out)
            step = self._server_steps[key] = (self._server(server), sends)
        result: tuple[int, tuple[tuple[int, int], ...]] = step
        return result

    def _call_server(self, server: Server, event: Action) -> list[tuple[int | str, Message]]:
        kind, *arguments = event
        participant = server.participant
        if kind in {"settle", "hurry"}:
            return participant.tick(NOW_S if kind == "settle" else HURRIED_S)
        if kind == "rejoin":
            return [*server.rejoin.tick(NOW_S)]
        if kind == "disconnect":
            return participant.disconnect(arguments[0], NOW_S)
        if kind == "connect":
            client, resume = arguments
            out = participant.connect(client, NOW_S, resume=resume)
            if out is None:
                why = f"{server.me} refuses client {client}"
                raise Fault(why)
            return out
        return self._take(server, *arguments)

    def _take(self, server: Server, sender: int, number: int) -> list[tuple[int | str, Message]]:
        message = self._messages[number]
        assert message is not None
        if sender >= self._clients_at:
            return server.participant.handle(message, NOW_S)
        if message.status in _REJOINING:
            return [*server.rejoin.handle(self.servers[sender], message, NOW_S)]
        return server.participant.handle_peer(self.servers[sender], message, NOW_S)

    def _end_of(self, destination: int | str) -> int:
        if isinstance(destination, int):
            return self._clients_at + destination - 1
        return self.servers.index(destination)

    def _client_step(self, number: int, event: Action) -> tuple[int, ClientStep]:
        key = number, event
        step = self._client_steps.get(key)
        if step is None:
            client: Client = self._codec.thaw(self._client_values[number])
            kind, *arguments = event
            if kind == "receive":
                server, message = arguments
                arguments = [self.servers[server], self._messages[message]]
            came_of_it = getattr(client, kind)(*arguments)
            step = self._client_steps[key] = (self._client(client), came_of_it)
        result: tuple[int, ClientStep] = step
        return result

    # Steps of the world.

    def initial(self) -> WorldState:
        """Return the state in which all ranges serve, or in which none was ever served."""
        servers = [Server(name, 0, self.setting) for name in self.servers]
        epochs: dict[int, int] = {}
        if not self.configuration.founding:
            _found(servers)
            epochs = dict.fromkeys(range(len(self.setting.layout)), 1)
        clients = []
        for index in range(len(self.configuration.programmes)):
            clients.append(Client(index + 1, self.setting, dict(epochs)))
            for server in servers:
                server.participant.connect(index + 1, NOW_S, resume=False)
        budget = self.configuration
        state = (
            *(self._server(server) for server in servers),
            *(self._client(client) for client in clients),
            *(self._empty for _ in self._channels),
            self._history((None,) * len(self.commands)),
            budget.client_crashes,
            budget.server_crashes,
            budget.breaks,
            budget.give_ups,
            budget.hurries,
        )
        for line in budget.prelude:
            state = next(
                self.apply(state, action)
                for action in self.actions(state)
                if self.describe(state, action).startswith(line)
            )
        return state

    def actions(self, state: WorldState) -> list[Action]:
        """Return all that can happen next: first what needs no accident."""
        found: list[Action] = []
        for at, (source, target) in self._pairs.items():
            is_broken, messages = self._contents[state[at]]
            if messages:
                found.append(("deliver", source, target))
                if _END in messages[1:]:
                    found.append(("cut", source, target))
            elif is_broken and source < self._clients_at > target:
                found.append(("relink", source, target))
        for index in range(len(self.servers)):
            found += self._server_actions(state, index)
        for end in range(self._clients_at, self._clients_at + len(self._first) - 1):
            traits = self._client_traits[state[end]]
            if traits is not None:
                found += self._client_actions(state, end, traits)
        return found

    def _server_actions(self, state: WorldState, index: int) -> Iterator[Action]:
        traits = self._server_traits[state[index]]
        asked = heard = 0
        if traits.may_settle or traits.may_rejoin:
            for other in range(len(self.servers)):
                if other != index:
                    asked |= self._kinds[state[self._channels[index, other]]]
                    heard |= self._kinds[state[self._channels[other, index]]]
        settles = traits.may_settle and not (asked & _QUESTION or heard & _ANSWER)
        if settles and not self._is_vain(state, index, ("settle",)):
            yield "settle", index
        if traits.may_hurry and state[self._hurry_at]:
            yield "hurry", index
        mine = _JOINED << index
        rejoins = traits.may_rejoin and not (
            asked & (_REJOIN_QUESTION | mine) or heard & (_REJOIN_ANSWER | mine)
        )
        if rejoins and not self._is_vain(state, index, ("rejoin",)):
            yield "rejoin", index
        if state[self._server_crash_at] and self._may_crash(state, index):
            yield "crash server", index

    def _is_vain(self, state: WorldState, index: int, event: Action) -> bool:
        """Return whether to ask again changes nothing, if all goes well, as the others are now.

        It will be asked once one of them has changed. To ask before only means that the same
        question, or the same answer, is on its way for longer.
        """
        here = state[index]
        try:
            after, questions = self._server_step(here, event)
            if after != here:
                return False
            for target, question in questions:
                there, answers = self._server_step(state[target], ("take", index, question))
                if there != state[target]:
                    return False
                for to, answer in answers:
                    reply = "take", target, answer
                    if to != index or self._server_step(here, reply) != (here, ()):
                        return False
        except Exception:  # noqa: BLE001 - whatever it is, the search has to come upon it
            return False
        return True

    def _may_crash(self, state: WorldState, index: int) -> bool:
        """Return whether the server may crash: not if that takes the last copy of a range."""
        server = self.servers[index]
        if server not in self.configuration.crashing_servers:
            return False
        if self.configuration.may_lose:
            return True
        return not any(
            (number, Mode.JOINING) in self._server_traits[state[self.servers.index(other)]].modes
            for number, pair in enumerate(self.setting.layout)
            for other in pair
            if server in pair and other != server
        )

    def _client_actions(
        self, state: WorldState, end: int, traits: ClientTraits
    ) -> Iterator[Action]:
        if traits.begins:
            yield "begin", end
        for server in traits.reconnects:
            yield "reconnect", end, self.servers.index(server)
        if traits.runs and state[self._give_up_at]:
            yield "give up", end
        if state[self._crash_at] and _CLIENTS[end - self._clients_at] in (
            self.configuration.crashing_clients
        ):
            yield "crash client", end
        if state[self._break_at]:
            for index, server in enumerate(self.servers):
                if (
                    server not in traits.down
                    and not self._contents[state[self._channels[end, index]]][0]
                ):
                    yield "break", end, index

    @staticmethod
    def is_accident(action: Action) -> bool:
        """Return whether a world may rest although the action is possible."""
        return action[0] in {"crash server", "crash client", "break", "give up", "relink", "hurry"}

    def apply(self, state: WorldState, action: Action) -> WorldState:
        """Return the state after the action."""
        new = list(state)
        kind, *ends = action
        getattr(self, "_do_" + kind.replace(" ", "_"))(new, *ends)
        return tuple(new)

    def _do_deliver(self, new: list[int], source: int, target: int) -> None:
        at = self._channels[source, target]
        is_broken, (head, *rest) = self._contents[new[at]]
        new[at] = self._content(is_broken=is_broken, messages=tuple(rest))
        if target >= self._clients_at:
            if head == _END:
                self._step_client(new, target, ("lose", self.servers[source]))
            else:
                self._step_client(new, target, ("receive", source, head))
        elif head != _END:
            self._step_server(new, target, ("take", source, head))
        elif source >= self._clients_at:
            self._step_server(new, target, ("disconnect", source - self._clients_at + 1))

    def _do_cut(self, new: list[int], source: int, target: int) -> None:
        """Lose what was sent last before the connection ended."""
        at = self._channels[source, target]
        is_broken, messages = self._contents[new[at]]
        rest = messages[messages.index(_END, 1) :]
        new[at] = self._content(is_broken=is_broken, messages=rest)

    def _do_relink(self, new: list[int], source: int, target: int) -> None:
        new[self._channels[source, target]] = self._empty

    def _do_settle(self, new: list[int], index: int) -> None:
        self._step_server(new, index, ("settle",))

    def _do_hurry(self, new: list[int], index: int) -> None:
        new[self._hurry_at] -= 1
        self._step_server(new, index, ("hurry",))

    def _do_rejoin(self, new: list[int], index: int) -> None:
        self._step_server(new, index, ("rejoin",))

    def _do_begin(self, new: list[int], end: int) -> None:
        self._step_client(new, end, ("begin",))

    def _do_give_up(self, new: list[int], end: int) -> None:
        new[self._give_up_at] -= 1
        self._step_client(new, end, ("give_up",))

    def _do_crash_client(self, new: list[int], end: int) -> None:
        new[self._crash_at] -= 1
        new[end] = _DEAD
        self._hang_up(new, end)

    def _do_break(self, new: list[int], end: int, index: int) -> None:
        """End a connection; each side has still to learn of it."""
        new[self._break_at] -= 1
        self._terminate(new, self._channels[end, index])
        self._terminate(new, self._channels[index, end])

    def _do_crash_server(self, new: list[int], index: int) -> None:
        """Start the server anew: what was sent to it is lost, what it sent may still arrive."""
        new[self._server_crash_at] -= 1
        life = self._server_traits[new[index]].life + 1
        new[index] = self._server(Server(self.servers[index], life, self.setting))
        for (source, target), at in self._channels.items():
            if target == index:
                is_slow = self.configuration.slow_links or source >= self._clients_at
                new[at] = self._broken if is_slow else self._empty
            elif source == index and target >= self._clients_at:
                self._terminate(new, at)
            elif source == index:
                new[at] = self._append(new[at], _END) if new[at] != self._empty else new[at]

    def _do_reconnect(self, new: list[int], end: int, index: int) -> None:
        """Connect again; the server may not have seen the older connection end."""
        there, back = self._channels[end, index], self._channels[index, end]
        client = end - self._clients_at + 1
        new[there] = new[back] = self._empty
        traits = self._client_traits[new[end]]
        assert traits is not None
        server = self.servers[index]
        process = _process(server, self._server_traits[new[index]].life)
        resume = traits.processes[server] == process
        self._step_server(new, index, ("connect", client, resume))
        epochs = self._server_traits[new[index]].epochs
        self._step_client(new, end, ("connect", server, process, epochs))

    def _terminate(self, new: list[int], at: int) -> None:
        is_broken, messages = self._contents[new[at]]
        if not is_broken:
            new[at] = self._content(is_broken=True, messages=(*messages, _END))

    def _hang_up(self, new: list[int], end: int) -> None:
        """End all connections of a client that listens no more."""
        for index in range(self._clients_at):
            self._terminate(new, self._channels[end, index])
            new[self._channels[index, end]] = self._broken

    def _step_server(self, new: list[int], index: int, event: Action) -> None:
        new[index], sends = self._server_step(new[index], event)
        for target, message in sends:
            at = self._channels[index, target]
            new[at] = self._append(new[at], message)

    def _step_client(self, new: list[int], end: int, event: Action) -> None:
        before = self._client_traits[new[end]]
        assert before is not None
        new[end], step = self._client_step(new[end], event)
        if step.called or step.returned:
            number = self._first[end - self._clients_at] + before.at
            new[self._history_at] = self._noted(new[self._history_at], number, step)
        for server, message in step.sends:
            at = self._channels[end, self.servers.index(server)]
            new[at] = self._append(new[at], self._message(message))
        after = self._client_traits[new[end]]
        assert after is not None
        if step.closes:
            self._hang_up(new, end)
        elif after.is_over:  # nothing that still comes in changes anything
            for index in range(self._clients_at):
                at = self._channels[index, end]
                new[at] = self._broken

    def _noted(self, history: int, number: int, step: ClientStep) -> int:
        events = list(self._histories[history])
        if step.called:
            done = [
                index
                for index, one in enumerate(events)
                if one is not None and one.outcome is Outcome.DONE
            ]
            events[number] = Called(tuple(done))
        called = events[number]
        if step.returned is not None and called is not None:
            outcome, results = step.returned
            events[number] = called._replace(outcome=outcome, results=results)
        return self._history(tuple(events))

    # What has to hold.

    def check(self, state: WorldState) -> None:
        """Raise Fault if replicas that serve together differ in a key that nobody has locked."""
        servers = state[: self._clients_at]
        why = self._checked.get(servers)
        if why is None:
            why = self._checked[servers] = self._differences(servers)
        if why:
            raise Fault(why)

    def _differences(self, servers: tuple[int, ...]) -> str:
        for number, pair in enumerate(self.setting.layout):
            one, other = (self._server_traits[servers[self.servers.index(name)]] for name in pair)
            if (number, Mode.SERVING) not in one.modes or (number, Mode.SERVING) not in other.modes:
                continue
            if dict(one.epochs)[number] != dict(other.epochs)[number]:
                continue
            tables = one.tables[number], other.tables[number]
            for key in sorted({*tables[0], *tables[1]} - one.locked - other.locked):
                here, there = (table.get(key, ABSENT) for table in tables)
                if here != there:
                    return (
                        f"{' and '.join(pair)} serve {key!r}, which is {here} here, {there} there"
                    )
        return ""

    def check_rest(self, state: WorldState) -> None:
        """Raise Fault if the world comes to rest in a state that is not clean."""
        rest = *state[: self._clients_at + len(self._first) - 1], state[self._history_at]
        why = self._checked.get(rest)
        if why is None:
            why = self._checked[rest] = self._faults_at_rest(state)
        if why:
            raise Fault(why)

    def _faults_at_rest(self, state: WorldState) -> str:
        servers = [self._server_traits[number] for number in state[: self._clients_at]]
        for name, traits in zip(self.servers, servers, strict=True):
            if traits.busy:
                return f"at rest, {name} {traits.busy}"
        for end in range(self._clients_at, self._clients_at + len(self._first) - 1):
            client = self._client_traits[state[end]]
            if client is not None and not client.is_over:
                return f"client {self._name(end)} waits for ever"
        final: dict[bytes, Entry] = {}
        for number, pair in enumerate(self.setting.layout):
            one, other = (servers[self.servers.index(name)] for name in pair)
            why = self._faults_of_range(number, one, other)
            if why:
                return f"at rest, range {number} {why}"
            final |= one.tables[number]
        history = self._histories[state[self._history_at]]
        if not is_linearizable(tuple(self.commands), history, final):
            return f"no order explains {self._narrate(history)}, at last {_show_table(final)}"
        return ""

    def _faults_of_range(self, number: int, one: ServerTraits, other: ServerTraits) -> str:
        modes = {dict(traits.modes)[number] for traits in (one, other)}
        if self.configuration.may_lose and Mode.LOST in modes:
            return ""
        if modes != {Mode.SERVING}:
            return f"is {' and '.join(sorted(modes))}"
        if dict(one.epochs)[number] != dict(other.epochs)[number]:
            return "has two epochs"
        if one.tables[number] != other.tables[number]:
            return f"has two copies: {one.tables[number]} and {other.tables[number]}"
        return ""

    # The search.

    def run(self, limit: int | None = None) -> Verdict:
        """Search breadth first, up to `limit` states; stop at the first fault."""
        return _Search(self, limit).run()

    # Traces.

    def describe(self, state: WorldState, action: Action) -> str:
        """Return a line for an action that is possible in a state."""
        kind, *ends = action
        if kind != "deliver":
            return " ".join([kind, *map(self._name, ends)])
        source, target = ends
        _, (head, *_rest) = self._contents[state[self._channels[source, target]]]
        message = self._messages[head]
        text = "end of connection" if message is None else show(message)
        return f"{self._name(source)} -> {self._name(target)}: {text}"

    def _name(self, end: int) -> str:
        if end < self._clients_at:
            return self.servers[end]
        return _CLIENTS[end - self._clients_at]

    def _narrate(self, history: History) -> str:
        lines = []
        for index, one in enumerate(history):
            if one is None:
                continue
            what = ", ".join(
                f"{command.operation.name} {command.key.decode()} {command.value.decode()}"
                for command in self.commands[index]
            )
            outcome = one.outcome or "pending"
            results = [tuple(result) for result in one.results]
            lines.append(f"#{index} {what} (after {list(one.before)}): {outcome} {results}")
        return "; ".join(lines)


def _kind(message: Message) -> int:
    status = message.status
    if status is Status.RESOLVE or status is Status.PROCEED:
        return _QUESTION
    if status in _ANSWERS:
        return _ANSWER
    if status is Status.JOINED:
        return _JOINED << (message.name.client // _PROCESSES - _FIRST_PROCESS)
    if status is Status.COPY or message.flags & Flag.SILENT:
        return _REJOIN_ANSWER
    if status in _REJOINING:
        return _REJOIN_QUESTION
    return 0


def _server_traits(server: Server) -> ServerTraits:
    participant, rejoin = server.participant, server.rejoin
    replicas = participant.replicas.values()
    busy = ""
    states = State
    transactions = participant.transactions.values()
    if any(tx.state is states.PREPARED for tx in transactions):
        busy = "holds something prepared"
    elif any(tx.state is states.WAITING for tx in transactions):
        busy = "has something that waits"
    elif participant.locks.holders:
        busy = "holds a lock"
    elif participant.locks.queues:
        busy = "has a queue"
    elif participant._unanswered:
        busy = "owes an answer to an abort"
    return ServerTraits(
        server.life,
        tuple((one.number, one.mode) for one in replicas),
        tuple((one.number, one.epoch) for one in replicas),
        {one.number: dict(one.table) for one in replicas},
        frozenset(participant.locks.holders),
        busy,
        bool(participant._unanswered) or any(_is_to_settle(participant, tx) for tx in transactions),
        any(tx.state is State.PREPARED and tx.deadline_s > NOW_S for tx in transactions),
        any(one.mode is Mode.JOINING for one in replicas) or bool(rejoin._joined),
    )


def _is_to_settle(participant: Participant, tx: Transaction) -> bool:
    """Return whether a tick would ask others about the transaction, or tell them of it."""
    states = State
    if tx.deadline_s > NOW_S:
        return False
    if tx.state is states.PREPARED:
        return True
    is_gone = participant.memory.is_gone(tx.name.client)
    missing = participant.resolution.unconfirmed(tx)
    return tx.state is states.COMMITTED and is_gone and bool(missing)


def _client_traits(client: Client) -> ClientTraits:
    execution = client.execution
    needed = () if execution is None else execution.servers
    down = set(client.down)
    return ClientTraits(
        client.number,
        client.at,
        client.is_idle and down.isdisjoint(needed),
        execution is not None and not client.is_idle,
        tuple(server for server in client.down if server in needed),
        dict(client.processes),
        tuple(client.down),
        execution is None,
    )


def _found(servers: list[Server]) -> None:
    """Let new servers take up their ranges, one message after the other."""
    by_name = {server.me: server for server in servers}
    while any(
        replica.mode is not Mode.SERVING
        for server in servers
        for replica in server.participant.replicas.values()
    ) or any(server.rejoin._joined for server in servers):
        queue: deque[tuple[str, int | str, Message]] = deque()
        for server in servers:
            server.rejoin._next_s = NOW_S
            for joining in server.rejoin._joining.values():
                joining.next_s = NOW_S
            queue += [(server.me, *sent) for sent in server.rejoin.tick(NOW_S)]
        while queue:
            sender, target, message = queue.popleft()
            assert isinstance(target, str)
            sent = by_name[target].rejoin.handle(sender, message, NOW_S)
            queue += [(target, *one) for one in sent]


def _show_table(table: dict[bytes, Entry]) -> str:
    return ", ".join(f"{key.decode()}={value!r} at {at}" for key, (value, at) in table.items())


def show(message: Message) -> str:
    """Return a message as a short text."""
    words = [message.status.name]
    if message.name.client:
        words.append(".".join(map(str, message.name)))
    if message.operation:
        words.append(message.operation.name)
    if message.reason is not Reason.NONE:
        words.append(message.reason.name)
    words += [
        f"{field}={value}"
        for field, value in zip(
            ("flags", "range", "epoch", "version", "key", "value"), message[4:], strict=True
        )
        if value
    ]
    return " ".join(words)


class _Search:
    """One breadth-first search: what was seen, and how each state was come to."""

    def __init__(self, explorer: Explorer, limit: int | None) -> None:
        self._explorer = explorer
        self._limit = sys.maxsize if limit is None else limit
        self._seen: dict[bytes, int] = {}
        self._parents = array("I")
        self._ordinals = array("H")
        self._edges = (array("I"), array("I"))
        self._clean = bytearray()  # at rest and clean, or on a way there
        self._is_new = False
        self._depth = 0
        self._started_s = time.perf_counter()

    def run(self) -> Verdict:
        """Return what was found."""
        initial = self._explorer.initial()
        self._add(initial, 0, 0)
        level = [initial]
        try:
            while level and len(self._seen) < self._limit:
                level = self._advance(level, len(self._seen) - len(level))
                self._depth += bool(level)
        except _Found as found:
            return self._verdict(str(found), self._trace(found.index, found.action))
        if level:
            return self._verdict()
        stuck = self._stuck()
        if stuck is None:
            return self._verdict(is_complete=True)
        return self._verdict("the world cannot come to rest any more", self._trace(stuck))

    def _advance(self, level: list[WorldState], first: int) -> list[WorldState]:
        explorer = self._explorer
        following = []
        sources, targets = self._edges
        for index, state in enumerate(level, first):
            is_at_rest = True
            for ordinal, action in enumerate(explorer.actions(state)):
                try:
                    new = explorer.apply(state, action)
                    if new == state:
                        continue
                    explorer.check(new)
                except Exception as error:
                    why = f"{type(error).__name__}: {error}"
                    raise _Found(why, index, action) from error
                is_at_rest = is_at_rest and explorer.is_accident(action)
                number = self._add(new, index, ordinal)
                if self._is_new:
                    following.append(new)
                sources.append(index)
                targets.append(number)
            if is_at_rest:
                try:
                    explorer.check_rest(state)
                except Fault as error:
                    raise _Found(str(error), index, None) from error
                self._clean[index] = 1
        return following

    def _add(self, state: WorldState, parent: int, ordinal: int) -> int:
        """Return the state's number; `_is_new` tells whether it was not known."""
        digest = blake2b(array("I", state).tobytes(), digest_size=12).digest()
        count = len(self._seen)
        number = self._seen.setdefault(digest, count)
        self._is_new = number == count
        if self._is_new:
            self._parents.append(parent)
            self._ordinals.append(ordinal)
            self._clean.append(0)
        return number

    def _stuck(self) -> int | None:
        """Return the first state from which no clean state at rest can be reached."""
        sources, targets = self._edges
        clean = self._clean
        is_changed = True
        while is_changed:
            is_changed = False
            for source, target in zip(reversed(sources), reversed(targets), strict=True):
                if clean[target] and not clean[source]:
                    clean[source] = 1
                    is_changed = True
        at = clean.find(0)
        return None if at < 0 else at

    def _trace(self, index: int, last: Action | None = None) -> tuple[str, ...]:
        explorer = self._explorer
        ordinals = []
        while index:
            ordinals.append(self._ordinals[index])
            index = self._parents[index]
        state = explorer.initial()
        lines = list(explorer.configuration.prelude)
        for ordinal in reversed(ordinals):
            action = explorer.actions(state)[ordinal]
            lines.append(explorer.describe(state, action))
            state = explorer.apply(state, action)
        if last is not None:
            lines.append(explorer.describe(state, last))
        return tuple(lines)

    def _verdict(
        self, fault: str = "", trace: tuple[str, ...] = (), *, is_complete: bool = False
    ) -> Verdict:
        return Verdict(
            self._explorer.configuration.name,
            len(self._seen),
            len(self._edges[0]),
            self._depth,
            time.perf_counter() - self._started_s,
            is_complete,
            fault,
            trace,
        )


class _Found(Exception):  # noqa: N818 - the end of a search
    """A fault, and where: in the state `index`, or in what the action makes of it."""

    def __init__(self, why: str, index: int, action: Action | None) -> None:
        super().__init__(why)
        self.index = index
        self.action = action


# The worlds that are explored.


class Plan(NamedTuple):
    """A configuration, and how far it is to be explored."""

    configuration: Configuration
    limit: int | None = None  # states; none: all of them
    is_quick: bool = False  # for the test


def _plans() -> list[Plan]:
    key = keys(2, 1)[0]
    other = b"%s-too" % key
    here, there = keys(3, 2)
    put, put_again = (_put(key, b"1"),), (_put(key, b"2"),)
    get, add = (Command(Operation.GET, key),), (Command(Operation.ADD, key, b"1"),)
    cas = (Command(Operation.CAS, key, b"3", 1),)
    many = (_put(here, b"1"), _put(there, b"1"))
    rival = (_put(there, b"2"),)

    def small(name: str, *programmes: Programme, **more: Any) -> Configuration:
        return Configuration(name, programmes, **more)

    def spanning(name: str, *programmes: Programme, **more: Any) -> Configuration:
        more = {"servers": 3, "ranges": 2, "attempts": 1, **more}
        return Configuration(name, programmes, **more)

    def founding(name: str, **more: Any) -> Configuration:
        return Configuration(name, (), founding=True, **more)

    classic: dict[str, Any] = {"profile": "classic"}
    crash: dict[str, Any] = {"server_crashes": 1}
    gone: dict[str, Any] = {"client_crashes": 1, "crashing_clients": "v"}
    refused_by_a = (
        "crash server a",
        "a -> v: end of connection",
        "rejoin a",
        "reconnect v a",
        "begin v",
        "v -> a: REQUEST",
        "a -> v: NO",
    )
    refused_by_b = (
        "crash server b",
        "b -> v: end of connection",
        "reconnect v b",
        "begin v",
        "v -> a: REQUEST",
        "v -> b: REQUEST",
        "b -> v: NO",
        "a -> v: YES",
        "rejoin b",
    )
    quick = [
        small("writer, reader", (put,), (get,), hurries=1),
        small("writer, reader, break", (put,), (get,), breaks=1),
        small("writer, reader, classic", (put,), (get,), **classic),
        small("two writers", (put,), (put_again,), hurries=1),
        small("two writers, classic", (put,), (put_again,), **classic),
        small("add, cas", (add,), (cas,), hurries=1),
        small("writer, reader, client crash", (put,), (get,), hurries=1, **gone),
        small(
            "writer, client crash, break, classic", (put,), hurries=1, breaks=1, **gone, **classic
        ),
        small("writer, server crash", (put,), hurries=1, slow_links=True, **crash),
        small("writer, server crash, classic", (put,), slow_links=True, **crash, **classic),
        small("writer twice, server crash", (put, put_again), **crash),
        small("writer, give-up", (put,), give_ups=1, breaks=1),
        small(
            "put_many in a range, client crash",
            ((_put(key, b"1"), _put(other, b"1")),),
            hurries=1,
            **gone,
        ),
        spanning("put_many, client crash", (many,), **gone),
        small("writer, server a refuses, crash", (put,), prelude=refused_by_a, server_crashes=2),
        founding("founding", ranges=2),
        founding("founding, server crash", ranges=2, may_lose=True, **crash),
    ]
    full = [
        small("writer, reader, 2 hurries, break", (put,), (get,), hurries=2, breaks=1),
        small("writer, reader, classic, 2 hurries", (put,), (get,), hurries=2, **classic),
        small("two writers, 2 hurries", (put,), (put_again,), hurries=2),
        small("two writers, break", (put,), (put_again,), hurries=1, breaks=1),
        small("two writers, classic, hurry", (put,), (put_again,), hurries=1, **classic),
        small("two adders, classic", (add,), (add,), hurries=1, **classic),
        small(
            "writer, reader, client crash, classic", (put,), (get,), hurries=1, **gone, **classic
        ),
        small("writer, client crash, 2 breaks", (put,), hurries=2, breaks=2, **gone),
        small("writer, 2 server crashes", (put,), server_crashes=2, hurries=1, slow_links=True),
        small("writer, server crash, break", (put,), breaks=1, hurries=1, **crash),
        spanning("put_many, server a crash", (many,), crashing_servers="a", **crash),
        spanning("put_many, server b refuses", (many,), prelude=refused_by_b, **crash),
        spanning("put_many, server c crash", (many,), crashing_servers="c", **crash),
        small("writer, reader, server crash", (put,), (get,), **crash),
        small("two writers, server crash", (put,), (put_again,), **crash),
        small("two writers, client crash", (put,), (put_again,), client_crashes=1),
        founding("founding, 3 servers, crash", servers=3, may_lose=True, **crash),
    ]
    capped = [
        spanning("put_many, put, client crash", (many,), (rival,), client_crashes=1),
        spanning("put_many, put, server crash", (many,), (rival,), **crash),
        spanning("put_many, server b crash", (many,), crashing_servers="b", **crash),
        spanning("put_many, both crash", (many,), **gone, **crash),
    ]
    return [
        *(Plan(one, is_quick=True) for one in quick),
        *(Plan(one) for one in full),
        *(Plan(one, 3_000_000) for one in capped),
    ]


def _put(key: bytes, value: bytes) -> Command:
    return Command(Operation.PUT, key, value)


PLANS = {plan.configuration.name: plan for plan in _plans()}


def explore(name: str, limit: int | None = None) -> Verdict:
    """Explore the configuration of that name, up to its own limit or the one given."""
    plan = PLANS[name]
    return Explorer(plan.configuration).run(plan.limit if limit is None else limit)


HEADING = (
    f"{'configuration':36} {'states':>9} {'transitions':>11} {'depth':>5} {'seconds':>7}  verdict"
)


def main(arguments: list[str] | None = None) -> int:
    """Print a table of the explorations, and the trace to each fault; return the exit status."""
    parser = argparse.ArgumentParser(description="Explore small worlds exhaustively.")
    parser.add_argument("names", nargs="*", help="configurations; without any, the quick ones")
    parser.add_argument("--all", action="store_true", help="all configurations, then the mutants")
    parser.add_argument("--mutants", action="store_true", help="which mutant is caught where")
    parser.add_argument("--limit", type=int, help="explore so many states at most")
    options = parser.parse_args(arguments)
    names = options.names or [name for name, one in PLANS.items() if one.is_quick or options.all]
    has_failed = False
    if not options.mutants:
        _say(HEADING)
        for name in names:
            verdict = explore(name, options.limit)
            _say(verdict.row(), *(f"    {line}" for line in verdict.trace))
            has_failed = has_failed or bool(verdict.fault)
    if options.mutants or options.all:
        has_failed = not _show_mutants(names, options.limit or MUTANT_LIMIT) or has_failed
    return int(has_failed)


def _show_mutants(names: list[str], limit: int) -> bool:
    """Print which configurations catch which mutant; return whether each is caught by one."""
    from tests.model.mutants import MUTANTS  # noqa: PLC0415 - what breaks the core stays apart

    are_caught = True
    for mutant in MUTANTS.values():
        _say(f"\n{mutant.name}: {mutant.description}", HEADING)
        is_caught = False
        for name in names:
            with mutant.apply():
                verdict = explore(name, limit)
            if verdict.fault:
                _say(verdict.row())
                is_caught = True
        are_caught = are_caught and is_caught
    return are_caught


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
