"""What fails in a run: a line a host, the exit code, nothing left, and the next run works."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import netns
from tests.cluster.three_hosts import in_host, until
from tests.e2e.checkout import Checkout, Outcome
from tests.needs import FAULTS, NETNS

pytestmark = [
    NETNS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]
HOSTS = ["pi1", "pi2", "pi3"]
RUN = ["run", "--threads", "2", "--warmup", "0"]
LONG_S = 4.0  # of a run in which something happens


@pytest.fixture(scope="module")
def lab(checkout: Checkout) -> Iterator[Checkout]:
    checkout.fab("lab.up", "--kind", "netns", "--hosts", str(len(HOSTS)))
    checkout.fab(*RUN, "--commands", "10")
    yield checkout
    checkout.fab("lab.down")


@pytest.fixture
def well(lab: Checkout) -> Iterator[Checkout]:
    """The lab; after the test nothing runs on it, and a plain run works."""
    yield lab
    for host in HOSTS:
        netns.cable(lab.lab, host, plugged=True)
        netns.rate(lab.lab, host, netns.DEFAULT_RATE)
        netns.power_on(lab.lab, host)
    assert [row["processes"] for row in lab.json("status").values()] == [[]] * len(HOSTS)
    assert lab.json(*RUN, "--commands", "10")["replicas"]["differing"] == []


def _run(lab: Checkout, step: str, happen: Callable[["subprocess.Popen[str]"], Any]) -> Outcome:
    """Run an experiment in which something happens once the step has begun."""
    _change_release(lab)
    before = lab.latest()
    if step in {"stage", "collect"}:
        netns.rate(lab.lab, "pi2", "1mbit")  # so that its bytes take a while
    with lab.start(*RUN, "--duration", str(LONG_S)) as process:
        try:
            if step == "collect":
                until(lambda: _is_in(lab, before, "wait"), within_s=60)
                with (lab.home("pi2") / "runs" / lab.latest() / "server.log").open("a") as log:
                    log.write(f"{os.urandom(500_000).hex()}\n")  # 8 s of that link
            until(lambda: _is_in(lab, before, step), within_s=60)
            happen(process)
            stdout, stderr = process.communicate(timeout=100)
        finally:
            process.kill()
    assert "Traceback" not in stdout + stderr
    return Outcome(process.returncode, stdout, stderr)


def _change_release(lab: Checkout) -> None:
    """Have something to deploy."""
    with (lab.folder / "rdht" / "limits.py").open("a", encoding="utf-8") as source:
        source.write(f"# {os.urandom(8).hex()}\n")


def _is_in(lab: Checkout, before: str, step: str) -> bool:
    if lab.latest() == before:
        return False
    if step == "stage":
        return (lab.home("pi2") / "deploy.lock").exists()  # and a bundle is on its way
    return [entry["step"] for entry in lab.manifest()["steps"]][-1:] == [step]


def _told(outcome: Outcome) -> list[str]:
    """Return the host and the step of each line about one."""
    rows = [line.split(": ") for line in outcome.stderr.splitlines()]
    return [f"{row[0]} {row[1].removesuffix(' failed')}" for row in rows if row[0] in HOSTS]


def test_a_host_that_is_down_before_the_run(well: Checkout) -> None:
    netns.power_off(well.lab, "pi2")
    outcome = well.fab(*RUN, code=1)
    assert _told(outcome) == ["pi2 probe"]
    assert "probe failed: no connection to 10.77.0.12:22" in outcome.stderr


@pytest.mark.parametrize("step", ["stage", "start-servers", "wait", "collect"])
def test_a_host_that_dies_in_a_run(well: Checkout, step: str) -> None:
    outcome = _run(well, step, lambda _: netns.power_off(well.lab, "pi2"))
    told = _told(outcome)
    assert outcome.code == 1
    assert "10.77.0.12:22" in outcome.stderr
    assert any(line.startswith("pi2 ") for line in told), outcome
    assert len(set(told)) == len(told), "one line a host and step"


@pytest.mark.parametrize("step", ["stage", "start-servers", "start-clients", "wait", "collect"])
def test_an_interrupted_run(well: Checkout, step: str) -> None:
    outcome = _run(well, step, lambda process: process.send_signal(signal.SIGINT))
    assert outcome.code == 130
    assert _told(outcome) == []


def test_a_link_of_10_mbit_in_a_run(well: Checkout) -> None:
    netns.rate(well.lab, "pi2", "10mbit")
    _change_release(well)
    well.fab(*RUN, "--duration", str(LONG_S))
    assert well.summary()["missing_clients"] == []


@FAULTS
def test_a_host_that_refuses_ssh_connections(well: Checkout) -> None:
    rules = (
        "add table inet test",
        "add chain inet test input { type filter hook input priority 0; }",
        "add rule inet test input tcp dport 22 reject with tcp reset",
    )
    in_host(well.lab, "pi2", "nft", "; ".join(rules))
    try:
        outcome = well.fab(*RUN, code=1)
    finally:
        in_host(well.lab, "pi2", "nft", "delete table inet test")
    assert _told(outcome) == ["pi2 probe"]
    assert "no connection to 10.77.0.12:22: Connection refused" in outcome.stderr


def test_a_host_whose_disk_is_full(well: Checkout) -> None:
    place = "/home/pi/rdht/netns/runs"
    in_host(well.lab, "pi2", "mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "tmpfs", place)
    try:
        outcome = well.fab(*RUN, code=1)
    finally:
        in_host(well.lab, "pi2", "umount", place)
    assert _told(outcome) == ["pi2 start server"]
    assert "start server failed: No space left on device" in outcome.stderr
