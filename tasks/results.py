"""collect, assemble, compare, report, clean."""

from collections import Counter
from typing import Any

from analysis import summary as analysis
from cluster import collect as collecting
from cluster import health, processes, runs, sweeps
from cluster.command import LOGS, ROOT, cluster_task, task
from cluster.console import Screen, show_compared, show_summary
from cluster.errors import ClusterError, UsageError, VerdictError
from cluster.operator import Operator
from cluster.remote import Call
from tasks import refuse_violated


@cluster_task(
    run="which run (default: the latest)",
    partial="do not wait for clients that still run",
)
def collect(operator: Operator, *, run: str | None = None, partial: bool = False) -> dict[str, Any]:
    """Fetch a run's logs and results, and verify them."""
    found = runs.load(LOGS, run, operator.cluster)
    deaths: list[str] = []
    if not partial:
        deaths, _ = processes.wait_for_clients(operator, found, None)
    sizes = collecting.collect(operator, found)
    rows = [[host, size] for host, size in sizes.values.items()]
    operator.screen.table(["host", "bytes, verified"], rows)
    operator.screen.note(f"collected in {found.folder.relative_to(ROOT)}")
    sizes.require("The files of the other hosts are here.")
    if deaths:
        raise ClusterError("\n".join(deaths))
    return {"run": found.name, "folder": str(found.folder), "size_bytes": sizes.values}


@task(run="which run (default: the latest)")
def assemble(screen: Screen, *, run: str | None = None) -> dict[str, Any]:
    """Turn collected results into numbers and a table."""
    found = runs.load(LOGS, run)
    if missing := found.manifest.get("not_collected"):
        screen.warn(f"not collected, so not in the figures: {', '.join(missing)}")
    summary, rows = analysis.assemble(found.folder)
    show_summary(screen, summary, rows)
    screen.note(f"results: {found.folder.relative_to(ROOT)}")
    refuse_violated(summary)
    if not analysis.is_complete(summary):
        lost = health.problems(summary["lost_ranges"], summary["unsafe_servers"])
        raise ClusterError("\n".join([*lost, "the run is not complete"]))
    return summary


@task(
    a="a run that was collected, or its repeats, comma-separated",
    b="the run that is compared with it, or its repeats",
    force="compare also what is incomplete, or differs in more than one thing",
)
def compare(screen: Screen, a: str, b: str, *, force: bool = False) -> dict[str, Any]:
    """Tell whether runs B are faster or slower than runs A.

    The exit code is 3 if they are slower, and 0 if they are faster or nothing can be told.
    """
    from analysis import compare as comparing  # noqa: PLC0415 - numpy would make every fab wait

    sides = [[comparing.read(run.folder) for run in _named(side)] for side in (a, b)]
    counted = Counter(run.name for side in sides for run in side)
    if twice := [name for name, count in counted.items() if count > 1]:
        why = f"run {twice[0]} is named twice: a repeat is another run (fab run)"
        raise UsageError(why)
    if not force and (objections := comparing.objections(*sides)):
        raise UsageError("\n".join([*objections, "To compare them all the same: --force"]))
    compared = comparing.compare(*sides)
    show_compared(screen, compared)
    if compared["verdict"] == comparing.SLOWER:
        raise VerdictError(comparing.SLOWER, compared)
    return compared


def _named(side: str) -> list[runs.Run]:
    names = side.split(",")
    if "" in names:
        why = f"{side!r} is no list of runs: write their names with a comma between each two"
        raise UsageError(why)
    return [runs.load(LOGS, name) for name in names]


@task(
    run="which run or sweep (default: the latest run)", csv="write also the data behind each chart"
)
def report(screen: Screen, *, run: str | None = None, csv: bool = False) -> dict[str, Any]:
    """Draw a run: one HTML file, and its charts for a paper."""
    # Only this task waits for matplotlib.
    from analysis import report as drawing  # noqa: PLC0415
    from analysis import sweep_report as sweep_drawing  # noqa: PLC0415

    if run and sweeps.read(LOGS / run):
        name, files = run, sweep_drawing.write(LOGS / run, tables=csv)
    else:
        found = runs.load(LOGS, run)
        name, files = found.name, drawing.write(found.folder, tables=csv)
        if missing := found.manifest.get("not_collected"):
            screen.warn(f"not collected, so not in the charts: {', '.join(missing)}")
    screen.note(f"report: {files[0].relative_to(ROOT)}")
    screen.note(f"charts: {files[0].parent.relative_to(ROOT)}/plots")
    return {"run": name, "files": [str(path) for path in files]}


@cluster_task(run="only this run", force="remove also what is not collected")
def clean(operator: Operator, *, run: str | None = None, force: bool = False) -> dict[str, Any]:
    """Remove collected runs from the hosts."""
    listed = operator.each(
        "list runs", Call("files.runs", timeout_s=120.0), preview={"runs": []}
    ).require()
    busy = {row["run"] for rows in processes.running(operator).values() for row in rows}
    chosen: dict[str, list[str]] = {}
    kept: list[list[Any]] = []
    for host, answer in listed.items():
        for row in answer["runs"]:
            name = row["run"]
            if run in (None, name):
                why = _why_kept(host, row, busy=name in busy, force=force)
                if why:
                    kept.append([host, name, row["size_bytes"], why])
                else:
                    chosen.setdefault(host, []).append(name)
    freed = collecting.purge(operator, chosen)
    removed = sum(map(len, chosen.values()))
    operator.screen.note(f"removed {removed} run folders, {freed:,} bytes")
    if kept:
        operator.screen.table(["host", "kept", "bytes", "because"], kept)
    return {"removed": chosen, "freed_bytes": freed, "kept": kept}


def _why_kept(host: str, row: dict[str, Any], *, busy: bool, force: bool) -> str | None:
    name = row["run"]
    if busy:
        return "its processes run: fab stop"
    try:
        collected = collecting.is_complete(runs.load(LOGS, name), host, row["files"])
    except UsageError:
        collected = False
    return None if collected or force else f"not collected: fab collect --run {name}, or --force"
