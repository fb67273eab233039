"""What is wrong with hosts that are not fit, a line each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.fanout import Results
from cluster.inventory import Cluster
from cluster.preflight import links, preflight

FIT: dict[str, Any] = {
    "ports": {"10001": "free"},
    "serves": False,
    "reached": {},
    "secret": None,
    "current": "0123456789ab",
    "disk_free_bytes": 8_000_000_000,
    "clock_offset_s": 0.001,
    "throttled": "0x0",
    "network": {"eth0": {"speed_mbit": "100", "duplex": "full"}},
}


class Hosts:
    """Stands for an Operator whose hosts tell what they were given."""

    dry_run = False

    def __init__(self, cluster: Cluster, **odd: Any) -> None:
        self.cluster = cluster
        first, *others = (host.name for host in cluster.hosts)
        self._facts = {first: {**FIT, **odd}, **{name: dict(FIT) for name in others}}

    def each(self, step: str, _call: object, **_: object) -> Results:
        return Results(step, self._facts)


@pytest.fixture
def troubles(make_cluster: Callable[[int], Cluster], tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that tells the troubles of three hosts, of which the first is odd."""

    def find(**odd: Any) -> list[str]:
        operator: Any = Hosts(make_cluster(3), **odd)
        return preflight(operator, tmp_path)[1]

    return find


def test_fit_hosts_have_no_trouble(troubles: Callable[..., list[str]]) -> None:
    assert troubles() == []


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ({"ports": {"10001": "Address already in use"}}, "port 10001: Address already in use"),
        ({"reached": {"pi2": False}}, "does not reach pi2"),
        ({"disk_free_bytes": 150_000_000}, "only 150 MB"),
        ({"clock_offset_s": -3.0}, "clock is -3.0 s off"),
        ({"throttled": "0x50005"}, "throttled (0x50005)"),
        ({"network": {"eth0": {"speed_mbit": "10", "duplex": "half"}}}, "eth0 runs half duplex"),
    ],
)
def test_each_trouble_is_a_line_that_names_the_host(
    troubles: Callable[..., list[str]], odd: dict[str, Any], what: str
) -> None:
    (line,) = troubles(**odd)
    assert line.startswith("pi1: ")
    assert what in line


@pytest.mark.parametrize("release", ["ba9876543210", None])
def test_a_host_with_another_release_is_told(
    troubles: Callable[..., list[str]], release: str | None
) -> None:
    (line,) = troubles(current=release)
    assert f"pi1 {release or 'none'}, pi2 0123456789ab" in line


def test_a_port_that_our_server_holds_is_no_trouble(troubles: Callable[..., list[str]]) -> None:
    assert troubles(ports={"10001": "Address already in use"}, serves=True) == []


def test_a_card_without_a_link_has_no_speed() -> None:
    no_link: dict[str, str | None] = {"speed_mbit": "-1", "duplex": "unknown"}
    assert links({"wlan0": no_link, "eth1": {"speed_mbit": None, "duplex": None}}) is None
    assert links({"wlan0": no_link, **FIT["network"]}) == "eth0 100 full"
