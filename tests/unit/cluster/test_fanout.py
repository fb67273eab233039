"""A step on all hosts: in parallel, bounded, and every result or failure comes back."""

import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cluster.errors import HostError, HostsFailedError, HostUnreachableError
from cluster.fanout import MAX_PARALLEL, fan_out
from cluster.inventory import Cluster, Host

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
    together = threading.Barrier(MAX_PARALLEL)
    results = fan_out(
        "meet", make_cluster(MAX_PARALLEL).hosts, lambda _: together.wait(TIMEOUT_S) >= 0
    )
    assert all(results.require().values())


def test_no_more_than_the_limit_run_at_once(make_cluster: Callable[..., Cluster]) -> None:
    lock = threading.Lock()
    together = threading.Barrier(MAX_PARALLEL)
    running, most, count = 0, 0, 2 * MAX_PARALLEL

    def work(_: Host) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(TIMEOUT_S)
        with lock:
            running -= 1

    results = fan_out("count", make_cluster(count).hosts, work)
    assert len(results.require()) == count
    assert most == MAX_PARALLEL


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
    done = set()

    def work(host: Host) -> None:
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


def test_after_an_interrupt_no_host_is_begun(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    settling = threading.Event()

    def monotonic() -> float:  # asked for how long the hosts may settle
        settling.set()
        return time.monotonic()

    def work(host: Host) -> None:
        begun.append(host.name)
        if host.name == f"pi{MAX_PARALLEL}":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert settling.wait(TIMEOUT_S)

    monkeypatch.setattr("cluster.fanout.time", SimpleNamespace(monotonic=monotonic))
    with pytest.raises(KeyboardInterrupt):
        fan_out("look", make_cluster(3 * MAX_PARALLEL).hosts, work, TIMEOUT_S)
    assert len(begun) == MAX_PARALLEL


def test_no_host_gives_no_result() -> None:
    results = fan_out("look", [], lambda _: 1)
    assert results.require() == {}
