"""Measuring links: who sends to whom, and whose link a rate is of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster import links
from cluster.errors import HostError, HostsFailedError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.remote import Call


class Wires:
    """Stands for an Operator; each host's link has a rate inward and one outward."""

    def __init__(self, cluster: Cluster, rates: dict[str, tuple[int, int]]) -> None:
        self.cluster = cluster
        self.rates = rates
        self.broken: str | None = None
        self.tokens: list[str] = []

    def each(
        self, step: str, call: Callable[[Host], Call], hosts: tuple[Host, ...], **_: Any
    ) -> Results:
        results = Results(step)
        calls = {host.name: call(host).arguments for host in hosts}
        by_end = {(host.address, host.server_port): host.name for host in self.cluster.hosts}
        senders = {by_end[tuple(asked["peer"])]: name for name, asked in calls.items()}
        self.tokens.append(*{asked["token"] for asked in calls.values()})
        for name, asked in calls.items():
            assert by_end[tuple(asked["listen"])] == name
            rate = min(self.rates[name][0], self.rates[senders[name]][1])
            answer = {"in_bits_per_s": rate, "overhead_bytes": 90}
            results.values[name] = answer
        if self.broken:
            results.values.pop(self.broken)
            results.failures[self.broken] = HostError("nothing came")
        return results


def wires(cluster: Cluster, **slow: tuple[int, int]) -> Any:
    return Wires(cluster, {host.name: slow.get(host.name, (100, 100)) for host in cluster.hosts})


def test_a_slow_link_does_not_make_those_beside_it_slow(
    make_cluster: Callable[..., Cluster],
) -> None:
    found = links.measure(wires(make_cluster(5), pi2=(10, 30)))
    rates = {name: (row["in_bits_per_s"], row["out_bits_per_s"]) for name, row in found.items()}
    assert rates == {**dict.fromkeys(("pi1", "pi3", "pi4", "pi5"), (100, 100)), "pi2": (10, 30)}
    assert all(row["overhead_bytes"] == 90 for row in found.values())


def test_two_hosts_measure_what_is_between_them(make_cluster: Callable[..., Cluster]) -> None:
    operator = wires(make_cluster(2), pi1=(100, 20))
    found = links.measure(operator)
    assert found["pi2"]["in_bits_per_s"] == found["pi1"]["out_bits_per_s"] == 20
    assert found["pi1"]["in_bits_per_s"] == found["pi2"]["out_bits_per_s"] == 100
    assert len(operator.tokens) == 1


def test_every_round_has_a_token_of_its_own(make_cluster: Callable[..., Cluster]) -> None:
    operator = wires(make_cluster(3))
    links.measure(operator)
    assert len(set(operator.tokens)) == len(operator.tokens) == 2
    assert all(len(token) >= 32 for token in operator.tokens)


def test_one_host_and_hosts_on_loopback_have_no_links(make_cluster: Callable[..., Cluster]) -> None:
    assert links.measure(wires(make_cluster(1))) == {}
    three = make_cluster(3)
    hosts = tuple(replace(host, address=f"127.0.0.{host.name[-1]}") for host in three.hosts)
    assert links.measure(wires(replace(three, hosts=hosts))) == {}


def test_a_host_that_could_not_measure_is_named(make_cluster: Callable[..., Cluster]) -> None:
    operator = wires(make_cluster(3))
    operator.broken = "pi2"
    with pytest.raises(HostsFailedError, match=r"pi2: .*nothing came"):
        links.measure(operator)


def test_two_slow_links_do_not_make_others_slow_either(
    make_cluster: Callable[..., Cluster],
) -> None:
    operator = wires(make_cluster(5), pi4=(10, 10), pi5=(10, 10))
    found = links.measure(operator)
    fast = [
        (found[name]["in_bits_per_s"], found[name]["out_bits_per_s"]) for name in ("pi1", "pi3")
    ]
    assert fast == [(100, 100)] * 2
    assert len(operator.tokens) == 4  # of equal links two rounds are enough


def test_only_hosts_that_take_part_are_measured(make_cluster: Callable[..., Cluster]) -> None:
    part = make_cluster(5).sized(servers=2, clients=3)
    assert set(links.measure(wires(part, pi5=(1, 1)))) == {"pi1", "pi2", "pi3"}
