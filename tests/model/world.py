"""A small world, whose state is a short tuple of numbers, and all that can happen in it.

An object's step depends on nothing but its own state and what comes in. So each state of a server
or client is frozen to a plain value, numbered, and each step is worked out once, by thawing the
object and calling it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rdht.execution import Outcome
from rdht.messages import Flag, Message, Reason, Status
from rdht.replica import Mode
from rdht.table import ABSENT, Entry
from tests.model import births
from tests.model.births import Birth
from tests.model.codec import Codec
from tests.model.members import (
    CLIENTS,
    FIRST_PROCESS,
    HURRIED_S,
    NOW_S,
    PROCESSES,
    Client,
    ClientStep,
    ClientTraits,
    Configuration,
    Server,
    ServerTraits,
    Setting,
    client_traits,
    found,
    process_number,
    server_traits,
)
from tests.model.specification import Called, Fault, History, Table, is_linearizable

_ANSWERS = {Status.YES, Status.NO, Status.DONE, Status.DONE_NOTHING}
_REJOINING = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}
_QUESTION, _ANSWER, _REJOIN_QUESTION, _REJOIN_ANSWER = 1, 2, 4, 8
_JOINED = 16  # times two to the power of the number of the server that has joined
_ACCIDENTS = {"crash server", "crash client", "break", "give up", "relink", "hurry", "stop"}
_END = 0  # the message number of a connection's end
_DEAD = 0  # the number of a client that has crashed

Action = tuple[Any, ...]
WorldState = tuple[int, ...]


class World:
    """A configuration, and its states."""

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
        self._checked: dict[tuple[int, ...], tuple[str, int]] = {}
        self._explained: dict[tuple[int, int], str] = {}
        self._rested: dict[tuple[int, ...], str] = {}
        self._seen: list[Table] = []
        self._seen_numbers: dict[tuple[tuple[bytes, Entry], ...], int] = {}
        ring = self.setting.ring
        keys = {command.key for commands in self.commands for command in commands}
        self._keys = {  # of the commands, by range
            number: sorted(key for key in keys if ring.range_of(key) == number)
            for number in range(len(layout))
        }
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
        self._births_at = self._hurry_at + 1
        self._births: list[tuple[Birth, ...]] = []  # of all ranges
        self._birth_numbers: dict[tuple[Birth, ...], int] = {}

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

    def _birth_number(self, births: tuple[Birth, ...]) -> int:
        number = self._birth_numbers.setdefault(births, len(self._births))
        if number == len(self._births):
            self._births.append(births)
        return number

    def _server(self, server: Server) -> int:
        server.settle()
        value = self._codec.freeze(server)
        number = self._server_numbers.get(value)
        if number is None:
            number = self._server_numbers[value] = len(self._server_values)
            self._server_values.append(value)
            self._server_traits.append(server_traits(server))
        return number

    def _client(self, client: Client) -> int:
        client.settle()
        value = self._codec.freeze(client)
        number = self._client_numbers.get(value)
        if number is None:
            number = self._client_numbers[value] = len(self._client_values)
            self._client_values.append(value)
            self._client_traits.append(client_traits(client))
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
        if kind == "stop":
            participant.stopping = True
            return []
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
            found(servers)
            epochs = dict.fromkeys(range(len(self.setting.layout)), 1)
        clients = []
        for index in range(len(self.configuration.programmes)):
            clients.append(Client(index + 1, self.setting, dict(epochs)))
            for server in servers:
                server.participant.connect(index + 1, NOW_S, resume=False)
        budget = self.configuration
        numbers = [self._server(server) for server in servers]
        unborn = self._birth_number((Birth(),) * len(self.setting.layout))
        state = (
            *numbers,
            *(self._client(client) for client in clients),
            *(self._empty for _ in self._channels),
            self._history((None,) * len(self.commands)),
            budget.client_crashes,
            budget.server_crashes,
            budget.breaks,
            budget.give_ups,
            budget.hurries,
            self._followed_births(numbers, unborn),
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
        if settles:
            yield "settle", index
        if traits.may_hurry and state[self._hurry_at]:
            yield "hurry", index
        if traits.may_stop:
            yield "stop", index
        mine = _JOINED << index
        rejoins = traits.may_rejoin and not (
            asked & (_REJOIN_QUESTION | mine) or heard & (_REJOIN_ANSWER | mine)
        )
        if rejoins:
            yield "rejoin", index
        if state[self._server_crash_at] and self._may_crash(state, index):
            yield "crash server", index

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
        if state[self._crash_at] and CLIENTS[end - self._clients_at] in (
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
        return action[0] in _ACCIDENTS

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

    def _do_stop(self, new: list[int], index: int) -> None:
        self._step_server(new, index, ("stop",))

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
        known = self._births[new[self._births_at]]
        left = tuple(births.forget(one, self.servers[index]) for one in known)
        new[self._births_at] = self._birth_number(left)

    def _do_reconnect(self, new: list[int], end: int, index: int) -> None:
        """Connect again; the server may not have seen the older connection end."""
        there, back = self._channels[end, index], self._channels[index, end]
        client = end - self._clients_at + 1
        new[there] = new[back] = self._empty
        traits = self._client_traits[new[end]]
        assert traits is not None
        server = self.servers[index]
        process = process_number(server, self._server_traits[new[index]].life)
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
        before = new[index]
        new[index], sends = self._server_step(before, event)
        if self.configuration.has_news and new[index] != before:
            new[self._births_at] = self._followed_births(new, new[self._births_at])
        for target, message in sends:
            at = self._channels[index, target]
            new[at] = self._append(new[at], message)

    def _followed_births(self, servers: Sequence[int], known: int) -> int:
        traits = {
            name: self._server_traits[number]
            for name, number in zip(self.servers, servers, strict=False)
        }
        followed = (births.follow(one, at, traits) for at, one in enumerate(self._births[known]))
        return self._birth_number(tuple(followed))

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
            outcome, results, is_partial = step.returned
            events[number] = Called(called.before, outcome, results, is_partial)
        return self._history(tuple(events))

    # What has to hold.

    def check(self, state: WorldState) -> None:
        """Raise Fault if replicas differ, or no order explains what has been told so far.

        It also has to explain what one could read now: a replica that serves a key which nobody
        has locked tells what it has. So neither a rest nor an end is needed to judge.
        """
        servers = state[: self._clients_at]
        checked = self._checked.get(servers)
        if checked is None:
            why = self._differences(servers)
            seen, unequal = self._readable(servers)
            checked = self._checked[servers] = (why or unequal, self._seen_number(seen))
        why, number = checked
        if why:
            raise Fault(why)
        case = state[self._history_at], number
        explained = self._explained.get(case)
        if explained is None:
            explained = self._explained[case] = self._unexplained(case[0], self._seen[number])
        if explained:
            raise Fault(explained)

    def _seen_number(self, seen: Table) -> int:
        number = self._seen_numbers.setdefault(tuple(seen.items()), len(self._seen))
        if number == len(self._seen):
            self._seen.append(seen)
        return number

    def _readable(self, servers: tuple[int, ...]) -> tuple[Table, str]:
        """Return what can be read of the commands' keys; or a key that two replicas tell apart."""
        seen: Table = {}
        for number, pair in enumerate(self.setting.layout):
            for name in pair:
                traits = self._server_traits[servers[self.servers.index(name)]]
                if dict(traits.modes)[number] not in {Mode.SERVING, Mode.GIVING}:
                    continue
                for key in self._keys[number]:
                    here = traits.tables[number].get(key, ABSENT)
                    if key not in traits.locked and seen.setdefault(key, here) != here:
                        return {}, f"{name} tells {key!r} {here}, the other {seen[key]}"
        return seen, ""

    def _unexplained(self, number: int, seen: Table) -> str:
        history = self._histories[number]
        if is_linearizable(tuple(self.commands), history, seen):
            return ""
        return f"no order explains {self._narrate(history)}, where one reads {show_table(seen)}"

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
        why = self._rested.get(rest)
        if why is None:
            why = self._rested[rest] = self._faults_at_rest(state)
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
        final: Table = {}
        for number, pair in enumerate(self.setting.layout):
            one, other = (servers[self.servers.index(name)] for name in pair)
            why = self._faults_of_range(number, one, other)
            if why:
                return f"at rest, range {number} {why}"
            if (number, Mode.LOST) in one.modes and self.configuration.server_crashes > 1:
                continue
            final |= {key: one.tables[number].get(key, ABSENT) for key in self._keys[number]}
        return self._unexplained(state[self._history_at], final)

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
        return CLIENTS[end - self._clients_at]

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
        return _JOINED << (message.name.client // PROCESSES - FIRST_PROCESS)
    if status is Status.COPY or message.flags & Flag.SILENT:
        return _REJOIN_ANSWER
    if status in _REJOINING:
        return _REJOIN_QUESTION
    return 0


def show_table(table: dict[bytes, Entry]) -> str:
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
