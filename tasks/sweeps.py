"""sweep."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from cluster import collect as collecting
from cluster import release, sweeps
from cluster.command import LOGS, NETNS, ROOT, STATE, cluster_task
from cluster.console import Screen, show_flaws, show_sweep
from cluster.errors import ClusterError, UsageError, VerdictError
from cluster.faults import LONGEST_S, Fault, note, prove
from cluster.operator import Operator
from cluster.release import Release
from cluster.suites import SUITES, parts_of
from cluster.trials import KINDS, SweepOptions, Trial
from lab import netns
from lab.errors import ChoiceError, LabError
from lab.links import bits_per_second
from tasks import faults_of, lab_errors, perform


@cluster_task(
    takes=SweepOptions,
    repeat="how often each point is run at most",
    precision="share of its mean to which a point must be known to be run no more",
    suite=f"sweeps that belong together: {', '.join(SUITES)}",
)
def sweep(
    operator: Operator, *, options: Any, repeat: int = 5, precision: float = 0.05, suite: str = ""
) -> dict[str, Any]:
    """Run experiments with several values of options.

    An option takes one value, or several with commas between them, such as --key-size 1,2,3,4; one
    that is left out is as in run. All combinations are run, in rounds of changing order, each as
    often as --repeat says, or until --precision is reached: by the mean throughput, or at a fixed
    rate by that of the p99 latencies. Whatever has ended a sweep, typed again it goes on.
    """
    # Only what draws waits for numpy and matplotlib.
    from analysis import sweep as analysis  # noqa: PLC0415
    from analysis import sweep_report  # noqa: PLC0415

    typed = {name: text for name, text in vars(options).items() if text is not None}
    swept = parts_of(suite, typed) if suite else {"": typed}
    parts = {name: sweeps.axes_of(chosen, KINDS) for name, chosen in swept.items()}
    built = release.build(ROOT)
    plan = sweeps.plan(operator.cluster, built.name, parts, repeat, precision)
    plan |= {"suite": suite}
    points = sweeps.points_of(parts)
    for point in points:  # all of them BEFORE the first is run
        Trial.of(point.values, operator.cluster)
        _check_links(operator, point.values)
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
        links = _Links(operator, found)
        try:
            _run_all(operator, found, built, links)
        finally:
            links.restore()
        _, rows = analysis.assemble(found.folder)  # BEFORE it has ended: nobody would do it again
        found.end()
    for name, axes in parts.items():
        if name:
            operator.screen.title(name)
        mine = [row for row in rows if row["part"] == name]
        show_sweep(operator.screen, analysis.varied(axes), mine)
    report, *_ = sweep_report.write(found.folder)
    operator.screen.note(f"report: {report.relative_to(ROOT)}")
    return {**found.plan, "points": rows}


def _run_all(operator: Operator, sweep: sweeps.Sweep, built: Release, links: "_Links") -> None:
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
            links.set(point.values)
            summary = perform(
                part,
                trial.servers,
                clients,
                _show,
                logs=sweep.runs,
                built=built,
                disturb=partial(links.lose, point.values),
            )
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


_ONE_LOSS = "one_loss"
_RATES = ("link_rate", "one_link_rate")
_AROUND_A_RUN_S = 60.0  # from its loss to its clients' start
_OF_LINKS = (*_RATES, _ONE_LOSS)


def _check_links(operator: Operator, values: Mapping[str, Any]) -> None:
    """Raise UsageError for links that cannot be, or that nobody here can change."""
    chosen = [name for name in _OF_LINKS if name in values]
    if chosen and operator.cluster.name != NETNS:
        why = (
            f"--{chosen[0].replace('_', '-')}: nobody here can change the links of cluster "
            f"{operator.cluster.name}: leave it out, or fab lab.up --kind netns"
        )
        raise UsageError(why)
    if not 0 <= values.get(_ONE_LOSS, 0) < 100:  # noqa: PLR2004 - that is what a percentage is
        why = f"--one-loss {values[_ONE_LOSS]} is not a number from 0 to 99"
        raise UsageError(why)
    if values.get(_ONE_LOSS) and values.get("duration", 0) > LONGEST_S - _AROUND_A_RUN_S:
        why = f"--one-loss ends after {LONGEST_S:g} s: choose a --duration that is a minute shorter"
        raise UsageError(why)
    for name in set(_RATES) & set(chosen):
        try:
            bits_per_second(values[name])
        except ChoiceError as error:
            why = f"--{name.replace('_', '-')}: {error}"
            raise UsageError(why) from error


class _Links:
    """The links of the netns lab, which a sweep may change from run to run."""

    def __init__(self, operator: Operator, sweep: sweeps.Sweep) -> None:
        """Keep with the sweep how they were when it began, for it may be killed."""
        self._screen = operator.screen
        self._cluster = operator.cluster
        self._last = operator.cluster.hosts[-1].name
        self._sweep = sweep
        self._before: dict[str, str] = {}
        if any(name in axes for axes in sweep.plan["parts"].values() for name in _OF_LINKS):
            with lab_errors():
                lab = netns.status(STATE / NETNS) or {"hosts": {}}
            found = {host: row["rate"] for host, row in lab["hosts"].items()}
            self._before = sweep.plan.get("rates_before") or found
            sweep.note(rates_before=self._before)

    def set(self, values: Mapping[str, Any]) -> None:
        """Make the links as a point wants them; what it says nothing of is as it was before."""
        if not self._before:
            return
        self._heal()  # BEFORE the rates, of which it has its own idea
        with lab_errors():
            for host, usual in self._before.items():
                everyone = values.get("link_rate", usual)
                rate = values.get("one_link_rate", everyone) if host == self._last else everyone
                netns.rate(STATE / NETNS, host, rate)

    def lose(self, values: Mapping[str, Any]) -> None:
        """Make the last host's link lose packets, if a point wants that, until the next `set`."""
        if percent := values.get(_ONE_LOSS):
            faults = faults_of(Operator(self._cluster.limited(self._last), self._screen))
            peers = {host.name: host.address for host in self._cluster.hosts}
            where = {"percent": percent, "ways": ["in", "out"], "peers": peers}
            fault = Fault("loss", f"loss of {percent} %", LONGEST_S, where)
            faults.begin(fault).require()
            note(LOGS, self._cluster.name, [self._last], fault.text, fault.for_s)

    def restore(self) -> None:
        """Leave them as they were, and say where that did not work."""
        if not self._before:
            return
        left = 0
        try:
            self._heal()
        except ClusterError as error:
            left += 1
            self._screen.warn(str(error))
        for host, rate in self._before.items():
            try:
                netns.rate(STATE / NETNS, host, rate)
            except LabError as error:
                left += 1
                self._screen.warn(f"{host}: its link does not have its {rate} again: {error}")
        if not left:
            self._sweep.note(rates_before=None)

    def _heal(self) -> None:
        prove(faults_of(Operator(self._cluster.limited(self._last), self._screen)).heal())
        note(LOGS, self._cluster.name, [self._last], None, 0.0)
