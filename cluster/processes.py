"""Servers and clients on the hosts: start, wait, stop, ask."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from cluster.errors import ClusterError, HostError
from cluster.fanout import Results, fan_out
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.options import DATA_FOLDER, OFF, ClientOptions, ServerOptions
from cluster.release import objection
from cluster.remote import Call
from cluster.roster import roster
from cluster.runs import Run
from rdht.roster import parse

READY_TIMEOUT_S = 20.0
START_DELAY_S = 1.0  # at least this long after the barrier opens, and
START_DELAY_STEPS = 3  # as long as so many steps take, so that all hosts know the instant before
JOIN_TIMEOUT_S = 5.0  # a server may be down; then it is tried again
AGAIN_S = 0.3  # until a host that had no power is asked again
STOP_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 3600.0
ROSTER_FILE = "roster.json"
SAMPLES = "samples.jsonl"  # in a run's folder: a line a host and second
_NO_ANSWER: dict[str, Any] = {"current": "release", "processes": []}


def running(operator: Operator) -> dict[str, list[dict[str, Any]]]:
    """Return the processes of this cluster that run on each host; every host must answer."""
    answers = operator.each("status", Call("processes.status"), preview=_NO_ANSWER).require()
    return {host: answer["processes"] for host, answer in answers.items()}


def current_release(operator: Operator) -> str:
    """Return the release that is current on all hosts; ClusterError if they differ or lack one."""
    answers = operator.each("status", Call("processes.status"), preview=_NO_ANSWER).require()
    current = {host: answer["current"] for host, answer in answers.items()}
    release = next(iter(current.values()))
    if why := disagreement(current) or objection(release):
        raise ClusterError(why)
    return str(release)


def disagreement(current: Mapping[str, str | None]) -> str | None:
    """Say that the hosts do not have the same release current, if so, or that none has one."""
    if len(set(current.values())) == 1 and None not in current.values():
        return None
    rows = ", ".join(f"{host} {release or 'none'}" for host, release in current.items())
    return f"the hosts do not have one release in common ({rows}): run fab deploy"


class ServerRun(NamedTuple):
    """The run that the servers here belong to."""

    run: str
    release: str
    missing: list[str]  # servers that the inventory names and that do not run


def server_run(operator: Operator) -> ServerRun | None:
    """Return the run of the servers that run, or None if none does; ClusterError for several."""
    found = running(operator)
    servers = {
        (row["name"], host): row
        for host, rows in found.items()
        for row in rows
        if row["role"] == "server"
    }
    if not servers:
        return None
    runs = {(str(row["run"]), str(row["release"])) for row in servers.values()}
    if len(runs) > 1:
        why = "servers of several runs are mixed: run fab stop, then fab start-servers"
        raise ClusterError(why)
    missing = [
        server.name
        for server in roster(operator.cluster).servers
        if (server.name, server.host) not in servers
    ]
    return ServerRun(*runs.pop(), missing)


def complete_server_run(operator: Operator) -> ServerRun:
    """Return the run of the servers; ClusterError if not all of them run."""
    found = server_run(operator)
    if found is None:
        why = "no server runs: fab start-servers comes first"
        raise ClusterError(why)
    if found.missing:
        names = ", ".join(found.missing)
        why = f"server {names} does not run: fab start-servers starts it again"
        raise ClusterError(why)
    return found


def start_servers(operator: Operator, run: Run, only: list[str] | None = None) -> None:
    """Start the run's servers, or `only` those, as its manifest says.

    In the end all servers of the run answer from every host. If not, none is left, but of a run
    that others of its servers hold up: there those that came back stay.
    """
    try:
        operator.each("start server", _server_call(run, only), preview={}).require()
        ask_everywhere(operator, run, ["ping", "--roster", ROSTER_FILE])
    except BaseException:
        if only is None:
            _take_back(operator, "server")
        raise


def _server_call(run: Run, only: list[str] | None) -> Callable[[Host], Call | None]:
    """Return what starts the run's servers on a host, or `only` those."""
    document = run.manifest["roster"]
    servers = parse(document).servers
    options = ServerOptions(**run.manifest["parameters"]["servers"])

    def call(host: Host) -> Call | None:
        names = [server.name for server in servers if server.host == host.name]
        chosen = [name for name in names if only is None or name in only]
        if only is not None and not chosen:
            return None
        stems = dict(_stems("server", names))
        rows = [(name, stems[name], options.argv(name, ROSTER_FILE)) for name in chosen]
        folders = [DATA_FOLDER] if options.durable else []
        return _start_call(run, "server", rows, {ROSTER_FILE: document}, folders)

    return call


def start_again(operator: Operator, run: Run, names: list[str]) -> list[str]:
    """Start servers of the run again; return those that run now, whoever they reach."""
    started = operator.each("start server", _server_call(run, names), preview={})
    hosts = tuple(host for host in operator.cluster.hosts if host.name in started.failures)
    call = Call("processes.status", {"run": run.name})
    alive = {  # an answer that was lost tells nothing
        row["name"]
        for answer in operator.each("status", call, preview=_NO_ANSWER, hosts=hosts).values.values()
        for row in answer["processes"]
        if row["role"] == "server" and row["alive"]
    }
    alive |= {name for answer in started.values.values() for name in answer["started"]}
    return [name for name in names if name in alive]


def ask_everywhere(operator: Operator, run: Run, argv: list[str]) -> None:
    """Have every host reach every server; HostsFailedError says which host does not reach which."""
    call = Call(
        "processes.ask", {"run": run.name, "release": run.manifest["release"], "argv": argv}
    )
    results = operator.each("ping", call, preview={})
    for host, answers in list(results.values.items()):
        lost = [answer["error"] for answer in answers.values() if "error" in answer]
        if lost:
            results.failures[host] = HostError("; ".join(lost))
    results.require()


def load(operator: Operator, run: Run, options: ClientOptions) -> None:
    """Have the first host write the records of a YCSB workload."""
    ask = {"run": run.name, "release": run.manifest["release"]}
    call = Call(
        "processes.ask",
        {**ask, "argv": options.argv_of_load(ROSTER_FILE)},
        timeout_s=LOAD_TIMEOUT_S,
    )
    operator.each("load", call, preview={}, hosts=operator.cluster.hosts[:1]).require()


def start_clients(operator: Operator, run: Run, options: ClientOptions) -> float:
    """Start every client, wait until all are connected, and let all begin at one instant.

    Returns that instant as a Unix time of this desk.
    """
    clients = sum(host.clients_per_host for host in operator.cluster.hosts)

    def call(host: Host) -> Call:
        names = host.process_names(host.clients_per_host)
        rows = [
            (name, stem, options.argv(name, stem, ROSTER_FILE, clients))
            for name, stem in _stems("client", names)
        ]
        return _start_call(run, "client", rows)

    try:
        operator.each("start client", call, preview={}).require()
        asked_s = time.monotonic()
        clocks = operator.each("status", Call("processes.status"), preview={"clock_offset_s": 0.0})
        offsets = {host: answer["clock_offset_s"] for host, answer in clocks.require().items()}
        delay_s = max(START_DELAY_S, START_DELAY_STEPS * (time.monotonic() - asked_s))
        begin_unix_s = time.time() + delay_s
        operator.each(
            "go",
            lambda host: Call(
                "processes.go",
                {"run": run.name, "start_unix_s": begin_unix_s + offsets[host.name]},
            ),
            preview={},
        ).require()
    except BaseException:
        _take_back(operator, "client")
        raise
    return begin_unix_s


def join_client(
    operator: Operator, run: Run, options: ClientOptions, host: Host, names: tuple[str, str]
) -> bool:
    """Start another client in the place of one, both named; tell if it runs. It ends with all."""
    slot, name = names
    stem = dict(_stems("client", host.process_names(host.clients_per_host)))[slot]
    stem += name.removeprefix(slot)
    clients = sum(host.clients_per_host for host in operator.cluster.hosts)
    argv = [*options.argv(name, stem, ROSTER_FILE, clients), "--join"]
    call = _start_call(run, "client", [(name, stem, argv)])
    arguments = {**call.arguments, "join": True, "ready_timeout_s": JOIN_TIMEOUT_S}
    call = replace(call, arguments=arguments)
    return not operator.each("start client", call, preview={}, hosts=(host,)).failures


class Disturber(Protocol):
    """What makes faults while clients run."""

    def left_s(self) -> float:
        """Return how long the clients still run."""

    def excuses(self, host: str) -> bool:
        """Tell whether a host may be out of reach for a while."""

    def end(self) -> list[str]:
        """Return once all is healed, with a line for each thing that is not as it should be."""


def wait_for_clients(
    operator: Operator, run: Run, duration_s: float | None, disturber: Disturber | None = None
) -> tuple[list[str], dict[str, HostError]]:
    """Show the clients' progress until all have ended; keep samples of how the hosts are.

    Returns a line for each process that died, and the hosts that could not be asked.
    """
    names = [host.name for host in operator.cluster.hosts if host.clients_per_host]
    ahead_s = 2 * START_DELAY_S + run.manifest["parameters"].get("clients", {}).get("warmup", 0.0)
    asked = {"run": run.name, "clientless_s": ahead_s + duration_s if duration_s else 0.0}
    watch = Call("watch.watch", asked, timeout_s=None)
    with operator.screen.running(names, duration_s) as view:

        def report(host: str, document: dict[str, Any]) -> None:
            view.update(host, document["progress"])
            sample = document["sample"]
            offset_s = sample["time_unix_s"] - time.time()  # less what it was on its way
            row = {"host": host, **sample, "clock_offset_s": round(offset_s, 3)}
            samples.write(json.dumps(row) + "\n")

        def follow(host: Host) -> None:
            """Watch a host on and on, whose power may be cut meanwhile."""
            assert disturber is not None
            while (left_s := disturber.left_s()) > 0:
                call = replace(watch, arguments={**asked, "at_least_s": left_s})
                found = operator.each("watch", call, preview={}, report=report, hosts=(host,))
                for error in found.failures.values():
                    if not disturber.excuses(host.name):
                        raise error
                    time.sleep(AGAIN_S)

        with run.appending(SAMPLES, dry_run=operator.dry_run) as samples:
            if disturber is None or operator.dry_run:
                watched = operator.each("watch", watch, preview={}, report=report)
            else:
                watched = fan_out("watch", operator.cluster.hosts, follow)
    problems = disturber.end() if disturber and not operator.dry_run else []
    on_purpose = run.manifest.get("nemesis", {}).get("killed_clients", ())
    status = Call("processes.status", {"run": run.name})
    ended = operator.each("status", status, preview=_NO_ANSWER)
    deaths = [
        f"{host}: {row['role']} {row['name']} died; {_last_words(row['tail'])}"
        for host, answer in ended.values.items()
        for row in answer["processes"]
        if not (row["alive"] or row["stopped"] or row["result"])
        and not (row["role"] == "client" and row["name"] in on_purpose)
    ]
    return problems + deaths, watched.failures | ended.failures


def _last_words(tail: list[str]) -> str:
    return f"the last line of its log: {tail[-1]}" if tail else "its log is empty"


def stop(operator: Operator, roles: list[str]) -> Results:
    """Stop clients first, then servers, on all hosts; a host's value is what it stopped."""
    both = Results("stop")
    for role in sorted(roles):  # "client" sorts before "server"
        call = Call("processes.stop", {"roles": [role]}, timeout_s=STOP_TIMEOUT_S)
        results = operator.each(f"stop {role}", call, preview={"stopped": [], "killed": []})
        for host, answer in results.values.items():
            both.values.setdefault(host, []).extend(answer["stopped"])
        both.failures |= results.failures
    return both


def server_figures(
    operator: Operator, run: Run, hosts: tuple[Host, ...] | None = None
) -> dict[str, dict[str, Any]]:
    """Return what each running server of the run tells of itself; {"error": …} if it does not."""
    call = Call("processes.status", {"run": run.name, "figures": True})
    answers = operator.each("ask servers", call, preview=_NO_ANSWER, hosts=hosts)
    return {
        row["name"]: row["figures"]
        for answer in answers.values.values()
        for row in answer["processes"]
        if "figures" in row
    }


def verify(operator: Operator, run: Run) -> dict[str, Any]:
    """Compare all replicas, asking the first host to; return what `rdht verify` found.

    What stands at each key is put down with the clients' histories, if these are kept.
    """
    options = ClientOptions(**run.manifest["parameters"].get("clients", {"history": OFF}))
    call = Call(
        "processes.ask",
        {
            "run": run.name,
            "release": run.manifest["release"],
            "argv": ["verify", "--roster", ROSTER_FILE, *options.argv_of_history("client.last")],
        },
        timeout_s=120.0,
    )
    preview = {"keys": 0, "key_range": 0, "differing": []}
    first = operator.cluster.hosts[:1]
    answers = operator.each("compare replicas", call, preview=preview, hosts=first)
    found: dict[str, Any] = answers.require()[first[0].name]
    return found


def _take_back(operator: Operator, role: str) -> None:
    """Stop what a failed start has started; say where that did not work."""
    left = stop(operator, [role]).failures
    for host, why in left.items():
        operator.screen.warn(f"{host}: a {role} may still run: {why}")
    if not left:
        operator.screen.note(f"No {role} is left running.")


def _start_call(
    run: Run,
    role: str,
    rows: list[tuple[str, str, list[str]]],
    files: Mapping[str, Any] | None = None,
    folders: Sequence[str] = (),
) -> Call:
    """Return the call that starts processes: name, stem of their files, and command line."""
    arguments = {
        "run": run.name,
        "release": run.manifest["release"],
        "files": files or {},
        "folders": list(folders),
        "processes": [
            {"name": name, "role": role, "file": stem, "argv": argv} for name, stem, argv in rows
        ],
        "ready_timeout_s": READY_TIMEOUT_S,
    }
    return Call("processes.start", arguments, timeout_s=READY_TIMEOUT_S + STOP_TIMEOUT_S)


def _stems(role: str, names: list[str]) -> list[tuple[str, str]]:
    """Return each process's name with the stem of its files: server, or server.0 and so on."""
    if len(names) == 1:
        return [(names[0], role)]
    return [(name, f"{role}.{number}") for number, name in enumerate(names)]
