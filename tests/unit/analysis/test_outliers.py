"""Who stands out: known data with one culprit, which must be named for the right thing."""

import random
from typing import Any

import pytest

from analysis.outliers import outliers, response_us
from rdht.messages import Status
from rdht.records import ClientRecord, ThreadRecord
from rdht.traffic import Traffic

HOSTS = ["pi1", "pi2", "pi3", "pi4", "pi5"]
HOST_OF = {f"s-{host}": host for host in HOSTS}


class Cluster:
    """Figures of five hosts, all alike to within a third."""

    def __init__(self) -> None:
        chance = random.Random(5)
        self.response_us = {
            host: {server: chance.uniform(900, 1200) for server in HOST_OF} for host in HOSTS
        }
        self.rows: dict[str, dict[str, Any]] = {
            host: {"host": host, "threads": 8, "throughput_per_s": chance.uniform(900, 1200)}
            for host in HOSTS
        }
        self.hosts: dict[str, dict[str, float | None]] = {
            host: {"sent_again": 0.001} for host in HOSTS
        }

    def found(self) -> list[str]:
        return outliers(self.response_us, HOST_OF, self.rows.values(), self.hosts)

    def slow_server(self, host: str, factor: float) -> None:
        for row in self.response_us.values():
            row[f"s-{host}"] *= factor

    def slow_clients(self, host: str, factor: float) -> None:
        self.rows[host]["throughput_per_s"] /= factor
        for server in HOST_OF:
            self.response_us[host][server] *= factor


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_among_equals_nobody_stands_out(cluster: Cluster) -> None:
    assert cluster.found() == []


def test_a_slow_server_is_told_from_the_clients_beside_it(cluster: Cluster) -> None:
    cluster.slow_server("pi3", 4)
    (line,) = cluster.found()
    assert line.startswith("pi3 stands out, its server: server s-pi3 answers within 4.")


def test_slow_clients_are_told_from_the_server_beside_them(cluster: Cluster) -> None:
    cluster.slow_clients("pi2", 4)
    (line,) = cluster.found()
    assert line.startswith("pi2 stands out, its clients: ")
    assert "its clients complete 2" in line


def test_a_host_whose_server_and_clients_are_slow_is_slow_as_a_whole(cluster: Cluster) -> None:
    cluster.slow_clients("pi4", 3)
    cluster.slow_server("pi4", 4)
    (line,) = cluster.found()
    assert line.startswith("pi4 stands out, the whole host: ")


def test_a_link_that_loses_packets_is_named_before_what_it_slows(cluster: Cluster) -> None:
    cluster.slow_clients("pi5", 3)
    cluster.slow_server("pi5", 3)
    cluster.hosts = {host: {"sent_again": 0.051 if host == "pi5" else 0.012} for host in HOSTS}
    (line,) = cluster.found()
    assert line.startswith("pi5 stands out, its link: ")
    assert "it sends 5.1% of its TCP segments again, the others 1.2%" in line


def test_the_worst_comes_first(cluster: Cluster) -> None:
    cluster.slow_server("pi1", 5)
    cluster.slow_server("pi2", 9)
    assert [line.split()[0] for line in cluster.found()] == ["pi2", "pi1"]


def test_hosts_that_tell_nothing_of_themselves_are_compared_by_the_rest(cluster: Cluster) -> None:
    cluster.hosts = {"pi1": {"sent_again": None}}
    cluster.slow_server("pi3", 4)
    assert len(cluster.found()) == 1
    assert outliers({}, {}, [], {}) == []
    one = {"pi1": {"s-pi1": 5.0}}
    assert outliers(one, HOST_OF, [{**cluster.rows["pi1"], "throughput_per_s": 0.0}], {}) == []


def test_what_a_host_tells_itself_over_no_link_is_compared_with_nothing() -> None:
    near = {"pi1": {"s-pi1": 100.0, "s-pi2": 900.0}}
    assert outliers(near, HOST_OF, [], {}) == []


def test_clients_that_complete_nothing_stand_out_most(cluster: Cluster) -> None:
    cluster.slow_server("pi1", 9)
    cluster.rows["pi5"]["throughput_per_s"] = 0.0
    lines = cluster.found()
    assert lines[0].startswith("pi5 stands out, its clients: its clients complete 0% of what")
    for row in cluster.rows.values():
        row["throughput_per_s"] = 0.0
    assert [line.split()[0] for line in cluster.found()] == ["pi1"]


def thread(**waited: tuple[float, int]) -> ThreadRecord:
    record = ThreadRecord(0)
    for server, (waited_s, messages) in waited.items():
        record.traffic[server] = Traffic(waited_s=waited_s)
        record.traffic[server].received[Status.YES] = [messages, 0]
    return record


def test_the_time_of_an_answer_is_what_all_threads_of_a_host_waited_for_all_of_theirs() -> None:
    threads = [
        [thread(a=(1.0, 10), b=(2.0, 10)), thread(a=(0.5, 20), b=(0.0, 0))],
        [thread(a=(3.0, 10), b=(0.0, 0))],
    ]
    found = [
        (host, ClientRecord(host, "fast", {}, 0.0, False, {}, [], group, []))
        for host, group in zip(("pi1", "pi2"), threads, strict=True)
    ]
    assert response_us(found) == {"pi1": {"a": 50_000.0, "b": 200_000.0}, "pi2": {"a": 300_000.0}}
