"""What the tests of the operator's library share: small clusters, and hosts in temporary homes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import release
from cluster.inventory import Cluster, Host
from cluster.release import Release
from tests.unit.cluster.shelf import SOURCES, Shelf

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


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a source tree; each gets its own folder."""
    made = iter(range(100))

    def write(sources: Mapping[str, str] = SOURCES, *, reverse: bool = False) -> Path:
        root = tmp_path / f"tree{next(made)}"
        for name in sorted(sources, reverse=reverse):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sources[name], encoding="utf-8")
        return root

    return write


@pytest.fixture
def shelf(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Any:
    return Shelf(make_cluster(3), tmp_path / "homes")


@pytest.fixture
def built(tree: Callable[..., Path]) -> list[Release]:
    """Three releases that differ."""
    return [
        release.build(tree({**SOURCES, "rdht/ring.py": f"RING = {number}\n"}))
        for number in range(3)
    ]
