"""run, demo."""

from typing import Any

from analysis import summary as analysis
from cluster import experiment, release, runs
from cluster.command import LAB, LOGS, ROOT, STATE, cluster_task, load_cluster, task
from cluster.console import Screen, show_summary
from cluster.errors import ClusterError, VerdictError
from cluster.operator import Operator, close_connections
from cluster.options import ClientOptions
from cluster.roster import roster
from lab import loopback
from rdht.errors import ConfigurationError
from tasks import bring_up


@cluster_task(takes=ClientOptions, workers="threads of each server")
def run(operator: Operator, *, options: ClientOptions, workers: int = 8) -> dict[str, Any]:
    """Run a whole experiment, from deploy to numbers."""
    return _experiment(operator, workers, options)


@task()
def demo(screen: Screen) -> dict[str, Any]:
    """Run a whole experiment on this machine alone."""
    cluster = load_cluster(LAB)
    ports = {host.name: host.ssh_port for host in cluster.hosts}
    made = bring_up(ports)
    screen.title(
        f"cluster lab · {len(ports)} hosts on 127.0.0.1, ssh ports {min(ports.values())} …"
    )
    try:
        return _experiment(Operator(cluster, screen), 8, ClientOptions())
    finally:
        close_connections()
        if made:
            loopback.down(STATE / LAB)
            screen.note("The five hosts are down again.")


def _experiment(operator: Operator, workers: int, options: ClientOptions) -> dict[str, Any]:
    options = options.checked(roster(operator.cluster))
    built = release.build(ROOT)
    run = runs.begin(LOGS, operator.cluster, built.name, dry_run=operator.dry_run)
    operator.screen.note(f"run {run.name} · release {built.name} · seed {options.seed}")
    problems = experiment.execute(operator, run, built, workers=workers, options=options)
    if operator.dry_run:
        return {"run": run.name}
    try:
        summary, rows = analysis.assemble(run.folder)
    except ConfigurationError as error:
        raise ClusterError("\n".join([*problems, str(error)])) from error
    show_summary(operator.screen, summary, rows)
    operator.screen.note(f"results: {run.folder.relative_to(ROOT)} (also logs/latest)")
    if problems or not analysis.is_complete(summary):
        raise ClusterError("\n".join([*problems, "The run is not complete."]))
    if differing := summary["replicas"]["differing"]:
        why = f"{len(differing)} keys differ between their replicas, such as {differing[0]}"
        raise VerdictError(why)
    return summary
