"""Five hosts that carry out cells: three servers, the client that is hit, and another one.

All cells of a team are done in one running table, each with keys of its own. Only what died is
started again; a table that had to be lost, and was, is begun anew.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analysis.history import OK, VIOLATED, judge, transactions_of
from analysis.register import Transaction
from analysis.verdict import read_histories
from cluster import experiment, processes
from cluster.collect import collect
from cluster.errors import ClusterError
from cluster.faults import Fault, Faults, prove
from cluster.inventory import Cluster, Host
from cluster.operator import Operator
from cluster.options import ServerOptions
from cluster.remote import Call
from cluster.runs import Run
from faultbuild.hook import BEFORE, CLIENT, FILE, HANDLED, SERVER, Point
from matrix.cells import BACKUP, CUT, KILL, KILL_ALL, PAUSE, PRIMARY, Cell, Place
from matrix.witness import Witness
from rdht.errors import RdhtError
from rdht.history import read
from rdht.roster import parse

SIZE = 5  # hosts
KEPT, BROKEN, UNSURE = "kept", "broken", "unsure"
NOT_REACHED, FAILED = "not reached", "failed"
_SERVERS = 3
_RANGE = 0  # whose primary and backup are hit
_NEAR, _FAR = 3, 2  # keys of a cell in that range, and in others
_REACH_S = 12.0  # for a point to be reached
_LASTING_S = 2.4  # a pause or cut: longer than a yes waits for its client
_DOWN_S = 0.3
_AFTERWARDS_S = 0.15  # the load goes on with all whole
_AGAIN_S = 0.05
_MOST_DEATHS = 8  # of clients in a cell
_TRIES = 3
_ASKED_S = 4.0  # for servers to ask each other
_MANY_THREADS = 4
_HISTORY = "history.desk.bin"
_ENDLESS_S = 1e6
_BOTH = [CLIENT, SERVER]


@dataclass
class Outcome:
    """What became of a cell."""

    cell: Cell
    outcome: str
    why: str = ""
    took_s: float = 0.0


class Team:
    """A table on five hosts, and what is done to it."""

    def __init__(
        self,
        operator: Operator,
        faults: Callable[[Operator], Faults],
        desk: Path,
        *,
        profile: str,
        durable: bool,
    ) -> None:
        """Use the operator's first hosts; `desk` has the cluster's secret."""
        cluster = operator.cluster.sized(_SERVERS, 0)
        self._operator = Operator(cluster, operator.screen)
        self._faults = faults(self._operator)
        self._hosts = {host.name: host for host in cluster.hosts}
        self._victim, self._other = cluster.hosts[_SERVERS : _SERVERS + 2]
        self._desk = desk
        self._profile = profile
        self._options = ServerOptions(durable=durable)
        self._turn = 0  # of the client that is hit
        self._loads = 0
        self._clients: list[str] = []
        self._killed: set[str] = set()
        self._is_spoilt = False  # the table
        self.outcomes: list[Outcome] = []
        self._by_load: dict[str, Outcome] = {}

    # The table.

    def begin(self, run: Run) -> None:
        """Start servers and clients, as a run."""
        self._run = run
        self._witness: Witness | None = None
        self._begin_table()

    def _begin_table(self) -> None:
        experiment.start_servers(self._operator, self._run, self._options)
        roster = replace(parse(self._run.manifest["roster"]), secret_file=self._desk / "secret")
        if self._witness is None:
            history = self._run.folder / _HISTORY
            self._witness = Witness(roster, self._profile, history)
        else:
            self._witness.begin_anew()
        ranges = self._witness.ring.ranges
        self._places = {PRIMARY: ranges[_RANGE].primary, BACKUP: ranges[_RANGE].backup}
        self._plan(None, [])
        self._start_victim()
        self._start_client(self._other, f"bystander.{self._turn}")

    def end(self) -> None:
        """Heal and stop all, and fetch what is left of it; each also if one before fails."""
        with ExitStack() as stack:
            stack.callback(lambda: collect(self._operator, self._run).require())
            if self._witness:
                stack.callback(self._witness.close)
            stack.callback(lambda: processes.stop(self._operator, _BOTH).require())
            prove(self._faults.heal())

    def _start_victim(self) -> None:
        self._turn += 1
        self._start_client(self._victim, f"victim.{self._turn}")

    def _start_client(self, host: Host, name: str) -> None:
        self._clients.append(name)
        self._run.note(clients=self._clients)
        argv = [
            *("client", "--roster", processes.ROSTER_FILE, "--name", name, "--join"),
            *("--profile", self._profile, "--workload", "mixed", "--seed", "1"),
            *("--threads", str(_MANY_THREADS), "--duration", str(_ENDLESS_S)),
            *("--results", f"results.{name}.json", "--history", f"history.{name}.bin"),
        ]
        process = {"name": name, "role": CLIENT, "file": f"client.{name}", "argv": argv}
        self._call(host, self._start_call([process])).require()

    def _start_call(self, rows: list[dict[str, Any]], **files: Any) -> Call:
        arguments = {
            "run": self._run.name,
            "release": self._run.manifest["release"],
            "files": {**files, processes.ROSTER_FILE: self._run.manifest["roster"]},
            "folders": [],
            "processes": rows,
            "join": True,
            "ready_timeout_s": processes.READY_TIMEOUT_S,
        }
        return Call("processes.start", arguments, timeout_s=processes.STOP_TIMEOUT_S)

    def _call(self, host: Host, call: Call) -> Any:
        return self._operator.each(call.command, call, preview={}, hosts=(host,))

    def _plan(self, load: dict[str, Any] | None, points: list[Point]) -> None:
        """Tell all processes what to do from now on, and where to stop."""
        document = {"load": load, "points": [one._asdict() for one in points]}
        call = self._start_call([], **{FILE: document})
        self._operator.each("plan", call, preview={}).require()

    # A cell.

    def carry_out(self, cell: Cell) -> Outcome:
        """Do what a cell says; what became of it is only sure once `judge` has said so, too.

        One that could not be carried out, by no fault of the table, is tried again.
        """
        outcome = Outcome(cell, FAILED)
        self.outcomes.append(outcome)
        began_s = time.monotonic()
        for _ in range(_TRIES):
            if self._is_spoilt:
                self._begin_anew()
            self._try(outcome)
            if outcome.outcome in {KEPT, BROKEN}:
                break
        outcome.took_s = time.monotonic() - began_s
        return outcome

    def _try(self, outcome: Outcome) -> None:
        cell = outcome.cell
        self._loads += 1
        load = self._load(f"c{self._loads}")
        self._by_load[load["name"]] = outcome
        is_lost = False
        try:
            is_lost = self._trouble(cell, load)
            time.sleep(_AFTERWARDS_S)
            self._plan(None, [])
            outcome.why = self._look(load, lost=is_lost)
            outcome.outcome = BROKEN if outcome.why else KEPT
        except NotReachedError as error:
            outcome.outcome, outcome.why = NOT_REACHED, str(error)
        except (ClusterError, RdhtError) as error:  # by which nobody has broken a promise
            outcome.outcome, outcome.why = FAILED, str(error)
        if is_lost:
            outcome.why = outcome.why or "the range is lost, as it had to be, and said so"
        self._is_spoilt = is_lost or outcome.outcome != KEPT

    def _load(self, name: str) -> dict[str, Any]:
        assert self._witness
        near: list[str] = []
        far: list[str] = []
        number = 0
        while len(near) < _NEAR or len(far) < _FAR:
            number += 1
            key = f"{name}-{number}"
            is_near = self._witness.ring.range_of(key.encode()) == _RANGE
            (near if is_near else far).append(key)
        return {"name": name, "near": near[:_NEAR], "far": far[:_FAR]}

    def _trouble(self, cell: Cell, load: dict[str, Any]) -> bool:
        """Have the cell's failure happen, and all made whole again; tell if that lost the range."""
        name = load["name"]
        point = self._point(f"{name}.hit", cell.place, _RANGE if cell.comes_back else None)
        if cell.client_dies:
            self._leave_behind(cell.client_dies, load, point, cell.place.party)
        elif cell.comes_back:
            back = self._places[cell.comes_back]
            self._plan(load, [])
            time.sleep(_AFTERWARDS_S)
            self._kill(back)
            self._plan(load, [point])
            self._start_servers(back)
        else:
            self._plan(load, [point])
        self._wait_at(cell.place)
        is_lost = self._is_losing(cell)
        self._hit(cell)
        if cell.client_dies or (cell.fault == KILL and cell.place.party == CLIENT):
            self._start_victim()
        return is_lost

    def _leave_behind(self, place: Place, load: dict[str, Any], point: Point, asked: str) -> None:
        """Have clients die at a place until the party `asked` stands at `point`.

        Nobody has to be asked for what still waited for a lock.
        """
        for number in range(_MOST_DEATHS):
            if number:
                self._start_victim()
            self._plan(load, [point, self._point(f"{load['name']}.first{number}", place, None)])
            is_there = self._stands(CLIENT, _REACH_S)
            self._kill_client()
            if self._stands(asked, _ASKED_S) or not is_there:  # as who came late holds it up
                return

    def _point(self, name: str, place: Place, range_: int | None) -> Point:
        fields = {
            key: value for key, value in asdict(place).items() if key not in {"party", "text"}
        }
        role = CLIENT if place.party == CLIENT else SERVER
        return Point(name, role, self._process(place.party), **fields, range=range_)

    def _process(self, party: str) -> str:
        return f"victim.{self._turn}" if party == CLIENT else self._places[party]

    def _host(self, party: str) -> Host:
        return self._victim if party == CLIENT else self._hosts[self._places[party]]

    def _whom(self, party: str) -> dict[str, Any]:
        role = CLIENT if party == CLIENT else SERVER
        return {"roles": [role], "names": [self._process(party)]}

    def _wait_at(self, place: Place) -> None:
        if not self._stands(place.party, _REACH_S):
            why = f"{place.party} did not come to it within {_REACH_S:g} s"
            raise NotReachedError(why)

    def _stands(self, party: str, timeout_s: float) -> bool:
        whom = {**self._whom(party), "timeout_s": timeout_s}
        found = self._call(self._host(party), Call("faults.wait", whom)).require()
        return bool(next(iter(found.values()))["stands"])

    def _is_losing(self, cell: Cell) -> bool:
        """Tell whether the only copy of the range goes: its other replica has not got it yet."""
        place = cell.place
        return (
            not self._options.durable
            and cell.fault == KILL
            and cell.comes_back not in (None, place.party)
            and (place.status, place.moment) in {("JOIN", HANDLED), ("COPY", BEFORE)}
        )

    def _hit(self, cell: Cell) -> None:
        """Do what befalls the party, which stands still, and undo it after its time."""
        party, host = cell.place.party, self._host(cell.place.party)
        go_on = Call("faults.heal", {"network": False})
        if cell.fault == KILL:
            if party == CLIENT:
                self._kill_client()
            else:
                self._restart(self._places[party])
        elif cell.fault == KILL_ALL:
            servers = list(self._run.manifest["servers"])
            self._kill(*servers)
            if party == CLIENT:
                self._call(host, go_on).require()
            time.sleep(_DOWN_S)
            self._start_servers(*servers)
        elif cell.fault == PAUSE:
            if cell.meanwhile:
                self._restart(self._places[cell.meanwhile])
            time.sleep(_LASTING_S)
            self._call(host, go_on).require()
        else:
            peers = {one.name: one.address for one in self._hosts.values()}
            settings = {"percent": 100, "ways": ["in", "out"], "peers": peers}
            cut = Fault(CUT, str(cell), _LASTING_S, settings)
            self._faults.begin(cut, (host,)).require()
            self._call(host, go_on).require()
            time.sleep(_LASTING_S)
            while self._faults.active()[host.name]:
                time.sleep(_AGAIN_S)

    def _kill(self, *servers: str) -> None:
        call = Call("faults.kill", {"roles": [SERVER], "names": list(servers)})
        hosts = tuple(self._hosts[server] for server in servers)
        answers = self._operator.each("kill", call, preview={}, hosts=hosts).require()
        killed = {name for answer in answers.values() for name in answer["killed"]}
        if missing := {f"server {name}" for name in servers} - killed:
            why = f"{', '.join(sorted(missing))} had ended BEFORE it was to be killed"
            raise ClusterError(why)

    def _restart(self, server: str) -> None:
        self._kill(server)
        time.sleep(_DOWN_S)
        self._start_servers(server)

    def _kill_client(self) -> None:
        self._killed.add(self._process(CLIENT))
        self._call(self._victim, Call("faults.kill", self._whom(CLIENT))).require()

    def _start_servers(self, *servers: str) -> None:
        if set(processes.start_again(self._operator, self._run, list(servers))) != set(servers):
            why = f"server {', '.join(servers)} could not be started again"
            raise ClusterError(why)

    def _look(self, load: dict[str, Any], *, lost: bool) -> str:
        """Return what is not as it should be now that all is whole again."""
        assert self._witness
        why = self._witness.settled(_RANGE if lost else None) or self._witness.unequal()
        if why := "; ".join(filter(None, [why, self._deaths()])):
            return why
        if lost:
            return self._witness.refused(load["near"])
        return self._witness.unusable([*load["near"], *load["far"]], load["name"])

    def _deaths(self) -> str:
        """Return who has ended though nobody has killed it."""
        call = Call("processes.status", {"run": self._run.name})
        answers = self._operator.each("status", call, preview={}).require()
        return "; ".join(
            f"{row['role']} {row['name']} has ended: {' '.join(row['tail'][-1:])}"
            for answer in answers.values()
            for row in answer["processes"]
            if not (row["alive"] or row["stopped"] or row["name"] in self._killed)
        )

    def _begin_anew(self) -> None:
        """Begin a new table, after one that is lost or that nobody can be sure of."""
        prove(self._faults.heal())
        processes.stop(self._operator, _BOTH).require()
        self._begin_table()

    # Judgement.

    def judge(self) -> None:
        """Judge the histories of all cells, once they are here; correct what is thought of them."""
        histories = read_histories(self._run.folder, self._run.manifest)
        own = transactions_of(read(self._run.folder / _HISTORY))  # by this desk's clock
        by_load: dict[str, list[Transaction]] = defaultdict(list)
        for transaction in [*histories.transactions, *own]:
            by_load[transaction.calls[0].key.decode().partition("-")[0]].append(transaction)
        for load, outcome in self._by_load.items():
            judgement = judge(by_load[load], is_complete=not histories.gaps)
            if judgement.verdict == VIOLATED:
                outcome.outcome = BROKEN
            elif judgement.verdict != OK and outcome.outcome == KEPT:
                outcome.outcome = UNSURE
            if judgement.verdict != OK:
                reasons = [*judgement.reasons, *histories.gaps, outcome.why]
                outcome.why = "; ".join(filter(None, reasons))


class NotReachedError(ClusterError):
    """The point of a cell was not met."""


def teams(cluster: Cluster) -> list[Cluster]:
    """Share the hosts out over teams."""
    hosts = cluster.hosts
    count = len(hosts) // SIZE
    return [replace(cluster, hosts=hosts[at * SIZE : (at + 1) * SIZE]) for at in range(count)]
