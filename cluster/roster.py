"""The servers of a cluster, as the roster that every process gets."""

from pathlib import Path

from cluster.errors import UsageError
from cluster.inventory import Cluster
from rdht.errors import ConfigurationError
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress

_SECRET_FILE = Path("../../secret")  # as seen from a run's folder on a host


def roster(cluster: Cluster) -> Roster:
    """Return the servers in the order of the ring: first those with number 0 of each host.

    The secret's place is that on a host, relative to a run's folder.
    """
    rows = [
        (number, index, ServerAddress(name, host.name, host.address, host.server_ports[number]))
        for index, host in enumerate(cluster.hosts)
        for number, name in enumerate(host.process_names(host.servers_per_host))
    ]
    servers = tuple(server for _, _, server in sorted(rows, key=lambda row: row[:2]))
    return Roster(servers, _SECRET_FILE)


def check_placement(servers: Roster, key_range: int) -> None:
    """Raise UsageError if the servers cannot share out that key range."""
    try:
        Ring(servers, key_range)
    except ConfigurationError as error:
        raise UsageError(str(error)) from error
