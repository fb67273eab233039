"""Two-phase commit as readable scripts: *.txt beside this file.

A block is commands, a line of four hyphens, and what the commands print. `pytest --rewrite` writes
what they print now; git diff then shows what has changed. The commands:

    request CLIENT OPERATION KEY [VALUE] [version N]   a client begins an attempt at a command
    deliver [FROM->TO] [N]   hand over what is on its way (until nothing is; at most N messages)
    drop FROM->TO            lose the first message on that way
    crash client|server NAME what was sent is still on its way; what comes for it is lost
    timeout CLIENT           the client gives up the servers that it still waits for
    timeout SECONDS          time goes by at the servers
    show                     print who holds what, and how many messages were sent

The servers are `a` and `b`, which both hold every key.
"""

import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from rdht.coordinator import Command, Coordinator, State
from rdht.errors import RemoteProtocolError
from rdht.messages import Message, Name, Operation, Status
from rdht.participant import Participant

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.txt"))
SERVERS = ("a", "b")
SEPARATOR = "----"


class World:
    """Servers, clients, and the messages between them; nothing happens unless a command says so."""

    def __init__(self) -> None:
        self.participants = {server: Participant() for server in SERVERS}
        self.coordinators: dict[str, Coordinator] = {}
        self.ways: dict[tuple[str, str], deque[Message]] = {}
        self.crashed: set[str] = set()
        self.now_s = 0.0
        self.sent = 0
        self.sequence = 0
        self.printed: list[str] = []

    def run(self, line: str) -> None:
        word, *rest = line.split()
        commands: dict[str, Callable[..., None]] = {
            "request": self.request,
            "deliver": self.deliver,
            "drop": self.drop,
            "crash": self.crash,
            "timeout": self.timeout,
            "show": self.show,
        }
        commands[word](*rest)

    def request(self, client: str, operation: str, key: str, *rest: str) -> None:
        words = list(rest)
        version = int(words.pop()) if words[-2:-1] == ["version"] else 0
        value = words[0].encode() if words and words[0] != "version" else b""
        self.sequence += 1
        name = Name(int(client.removeprefix("c")), self.sequence, 1)
        command = Command(Operation[operation.upper()], key.encode(), value, version)
        self.coordinators[client] = Coordinator(name, command, SERVERS)
        self.send(client, self.coordinators[client].start())

    def deliver(self, *words: str) -> None:
        limit = int(words[-1]) if words and words[-1].isdigit() else None
        only = [_way(word) for word in words if "->" in word]
        delivered = 0
        while delivered != limit:
            busy = [way for way in (only or self.ways) if self.ways.get(way)]
            if not busy:
                break
            for way in busy[: None if limit is None else limit - delivered]:
                self.hand_over(way)
                delivered += 1
        if not delivered:
            self.say("nothing is on its way")

    def drop(self, way: str) -> None:
        message = self.ways[_way(way)].popleft()
        self.say(f"{way}: {_text(message)}, lost")

    def crash(self, kind: str, who: str) -> None:
        self.crashed.add(who)
        if kind == "client":
            client = self.coordinators[who].name.client
            for server, participant in self.living():
                # The end of the stream comes behind what was sent before it.
                while self.ways.get((who, server)):
                    self.hand_over((who, server))
                self.tell_aborted(server, participant.abandon(client), "client is gone")
            return
        for client_name in self.coordinators:
            if client_name not in self.crashed:
                while self.ways.get((who, client_name)):
                    self.hand_over((who, client_name))
                self.lose(client_name, who)

    def timeout(self, what: str) -> None:
        if what in self.coordinators:
            for server in SERVERS:
                self.lose(what, server)
            return
        self.now_s += float(what)
        for server, participant in self.living():
            self.tell_aborted(server, participant.expire(self.now_s), "no decision in time")

    def show(self) -> None:
        for server, participant in self.participants.items():
            if server in self.crashed:
                self.say(f"{server}: crashed")
                continue
            table = ", ".join(
                f"{key.decode()}={'-' if entry.value is None else entry.value.decode()}"
                f" at version {entry.version}"
                for key, entry in sorted(participant.table.items())
            )
            locks = ", ".join(
                f"{key.decode()} by {_name(name)}"
                for key, name in sorted(participant.locks.items())
            )
            self.say(f"{server}: {table or 'empty'}; locked: {locks or 'none'}")
        for client, coordinator in self.coordinators.items():
            state = "crashed" if client in self.crashed else coordinator.state.value
            self.say(f"{client}: {state}")
        self.say(f"{self.sent} messages sent")

    def living(self) -> list[tuple[str, Participant]]:
        return [pair for pair in self.participants.items() if pair[0] not in self.crashed]

    def send(self, source: str, sends: list[tuple[str, Message]]) -> None:
        for target, message in sends:
            self.ways.setdefault((source, target), deque()).append(message)
            self.sent += 1

    def hand_over(self, way: tuple[str, str]) -> None:
        source, target = way
        message = self.ways[way].popleft()
        self.say(f"{source}->{target}: {_text(message)}")
        if target in self.crashed:
            self.say(f"  {target} has crashed")
        elif target in self.participants:
            answer = self.participants[target].handle(message, self.now_s)
            self.send(target, [(source, answer)])
        else:
            coordinator = self.coordinators[target]
            self.advance(target, coordinator, lambda it: it.receive(source, message))

    def lose(self, client: str, server: str) -> None:
        self.advance(client, self.coordinators[client], lambda it: it.lost(server))

    def advance(
        self,
        client: str,
        coordinator: Coordinator,
        happen: Callable[[Coordinator], list[tuple[str, Message]]],
    ) -> None:
        before = coordinator.state
        try:
            self.send(client, happen(coordinator))
        except RemoteProtocolError as error:
            self.say(f"  {client}: {error}")
        if coordinator.state is not before:
            result = ""
            if coordinator.state is State.COMMITTED:
                result = f", result {_text(coordinator.result)}"
            self.say(f"  {client} is {coordinator.state.value}{result}")

    def tell_aborted(self, server: str, names: list[Name], why: str) -> None:
        for name in names:
            self.say(f"  {server} aborts {_name(name)}: {why}")

    def say(self, line: str) -> None:
        self.printed.append(line)


def _way(text: str) -> tuple[str, str]:
    source, target = text.split("->")
    return source, target


def _name(name: Name) -> str:
    return f"c{name.client}'s {name.sequence}"


def _text(message: Message) -> str:
    """Describe a message: a request by what it asks, any other by what it says."""
    words = [message.status.name]
    if message.status is Status.REQUEST:
        words += [message.operation.name.lower(), message.key.decode()]
    if message.status is Status.NO:
        words.append(message.reason.name)
    if message.value:
        words.append(message.value.decode())
    if message.status not in {Status.NO, Status.PROCEED, Status.ABORT, Status.ABORTED} and (
        message.version or message.status is not Status.REQUEST
    ):
        words.append(f"version {message.version}")
    return " ".join(words)


def play(script: str) -> str:
    """Run a script; return it with what its commands print now."""
    world = World()
    blocks = []
    for block in re.split(r"\n{2,}", script.strip("\n")):
        commands = block.partition(f"\n{SEPARATOR}")[0]
        lines = [line for line in commands.splitlines() if not line.startswith("#")]
        for line in lines:
            world.run(line)
        if lines:
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
    assert len(SCRIPTS) >= 10


def test_a_changed_output_is_noticed() -> None:
    script = (HERE / "put.txt").read_text(encoding="utf-8")
    changed = script.replace("PROCEED", "ABORT")
    assert changed != script
    assert play(changed) == script
