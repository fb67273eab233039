"""A whole experiment: deploy, servers, clients, wait, compare replicas, stop, collect."""

from collections.abc import Callable

from cluster import processes
from cluster.collect import collect
from cluster.errors import ClusterError
from cluster.operator import Operator
from cluster.options import ClientOptions
from cluster.release import Release, deploy
from cluster.remote import Call
from cluster.roster import roster
from cluster.runs import Run


def execute(
    operator: Operator,
    run: Run,
    release: Release,
    *,
    workers: int,
    options: ClientOptions,
) -> list[str]:
    """Carry out all steps; return a line for each thing that went wrong on the way.

    Whatever happens, ^C too, clients and then servers are stopped and the logs are collected.
    """
    with run.step("deploy"):
        deploy(operator, release)
    if any(processes.running(operator).values()):
        operator.screen.note("Stopping what still runs, so that the servers start empty.")
        processes.stop(operator, ["client", "server"]).require()
    problems: list[str] = []
    try:
        start_servers(operator, run, workers, trace=options.trace)
        start_clients(operator, run, options)
        with run.step("wait"):
            deaths, silent = processes.wait_for_clients(operator, run, options.duration_s)
            problems += deaths
            problems += [f"{host}: not watched: {why}" for host, why in silent.items()]
        problems += _compare_replicas(operator, run)
    except BaseException:
        for problem in _wind_down(operator, run):
            operator.screen.warn(problem)
        raise
    problems += _wind_down(operator, run)
    run.note(problems=problems)
    return problems


def start_servers(operator: Operator, run: Run, workers: int, *, trace: bool) -> None:
    """Start a run's servers, and note in its manifest what they run on."""
    with run.step("facts"):
        facts = operator.each("facts", Call("facts.facts"), preview={}).require()
        hosts = {name: {**run.manifest["hosts"][name], **facts[name]} for name in facts}
        servers = roster(operator.cluster)
        names = [server.name for server in servers.servers]
        run.note(hosts=hosts, servers=names, roster=servers.to_json())
    with run.step("start-servers"):
        run.manifest["parameters"]["servers"] = {"workers": workers, "trace": trace}
        processes.start_servers(operator, run, workers, trace=trace)


def start_clients(operator: Operator, run: Run, options: ClientOptions) -> None:
    """Start a run's clients, and note in its manifest what they were given."""
    with run.step("start-clients"):
        processes.start_clients(operator, run, options)
        names = [
            name
            for host in operator.cluster.hosts
            for name in host.process_names(host.clients_per_host)
        ]
        run.manifest["parameters"]["clients"] = vars(options)
        run.note(clients=names)


def _compare_replicas(operator: Operator, run: Run) -> list[str]:
    """Note what differs between the replicas; return a line if they could not be compared."""
    try:
        with run.step("compare replicas"):
            run.note(replicas=processes.verify(operator, run))
    except ClusterError as error:
        return str(error).splitlines()
    return []


def _wind_down(operator: Operator, run: Run) -> list[str]:
    """Stop everything and collect, each as far as it goes; return a line for what did not."""
    problems = []
    steps: dict[str, Callable[[], object]] = {
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
