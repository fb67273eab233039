"""A whole experiment: deploy, servers, clients, wait, compare replicas, stop, collect."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import clocks, health, links, processes, release, secret
from cluster.collect import collect
from cluster.deploy_lock import changing
from cluster.errors import ClusterError
from cluster.nemesis import Nemesis
from cluster.operator import Operator
from cluster.options import OFF, ClientOptions, ServerOptions
from cluster.release import Release
from cluster.remote import Call
from cluster.roster import roster
from cluster.runs import Run
from rdht.roster import parse
from rdht.ycsb import MIXES

SETTLE_TIMEOUT_S = 30.0  # for the servers to end what clients left behind
_SETTLE_POLL_S = 0.5
CLOCK_FAR_OFF_S = 5.0  # more than the slowest host needs to answer


def execute(  # noqa: PLR0913 - what an experiment is made of
    operator: Operator,
    run: Run,
    built: Release,
    *,
    desk: Path,
    servers: ServerOptions,
    options: ClientOptions,
    disturb: Callable[[], None] | None = None,
    nemesis: Nemesis | None = None,
) -> list[str]:
    """Carry out all steps; return a line for each thing that went wrong on the way.

    `desk` is the folder of the cluster's secret; `disturb` makes what is to go wrong on purpose in
    the run, and not while its links are measured; `nemesis` what does while the clients run.
    Whatever happens, ^C too, all is healed, clients and then servers are stopped, and the logs are
    collected.
    """
    with run.step("deploy"):
        deploy(operator, built, desk)
    if any(processes.running(operator).values()):
        operator.screen.note("Stopping what still runs, so that the servers start empty.")
        processes.stop(operator, ["client", "server"]).require()
    problems: list[str] = []
    try:
        _measure_links(operator, run)
        if disturb:
            disturb()
        start_servers(operator, run, servers)
        begin_unix_s = start_clients(operator, run, options)
        if nemesis and not operator.dry_run:
            nemesis.begin(run, options, begin_unix_s)
        with run.step("wait"):
            deaths, silent = processes.wait_for_clients(operator, run, options.duration_s, nemesis)
            problems += deaths
            problems += [f"{host}: not watched: {why}" for host, why in silent.items()]
        _note_clocks(operator, run, options)
        problems += _ask_servers(operator, run)
        problems += _compare_replicas(operator, run)
    except BaseException:
        for problem in _wind_down(operator, run, nemesis):
            operator.screen.warn(problem)
        raise
    problems += _wind_down(operator, run)
    run.note(problems=problems)
    return problems


def _measure_links(operator: Operator, run: Run) -> None:
    """Note how fast the links are; a run that does not know it has no bound, and is no worse."""
    try:
        with run.step("measure links"):
            run.note(links=links.measure(operator))
    except ClusterError as error:
        operator.screen.warn(f"The links are not measured, so there will be no bound: {error}")


def deploy(
    operator: Operator, built: Release, desk: Path, *, break_lock: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Bring a release and the secret in the folder `desk` to all hosts that lack them.

    Returns what became of each host's release, and the hosts that got the secret.
    """
    wanted = release.wanted(built, secret.digest(desk))
    none = dict.fromkeys(("current", "previous", "secret", "lock"))
    preview: dict[str, Any] = {**none, "staged": []}
    with changing(operator, "deploy", wanted, preview, break_lock=break_lock) as was:
        _warn_of_clocks(operator, was)
        digests = {host: answer["secret"] for host, answer in was.items()}
        delivered = secret.deliver(operator, desk, digests)
        return release.deploy(operator, built, was), delivered


def _warn_of_clocks(operator: Operator, answers: dict[str, dict[str, Any]]) -> None:
    for host, answer in answers.items():
        offset_s = answer.get("clock_offset_s", 0.0)
        if abs(offset_s) > CLOCK_FAR_OFF_S:
            operator.screen.warn(
                f"{host}: its clock is {offset_s:+,.0f} s off this desk's, and so are the times of "
                "its logs: enable NTP there (timedatectl set-ntp true)"
            )


def start_servers(operator: Operator, run: Run, options: ServerOptions) -> None:
    """Start a run's servers, and note in its manifest what they run on."""
    with run.step("facts"):
        facts = operator.each("facts", Call("facts.facts"), preview={}).require()
        hosts = {name: {**run.manifest["hosts"][name], **facts[name]} for name in facts}
        servers = roster(operator.cluster)
        names = [server.name for server in servers.servers]
        run.note(hosts=hosts, servers=names, roster=servers.to_json())
    with run.step("start-servers"):
        run.manifest["parameters"]["servers"] = vars(options)
        processes.start_servers(operator, run)


def restart_servers(operator: Operator, run: Run, missing: list[str]) -> None:
    """Start servers of a run again as they were started before; the others go on."""
    if strangers := set(missing) - set(run.manifest["servers"]):
        why = (
            f"server {', '.join(sorted(strangers))} is none of run {run.name}, which the others "
            "belong to: fab start-servers --restart begins a new one"
        )
        raise ClusterError(why)
    with run.step(f"start {', '.join(missing)} again"):
        try:
            processes.start_servers(operator, run, missing)
        except ClusterError as error:
            lost, unsafe = _find_damage(run, processes.server_figures(operator, run))
            if not lost:
                raise
            lines = [*health.problems(lost, unsafe), "fab start-servers --restart begins a new run"]
            raise ClusterError("\n".join(lines)) from error


def start_clients(operator: Operator, run: Run, options: ClientOptions) -> float:
    """Start a run's clients, and note in its manifest what they were given.

    Returns the Unix time at which they begin.
    """
    if options.workload in MIXES:
        with run.step("load"):
            processes.load(operator, run, options)
    _note_clocks(operator, run, options)
    with run.step("start-clients"):
        begin_unix_s = processes.start_clients(operator, run, options)
        names = [
            name
            for host in operator.cluster.hosts
            for name in host.process_names(host.clients_per_host)
        ]
        run.manifest["parameters"]["clients"] = vars(options)
        run.note(clients=names)
    return begin_unix_s


def _note_clocks(operator: Operator, run: Run, options: ClientOptions) -> None:
    """Read the hosts' clocks, by which histories are laid side by side."""
    if options.history != OFF:
        with run.step("read clocks"):
            run.note(clocks=[*run.manifest.get("clocks", ()), clocks.measure(operator)])


def _ask_servers(operator: Operator, run: Run) -> list[str]:
    """Note what the servers tell of themselves once they have settled all that the clients left.

    Returns a line for each thing that is lost.
    """
    with run.step("ask servers"):
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        figures = processes.server_figures(operator, run)
        servers = run.manifest["servers"]
        while True:
            unsettled = health.unsettled(figures, servers)
            lost, unsafe = _find_damage(run, figures)
            may_yet_settle = unsettled != [] and health.all_told(figures, servers) and not lost
            if not may_yet_settle or time.monotonic() > deadline_s:
                break
            time.sleep(_SETTLE_POLL_S)
            figures = processes.server_figures(operator, run)
        run.note(server_figures=figures, lost_ranges=lost, unsafe_servers=unsafe)
        run.note(unsettled=unsettled)
    return health.problems(lost, unsafe)


def _find_damage(
    run: Run, figures: dict[str, dict[str, Any]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the ranges that are lost, each with its servers, and the servers whose disk failed."""
    lost = health.lost_ranges(parse(run.manifest["roster"]), figures)
    return lost, health.unsafe_servers(figures)


def _compare_replicas(operator: Operator, run: Run) -> list[str]:
    """Note what differs between the replicas; return a line if they could not be compared."""
    try:
        with run.step("compare replicas"):
            if not health.all_served(run.manifest["server_figures"]):  # one has just come back
                ping = ["ping", "--roster", processes.ROSTER_FILE]
                processes.ask_everywhere(operator, run, ping)
            run.note(replicas=processes.verify(operator, run))
    except ClusterError as error:
        return str(error).splitlines()
    return []


def _wind_down(operator: Operator, run: Run, nemesis: Nemesis | None = None) -> list[str]:
    """Stop everything and collect, each as far as it goes; return a line for what did not.

    What a `nemesis` has not healed, is healed first.
    """
    problems = []
    steps: dict[str, Callable[[], object]] = {
        **({"heal": nemesis.abort} if nemesis else {}),
        "stop": lambda: processes.stop(operator, ["client", "server"]).require(),
        "collect": lambda: collect(operator, run).require(),
    }
    for name, step in steps.items():
        try:
            with run.step(name):
                step()
        except ClusterError as error:
            problems += str(error).splitlines()
    return problems
