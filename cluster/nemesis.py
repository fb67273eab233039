"""Carries out a schedule of faults while a run's clients run, and ends with everything healed.

One thread does one thing after the other: deeds at their times, and what each needs to be undone.
What the network and a pause need for that, their places have themselves; servers are started again,
and for each client that was killed another one, which ends with all others.
"""

import heapq
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from cluster import clocks, health, processes
from cluster.errors import ClusterError
from cluster.faults import Fault, Faults, prove
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.options import ClientOptions
from cluster.remote import Call
from cluster.runs import Run
from cluster.schedule import CLOCK, CUT, KILL, LOSS, PAUSE, POWER, SLOW, Deed, Scene, Schedule
from rdht.node.host import boot_id

AGAIN_S = 0.3  # until what did not work is tried again, or a server is asked again
SERVED_TIMEOUT_S = 60.0
_WAYS = {"": ["in", "out"], "in": ["in"], "out": ["out"]}


@dataclass(order=True)
class _Event:
    due_s: float
    number: int
    act: Callable[[], None] = field(compare=False)
    deed: Deed | None = field(compare=False, default=None)


@dataclass
class Report:
    """What has been done so far; a part of the manifest."""

    made: Counter[str] = field(default_factory=Counter)  # kinds, as "kill server"
    not_made: list[str] = field(default_factory=list)
    killed_clients: list[str] = field(default_factory=list)
    joined_clients: list[str] = field(default_factory=list)  # in their place
    recoveries_s: list[float] = field(default_factory=list)  # from a server's start to all served
    healed_s: float | None = None  # when all was, after the run's start
    late_s: float = 0.0  # for how long the clients had ended when the last server was back

    def to_json(self) -> dict[str, Any]:
        """Return it as manifests have it."""
        worst = max(self.recoveries_s, default=None)
        return {
            "made": dict(sorted(self.made.items())),
            "not_made": self.not_made,
            "killed_clients": self.killed_clients,
            "joined_clients": self.joined_clients,
            "recoveries": len(self.recoveries_s),
            "worst_recovery_s": worst and round(worst, 2),
            "healed_s": self.healed_s and round(self.healed_s, 2),
            "late_s": round(self.late_s, 2),
        }


class Nemesis:
    """Makes the faults of one run."""

    def __init__(
        self,
        operator: Operator,
        faults: Faults,
        scene: Scene,
        schedule: Schedule,
        say: Callable[[str], None],
    ) -> None:
        """Act by the operator's hands; `say` gets a line for each deed."""
        self.schedule = schedule
        self.report = Report()
        self.rows: list[dict[str, Any]] = []  # the faults, as manifests have them
        self.problems: list[str] = []
        self._operator = operator
        self._hosts = {host.name: host for host in operator.cluster.hosts}
        self._faults = faults
        self._scene = scene
        self._say = say
        self._events: list[_Event] = []
        self._numbers = count()
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # what was aside
        self._asides = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._powerless: set[str] = set()  # hosts whose power was ever cut
        self._down: dict[str, dict[str, Any]] = {}  # servers, each with its row
        self._recovering: dict[str, float] = {}  # servers that were started, and when
        self._names = {name: name for name in scene.clients}  # slot → who is there now
        self._turns: Counter[str] = Counter()
        self._clocks: list[dict[str, Any]] = []  # readings of the hosts on which clients joined

    # The run's side.

    def begin(self, run: Run, options: ClientOptions, begin_unix_s: float) -> None:
        """Begin, with clients that begin at that time of this desk's clock."""
        self._run, self._options = run, options
        ahead_s = begin_unix_s - time.time() + options.warmup
        self._start_s = time.monotonic() + ahead_s
        for deed in self.schedule.deeds:
            self._at(deed.at_s, partial(self._do, deed), deed)
        self._thread = threading.Thread(target=self._act, name="nemesis", daemon=True)
        self._thread.start()

    def left_s(self) -> float:
        """Return how long the clients still run."""
        return self._start_s + self._options.duration - time.monotonic()

    def excuses(self, host: str) -> bool:
        """Tell whether a host may be out of reach, as its power was cut."""
        return host in self._powerless

    def end(self) -> list[str]:
        """Return once all is healed, with a line for each thing that is not as it should be."""
        if self._thread:
            self._thread.join()
        self._note()
        return self.problems

    def abort(self) -> None:
        """Heal at once, whatever is still to come."""
        self._stopping.set()
        self._done.put(lambda: None)  # which wakes it
        if self._thread:
            self._thread.join(SERVED_TIMEOUT_S)
            prove(self._faults.heal())
        self._note()

    def _note(self) -> None:
        if self._thread:
            self._run.note(faults=self.rows, nemesis=self.report.to_json())
            self._run.note(clocks=[*self._run.manifest.get("clocks", ()), *self._clocks])

    # The thread.

    def _at(self, at_s: float, act: Callable[[], None], deed: Deed | None = None) -> None:
        event = _Event(self._start_s + at_s, next(self._numbers), act, deed)
        heapq.heappush(self._events, event)

    def _soon(self, act: Callable[[], None]) -> None:
        self._at(self._now_s() + AGAIN_S, act)

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _act(self) -> None:
        for work in (self._make, self._heal):  # however the first ends
            try:
                work()
            except ClusterError as error:
                self.problems += str(error).splitlines()
            except Exception as error:  # noqa: BLE001 - the run is to know, in its own thread
                self.problems.append(f"the faults came to no good end: {error!r}")

    def _make(self) -> None:
        """Do what is due, until the end has come and nothing is left to be undone."""
        end_s = self._start_s + self.schedule.end_s
        while not self._stopping.is_set():
            is_over = time.monotonic() >= end_s
            if is_over:
                self._drop_deeds()
                if not self._events and not self._asides:
                    return
            due_s = self._events[0].due_s if self._events else math.inf
            due_s = due_s if is_over else min(due_s, end_s)
            left_s = None if due_s == math.inf else max(0.0, due_s - time.monotonic())
            try:
                act = self._done.get(timeout=left_s)
            except queue.Empty:
                if not self._events or self._events[0].due_s > time.monotonic():
                    continue
                act = heapq.heappop(self._events).act
            act()
        while self._asides:  # BEFORE all is stopped: they may start something
            self._done.get()()

    def _drop_deeds(self) -> None:
        dropped = [event.deed for event in self._events if event.deed]
        self._events = [event for event in self._events if not event.deed]
        heapq.heapify(self._events)
        for deed in dropped:
            self._refuse(deed, "there was no time left when it could be")

    def _aside(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do in a thread of its own what may take long; `then` goes on here with what it gives."""
        future: Future[Any] = Future()
        self._asides += 1

        def finish() -> None:
            self._asides -= 1
            then(future.result())

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again by `finish`
                future.set_exception(error)
            self._done.put(finish)

        threading.Thread(target=run, daemon=True).start()

    def _heal(self) -> None:
        """End what is left, which is to be nothing, and prove that."""
        if self._stopping.is_set():  # then `abort` does it
            return
        self.report.late_s = max(0.0, -self.left_s())
        prove(self._faults.heal())
        self.report.healed_s = self._now_s()
        self._say(f"{self.report.healed_s:6.1f} s  all is healed, and nothing is left of any fault")

    # Deeds.

    def _do(self, deed: Deed) -> None:
        now_s = self._now_s()
        for_s = min(deed.for_s, self.schedule.end_s - now_s)
        if for_s <= 0 < deed.for_s:
            self._refuse(deed, "it found no room before the end")
            return
        down = self._scene.downed(deed)
        missing = self._down.keys() | self._recovering.keys()
        if down & self._down.keys() or (down and self._scene.loses(down | missing)):
            # AFTER those that are down have their ranges again: the others are not to be missed.
            self._at(now_s + AGAIN_S, partial(self._do, deed), deed)
            return
        if deed.kind == KILL:
            self._kill(deed, for_s)
        else:
            self._begin(deed, for_s)

    def _refuse(self, deed: Deed, why: str) -> None:
        self.report.not_made.append(f"{deed}: {why}")
        self._say(f"{self._now_s():6.1f} s  not made: {deed}: {' '.join(why.split())}")

    def _made(self, deed: Deed, word: str, for_s: float, hosts: list[str]) -> None:
        """Note what was done, or may be, and see to it that what is down comes back."""
        self.report.made[word] += 1
        now = time.time()
        times = {"from_unix_s": now, "until_unix_s": now + for_s}
        common = {"text": str(deed), **times, "kind": word, "scheduled": True}
        row = {"host": ", ".join(hosts), **common}
        self.rows.append(row)
        self._say(f"{self._now_s():6.1f} s  {deed}, for {for_s:.1f} s")
        back_s = self._now_s() + for_s
        if down := sorted(self._scene.downed(deed)):
            for name in down:
                self._recovering.pop(name, None)
                self._down[name] = row
            self._at(back_s, partial(self._start_servers, down, time.monotonic() + for_s))
        for slot in self._scene.ended(deed):
            self.report.killed_clients.append(self._names[slot])
            self._at(back_s, partial(self._start_client, slot))

    def _kill(self, deed: Deed, for_s: float) -> None:
        clients = [self._names[slot] for slot in deed.clients]
        hosts: dict[str, list[str]] = {}
        for role, names, places in (
            ("server", deed.servers, [self._scene.servers[name] for name in deed.servers]),
            ("client", clients, [self._scene.clients[slot] for slot in deed.clients]),
        ):
            chosen = tuple(self._hosts[host] for host in dict.fromkeys(places))
            if not chosen:
                continue
            call = Call("faults.kill", {"roles": [role], "names": list(names)})
            killed = self._operator.each("fault.kill", call, preview={}, hosts=chosen)
            for host, answer in killed.values.items():
                hosts[host] = hosts.get(host, []) + answer["killed"]
            for host in killed.failures:  # one that does not answer may have done it
                hosts[host] = [f"{role} {name}" for name in names]
        gone = {name for names in hosts.values() for name in names}
        for name in deed.servers:
            if f"server {name}" not in gone:
                self.problems.append(f"server {name} was to be killed, and had ended by itself")
        if not gone and not deed.servers:
            self._refuse(deed, "it does not run")
            return
        word = "kill client" if deed.clients else "kill server"
        if len(deed.servers) == len(self._scene.servers):
            word = "kill all"
        self._made(deed, word, for_s, list(hosts))

    def _begin(self, deed: Deed, for_s: float) -> None:
        """Begin a fault that its place ends by itself."""
        word = deed.kind
        if deed.kind == PAUSE:
            word = "pause server" if deed.servers else "pause client"
        hosts: list[str] = []
        for fault, host in self._faults_of(deed, for_s):
            if deed.kind == POWER:  # BEFORE it is off: who watches it, asks
                self._powerless.add(host.name)
            failures = self._faults.begin(fault, (host,)).failures
            hosts += [host.name] * (not failures)
            for why in failures.values():
                self._refuse(deed, f"{host.name}: {why}")
        if hosts or deed.kind == POWER:  # it may have been off for a moment
            self._made(deed, word, for_s, hosts or list(deed.hosts))

    def _faults_of(self, deed: Deed, for_s: float) -> list[tuple[Fault, Host]]:
        """Return the faults of a deed, each with its host."""
        text, addresses = str(deed), {one.name: one.address for one in self._hosts.values()}
        if deed.kind == PAUSE:
            return [
                (
                    Fault(PAUSE, text, for_s, {"roles": [role], "names": [name]}),
                    self._hosts[places[slot]],
                )
                for role, slots, places in (
                    ("server", deed.servers, self._scene.servers),
                    ("client", deed.clients, self._scene.clients),
                )
                for slot in slots
                for name in [self._names[slot] if role == "client" else slot]
            ]
        if deed.kind == CUT:
            return [
                (
                    Fault(
                        CUT,
                        text,
                        for_s,
                        {
                            "percent": 100,
                            "ways": _WAYS[deed.one_way],
                            "peers": {name: addresses[name] for name in peers or addresses},
                        },
                    ),
                    self._hosts[host],
                )
                for host, peers in deed.cuts().items()
            ]
        settings: dict[str, Any] = {}
        if deed.kind == SLOW:
            settings = {"rate": deed.rate, "rate_bits": deed.rate_bits, "peers": addresses}
        elif deed.kind == LOSS:
            settings = {"percent": deed.percent, "ways": _WAYS[""], "peers": addresses}
        elif deed.kind == CLOCK:
            settings = {"jump_s": deed.jump_s, "desk_boot_id": boot_id()}
        fault = Fault(deed.kind, text, for_s, settings)
        return [(fault, self._hosts[host]) for host in deed.hosts]

    # What is undone.

    def _start_servers(self, names: list[str], since_s: float) -> None:
        """Start servers again, and try it again with those that cannot be yet."""

        def went(started: list[str]) -> None:
            for name in started:
                self._down.pop(name)["until_unix_s"] = time.time()
                self._recovering[name] = time.monotonic()
                self._soon(partial(self._look, name))
            left = [name for name in names if name not in started]
            if left and time.monotonic() - since_s > SERVED_TIMEOUT_S:
                self.problems.append(f"server {', '.join(left)} could not be started again")
            elif left:
                self._soon(partial(self._start_servers, left, since_s))

        self._aside(partial(processes.start_again, self._operator, self._run, names), went)

    def _look(self, name: str) -> None:
        """Find out whether a server that was started has its ranges again."""
        began_s = self._recovering.get(name)

        def told(answer: dict[str, dict[str, Any]]) -> None:
            if began_s is None or self._recovering.get(name) != began_s:
                return  # it is down again
            figures = answer.get(name, {})
            took_s = time.monotonic() - began_s
            if figures.get("ranges") and health.all_served({name: figures}):
                del self._recovering[name]
                self.report.recoveries_s.append(took_s)
            elif took_s > SERVED_TIMEOUT_S:  # it stays on its way back: its neighbours are spared
                shown = health.describe_ranges(figures) or figures.get("error", "no answer")
                why = f"has not taken its place again within {took_s:.0f} s: {shown}"
                self.problems.append(f"server {name} {why}")
            else:
                self._soon(partial(self._look, name))

        host = self._hosts[self._scene.servers[name]]
        ask = partial(processes.server_figures, self._operator, self._run, (host,))
        self._aside(ask, told)

    def _start_client(self, slot: str) -> None:
        """Start another client in the place of one that was killed, for the time that is left."""
        turn = self._turns[slot] + 1
        name = f"{slot}.{turn}"
        host = self._hosts[self._scene.clients[slot]]

        def start() -> dict[str, Any] | None:
            """Return the reading of the clock that its history is by, if it is there."""
            if not processes.join_client(
                self._operator, self._run, self._options, host, (slot, name)
            ):
                return None
            return clocks.measure(self._operator, (host,))  # it may have been booted meanwhile

        def went(reading: dict[str, Any] | None) -> None:
            if reading:
                self._turns[slot], self._names[slot] = turn, name
                self.report.joined_clients.append(name)
                self._clocks.append(reading)
            elif self.left_s() > AGAIN_S:
                self._soon(partial(self._start_client, slot))

        self._aside(start, went)
