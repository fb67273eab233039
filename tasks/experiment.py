"""run, reproduce, demo."""

import dataclasses
from typing import Any

from cluster import fault_presets, presets, release, runs, schedule
from cluster.command import LAB, LOGS, ROOT, STATE, cluster_task, load_cluster, task
from cluster.console import Screen, show_compared, show_comparison, show_flaws, show_summary
from cluster.errors import ClusterError
from cluster.operator import Operator, close_connections
from cluster.options import ClientOptions, ServerOptions
from cluster.release import Release
from cluster.roster import roster
from lab import loopback
from tasks import BUNDLE, bring_up, nemesis_for, nemesis_of, perform, scene_of

_DEMO_S = 5.0
_DEMO = [("classic", 1), ("fast", 1), ("fast", 32)]  # profile and window of each run


@cluster_task(
    takes=ClientOptions,
    workers="threads of each server",
    durable="servers keep on disk whatever they promise, until fab clean",
    servers="only so many of the inventory's servers (default: all)",
    clients="only so many of the inventory's clients (default: all)",
    preset=f"how the original was debugged: {presets.NAMES}",
    faults=f"what goes wrong on purpose meanwhile: {fault_presets.NAMES}, or a file of deeds",
)
def run(  # noqa: PLR0913 - each is an option
    operator: Operator,
    *,
    options: ClientOptions,
    workers: int = 1,
    durable: bool = False,
    servers: int = 0,
    clients: int = 0,
    preset: str = "",
    faults: str = "",
) -> dict[str, Any]:
    """Run a whole experiment, from deploy to numbers."""
    counts = {"servers": servers, "clients": clients, "workers": workers}
    if preset:
        options, counts = presets.applied(preset, options, counts)
    operator.cluster = operator.cluster.sized(counts["servers"], counts["clients"])
    options = options.checked(roster(operator.cluster))
    chosen = ServerOptions(counts["workers"], options.trace, durable).checked()
    nemesis = nemesis_of(operator, faults, options, durable=durable) if faults else None
    return perform(operator, chosen, options, _show_run, nemesis=nemesis)


@cluster_task(run="the run to be repeated: its folder in logs/")
def reproduce(operator: Operator, run: str) -> dict[str, Any]:
    """Repeat a run with its release, options and seed, and compare.

    Faults that were scheduled are made again, those made by hand are not.
    """
    from analysis import compare as comparing  # noqa: PLC0415 - numpy would make every fab wait

    found = runs.load(LOGS, run, operator.cluster)
    built = _release_of(found)
    parameters, manifest = found.manifest["parameters"], found.manifest
    try:
        options = ClientOptions(**parameters["clients"])
        servers = ServerOptions(**parameters["servers"]).checked()
    except (KeyError, TypeError) as error:
        why = f"run {found.name} does not say with which options it was run: {error}"
        raise ClusterError(why) from error
    sizes = len(manifest["servers"]), len(manifest["clients"])
    operator.cluster = operator.cluster.limited(",".join(manifest["hosts"])).sized(*sizes)
    for fault in manifest.get("faults", []):
        if not fault.get("scheduled"):
            operator.screen.warn(f"{fault['host']}: not made again: {fault['text']}")
    checked = options.checked(roster(operator.cluster))
    nemesis = None
    if "schedule" in manifest:
        scene = scene_of(operator, durable=servers.durable)
        nemesis = nemesis_for(operator, schedule.recorded(manifest["schedule"]), scene)
    if operator.dry_run:
        return perform(operator, servers, checked, _show_run, built=built, nemesis=nemesis)
    before = comparing.read(found.folder)  # BEFORE the hosts are troubled
    again = perform(operator, servers, checked, _show_run, built=built, nemesis=nemesis)
    compared = comparing.compare([before], [comparing.read(LOGS / again["run"])])
    show_compared(operator.screen, compared)
    return compared


def _release_of(run: runs.Run) -> Release:
    """Return what the hosts ran: as kept in the run's folder, else this checkout if it is that."""
    wanted = run.manifest["release"]
    kept = run.folder / BUNDLE
    found = release.load(kept) if kept.exists() else release.build(ROOT)
    if found.name != wanted:
        where = f"{kept} holds" if kept.exists() else "it was not kept, and this checkout is"
        commit = (run.manifest["git"] or {}).get("commit", "unknown")
        why = f"run {run.name} ran release {wanted}; {where} {found.name} (its commit: {commit})"
        raise ClusterError(why)
    return found


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
