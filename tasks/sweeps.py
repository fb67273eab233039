"""sweep."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cluster import collect as collecting
from cluster import release, sweeps
from cluster.command import LOGS, NETNS, ROOT, STATE, cluster_task
from cluster.console import Screen, show_flaws, show_sweep
from cluster.errors import ClusterError, UsageError, VerdictError
from cluster.inventory import Cluster
from cluster.operator import Operator
from cluster.release import Release
from cluster.trials import KINDS, SweepOptions, Trial
from lab import netns
from lab.errors import ChoiceError, LabError
from lab.links import bits_per_second
from tasks import perform


@cluster_task(
    takes=SweepOptions,
    repeat="how often each point is run at most",
    precision="share of its mean to which a point must be known to be run no more",
)
def sweep(
    operator: Operator, *, options: Any, repeat: int = 5, precision: float = 0.05
) -> dict[str, Any]:
    """Run experiments with several values of options.

    An option takes one value, or several with commas between them, such as --key-size 1,2,3,4; one
    that is left out is as in run. All combinations are run, in rounds of changing order, each as
    often as --repeat says, or until --precision is reached: by the mean throughput, or at a fixed
    rate by that of the p99 latencies. Whatever has ended a sweep, typed again it goes on.
    """
    from analysis import sweep as analysis  # noqa: PLC0415 - numpy would make every fab wait

    typed = {name: text for name, text in vars(options).items() if text is not None}
    axes = sweeps.axes_of(typed, KINDS)
    built = release.build(ROOT)
    plan = sweeps.plan(operator.cluster, built.name, axes, repeat, precision)
    points = sweeps.points_of(axes)
    for point in points:  # all of them BEFORE the first is run
        Trial.of(point.values, operator.cluster)
    _check_links(operator, axes.get("link_rate", []))
    if operator.dry_run:
        for point in points:
            operator.screen.note(f"would run up to {repeat} times: {sweeps.typed(point.values)}")
        return {"points": [point.values for point in points]}
    with sweeps.alone(LOGS, operator.cluster):
        found = sweeps.unfinished(LOGS, plan)
        if found:
            operator.screen.note(f"going on with {found.name}, of which {found.done} runs are done")
        else:
            found = sweeps.begin(LOGS, operator.cluster, plan, points)
            most = f"{len(points)} points, at most {found.left} runs"
            again = "typed again, it goes on where it was"
            operator.screen.note(f"sweep {found.name}: {most}; {again}")
        with _rates_kept(operator.screen, found):
            _run_all(operator, found, built)
        _, rows = analysis.assemble(found.folder)  # BEFORE it has ended: nobody would do it again
        found.end()
    show_sweep(operator.screen, analysis.varied(found.plan), rows)
    operator.screen.note(f"results: {found.folder.relative_to(ROOT)}")
    return {**found.plan, "points": rows}


def _run_all(operator: Operator, sweep: sweeps.Sweep, built: Release) -> None:
    """Run point after point; two failures in a row are the end for now."""
    from analysis import sweep as analysis  # noqa: PLC0415 - as above

    failures, before, began_s = 0, sweep.done, time.monotonic()
    while point := sweep.next():
        said = sweep.said(point)
        operator.screen.title(f"[{sweep.done + 1} of at most {sweep.done + sweep.left}] {said}")
        trial = Trial.of(point.values, operator.cluster)
        part = Operator(trial.cluster, operator.screen)
        clients = replace(trial.clients, seed=sweep.seed(point))
        try:
            if trial.link_rate:
                _set_links(part.cluster, trial.link_rate)
            summary = perform(part, trial.servers, clients, _show, logs=sweep.runs, built=built)
        except ClusterError as error:
            failures += 1
            sweep.fail(f"{said}: {error}")
            if isinstance(error, VerdictError):
                raise
            if failures > 1:
                more = f"two runs in a row came to nothing; typed again, {sweep.name} goes on"
                why = f"{error}\n{more}"
                raise ClusterError(why) from error
            operator.screen.warn(f"{error}\nThis run does not count; its point is run again.")
            continue
        failures = 0
        figure = analysis.figure(summary)
        is_sure = analysis.is_sure([*point.figures, figure], sweep.plan["precision"])
        sweep.add(point, summary["run"], figure, is_sure=is_sure)
        _purge(part, summary["run"])
        each_s = (time.monotonic() - began_s) / (sweep.done - before)
        left = f"at most about {each_s * sweep.left / 60:.0f} minutes left"
        operator.screen.note(f"{summary['throughput_per_s']:,.0f} commands/s · {left}")


def _purge(operator: Operator, run: str) -> None:
    """Remove a run that counts from the hosts, so that a long sweep does not fill their disks."""
    try:
        collecting.purge(operator, {host.name: [run] for host in operator.cluster.hosts})
    except ClusterError as error:
        operator.screen.warn(f"{error}\nThe run counts; fab clean removes it from there.")


def _show(screen: Screen, summary: dict[str, Any], _rows: list[dict[str, Any]]) -> None:
    show_flaws(screen, summary)


def _check_links(operator: Operator, rates: list[Any]) -> None:
    if rates and operator.cluster.name != NETNS:
        why = (
            f"--link-rate: nobody here can change the links of cluster {operator.cluster.name}: "
            "leave it out, or fab lab.up --kind netns"
        )
        raise UsageError(why)
    try:
        for rate in rates:
            bits_per_second(rate)
    except ChoiceError as error:
        why = f"--link-rate: {error}"
        raise UsageError(why) from error


@contextmanager
def _rates_kept(screen: Screen, sweep: sweeps.Sweep) -> Iterator[None]:
    """Leave the links as they were when the sweep began, even if it was killed since."""
    if "link_rate" not in sweep.plan["axes"]:
        yield
        return
    with _lab_errors():
        lab = netns.status(STATE / NETNS) or {"hosts": {}}
    found = {host: row["rate"] for host, row in lab["hosts"].items()}
    before = sweep.plan.get("rates_before") or found
    sweep.note(rates_before=before)
    try:
        yield
    finally:
        if _are_restored(screen, before):
            sweep.note(rates_before=None)


def _are_restored(screen: Screen, rates: dict[str, str]) -> bool:
    """Give each host's link its rate, and say where that did not work."""
    left = 0
    for host, rate in rates.items():
        try:
            netns.rate(STATE / NETNS, host, rate)
        except LabError as error:
            left += 1
            screen.warn(f"{host}: its link does not have its {rate} again: {error}")
    return not left


def _set_links(cluster: Cluster, rate: str) -> None:
    with _lab_errors():
        for host in cluster.hosts:
            netns.rate(STATE / NETNS, host.name, rate)


@contextmanager
def _lab_errors() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        raise ClusterError(str(error)) from error
