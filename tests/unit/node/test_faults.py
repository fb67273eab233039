"""Faults on a host: commands as values, and the records of what goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rdht.node import faults
from rdht.node.host import Folders, NodeError, boot_id, start_ticks

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 20.0
Until = Callable[[Callable[[], bool]], None]
Step = Callable[..., Any]
V4, OTHER_V4, V6 = (ip_address(text) for text in ("10.0.0.2", "10.0.0.3", "fd00::2"))


def test_a_cut_spares_ssh_and_the_host_itself_and_names_no_table_but_ours() -> None:
    words = faults.dropping("rdht-pis-cut", ["in", "out"], [OTHER_V4, V4, V6, V4], 100, 22)
    rule = "add rule inet rdht-pis-cut"
    assert words == [
        "nft",
        "add table inet rdht-pis-cut;",
        "add chain inet rdht-pis-cut input { type filter hook input priority 0; };",
        f"{rule} input iifname lo accept;",
        f"{rule} input tcp sport 22 accept;",
        f"{rule} input tcp dport 22 accept;",
        f"{rule} input ip saddr {{ 10.0.0.2, 10.0.0.3 }} drop;",
        f"{rule} input ip6 saddr {{ fd00::2 }} drop;",
        "add chain inet rdht-pis-cut output { type filter hook output priority 0; };",
        f"{rule} output oifname lo accept;",
        f"{rule} output tcp sport 22 accept;",
        f"{rule} output tcp dport 22 accept;",
        f"{rule} output ip daddr {{ 10.0.0.2, 10.0.0.3 }} drop;",
        f"{rule} output ip6 daddr {{ fd00::2 }} drop;",
    ]


def test_a_loss_of_one_way_drops_by_chance() -> None:
    words = faults.dropping("t", ["out"], [V4], 20, 2222)
    assert not any("input" in word for word in words)
    assert "add rule inet t output tcp sport 2222 accept;" in words
    assert words[-1] == (
        "add rule inet t output ip daddr { 10.0.0.2 } numgen random mod 100 < 20 drop;"
    )


def test_removing_works_whether_the_table_is_there_or_not() -> None:
    assert faults.removing("t") == ["nft", "add table inet t;", "delete table inet t;"]


@pytest.mark.parametrize(("rate_bits", "burst"), [(10**7, 16_384), (10**9, 125_000)])
def test_a_slow_interface_has_a_queue_with_our_handle(rate_bits: int, burst: int) -> None:
    assert faults.slowing("eth0", rate_bits) == [
        *("tc", "qdisc", "replace", "dev", "eth0", "root", "handle", faults.HANDLE),
        *("tbf", "rate", f"{rate_bits}bit", "burst", f"{burst}b", "limit", "131072b"),
    ]


@pytest.fixture
def server(folders: Folders) -> Iterator["subprocess.Popen[bytes]"]:
    """A process whose record says that it is a server."""
    with subprocess.Popen(["sleep", "100"]) as process:
        _record(folders.run("r") / "server.process.json", process.pid, role="server", name="pi1")
        yield process
        process.kill()


def _record(path: Path, pid: int, **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    who = {"pid": pid, "start_ticks": start_ticks(pid), "boot_id": boot_id()}
    path.write_text(json.dumps({**who, **fields}), encoding="utf-8")


@pytest.fixture
def step(home: Path) -> Step:
    """Return a function that has a process carry out a step, as ssh would; it may fork."""

    def run(command: str, **arguments: Any) -> Any:
        told = {"command": f"faults.{command}", "cluster": "shelf", "arguments": arguments}
        call = {**told, "modules": [], "timeout_s": TIMEOUT_S, "payload_bytes": 0}
        done = subprocess.run(
            [sys.executable, "-m", "rdht.node"],
            input=json.dumps(call) + "\n",
            cwd=ROOT,
            env={**os.environ, "HOME": str(home)},
            capture_output=True,  # a reverter that kept it open would hold this
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        return json.loads(done.stdout)

    return run


def _pause(step: Step, for_s: float = 60.0) -> Any:
    return step("begin", kind="pause", text="a pause", for_s=for_s, roles=["server"])


def _state(process: "subprocess.Popen[bytes]") -> str:
    return Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").split()[2]


def test_a_paused_process_goes_on_by_itself(
    step: Step, server: "subprocess.Popen[bytes]", folders: Folders, until: Until
) -> None:
    begun = _pause(step, 2.0)["ok"]
    assert _state(server) == "T"
    assert (begun["kind"], begun["text"], begun["reverter"]) == ("pause", "a pause", True)
    until(lambda: _state(server) == "S")
    until(lambda: step("active") == {"ok": {"faults": []}})
    assert list(folders.faults.iterdir()) == []


def test_a_second_pause_is_refused_until_the_first_is_healed(
    step: Step, server: "subprocess.Popen[bytes]", folders: Folders
) -> None:
    _pause(step)
    record = json.loads((folders.faults / "pause.json").read_text(encoding="utf-8"))
    refusal = r"a pause is there already and ends in (60|5\d) s; fab heal"
    assert re.search(refusal, _pause(step)["error"])
    assert os.getsid(record["pid"]) == record["pid"]
    healed = step("heal", network=False)["ok"]
    assert healed == {"ended": ["a pause"], "left": {"reverters": 0, "paused": 0}}
    assert _state(server) == "S"
    assert start_ticks(record["pid"]) is None
    assert step("heal", network=False)["ok"]["ended"] == []
    assert "ok" in _pause(step)
    step("heal", network=False)


def test_heal_wakes_what_is_stopped_without_any_record(
    step: Step, server: "subprocess.Popen[bytes]", until: Until
) -> None:
    server.send_signal(signal.SIGSTOP)
    until(lambda: _state(server) == "T")
    assert step("heal", network=False)["ok"]["left"]["paused"] == 0
    assert _state(server) == "S"


def test_a_step_waits_until_a_process_stands_still(
    step: Step, server: "subprocess.Popen[bytes]"
) -> None:
    whom = {"roles": ["server"], "names": ["pi1"]}
    assert step("wait", **whom, timeout_s=0.1) == {"ok": {"stands": False}}
    later = threading.Timer(0.2, server.send_signal, [signal.SIGSTOP])
    later.start()
    assert step("wait", **whom, timeout_s=TIMEOUT_S) == {"ok": {"stands": True}}
    later.join()
    server.kill()
    server.wait()
    error = step("wait", **whom, timeout_s=TIMEOUT_S)["error"]
    assert error == "server pi1 does not run here"


def test_a_record_of_another_boot_stands_for_nothing(
    step: Step, server: "subprocess.Popen[bytes]", folders: Folders
) -> None:
    path = folders.faults / "pause.json"
    old = {"kind": "pause", "text": "old", "until_unix_s": time.time() + 60, "boot_id": "other"}
    _record(path, os.getpid())
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **old}), encoding="utf-8"
    )
    assert step("active") == {"ok": {"faults": []}}
    assert step("heal", network=False)["ok"]["ended"] == []  # and this process still runs
    assert not path.exists()


def test_where_nothing_runs_nothing_is_paused_or_killed(step: Step, folders: Folders) -> None:
    assert "no server of this cluster runs here" in _pause(step)["error"]
    assert step("kill", roles=["server", "client"]) == {"ok": {"killed": []}}
    assert list(folders.faults.iterdir()) == []


def test_a_kill_takes_only_who_its_record_names(
    step: Step, server: "subprocess.Popen[bytes]", folders: Folders
) -> None:
    client = folders.run("r") / "client.process.json"
    _record(client, os.getpid(), role="client", name="pi1")
    record = json.loads(client.read_text(encoding="utf-8"))
    client.write_text(json.dumps({**record, "start_ticks": 1}), encoding="utf-8")
    assert step("kill", roles=["server", "client"]) == {"ok": {"killed": ["server pi1"]}}
    assert server.wait(TIMEOUT_S) == -signal.SIGKILL


def test_a_name_chooses_one_of_several(
    step: Step, server: "subprocess.Popen[bytes]", folders: Folders
) -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        path = folders.run("r") / "server.1.process.json"
        _record(path, other.pid, role="server", name="pi1.1")
        step("begin", kind="pause", text="p", for_s=60.0, roles=["server"], names=["pi1"])
        assert (_state(server), _state(other)) == ("T", "S")
        assert step("kill", roles=["server"], names=["pi1.1"])["ok"]["killed"] == ["server pi1.1"]
        assert other.wait(TIMEOUT_S) == -signal.SIGKILL
        assert step("kill", roles=["server"], names=["pi2"]) == {"ok": {"killed": []}}
    step("heal", network=False)
    assert _state(server) == "S"


class Clock:
    """A clock of the host that only these tests see and set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off_s = 0.0
        self._really = time.time
        monkeypatch.setattr("rdht.node.faults.time.time", lambda: self._really() + self.off_s)
        monkeypatch.setattr(faults, "_booted", lambda: 1000.0 + self.off_s)
        monkeypatch.setattr(faults, "_set_clock", self._set)

    def _set(self, unix_s: float) -> None:
        self.off_s = unix_s - self._really()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("corrected", [False, True])
def test_a_clock_that_jumped_is_right_again_whoever_was_there_before(
    folders: Folders, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, corrected: bool
) -> None:
    record = {"kind": "clock", "text": "clock", "until_unix_s": 0.0, "booted_unix_s": 1000.0}
    asked = {"jump_s": -3600.0, "desk_boot_id": "the desk's"}
    act = faults._prepare(folders, "clock", asked)
    folders.faults.mkdir(parents=True)
    _record(folders.faults / "clock.json", 1, **record)
    act()
    assert clock.off_s == pytest.approx(-3600.0, abs=0.1)
    if corrected:  # by NTP
        clock.off_s = 0.2
    monkeypatch.setattr(faults, "_end", lambda _: True)
    monkeypatch.setattr(faults, "is_alive", lambda _: False)
    monkeypatch.setattr(faults, "_root", lambda _: '{"nftables": []}')
    monkeypatch.setattr(faults, "_queues", list)
    healed = faults.heal(folders, {"network": True}, b"")
    assert healed["left"]["clocks"] == 0
    assert clock.off_s == pytest.approx(0.2 if corrected else 0.0, abs=0.1)


def test_the_desks_own_clock_is_not_touched(folders: Folders, clock: Clock) -> None:
    with pytest.raises(NodeError, match="clock is that of the desk"):
        faults._prepare(folders, "clock", {"jump_s": 5.0, "desk_boot_id": boot_id()})
    assert clock.off_s == 0.0


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (None, "sudo -n nft: .* is not on this host: apt install"),
        ("sudo: a password is required", "sudo -n nft: sudo: a password.*sudo without a password"),
    ],
)
def test_who_may_not_be_root_is_told_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, output: str | None, why: str
) -> None:
    def run(words: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        if output is None:
            raise FileNotFoundError(2, "No such file", words[0])
        return subprocess.CompletedProcess(words, 1, "", output)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(NodeError, match=why):
        faults._root(faults.removing("t"))


def test_heal_says_what_it_may_not_look_at(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_words: list[str]) -> str:
        why = "a password is required"
        raise NodeError(why)

    monkeypatch.setattr(faults, "_root", refuse)
    left = faults.heal(folders, {"network": True}, b"")["left"]
    assert left == {"reverters": 0, "paused": 0, "rules": None, "slowed": None}
    (folders.faults / "cut.json").write_text(
        json.dumps({"kind": "cut", "text": "cut", "pid": 1, "start_ticks": 0, "boot_id": boot_id()})
    )
    with pytest.raises(NodeError, match="password"):
        faults.heal(folders, {"network": True}, b"")
    assert (folders.faults / "cut.json").exists()
