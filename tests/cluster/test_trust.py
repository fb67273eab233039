"""Pinning the keys of real ssh servers, one of them behind the other."""

import dataclasses
from pathlib import Path

import pytest

from cluster import trust
from cluster.console import Screen
from cluster.errors import ClusterError, HostsFailedError, UsageError
from cluster.inventory import Cluster, Gateway
from cluster.operator import Operator
from tests.cluster.two_hosts import Lab


@pytest.fixture
def unpinned(lab: Lab, tmp_path: Path) -> Cluster:
    """The two hosts, of which nothing is pinned; pi2 is reached through pi1."""
    cluster = lab.cluster()
    gateway = Gateway(None, "127.0.0.1", lab.ports["pi1"])
    hosts = (cluster.hosts[0], dataclasses.replace(cluster.hosts[1], gateway=gateway))
    return dataclasses.replace(cluster, hosts=hosts, known_hosts=tmp_path / "known_hosts")


def pins(path: Path) -> list[list[str]]:
    return sorted(line.split() for line in path.read_text(encoding="utf-8").splitlines())


def test_hosts_and_their_gateway_are_pinned_once(
    lab: Lab, unpinned: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = Operator(unpinned, Screen())
    made = trust.pin_hosts(operator, yes=True)
    assert set(made) == {"the gateway of pi2", "pi2"}  # pi1 is that gateway
    assert pins(unpinned.known_hosts) == pins(lab.folder / "known_hosts")
    shown = capsys.readouterr().out
    assert all(fingerprint in shown for fingerprint in made.values())
    assert trust.pin_hosts(operator, yes=False) == {}
    assert capsys.readouterr().out == ""


def test_without_anybody_to_ask_nothing_is_pinned(unpinned: Cluster) -> None:
    with pytest.raises(UsageError, match=r"Pin the keys of .*\?.*--yes"):
        trust.pin_hosts(Operator(unpinned, Screen()), yes=False)
    assert not unpinned.known_hosts.exists()


def test_who_says_no_pins_nothing(unpinned: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Screen, "confirm", lambda *_: False)
    with pytest.raises(ClusterError, match="nothing was pinned"):
        trust.pin_hosts(Operator(unpinned, Screen()), yes=False)
    assert not unpinned.known_hosts.exists()


def test_a_changed_key_is_pinned_only_to_replace_the_old_one(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    right = {pin[0]: pin for pin in pins(lab.folder / "known_hosts")}
    of_pi1, of_pi2 = (right[f"[127.0.0.1]:{port}"] for port in lab.ports.values())
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{of_pi1[0]} {' '.join(of_pi2[1:])}\n", encoding="utf-8")
    cluster = dataclasses.replace(lab.cluster(), known_hosts=known_hosts)
    operator = Operator(cluster, Screen())
    with pytest.raises(ClusterError, match=r"pi1: the host key has changed.*--replace --limit pi1"):
        trust.pin_hosts(operator, yes=True)
    assert len(pins(known_hosts)) == 2  # the other one was only new
    assert "changed" in capsys.readouterr().out
    assert list(trust.pin_hosts(operator, yes=True, replace=True)) == ["pi1"]
    assert pins(known_hosts) == sorted(right.values())


def test_a_host_that_is_not_there_leaves_the_others_pinned(lab: Lab, tmp_path: Path) -> None:
    cluster = lab.cluster()
    gone = dataclasses.replace(cluster.hosts[1], ssh_port=1)
    known_hosts = tmp_path / "known_hosts"
    cluster = dataclasses.replace(cluster, hosts=(cluster.hosts[0], gone), known_hosts=known_hosts)
    with pytest.raises(HostsFailedError, match=r"pi2: ask for its host key failed: no connection"):
        trust.pin_hosts(Operator(cluster, Screen()), yes=True)
    assert len(pins(known_hosts)) == 1
