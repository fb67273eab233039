"""lab.up, lab.status and lab.down as typed, with the netns lab."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.faults import Fault, note
from cluster.inventory import Host
from lab import faults
from tests.e2e.checkout import Checkout
from tests.needs import FAULTS, NETNS

pytestmark = [
    NETNS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]


@pytest.fixture
def down(checkout: Checkout) -> Iterator[Checkout]:
    """The checkout before any lab, and without one after the test."""
    yield checkout
    checkout.fab("lab.down")
    assert not checkout.lab.exists()


def test_the_lab_has_as_many_hosts_as_were_asked_for(down: Checkout) -> None:
    selected = down.folder / ".rdht" / "cluster"
    words = ["lab.up", "--kind", "netns", "--hosts", "2", "--rate", "50mbit"]
    shown = down.fab(*words, "check", cluster="").stdout
    assert "lab: 2 hosts are up" in shown
    assert "cluster netns · 2 hosts · .rdht/netns/netns.yaml" in shown
    assert "All hosts are fit." in shown
    assert selected.read_text(encoding="utf-8") == "netns\n"
    again = down.fab(*words, cluster="").stdout
    assert "2 hosts were up already" in again
    hosts = down.json("lab.status")["netns"]["hosts"]
    assert [(name, host["rate"]) for name, host in hosts.items()] == [
        *(("pi1", "50mbit"), ("pi2", "50mbit")),
    ]
    refusal = down.fab("lab.up", "--kind", "netns", code=1).stderr
    assert "2 hosts at 50mbit is up" in refusal
    assert refusal.strip().count("\n") == 0
    assert "tasks act on pis now" in down.fab("lab.down", cluster="").stdout
    assert selected.read_text(encoding="utf-8") == "pis\n"
    assert not down.json("lab.down")["was_up"]


def test_without_its_lab_the_cluster_cannot_be_reached(down: Checkout) -> None:
    error = down.fab("check", code=1).stderr
    assert "fab lab.up --kind netns" in error
    assert error.strip().count("\n") == 0
    assert "would check on pi5" in down.fab("check", "--dry-run").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--kind", "nets"),
        ("--kind", "netns", "--hosts", "101"),
        ("--kind", "netns", "--rate", "fast"),
        ("--hosts", "7"),
        ("--rate", "10mbit"),
    ],
)
def test_a_lab_that_cannot_be(checkout: Checkout, words: tuple[str, ...]) -> None:
    error = checkout.fab("lab.up", *words, code=2).stderr
    assert error.strip().count("\n") == 0
    assert not checkout.lab.exists()


@FAULTS
def test_a_run_outlives_a_cable_that_is_out_for_five_seconds(idle: Checkout) -> None:
    before = idle.latest()
    with idle.start("run", "--duration", "10") as process:
        idle.wait_for_clients(before)
        # As fab fault.cut does, which would take its time to start on a busy machine.
        fault = Fault("cut", "cut of the cable", 5.0, {"cable": True})
        faults.begin(idle.lab, "pi3", fault.on(Host("pi3", "10.77.0.13")))
        note(idle.folder / "logs", "netns", ["pi3"], fault.text, fault.for_s)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert "pi3: on purpose in this run: cut of the cable for 5.0 s" in stdout
    assert [(row["host"], row["text"]) for row in idle.manifest()["faults"]] == [
        ("pi3", "cut of the cable")
    ]
    assert idle.summary()["replicas"]["differing"] == []
    assert idle.summary()["duration_s"] > 9
    words = ["fault.slow", "--limit", "pi2", "fault.cut", "--limit", "pi2", "status", "heal"]
    shown = idle.fab(*words).stdout
    assert "pi2: slow link of 10mbit, ends in" in shown
    assert "cut, slow link of 10mbit" in shown  # which heal has ended
    assert "Nothing is left of any fault." in shown


_LOAD = ("--threads", "2", "--warmup", "0", "--profile", "fast", "--window", "4")


def _write(folder: Path, *deeds: dict[str, Any]) -> str:
    (folder / "deeds.json").write_text(json.dumps(deeds), encoding="utf-8")
    return "deeds.json"


@FAULTS
def test_links_and_power_fail_and_all_is_healed(idle: Checkout) -> None:
    deeds = _write(
        idle.folder,
        {"at": 0.2, "kind": "cut", "hosts": ["pi1", "pi2"], "from": ["pi3", "pi4"], "for": 1},
        {"at": 1.5, "kind": "power", "hosts": ["pi4"], "for": 1},
        {"at": 2.0, "kind": "slow", "hosts": ["pi1"], "rate": "1mbit", "for": 1},
        {"at": 2.0, "kind": "loss", "hosts": ["pi2"], "for": 1},
    )
    shown = idle.fab("run", "--faults", deeds, "--duration", "7", *_LOAD).stdout
    assert "cut of pi1, pi2 from pi3, pi4, for 1.0 s" in shown
    assert "all is healed, and nothing is left of any fault" in shown
    assert "faults on purpose: 4 (cut 1, loss 1, power 1, slow 1)" in shown
    summary, manifest = idle.summary(), idle.manifest()
    assert summary["faults"]["made"] == {"cut": 1, "loss": 1, "power": 1, "slow": 1}
    assert summary["faults"]["joined_clients"] == ["pi4.1"]
    assert summary["faults"]["healed_s"] > 5.0
    assert (manifest["problems"], summary["lost_ranges"]) == ([], {})
    assert summary["replicas"]["differing"] == []


@FAULTS
def test_an_interrupt_heals_before_all_is_stopped(idle: Checkout) -> None:
    cut = {"kind": "cut", "hosts": ["pi1"], "for": 40}
    pause = {"kind": "pause", "servers": ["pi2"], "for": 40}
    deeds = _write(idle.folder, {"at": 0, **cut}, {"at": 0, **pause})
    with idle.start("run", "--faults", deeds, "--duration", "60", *_LOAD) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "pause of server pi2" in line:
                break
        process.send_signal(signal.SIGINT)
        interrupted_s = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - interrupted_s < 30
    healed = idle.json("heal")
    assert all(row["ended"] == [] for row in healed.values())
    steps = [step["step"] for step in idle.manifest()["steps"]]
    assert steps[-3:] == ["heal", "stop", "collect"]
