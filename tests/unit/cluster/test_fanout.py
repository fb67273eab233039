"""A step on all hosts: at once, and every result or failure comes back."""

import signal
import threading
from collections.abc import Callable

import pytest

from cluster.errors import HostError, HostsFailedError, HostUnreachableError
from cluster.fanout import fan_out
from cluster.inventory import MAX_HOSTS, Cluster, Host

TIMEOUT_S = 10.0


def test_values_come_back_in_the_order_of_the_hosts(make_cluster: Callable[..., Cluster]) -> None:
    hosts = make_cluster(3).hosts
    later = {host.name: threading.Event() for host in hosts}

    def last_host_first(host: Host) -> str:
        if host.name != "pi3":
            following = hosts[hosts.index(host) + 1].name
            assert later[following].wait(TIMEOUT_S)
        later[host.name].set()
        return host.address

    results = fan_out("look", hosts, last_host_first)
    assert list(results.values.items()) == [(host.name, host.address) for host in hosts]
    assert results.require() == results.values


def test_hosts_are_worked_on_at_the_same_time(make_cluster: Callable[..., Cluster]) -> None:
    together = threading.Barrier(MAX_HOSTS)
    results = fan_out(
        "meet", make_cluster(MAX_HOSTS).hosts, lambda _: together.wait(TIMEOUT_S) >= 0
    )
    assert all(results.require().values())


def test_a_host_that_fails_stops_no_other(make_cluster: Callable[..., Cluster]) -> None:
    def work(host: Host) -> int:
        if host.name == "pi2":
            why = "no connection"
            raise HostUnreachableError(why)
        return 1

    results = fan_out("look", make_cluster(3).hosts, work)
    assert results.values == {"pi1": 1, "pi3": 1}
    assert {name: str(why) for name, why in results.failures.items()} == {"pi2": "no connection"}


def test_requiring_all_says_a_line_a_failed_host_and_what_follows(
    make_cluster: Callable[..., Cluster],
) -> None:
    def work(host: Host) -> None:
        why = f"{host.address} is down"
        raise HostError(why)

    results = fan_out("look", make_cluster(2).hosts, work)
    with pytest.raises(HostsFailedError) as caught:
        results.require("Nothing was changed.")
    assert str(caught.value).splitlines() == [
        "pi1: look failed: 10.0.0.1 is down",
        "pi2: look failed: 10.0.0.2 is down",
        "Nothing was changed.",
    ]
    assert set(caught.value.failures) == {"pi1", "pi2"}


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), KeyboardInterrupt()])
def test_what_is_no_hosts_failure_reaches_the_caller(
    make_cluster: Callable[..., Cluster], error: BaseException
) -> None:
    def work(host: Host) -> None:
        if host.name == "pi2":
            raise error

    with pytest.raises(type(error)) as caught:
        fan_out("look", make_cluster(3).hosts, work)
    assert caught.value is error


@pytest.mark.parametrize(("settle_s", "ended"), [(TIMEOUT_S, {"pi1", "pi2"}), (0.2, {"pi1"})])
def test_an_interrupt_lets_hosts_settle_but_waits_for_none_that_hangs(
    make_cluster: Callable[..., Cluster], settle_s: float, ended: set[str]
) -> None:
    interrupted, hangs = threading.Event(), threading.Event()
    both_began = threading.Barrier(2)
    done = set()

    def work(host: Host) -> None:
        both_began.wait(TIMEOUT_S)
        if host.name == "pi2":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            interrupted.set()
        assert interrupted.wait(TIMEOUT_S)
        if host.name == "pi2":
            hangs.wait(1.0)
        done.add(host.name)

    with pytest.raises(KeyboardInterrupt):
        fan_out("look", make_cluster(2).hosts, work, settle_s)
    assert done == ended
    hangs.set()


def test_no_host_begins_once_interrupted(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, worked = list[threading.Thread](), list[str]()
    really_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if begun:
            raise KeyboardInterrupt
        begun.append(thread)
        really_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        fan_out("look", make_cluster(2).hosts, lambda host: worked.append(host.name), TIMEOUT_S)
    begun[0].join(TIMEOUT_S)
    assert not begun[0].is_alive()
    assert worked == []


def test_no_host_gives_no_result() -> None:
    results = fan_out("look", [], lambda _: 1)
    assert results.require() == {}
