"""What a user types; each task reads options, calls the libraries, and prints."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.history import VIOLATED
from analysis.summary import assemble, is_complete
from cluster.command import LAB, LOGS, NETNS, ROOT, STATE, desk
from cluster.console import Screen
from cluster.errors import ClusterError, HostError, UsageError, VerdictError
from cluster.experiment import execute
from cluster.faults import Faults, noted
from cluster.operator import Operator
from cluster.options import ClientOptions, ServerOptions
from cluster.release import Release, build
from cluster.runs import begin
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
    began_unix_s = time.time()
    problems = execute(
        operator,
        run,
        built,
        desk=desk(operator.cluster),
        servers=servers,
        options=options,
        disturb=disturb,
    )
    if operator.dry_run:
        return {"run": run.name}
    if on_purpose := noted(LOGS, operator.cluster.name, began_unix_s):
        run.note(faults=on_purpose)
        for fault in on_purpose:
            lasted_s = fault["until_unix_s"] - fault["from_unix_s"]
            what = f"{fault['text']} for {lasted_s:.1f} s" if lasted_s else fault["text"]
            operator.screen.warn(f"{fault['host']}: on purpose in this run: {what}")
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
