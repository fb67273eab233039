"""What a netns lab refuses before it touches anything; none of it needs root."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from lab.errors import ChoiceError, LabError


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], **_: Any) -> "subprocess.CompletedProcess[bytes]":
        assert words[0] == "unshare"
        return subprocess.CompletedProcess(words, 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(netns, "_find", lambda program: f"/sbin/{program}")


def test_hosts_are_numbered_from_one() -> None:
    assert netns.addresses(2) == {"pi1": "10.77.0.11", "pi2": "10.77.0.12"}
    assert len(set(netns.addresses(netns.MAX_HOSTS).values())) == netns.MAX_HOSTS


@pytest.mark.parametrize("count", [0, -1, netns.MAX_HOSTS + 1])
def test_a_number_of_hosts_that_cannot_be(count: int) -> None:
    with pytest.raises(ChoiceError, match="from 1 to 100"):
        netns.addresses(count)


@pytest.mark.parametrize(
    ("hosts", "rate", "why"),
    [
        ({"pi1": "10.77.0.11"}, "fast", "'fast' is no rate"),
        ({"raspberrypi-1": "10.77.0.11"}, "1gbit", "raspberrypi-1 is too long"),
        ({"pi1": "10.78.0.11"}, "1gbit", r"pi1: 10\.78\.0\.11 is no address of 10\.77\.0\.0/24"),
        ({"pi1": "10.77.0.1"}, "1gbit", "beside the operator's"),
        ({"pi1": "pi1.local"}, "1gbit", "is no address"),
        ({"pi1": "10.77.0.11", "pi2": "10.77.0.11"}, "1gbit", "two hosts have one address"),
    ],
)
def test_a_lab_that_cannot_be(tmp_path: Path, hosts: dict[str, str], rate: str, why: str) -> None:
    with pytest.raises(ChoiceError, match=why):
        netns.up(tmp_path / "lab", hosts, rate)
    assert not (tmp_path / "lab").exists()


def test_a_user_who_may_have_no_namespaces_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"only root.*sudo.*without --kind"):
        netns.up(tmp_path / "lab", netns.addresses(1))
    assert not (tmp_path / "lab").exists()


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"unshare", "nsenter", "setsid", "ssh-keygen"}
    monkeypatch.setattr(netns, "_find", lambda program: program if program in here else None)
    why = netns.missing() or ""
    assert why.startswith("ip, tc, ss, sshd missing: apt install iproute2 openssh-server ")
    assert len(why.splitlines()) == 1


def test_a_root_who_may_make_no_namespace_is_told_why() -> None:
    assert "CAP_SYS_ADMIN" in (netns.missing() or "")


def test_another_system_is_told_of_the_loopback_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "without --kind" in (netns.missing() or "")


def test_nothing_is_up_where_nothing_is(tmp_path: Path) -> None:
    assert netns.status(tmp_path / "lab") is None
    assert not netns.down(tmp_path / "lab")
    with pytest.raises(LabError, match=r"is not up: fab lab\.up --kind netns"):
        netns.cable(tmp_path / "lab", "pi1", plugged=True)
