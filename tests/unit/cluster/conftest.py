"""What the tests of the operator's library share: small clusters, and hosts in temporary homes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.inventory import Cluster, Host

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tmp_path: Path) -> MakeCluster:
    """Return a function that makes a cluster of hosts pi1, pi2, … with these fields."""

    def make(count: int = 3, **fields: object) -> Cluster:
        hosts = tuple(
            Host(f"pi{number}", f"10.0.0.{number}", **fields)  # type: ignore[arg-type]
            for number in range(1, count + 1)
        )
        path = tmp_path / "shelf.yaml"
        return Cluster("shelf", path, "0123456789ab", tmp_path / "shelf.known_hosts", hosts, {})

    return make
