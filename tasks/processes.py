"""start-servers, start-clients, stop, status, tail."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster import experiment, health, logs, processes, runs
from cluster.command import LOGS, cluster_task
from cluster.errors import ClusterError, HostsFailedError, UsageError
from cluster.operator import Operator
from cluster.options import ClientOptions, ServerOptions
from cluster.release import objection
from cluster.remote import Call
from cluster.roster import check_placement, roster
from rdht.roster import DEFAULT_KEY_RANGE, parse
from tasks import faults_of


@cluster_task(
    takes=ServerOptions,
    restart="stop servers and clients that run, so that the new servers start empty",
)
def start_servers(
    operator: Operator, *, options: ServerOptions, restart: bool = False
) -> dict[str, Any]:
    """Start the servers that do not run; each host reaches all."""
    check_placement(roster(operator.cluster), DEFAULT_KEY_RANGE)
    options = options.checked()
    if restart:
        processes.stop(operator, ["client", "server"]).require()
    if found := processes.server_run(operator):
        return _go_on(operator, found, options)
    release = processes.current_release(operator)
    run = runs.begin(LOGS, operator.cluster, release, dry_run=operator.dry_run)
    experiment.start_servers(operator, run, options)
    names = run.manifest["servers"]
    operator.screen.done(f"{len(names)} servers answer from every host · run {run.name}")
    return {"run": run.name, "servers": names, "started": names}


def _go_on(
    operator: Operator, found: processes.ServerRun, options: ServerOptions
) -> dict[str, Any]:
    """Start what is missing of the servers that run, and see that all answer."""
    run = runs.load(LOGS, found.run)
    _refuse_other_options(run, options)
    if found.missing:
        experiment.restart_servers(operator, run, found.missing)
        operator.screen.note(
            f"started {', '.join(found.missing)} again in run {run.name};"
            f" all {len(run.manifest['servers'])} servers serve"
        )
    else:
        _refuse_other_release(operator, found)
        processes.ask_everywhere(operator, run, ["ping", "--roster", processes.ROSTER_FILE])
        operator.screen.note(
            f"the servers of run {run.name} run already and answer from every host"
        )
    return {"run": run.name, "servers": run.manifest["servers"], "started": found.missing}


def _refuse_other_options(run: runs.Run, options: ServerOptions) -> None:
    """Refuse an option that was typed and that the running servers were started without."""
    theirs = ServerOptions(**run.manifest["parameters"]["servers"])
    for field in dataclasses.fields(options):
        typed, has = (getattr(each, field.name) for each in (options, theirs))
        if typed not in (field.default, has):
            why = (
                f"the servers of run {run.name} run with {field.name} {has}: leave out "
                f"--{field.name}, or begin a new run with --restart"
            )
            raise UsageError(why)


def _refuse_other_release(operator: Operator, found: processes.ServerRun) -> None:
    deployed = processes.current_release(operator)
    if found.release != deployed:
        why = f"the servers run release {found.release}, deployed is {deployed}: add --restart"
        raise ClusterError(why)


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
    run = runs.load(LOGS, processes.complete_server_run(operator).run)
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
        health_cells = [seen.get("temperature_c"), seen.get("throttled")]
        rows += [
            [host, *_process_cells(host, process, answer), *health_cells]
            for process in answer["processes"] or [None]
        ]
    rows += [[host, str(why), *[None] * 9] for host, why in results.failures.items()]
    columns = ["host", "process", "pid", "up s", "keys", "connections", "locks", "in doubt"]
    operator.screen.table([*columns, "ranges", "°C", "throttled"], rows)
    for line in _notes(results.values):
        operator.screen.note(line)
    for host, active in faults_of(operator).active().items():
        for fault in active:
            end = f"ends in {fault['left_s']:.0f} s" if fault["reverter"] else "ends by fab heal"
            operator.screen.warn(f"{host}: {fault['text']}, {end}")
        results.values.get(host, {})["faults"] = active
    if results.failures:
        raise HostsFailedError(results.step, results.failures)
    return results.values


def _process_cells(host: str, process: dict[str, Any] | None, answer: dict[str, Any]) -> list[Any]:
    if process is None:
        return ["nothing runs", *[None] * 7]
    figures = process.get("figures", {})
    name = process["role"] if process["name"] == host else f"{process['role']} {process['name']}"
    if "error" in figures:
        name += f" ({figures['error']})"
    uptime_s = int(answer["time_unix_s"] - process["started_unix_s"])
    numbers = [figures.get(key) for key in ("keys", "connections", "locks", "in_doubt")]
    return [name, str(process["pid"]), uptime_s, *numbers, health.describe_ranges(figures)]


def _notes(answers: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is to be said of hosts and servers beside their figures."""
    hosts: dict[str, list[str]] = {}
    for host, answer in answers.items():
        hosts.setdefault(answer["current"] or "none", []).append(host)
    rows = [row for answer in answers.values() for row in answer["processes"]]
    durable = {row["run"] for row in rows if row.get("figures", {}).get("durable")}
    intruders = sum(row.get("figures", {}).get("unauthenticated", 0) for row in rows)
    return [
        *(f"release {name}: {', '.join(names)}" for name, names in hosts.items()),
        *filter(None, map(objection, hosts)),
        *(f"run {run}: its servers keep on disk what they promise" for run in sorted(durable)),
        *[f"{intruders} connections did not know the cluster's secret"] * bool(intruders),
    ]


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
    merge = logs.Merge(operator, grep)
    if follow and not operator.dry_run:
        logs.follow(operator, arguments, merge)
    call = Call("files.tail", arguments)
    results = operator.each("tail", call, preview={}, report=merge.add)
    shown = merge.show()
    if results.failures:
        raise HostsFailedError(results.step, results.failures)
    return shown
