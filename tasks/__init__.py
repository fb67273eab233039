"""What a user types; each task reads options, calls the libraries, and prints."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.history import VIOLATED
from analysis.summary import assemble, is_complete
from cluster import deeds_file, fault_presets, schedule
from cluster.command import LAB, LOGS, NETNS, ROOT, STATE, desk
from cluster.console import Screen
from cluster.errors import ClusterError, HostError, UsageError, VerdictError
from cluster.experiment import execute
from cluster.faults import Faults, noted
from cluster.nemesis import Nemesis
from cluster.operator import Operator
from cluster.options import ClientOptions, ServerOptions
from cluster.release import Release, build
from cluster.runs import Run, begin
from cluster.schedule import Scene, Schedule
from lab import faults as lab_faults
from lab import loopback
from lab.errors import ChoiceError, LabError
from rdht.errors import ConfigurationError


def bring_up(ports: dict[str, int]) -> bool:
    """Bring the loopback lab up; False if it was up already."""
    with lab_errors():
        return loopback.up(STATE / LAB, ports)


def faults_of(operator: Operator) -> Faults:
    """Return the faults of a cluster; those of the netns lab's network are made at its switch."""
    return Faults(operator, LabSwitch(STATE / NETNS) if operator.cluster.name == NETNS else None)


_EVERYWHERE = frozenset({schedule.KILL, schedule.PAUSE})
_OF_LINKS = frozenset({schedule.CUT, schedule.SLOW, schedule.LOSS})
_KINDS = {LAB: _EVERYWHERE, NETNS: _EVERYWHERE | _OF_LINKS | {schedule.POWER}}
# A lab's clock is this machine's own, which nobody touches.
_KINDS_OF_HOSTS = _EVERYWHERE | _OF_LINKS | {schedule.CLOCK}


def nemesis_of(
    operator: Operator, wanted: str, options: ClientOptions, *, durable: bool
) -> Nemesis:
    """Return what makes the faults of a preset or a file in a run, and show what it will do."""
    if options.duration_s is None:
        why = "--faults are spread over --duration: leave --commands out"
        raise UsageError(why)
    scene = scene_of(operator, durable=durable)
    assert options.seed is not None  # they were checked
    made = (
        fault_presets.make(wanted, options.seed, options.duration, scene)
        if wanted in fault_presets.PRESETS
        else deeds_file.read(Path(wanted), options.duration, scene)
    )
    return nemesis_for(operator, made, scene)


def scene_of(operator: Operator, *, durable: bool) -> Scene:
    """Return what can be done to a cluster, and where."""
    kinds = _KINDS.get(operator.cluster.name, _KINDS_OF_HOSTS)
    return Scene.of(operator.cluster, durable=durable, kinds=kinds)


def nemesis_for(operator: Operator, made: Schedule, scene: Scene) -> Nemesis:
    """Return what makes the faults of a schedule, and say what it will do."""
    screen, name = operator.screen, operator.cluster.name
    screen.note(f"faults: {made.name}, {len(made.deeds)} until {made.end_s:g} s; then all is whole")
    if made.left_out:
        screen.note(f"left out, as cluster {name} can do none: {', '.join(made.left_out)}")
    if operator.dry_run:
        rows = [[deed.at_s, str(deed), deed.for_s] for deed in made.deeds]
        screen.table(["at s", "fault", "for s"], rows)
    return Nemesis(operator, faults_of(operator), scene, made, screen.note)


@dataclass(frozen=True)
class LabSwitch:
    """The switch of a netns lab, as the operator's library wants it."""

    folder: Path

    def begin(self, host: str, fault: dict[str, Any]) -> dict[str, Any]:
        """Begin a fault of a host."""
        with _host_errors():
            return lab_faults.begin(self.folder, host, fault)

    def active(self, host: str) -> list[dict[str, Any]]:
        """Return the faults of a host."""
        with _host_errors():
            return lab_faults.active(self.folder, host)

    def heal(self, host: str) -> dict[str, Any]:
        """End all faults of a host."""
        with _host_errors():
            return lab_faults.heal(self.folder, host)


@contextmanager
def lab_errors() -> Iterator[None]:
    """Let what a lab refuses or cannot do be an error of the task."""
    try:
        yield
    except ChoiceError as error:
        raise UsageError(str(error)) from error
    except LabError as error:
        raise ClusterError(str(error)) from error


@contextmanager
def _host_errors() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        raise HostError(str(error)) from error


BUNDLE = "release.tar.gz"  # in a run's folder: what the hosts ran, for fab reproduce


def perform(  # noqa: PLR0913 - what a run is made of
    operator: Operator,
    servers: ServerOptions,
    options: ClientOptions,
    show: Callable[[Screen, dict[str, Any], list[dict[str, Any]]], None],
    *,
    logs: Path = LOGS,
    built: Release | None = None,
    disturb: Callable[[], None] | None = None,
    nemesis: Nemesis | None = None,
) -> dict[str, Any]:
    """Run an experiment, of this checkout if it is of no other release; return its summary.

    Raises VerdictError if the table did not keep its promises, ClusterError for a run that is not
    complete.
    """
    built = built or build(ROOT)
    run = begin(logs, operator.cluster, built.name, dry_run=operator.dry_run)
    if not operator.dry_run:
        (run.folder / BUNDLE).write_bytes(built.bundle)
    operator.screen.note(
        f"run {run.name} · {options.profile} profile, window {options.window}"
        f" · release {built.name} · seed {options.seed}"
    )
    if nemesis:
        run.note(schedule=nemesis.schedule.to_json())
    began_unix_s = time.time()
    problems = execute(
        operator,
        run,
        built,
        desk=desk(operator.cluster),
        servers=servers,
        options=options,
        disturb=disturb,
        nemesis=nemesis,
    )
    if operator.dry_run:
        return {"run": run.name}
    _note_faults(operator, run, began_unix_s)
    try:
        summary, rows = assemble(run.folder)
    except ConfigurationError as error:
        raise ClusterError("\n".join([*problems, str(error)])) from error
    show(operator.screen, summary, rows)
    where = run.folder.relative_to(ROOT)
    refuse_violated(summary)
    if problems or not is_complete(summary):
        raise ClusterError("\n".join([*problems, f"The run is not complete: {where}"]))
    return summary


def refuse_violated(summary: dict[str, Any]) -> None:
    """Raise VerdictError if the table did not keep its promises."""
    if summary["verdict"]["verdict"] == VIOLATED:
        why = f"violated: the table did not keep its promises in run {summary['run']}"
        raise VerdictError(why, summary)


def _note_faults(operator: Operator, run: Run, since_unix_s: float) -> None:
    """Note and tell which faults were made by hand."""
    if on_purpose := noted(LOGS, operator.cluster.name, since_unix_s):
        run.note(faults=[*run.manifest.get("faults", ()), *on_purpose])
        for fault in on_purpose:
            lasted_s = fault["until_unix_s"] - fault["from_unix_s"]
            what = f"{fault['text']} for {lasted_s:.1f} s" if lasted_s else fault["text"]
            operator.screen.warn(f"{fault['host']}: on purpose in this run: {what}")
