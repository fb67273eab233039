"""What a user types; each task reads options, calls the libraries, and prints."""

from cluster.command import LAB, STATE
from cluster.errors import ClusterError
from lab import loopback
from lab.errors import LabError


def bring_up(ports: dict[str, int]) -> bool:
    """Bring the loopback lab up; False if it was up already."""
    try:
        return loopback.up(STATE / LAB, ports)
    except LabError as error:
        raise ClusterError(str(error)) from error
