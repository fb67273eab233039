"""start-servers, start-clients, stop, status, tail."""

import queue
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster import experiment, processes, runs
from cluster.command import LOGS, cluster_task
from cluster.errors import ClusterError, HostsFailedError, UsageError
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.options import ClientOptions
from cluster.remote import Call
from cluster.roster import check_placement, roster
from rdht.roster import DEFAULT_KEY_RANGE, parse


@cluster_task(
    workers="threads of each server, each with its own share of the connections",
    trace="log every message",
    restart="stop servers and clients that run, so that the new servers start empty",
)
def start_servers(
    operator: Operator, *, workers: int = 8, trace: bool = False, restart: bool = False
) -> dict[str, Any]:
    """Start the servers; each answers from every host."""
    check_placement(roster(operator.cluster), DEFAULT_KEY_RANGE)
    if workers < 1:
        why = f"--workers {workers} is not a number from 1 on"
        raise UsageError(why)
    release = processes.current_release(operator)
    if restart:
        processes.stop(operator, ["client", "server"]).require()
    if found := processes.server_run(operator):
        return _already_running(operator, *found, release)
    run = runs.begin(LOGS, operator.cluster, release, dry_run=operator.dry_run)
    experiment.start_servers(operator, run, workers, trace=trace)
    names = run.manifest["servers"]
    operator.screen.done(f"{len(names)} servers answer from every host · run {run.name}")
    return {"run": run.name, "servers": names}


def _already_running(operator: Operator, name: str, running: str, release: str) -> dict[str, Any]:
    if running != release:
        why = f"the servers run release {running}, deployed is {release}: add --restart"
        raise ClusterError(why)
    run = runs.load(LOGS, name)
    processes.ask_everywhere(operator, run, ["ping", "--roster", processes.ROSTER_FILE])
    operator.screen.note(f"the servers of run {name} run already and answer from every host")
    return {"run": name, "servers": run.manifest["servers"]}


@cluster_task(takes=ClientOptions, wait="show progress until all clients have ended")
def start_clients(
    operator: Operator, *, options: ClientOptions, wait: bool = False
) -> dict[str, Any]:
    """Start the clients; all begin at one instant."""
    run = _run_of_servers(operator)
    options = options.checked(parse(run.manifest["roster"]))
    processes.ask_everywhere(operator, run, ["ping", "--roster", processes.ROSTER_FILE])
    experiment.start_clients(operator, run, options)
    operator.screen.done(f"clients run on {len(operator.cluster.hosts)} hosts · run {run.name}")
    if wait and not operator.dry_run:
        deaths, silent = processes.wait_for_clients(operator, run, options.duration_s)
        if silent:
            raise HostsFailedError("watch", silent)
        if deaths:
            raise ClusterError("\n".join(deaths))
    return {"run": run.name, "seed": options.seed}


def _run_of_servers(operator: Operator) -> runs.Run:
    """Return the run that the servers were started for, if it can have clients now."""
    if operator.dry_run:
        run = runs.begin(LOGS, operator.cluster, "current", dry_run=True)
        run.note(roster=roster(operator.cluster).to_json())
        return run
    found = processes.server_run(operator)
    if found is None:
        why = "no server runs: fab start-servers comes first"
        raise ClusterError(why)
    run = runs.load(LOGS, found[0])
    if "clients" in run.manifest["parameters"]:
        why = (
            f"run {run.name} has had its clients, and its servers hold what they wrote: "
            "fab start-servers --restart begins a new run"
        )
        raise ClusterError(why)
    return run


@cluster_task(servers="stop only servers", clients="stop only clients")
def stop(operator: Operator, *, servers: bool = False, clients: bool = False) -> dict[str, Any]:
    """Stop what this cluster started, clients first."""
    roles = [
        role
        for role, chosen in (("client", clients), ("server", servers))
        if chosen or servers == clients
    ]
    stopped = processes.stop(operator, roles)
    rows = [[host, ", ".join(names) or "nothing ran"] for host, names in stopped.values.items()]
    operator.screen.table(["host", "stopped"], rows)
    return stopped.require("The other hosts have stopped theirs.")


@cluster_task()
def status(operator: Operator) -> dict[str, Any]:
    """Show what runs on each host, and how it is."""
    call = Call("processes.status", {"figures": True})
    facts = operator.each("facts", Call("facts.facts"), preview={})
    results = operator.each("status", call, preview={"current": None, "processes": []})
    rows: list[list[Any]] = []
    for host, answer in results.values.items():
        seen = facts.values.get(host, {})
        health = [seen.get("temperature_c"), seen.get("throttled")]
        rows += [
            [host, answer["current"], *_process_cells(process, answer), *health]
            for process in answer["processes"] or [None]
        ]
    rows += [[host, None, str(why), *[None] * 8] for host, why in results.failures.items()]
    columns = [
        "host",
        "release",
        "process",
        "pid",
        "up s",
        "keys",
        "connections",
        "locks",
        "in doubt",
    ]
    operator.screen.table([*columns, "°C", "throttled"], rows)
    if results.failures:
        raise HostsFailedError(results.step, results.failures)
    return results.values


def _process_cells(process: dict[str, Any] | None, answer: dict[str, Any]) -> list[Any]:
    if process is None:
        return ["nothing runs", *[None] * 6]
    figures = process.get("figures", {})
    name = f"{process['role']} {process['name']}"
    if "error" in figures:
        name += f" ({figures['error']})"
    uptime_s = int(answer["time_unix_s"] - process["started_unix_s"])
    numbers = [figures.get(key) for key in ("keys", "connections", "locks", "in_doubt")]
    return [name, str(process["pid"]), uptime_s, *numbers]


@cluster_task(
    run="whose logs (default: the latest run's)",
    lines="how many lines of each log to begin with",
    since="only lines of the last so many seconds",
    grep="only lines with this text",
    follow="go on with new lines until ^C",
)
def tail(  # noqa: PLR0913 - one a typed option
    operator: Operator,
    *,
    run: str | None = None,
    lines: int = 20,
    since: float = 0.0,
    grep: str = "",
    follow: bool = False,
) -> list[dict[str, str]]:
    """Show the logs of all hosts, merged by time."""
    found = runs.load(LOGS, run, operator.cluster)
    begin = (
        datetime.now(UTC) - timedelta(seconds=since) if since else datetime.min.replace(tzinfo=UTC)
    )
    arguments = {
        "run": found.name,
        "lines": max(1, lines),
        "since": begin.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if since else "",
        "follow": follow,
    }
    merged = _Merge(operator, grep)
    if follow and not operator.dry_run:
        _follow(operator, arguments, merged)
        return []
    call = Call("files.tail", arguments)
    results = operator.each("tail", call, preview={}, report=merged.add)
    shown = merged.show_until("~")
    if results.failures:
        raise HostsFailedError(results.step, results.failures)
    return shown


class _Merge:
    """Log lines of many hosts, to be shown in the order of their times."""

    def __init__(self, operator: Operator, grep: str) -> None:
        self._screen = operator.screen
        self._hosts = [host.name for host in operator.cluster.hosts]
        self._grep = grep
        self._lines: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._waiting: list[dict[str, str]] = []

    def add(self, host: str, document: dict[str, str]) -> None:
        if document and self._grep in document["line"]:
            self._lines.put({"host": host, **document})

    def show_until(self, moment: str) -> list[dict[str, str]]:
        """Show the lines whose time is before `moment`, and return them."""
        while not self._lines.empty():
            self._waiting.append(self._lines.get())
        self._waiting.sort(key=lambda row: row["time"])  # keeps the order within a log
        ready = [row for row in self._waiting if row["time"] < moment]
        self._waiting = [row for row in self._waiting if row["time"] >= moment]
        for row in ready:
            self._screen.log_line(self._hosts, row["host"], row["log"], row["line"])
        return ready


_MERGE_WINDOW_S = 1.0
_RETRY_S = 2.0
_ALL_LINES = 1_000_000


def _follow(operator: Operator, arguments: dict[str, Any], merged: _Merge) -> None:
    """Show new lines until ^C; a host that goes away is tried again until it is back."""

    def follow_host(host: Host) -> None:
        since, lines = arguments["since"], arguments["lines"]
        while True:

            def report(name: str, document: dict[str, str]) -> None:
                nonlocal since
                merged.add(name, document)
                since = max(since, document.get("time", ""))

            call = Call("files.tail", {**arguments, "since": since, "lines": lines}, timeout_s=None)
            results = operator.each("tail", call, preview={}, hosts=(host,), report=report)
            for name, why in results.failures.items():
                operator.screen.warn(f"{name}: {why}; trying again")
            lines = _ALL_LINES  # of what has come since
            time.sleep(_RETRY_S)

    for host in operator.cluster.hosts:
        threading.Thread(target=follow_host, args=(host,), daemon=True).start()
    while True:
        time.sleep(_MERGE_WINDOW_S / 5)
        moment = datetime.now(UTC) - timedelta(seconds=_MERGE_WINDOW_S)
        merged.show_until(moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
