"""run, demo."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from analysis import summary as analysis
from cluster import experiment, faults, release, runs
from cluster.command import LAB, LOGS, ROOT, STATE, cluster_task, desk, load_cluster, task
from cluster.console import Screen, show_comparison, show_flaws, show_summary
from cluster.errors import ClusterError, VerdictError
from cluster.operator import Operator, close_connections
from cluster.options import ClientOptions, ServerOptions
from cluster.roster import roster
from lab import loopback
from rdht.errors import ConfigurationError
from tasks import bring_up

_DEMO_S = 5.0
_DEMO = [("classic", 1), ("fast", 1), ("fast", 32)]  # profile and window of each run


@cluster_task(
    takes=ClientOptions,
    workers="threads of each server",
    durable="servers keep on disk whatever they promise, until fab clean",
)
def run(
    operator: Operator, *, options: ClientOptions, workers: int = 8, durable: bool = False
) -> dict[str, Any]:
    """Run a whole experiment, from deploy to numbers."""
    servers = ServerOptions(workers, options.trace, durable).checked()
    return _experiment(operator, servers, options, _show_run)


def _show_run(screen: Screen, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    show_summary(screen, summary, rows)
    screen.note(f"results: logs/{summary['run']} (also logs/latest)")


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
            summaries.append(_experiment(operator, ServerOptions(), options, _show_flaws))
        show_comparison(screen, summaries)
    finally:
        close_connections()
        if made:
            loopback.down(STATE / LAB)
            screen.note("The five hosts are down again.")
    return {"runs": summaries}


def _show_flaws(screen: Screen, summary: dict[str, Any], _rows: list[dict[str, Any]]) -> None:
    show_flaws(screen, summary)


def _experiment(
    operator: Operator,
    servers: ServerOptions,
    options: ClientOptions,
    show: Callable[[Screen, dict[str, Any], list[dict[str, Any]]], None],
) -> dict[str, Any]:
    options = options.checked(roster(operator.cluster))
    built = release.build(ROOT)
    run = runs.begin(LOGS, operator.cluster, built.name, dry_run=operator.dry_run)
    operator.screen.note(
        f"run {run.name} · {options.profile} profile, window {options.window}"
        f" · release {built.name} · seed {options.seed}"
    )
    began_unix_s = time.time()
    problems = experiment.execute(
        operator, run, built, desk=desk(operator.cluster), servers=servers, options=options
    )
    if operator.dry_run:
        return {"run": run.name}
    if on_purpose := faults.noted(LOGS, operator.cluster.name, began_unix_s):
        run.note(faults=on_purpose)
        for fault in on_purpose:
            lasted_s = fault["until_unix_s"] - fault["from_unix_s"]
            what = f"{fault['text']} for {lasted_s:.1f} s" if lasted_s else fault["text"]
            operator.screen.warn(f"{fault['host']}: on purpose in this run: {what}")
    try:
        summary, rows = analysis.assemble(run.folder)
    except ConfigurationError as error:
        raise ClusterError("\n".join([*problems, str(error)])) from error
    show(operator.screen, summary, rows)
    where = run.folder.relative_to(ROOT)
    if problems or not analysis.is_complete(summary):
        raise ClusterError("\n".join([*problems, f"The run is not complete: {where}"]))
    if differing := summary["replicas"]["differing"]:
        why = f"{len(differing)} keys differ between their replicas, such as {differing[0]}"
        raise VerdictError(why)
    return summary
