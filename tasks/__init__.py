"""What a user types; each task reads options, calls the libraries, and prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.command import LAB, NETNS, STATE
from cluster.errors import ClusterError, HostError
from cluster.faults import Faults
from cluster.operator import Operator
from lab import faults as lab_faults
from lab import loopback
from lab.errors import LabError


def bring_up(ports: dict[str, int]) -> bool:
    """Bring the loopback lab up; False if it was up already."""
    try:
        return loopback.up(STATE / LAB, ports)
    except LabError as error:
        raise ClusterError(str(error)) from error


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
def _host_errors() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        raise HostError(str(error)) from error
