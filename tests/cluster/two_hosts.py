"""Two lab hosts and the inventory that names them."""

from dataclasses import dataclass
from pathlib import Path

from cluster import inventory
from cluster.connection import Connection
from cluster.inventory import Cluster


@dataclass(frozen=True)
class Lab:
    """Two hosts that are up."""

    folder: Path
    path: Path
    ports: dict[str, int]

    def cluster(self) -> Cluster:
        return inventory.load(self.path)

    def connection(self, name: str) -> Connection:
        cluster = self.cluster()
        return Connection(cluster, next(host for host in cluster.hosts if host.name == name))
