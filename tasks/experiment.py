"""run, demo."""

import dataclasses
from typing import Any

from cluster.command import LAB, STATE, cluster_task, load_cluster, task
from cluster.console import Screen, show_comparison, show_flaws, show_summary
from cluster.operator import Operator, close_connections
from cluster.options import ClientOptions, ServerOptions
from cluster.roster import roster
from lab import loopback
from tasks import bring_up, perform

_DEMO_S = 5.0
_DEMO = [("classic", 1), ("fast", 1), ("fast", 32)]  # profile and window of each run


@cluster_task(
    takes=ClientOptions,
    workers="threads of each server",
    durable="servers keep on disk whatever they promise, until fab clean",
    servers="only so many of the inventory's servers (default: all)",
    clients="only so many of the inventory's clients (default: all)",
)
def run(  # noqa: PLR0913 - each is an option
    operator: Operator,
    *,
    options: ClientOptions,
    workers: int = 8,
    durable: bool = False,
    servers: int = 0,
    clients: int = 0,
) -> dict[str, Any]:
    """Run a whole experiment, from deploy to numbers."""
    operator.cluster = operator.cluster.sized(servers, clients)
    options = options.checked(roster(operator.cluster))
    chosen = ServerOptions(workers, options.trace, durable).checked()
    return perform(operator, chosen, options, _show_run)


def _show_run(screen: Screen, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    show_summary(screen, summary, rows)
    screen.note(f"results: logs/{summary['run']} (also logs/latest); fab report draws them")


@task()
def demo(screen: Screen) -> dict[str, Any]:
    """Run three experiments on this machine alone."""
    cluster = load_cluster(LAB)
    ports = {host.name: host.ssh_port for host in cluster.hosts}
    made = bring_up(ports)
    screen.title(
        f"cluster lab · {len(ports)} hosts on 127.0.0.1, ssh ports {min(ports.values())} …"
    )
    operator = Operator(cluster, screen)
    options = ClientOptions(duration=_DEMO_S).checked(roster(cluster))  # one seed for all
    summaries = []
    try:
        for profile, window in _DEMO:
            options = dataclasses.replace(options, profile=profile, window=window)
            summaries.append(perform(operator, ServerOptions(), options, _show_flaws))
        show_comparison(screen, summaries)
    finally:
        close_connections()
        if made:
            loopback.down(STATE / LAB)
            screen.note("The five hosts are down again.")
    return {"runs": summaries}


def _show_flaws(screen: Screen, summary: dict[str, Any], _rows: list[dict[str, Any]]) -> None:
    show_flaws(screen, summary)
