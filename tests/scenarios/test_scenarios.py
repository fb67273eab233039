"""The protocol as readable scripts: *.txt beside this file.

A block is commands, a line of four hyphens, and what the commands print. `pytest --rewrite` writes
what they print now; git diff then shows what has changed. The commands:

    table SERVER ... [durable]   these servers, up and serving; `table a b` is what a script has
                                 that does not begin with this or the next one
    start SERVER ...             these servers, and nothing has happened yet
    request CLIENT [profile classic|fast] OPERATION KEY [VALUE] [version N]
    request CLIENT [profile classic|fast] put_many KEY=VALUE ...
    request CLIENT [profile classic|fast] get_many KEY ...
    deliver [FROM->TO] [N]       hand over what is on its way, oldest first (at most N messages)
    cut CLIENT SERVER            their connection breaks: what is on it is lost, both notice it
    crash client|server NAME     the same on all its connections, and it is gone
    restart SERVER               another process in its place; it asks to join its ranges
    rejoin SERVER                it asks again
    reconnect CLIENT SERVER      connect, and send again what waits for an answer
    retry CLIENT                 its pause is over: it begins the next attempt
    timeout SERVER [SECONDS]     that much time (2 s) goes by, and the server looks up
    give up CLIENT               its command's time is up
    show                         who holds what, and how many messages were sent

Nothing happens unless a command says so: no time goes by, no message arrives. The digit at the
end of a key is its range (none: range 0); range 0 is at the first server and the second, range 1
at the second and the third, and so on. Only ranges that commands have touched are shown (of a table
that begins with `start`: range 0). `c1.2` is the second command of client c1.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from rdht import coordinator, parts
from rdht.coordinator import Command
from rdht.execution import Execution, Outcome
from rdht.limits import JOIN_RETRY_S, PREPARED_TIMEOUT_S
from rdht.messages import Flag, Message, Name, Operation, Outgoing, Reason, Status
from rdht.participant import Participant
from rdht.parts import Result
from rdht.profiles import DEFAULT_PROFILE, PROFILES
from rdht.rejoin import Rejoin
from rdht.replica import Copy, Mode
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
from rdht.table import Entry
from rdht.transitions import State

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.txt"))
SEPARATOR = "----"
REJOINING = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}
Sends = list[tuple[str, Message]]


class DigitRing(Ring):
    """Places a key by the digit at its end, so that a reader knows where it is."""

    def range_of(self, key: bytes) -> int:
        return int(key[-1:]) if key[-1:].isdigit() else 0


class Sent(NamedTuple):
    """A message on its way."""

    source: str
    target: str
    message: Message


@dataclass
class Server:
    """A server process, and what a durable one has on its disk."""

    participant: Participant
    rejoin: Rejoin
    incarnation: int
    is_up: bool = True
    records: list[Message] = field(default_factory=list)

    def keep(self) -> None:
        """Put on disk what must be there BEFORE anything is sent."""
        participant = self.participant
        records, _ = participant.write_ahead.take()
        self.records += records


@dataclass
class Session:
    """A client: one thread's connections and commands."""

    name: str
    incarnation: int
    label: str  # the name, with a mark for each time that it went on as a new client
    epochs: dict[int, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)  # it was connected to
    connected: set[str] = field(default_factory=set)
    executions: dict[int, Execution] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)  # what was said of them last
    has_crashed: bool = False


class World:
    """Servers, clients, and the messages between them."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.sessions: dict[str, Session] = {}
        self.labels: dict[int, str] = {}  # of clients, by their incarnation
        self.ways: list[Sent] = []
        self.shown = {0}  # ranges
        self.durable = False
        self.now_s = 0.0
        self.sent = 0
        self.incarnations = 0
        self.printed: list[str] = []
        self.commands: dict[str, Callable[..., None]] = {
            "start": self.start,
            "table": self.table,
            "request": self.request,
            "deliver": self.deliver,
            "cut": self.cut,
            "crash": self.crash,
            "restart": self.restart,
            "rejoin": self.rejoin,
            "reconnect": self.reconnect,
            "retry": self.retry,
            "timeout": self.timeout,
            "give": self.give_up,
            "show": self.show,
        }

    def run(self, line: str) -> None:
        word, *rest = line.split()
        if not self.servers and word not in {"start", "table"}:
            self.table("a", "b")
        self.commands[word](*rest)

    def say(self, line: str) -> None:
        self.printed.append(line)

    # The commands of a script.

    def start(self, *names: str) -> None:
        roster = Roster(tuple(ServerAddress(name, f"host-{name}", "::1", 1) for name in names))
        self.ring = DigitRing(roster, 10)
        for name in names:
            self.servers[name] = self.make_server(name)

    def table(self, *names: str) -> None:
        self.durable = names[-1] == "durable"
        self.start(*names[: -1 if self.durable else None])
        while any(mode is not Mode.SERVING for mode in self.modes()):
            for name in self.servers:
                self.rejoin(name)
            self.deliver()
        self.shown = set()
        self.printed.clear()
        self.sent = 0

    def request(self, client: str, *words: str) -> None:
        rest = list(words)
        profile = DEFAULT_PROFILE
        if rest[0] == "profile":
            profile = rest[1]
            del rest[:2]
        commands = _commands(rest)
        self.shown |= {self.ring.range_of(command.key) for command in commands}
        session = self.session(client)
        sequence = len(session.executions) + 1
        session.executions[sequence] = Execution(
            session.incarnation,
            sequence,
            commands,
            self.ring,
            PROFILES[profile],
            session.epochs,
            self.now_s,
        )
        self.begin(session, session.executions[sequence])

    def deliver(self, *words: str) -> None:
        most = int(words[-1]) if words and words[-1].isdigit() else None
        only = [tuple(word.split("->")) for word in words if "->" in word]
        delivered = 0
        while delivered != most:
            chosen = [sent for sent in self.ways if not only or sent[:2] in only]
            if not chosen:
                break
            self.ways.remove(chosen[0])
            delivered += self.is_shown(chosen[0].message)
            self.hand_over(chosen[0])
        if not delivered:
            self.say("nothing is on its way")

    def cut(self, client: str, server: str) -> None:
        session = self.sessions[client]
        self.lose_between(client, server)
        self.part(session, server)

    def crash(self, kind: str, name: str) -> None:
        if kind == "client":
            self.sessions[name].has_crashed = True
        else:
            self.servers[name].is_up = False
        for other in (*self.servers, *self.sessions):
            self.lose_between(name, other)
        for session in self.sessions.values():
            for end in sorted(session.connected):
                if name in {session.name, end}:
                    self.part(session, end)

    def restart(self, name: str) -> None:
        self.servers[name] = self.make_server(name, self.servers[name])
        self.rejoin(name)

    def rejoin(self, name: str) -> None:
        self.now_s += JOIN_RETRY_S
        self.act(name, lambda server: server.rejoin.tick(self.now_s))

    def reconnect(self, client: str, server: str) -> None:
        session = self.sessions[client]
        if server not in session.connected:
            self.connect(session, server, aloud=True)
        for execution in session.executions.values():
            self.advance(session, execution, lambda it: it.resend(server))

    def retry(self, client: str) -> None:
        session = self.sessions[client]
        due = [one for one in session.executions.values() if one.due_s is not None]
        if not due:
            self.say(f"{client} has nothing to try again")
        for execution in due:
            self.now_s = max(self.now_s, execution.due_s or 0.0)
            self.begin(session, execution)

    def timeout(self, server: str, seconds: str = str(PREPARED_TIMEOUT_S)) -> None:
        self.now_s += float(seconds)
        self.act(server, lambda it: it.participant.tick(self.now_s))

    def give_up(self, _up: str, client: str) -> None:
        session = self.sessions[client]

        def end(execution: Execution) -> Sends:
            execution.give_up()
            return []

        for execution in session.executions.values():
            if execution.outcome is None:
                self.advance(session, execution, end)

    def show(self) -> None:
        for name, server in self.servers.items():
            if server.is_up:
                for line in self.describe(name, server.participant):
                    self.say(line)
            else:
                self.say(f"{name}: crashed")
        for session in self.sessions.values():
            if session.has_crashed:
                self.say(f"{session.name}: crashed")
            for sequence, text in session.texts.items():
                if not session.has_crashed and sequence == len(session.texts):
                    self.say(f"{session.label}.{sequence}: {text}")
        self.say(f"{self.sent} messages sent")

    # Servers.

    def make_server(self, name: str, old: Server | None = None) -> Server:
        self.incarnations += 1
        participant = Participant(name, self.ring.ranges, durable=self.durable)
        if old:
            participant.replay(old.records, self.now_s)
        rejoin = Rejoin(participant, self.ring.servers, self.incarnations)
        server = Server(participant, rejoin, self.incarnations)
        if old:
            server.records = old.records
        return server

    def modes(self) -> Iterator[Mode]:
        for server in self.servers.values():
            yield from (replica.mode for replica in server.participant.replicas.values())

    def act(self, name: str, happen: Callable[[Server], Outgoing]) -> None:
        """Let a server do something, tell what has changed there, and send what it says."""
        server = self.servers[name]
        before = self.states(server.participant)
        out = happen(server)
        server.keep()
        after = self.states(server.participant)
        for what, state in after.items():
            if before.get(what) != state and state != State.PREPARED:
                self.say(f"  {name}: {what} is {state}")
        for what, state in before.items():
            if what not in after and state in {State.COMMITTED, State.ABORTED}:
                self.say(f"  {name}: {what} is forgotten")
        for to, message in out:
            self.send(name, to if isinstance(to, str) else self.labels[to].rstrip("'"), message)

    def states(self, participant: Participant) -> dict[str, str]:
        ranges = {
            f"range {number}": f"{replica.mode} at epoch {replica.epoch}"
            for number, replica in participant.replicas.items()
            if number in self.shown
        }
        transactions = participant.transactions.values()
        return ranges | {self.name(tx.name): str(tx.state) for tx in transactions}

    def is_shown(self, message: Message) -> bool:
        is_of_range = message.status in {Status.JOIN, Status.COPY, Status.JOINED}
        return not is_of_range or message.range in self.shown

    def describe(self, name: str, participant: Participant) -> Iterator[str]:
        for number, replica in participant.replicas.items():
            if number in self.shown:
                rows = [_entry(*row) for row in sorted(replica.table.items())]
                state = f"{replica.mode} at epoch {replica.epoch}"
                yield f"{name}: range {number}, {state}: {', '.join(rows) or 'empty'}"
        for key, holder in sorted(participant.locks.holders.items()):
            queue = [one.name for one in participant.locks.queues.get(key, ())]
            waiting = ", ".join(map(self.name, queue))
            line = f"   {key.decode()} is locked by {self.name(holder.name)}, {holder.state}"
            yield line + (f"; in its queue: {waiting}" if waiting else "")
        over = {State.COMMITTED, State.ABORTED}
        for tx in participant.transactions.values():
            if tx.state in over:
                yield f"   remembers that {self.name(tx.name)} is {tx.state}"

    # Clients.

    def session(self, client: str) -> Session:
        """Return the client's session; as a new client if its last outcome was unknown."""
        session = self.sessions.get(client)
        label = client
        if session and any(one.is_unsettled for one in session.executions.values()):
            for name in sorted(session.connected):
                self.deliver_quietly(client, name)
                self.part(session, name)
            label = f"{session.label}'"
            self.say(f"  {client} goes on as a new client, {label}")
            session = None
        if session is None:
            self.incarnations += 1
            session = self.sessions[client] = Session(client, self.incarnations, label)
            self.labels[session.incarnation] = label
            for name, server in self.servers.items():
                if server.is_up:
                    self.connect(session, name, aloud=False)
        return session

    def deliver_quietly(self, client: str, server: str) -> None:
        if any(sent[:2] == (client, server) for sent in self.ways):
            self.deliver(f"{client}->{server}")
        self.ways = [sent for sent in self.ways if sent[:2] != (server, client)]

    def connect(self, session: Session, name: str, *, aloud: bool) -> None:
        server = self.servers[name]
        resume = session.processes.get(name) == server.incarnation
        client = session.incarnation

        def take_note(it: Server) -> Outgoing:
            out = it.participant.connect(client, self.now_s, resume=resume)
            assert out is not None
            return out

        self.act(name, take_note)
        session.connected.add(name)
        session.processes[name] = server.incarnation
        for number, replica in server.participant.replicas.items():
            session.epochs[number] = max(replica.epoch, session.epochs.get(number, 0))
        if aloud:
            again = " again" if resume else ", another process than before,"
            ranges = [number for number in server.participant.replicas if number in self.shown]
            epochs = ", ".join(f"range {one} is at epoch {session.epochs[one]}" for one in ranges)
            self.say(f"  {session.name} is connected to {name}{again} and knows: {epochs}")

    def begin(self, session: Session, execution: Execution) -> None:
        for name in execution.servers:
            if name in session.connected:
                continue
            if not self.servers[name].is_up:
                execution.postpone(f"{name} is not there", self.now_s, _no_chance)
                self.tell(session, execution)
                return
            self.connect(session, name, aloud=True)
        self.advance(session, execution, lambda it: it.begin())

    def part(self, session: Session, server: str) -> None:
        """Let both ends of a connection notice that it is gone."""
        if server not in session.connected:
            return
        session.connected.remove(server)
        if self.servers[server].is_up:
            client = session.incarnation
            self.act(server, lambda it: it.participant.disconnect(client, self.now_s))
        if not session.has_crashed:
            for execution in session.executions.values():
                self.advance(session, execution, lambda it: it.lost(server, self.now_s, _no_chance))

    def advance(
        self, session: Session, execution: Execution, happen: Callable[[Execution], Sends]
    ) -> None:
        """Let a command go on, tell how it stands, and send what it wants sent."""
        if execution.outcome is not None:
            return
        sends = happen(execution)
        self.tell(session, execution)
        for server, message in sends:
            if server in session.connected:
                self.send(session.name, server, message)
            else:
                lost = partial(Execution.lost, server=server, now_s=self.now_s, reached=False)
                self.advance(session, execution, partial(lost, jitter=_no_chance))

    def tell(self, session: Session, execution: Execution) -> None:
        text = _state(execution)
        if session.texts.get(execution.sequence, "voting") != text:
            self.say(f"  {session.label}.{execution.sequence}: {text}")
        session.texts[execution.sequence] = text

    # Messages.

    def send(self, source: str, target: str, message: Message) -> None:
        is_up = self.servers[target].is_up if target in self.servers else self.hears(target, source)
        if is_up:
            self.ways.append(Sent(source, target, message))
            self.sent += self.is_shown(message)

    def hears(self, client: str, server: str) -> bool:
        return server in self.sessions[client].connected

    def lose_between(self, one: str, other: str) -> None:
        for sent in list(self.ways):
            if {sent.source, sent.target} == {one, other}:
                self.ways.remove(sent)
                if self.is_shown(sent.message):
                    self.say(f"{self.line(sent)} -- lost")

    def hand_over(self, sent: Sent) -> None:
        source, target, message = sent
        if self.is_shown(message):
            self.say(self.line(sent))
        if target in self.sessions:
            session = self.sessions[target]
            execution = session.executions.get(message.name.sequence)
            if execution and message.name.client == session.incarnation:
                self.advance(
                    session,
                    execution,
                    lambda it: it.receive(source, message, self.now_s, _no_chance),
                )
        elif source in self.sessions:
            self.act(target, lambda it: it.participant.handle(message, self.now_s))
        elif message.status in REJOINING:
            self.act(target, lambda it: it.rejoin.handle(source, message, self.now_s))
        else:
            self.act(target, lambda it: it.participant.handle_peer(source, message, self.now_s))

    def line(self, sent: Sent) -> str:
        ends = [f"client {end}" if end in self.sessions else end for end in sent[:2]]
        between_servers = sent.source in self.servers and sent.target in self.servers
        return f"{' -> '.join(ends)}: {self.text(sent.message, between_servers=between_servers)}"

    def name(self, name: Name) -> str:
        attempt = f" attempt {name.attempt}" if name.attempt > 1 else ""
        return f"{self.labels[name.client]}.{name.sequence}{attempt}"

    def text(self, message: Message, *, between_servers: bool) -> str:
        """Describe a message."""
        words = [message.status.name]
        if message.status in REJOINING:
            return " ".join(words + self.rejoining_words(message))
        if between_servers:
            words.append(self.name(message.name))
            if message.status in {Status.YES, Status.NO}:
                return " ".join(words + _opinion_words(message))
        words += _WORDS.get(message.status, _no_words)(message)
        if message.name.attempt > 1 and not between_servers:
            words.append(f"(attempt {message.name.attempt})")
        return " ".join(words)

    def rejoining_words(self, message: Message) -> list[str]:
        if message.status is Status.KNOWN:
            shown = [one for one in _numbers(message.value) if one in self.shown]
            return [", ".join(f"range {one}" for one in shown) or "no range"]
        words = [f"range {message.range}"]
        if message.status is Status.JOIN:
            has = f"intact at epoch {message.epoch}" if message.flags & Flag.INTACT else "empty"
            return [*words, f"({has})"]
        if message.status is Status.JOINED:
            return [*words, f"epoch {message.epoch}"]
        if message.reason is Reason.LOST:
            return [*words, "LOST"]
        copy = Copy(message)
        rows = [_entry(*row) for row in sorted(copy.table.items())]
        rows += [f"{self.name(memory.name)} committed" for memory in copy.memories]
        last = ", complete" if message.flags & Flag.INTACT else ""
        return [*words, f"for epoch {message.epoch}{last}: {', '.join(rows) or 'nothing in it'}"]


def _commands(words: list[str]) -> list[Command]:
    operation = words.pop(0)
    if operation == "get_many":
        return [Command(Operation.GET, key.encode()) for key in words]
    if operation == "put_many":
        pairs = [word.split("=") for word in words]
        return [Command(Operation.PUT, key.encode(), value.encode()) for key, value in pairs]
    version = 0
    if words[-2:-1] == ["version"]:
        version = int(words[-1])
        del words[-2:]
    key, value = (word.encode() for word in (*words, "")[:2])
    return [Command(Operation[operation.upper()], key, value, version)]


def _no_chance(pause_s: float) -> float:
    return pause_s


def _numbers(packed: bytes) -> list[int]:
    return [int.from_bytes(packed[at : at + 2]) for at in range(0, len(packed), 2)]


def _entry(key: bytes, entry: Entry) -> str:
    value = "(deleted)" if entry.value is None else entry.value.decode()
    return f"{key.decode()}={value} version {entry.version}"


def _state(execution: Execution) -> str:
    """Tell how a command stands."""
    if execution.outcome is Outcome.DONE:
        commands = sorted(execution.commands, key=lambda command: command.key)
        results = execution.results()
        if len(results) < len(commands):
            return "done, as another server says, which knows no results"
        told = [_result(*pair) for pair in zip(commands, results, strict=True)]
        return f"done: {', '.join(told)}"
    if execution.outcome is not None:
        return f"{execution.outcome}: {execution.why}"
    if execution.due_s is not None:
        return f"not done, will try again: {execution.why}"
    if execution._ordered and execution._running.state == "voting":
        return "voting, one server after the other"
    return execution._running.state


def _result(command: Command, result: Result) -> str:
    key = command.key.decode()
    if command.operation is Operation.GET:
        what = f"{key}={result.value.decode()}" if result.found else f"{key} is absent,"
        return f"{what} version {result.version}"
    if result.found:
        return f"{key} is at version {result.version + 1}"
    return f"nothing to do, {key} is at version {result.version}"


def _request_words(message: Message) -> list[str]:
    if message.operation is Operation.MANY:
        ranges, asked = parts.unpack(message.value, message.name)
        what = " and ".join(" ".join(_part_words(part)) for part in asked)
        epochs = ", ".join(f"range {number} epoch {epoch}" for number, epoch in ranges)
        words = [f"{what}; of {epochs}"]
    else:
        words = [*_part_words(message), f"epoch {message.epoch}"]
    if message.flags & Flag.QUEUE:
        words.append("QUEUE")
    if message.flags & Flag.LATE and message.operation in {Operation.ADD, Operation.CAS}:
        words.append("LATE")
    return words


def _part_words(part: Message) -> list[str]:
    value = f"={part.value.decode()}" if part.value else ""
    version = [f"if version {part.version}"] if part.operation is Operation.CAS else []
    return [part.operation.name.lower(), part.key.decode() + value, *version]


def _resolve_words(message: Message) -> list[str]:
    if message.operation is Operation.MANY:
        ranges, _ = parts.unpack(message.value, message.name)
        return [f"of {', '.join(f'range {number}' for number, _ in ranges)}"]
    words = [message.operation.name.lower(), message.key.decode()]
    if message.operation is not Operation.GET:
        words.append(f"was version {message.version}")
    return words


def _opinion_words(message: Message) -> list[str]:
    """Describe a vote that a server tells another one."""
    words = [message.reason.name] if message.reason else []
    if message.value:
        numbers = " and ".join(map(str, _numbers(message.value)))
        about = "for" if message.reason is Reason.ALONE else "but nothing of"
        words.append(f"{about} range {numbers}")
    return words


def _vote_words(message: Message) -> list[str]:
    if message.operation is Operation.MANY:
        results = parts.unpack_results(message.value)
        return [", ".join(_found(one.value, one.version) for one in results)]
    words = ["NOTHING"] if message.reason is Reason.NOTHING else []
    return [*words, _found(message.value, message.version)]


def _found(value: bytes, version: int) -> str:
    return f"{value.decode()} version {version}" if value else f"version {version}"


def _done_words(message: Message) -> list[str]:
    if message.operation in {Operation.MANY, Operation.NONE}:
        return []
    was = "" if message.operation is Operation.GET else "was "
    return [was + _found(message.value, message.version)]


def _no_vote_words(message: Message) -> list[str]:
    words = [message.reason.name]
    if message.reason is Reason.STALE_EPOCH:
        words.append(f"now {message.epoch}")
    if message.reason is Reason.NOTHING:
        words.append(f"version {message.version}")
    return words


def _decision_words(message: Message) -> list[str]:
    return ["SILENT"] if message.flags & Flag.SILENT else []


def _no_words(_message: Message) -> list[str]:
    return []


_WORDS: dict[Status, Callable[[Message], list[str]]] = {
    Status.REQUEST: _request_words,
    Status.READ: _request_words,
    Status.RESOLVE: _resolve_words,
    Status.YES: _vote_words,
    Status.NO: _no_vote_words,
    Status.DONE: _done_words,
    Status.DONE_NOTHING: _done_words,
    Status.PROCEED: _decision_words,
    Status.ABORT: _decision_words,
}


def play(script: str) -> str:
    """Run a script; return it with what its commands print now."""
    world = World()
    blocks = []
    for block in re.split(r"\n{2,}", script.strip("\n")):
        commands = block.partition(f"\n{SEPARATOR}")[0]
        lines = [line for line in commands.splitlines() if not line.startswith("#")]
        for line in lines:
            world.run(line)
        if world.printed:
            blocks.append("\n".join([commands, SEPARATOR, *world.printed]))
        else:
            blocks.append(commands)
        world.printed.clear()
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scenario_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    script = path.read_text(encoding="utf-8")
    played = play(script)
    if request.config.getoption("--rewrite") and script != played:
        path.write_text(played, encoding="utf-8")
        pytest.skip("rewritten")
    assert script == played, "`pytest --rewrite` writes what is printed now"


def test_there_are_scenarios() -> None:
    assert len(SCRIPTS) >= 30


def test_the_page_on_the_protocol_names_every_scenario() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert [path.stem for path in SCRIPTS if not re.search(rf"\b{path.stem}\b", page)] == []


def test_a_changed_output_is_noticed() -> None:
    script = (HERE / "put_classic.txt").read_text(encoding="utf-8")
    changed = script.replace("PROCEED", "ABORT")
    assert changed != script
    assert play(changed) == script


def test_the_first_design_falls_into_the_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    abort_all = (coordinator.State.RELEASING, coordinator.Action.SEND_ABORT)
    refused = (coordinator.State.VOTING, coordinator.Event.NO_SHARED)
    monkeypatch.setitem(coordinator.TRANSITIONS, refused, abort_all)
    script = (HERE / "hole.txt").read_text(encoding="utf-8")
    until_c_commits = script[: script.index("# In the first design the aborts")]
    played = play(f"{until_c_commits}\n\ndeliver c1->a\ndeliver c1->b\nshow")
    assert played.splitlines()[-8:-2] == [
        "a: range 0, serving at epoch 1: empty",
        "b: range 0, serving at epoch 1: empty",
        "c: range 2, giving at epoch 1: k2=two version 1",
        "   remembers that c1.1 is committed",
        "d: range 2, joining at epoch 0: empty",
        "c2.1: voting",
    ]
