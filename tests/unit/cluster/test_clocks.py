"""Reading the hosts' clocks: the truth lies within what is told."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import clocks
from cluster.console import Screen
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.operator import Operator

OFFSETS_S = {"pi1": 1000.0, "pi2": -0.25}


class Ask:
    """Stands for the hosts, which answer after a while; pi3 does not."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.chance = random.Random(1)
        self.boot_ids = {"pi1": "one", "pi2": "two"}
        self.asked: list[list[str]] = []  # hosts, each time

    def __call__(self, step: str, *_: object, hosts: tuple[Host, ...], **_named: object) -> Results:
        self.asked.append([host.name for host in hosts])
        results = Results(step)
        for host, offset_s in OFFSETS_S.items():
            asked_s = self.now_s
            self.now_s += self.chance.uniform(0.001, 0.01)
            shown_s = self.now_s + offset_s
            self.now_s += self.chance.uniform(0.001, 0.03)
            results.values[host] = {
                "monotonic_s": shown_s,
                "boot_id": self.boot_ids[host],
                "asked_s": asked_s,
                "answered_s": self.now_s,
            }
        return results


@pytest.fixture
def ask(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Ask:
    ask = Ask()
    monkeypatch.setattr(Operator, "each", lambda _self, *words, **named: ask(*words, **named))
    return ask


def measure(make_cluster: Callable[..., Cluster]) -> dict[str, Any]:
    found = clocks.measure(Operator(make_cluster(3), Screen()))
    hosts: dict[str, Any] = found["hosts"]
    return hosts


def test_the_offset_is_right_within_its_error(
    make_cluster: Callable[..., Cluster], ask: Ask
) -> None:
    hosts = measure(make_cluster)
    assert hosts.keys() == OFFSETS_S.keys()
    for host, one in hosts.items():
        assert abs(one["offset_s"] - OFFSETS_S[host]) <= one["error_s"] < 0.01
        assert one["boot_id"] == ask.boot_ids[host]


def test_a_host_of_our_own_boot_has_our_clock(
    make_cluster: Callable[..., Cluster], ask: Ask
) -> None:
    ask.boot_ids["pi2"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = measure(make_cluster)["pi2"]
    assert (found["offset_s"], found["error_s"]) == (0.0, 0.0)


def test_a_host_that_is_away_is_waited_for_once(
    make_cluster: Callable[..., Cluster], ask: Ask
) -> None:
    measure(make_cluster)
    assert ask.asked == [["pi1", "pi2", "pi3"], *[["pi1", "pi2"]] * (clocks._READINGS - 1)]


def test_a_plan_has_a_line_a_host(
    make_cluster: Callable[..., Cluster], capsys: pytest.CaptureFixture[str]
) -> None:
    clocks.measure(Operator(make_cluster(3), Screen(), dry_run=True))
    assert len(capsys.readouterr().out.splitlines()) == 3
