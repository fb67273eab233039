"""Faults on hosts of the netns lab: what each does, how it ends, and that nothing is left."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.console import Screen
from cluster.faults import Fault, Faults, prove
from cluster.namespace import inside
from cluster.operator import Operator, close_connections
from lab import faults, links, netns, processes
from lab.links import RUN_NETNS, Names
from tasks import LabSwitch
from tests.cluster.three_hosts import HOSTS, cluster, measure_mbit, say, until
from tests.needs import FAULTS

pytestmark = FAULTS
ROOT = Path(__file__).parents[2]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
PORT = 8080  # where a server would listen
NOTHING_LEFT = {
    "reverters": 0,
    "rules": 0,
    "slowed": 0,
    "unplugged": 0,
    "powerless": 0,
    "paused": 0,
}
LONG_S = 60.0  # nothing ends by itself during a test
SHORT_S = 2.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults") / "lab"
    netns.up(folder, HOSTS)
    yield folder
    netns.down(folder)


@pytest.fixture(autouse=True)
def healed(lab: Path) -> Iterator[None]:
    """Whatever a test does to its links and power, the next one finds them as they should be."""
    yield
    for host in HOSTS:
        if faults.active(lab, host):
            left = faults.heal(lab, host)["left"]
            assert set(left.values()) == {0}


def _begin(lab: Path, host: str, kind: str, for_s: float = LONG_S, **settings: Any) -> str:
    """Begin a fault as a task does; return why it was refused, or nothing."""
    fault = Fault(kind, f"{kind} for a test", for_s, settings).checked()
    with inside(lab / "operator"):
        try:
            results = Faults(_operator(lab, host), LabSwitch(lab)).begin(fault)
        finally:
            close_connections()
    return "".join(map(str, results.failures.values()))


def _heal(lab: Path) -> dict[str, dict[str, int]]:
    """Heal all hosts; return what is left of faults."""
    with inside(lab / "operator"):
        try:
            results = Faults(_operator(lab, *HOSTS), LabSwitch(lab)).heal()
        finally:
            close_connections()
    prove(results)
    return {host: answer["left"] for host, answer in results.values.items()}


def _active(lab: Path, host: str) -> set[str]:
    with inside(lab / "operator"):
        try:
            found = Faults(_operator(lab, host), LabSwitch(lab)).active()
        finally:
            close_connections()
    return {fault["kind"] for fault in found[host]}


def _operator(lab: Path, *hosts: str) -> Operator:
    all_of_them = cluster(lab)
    chosen = tuple(host for host in all_of_them.hosts if host.name in hosts)
    return Operator(dataclasses.replace(all_of_them, hosts=chosen), Screen(json=True))


def _drops(*peers: str, percent: int = 100, ways: tuple[str, ...] = ("in", "out")) -> Any:
    addresses = {peer: HOSTS[peer] for peer in peers}
    return {"peers": addresses, "percent": percent, "ways": list(ways)}


def _space(lab: Path, host: str) -> Path:
    return lab / "operator" if host == "operator" else RUN_NETNS / Names.of(lab).host(host)


def _connects(lab: Path, one: str, other: str) -> bool:
    """Tell whether one host can connect to a server's port of another one."""
    with inside(_space(lab, other)), socket.create_server((HOSTS[other], PORT)):
        return _reaches(lab, one, other, PORT)


def _reaches(lab: Path, one: str, other: str, port: int = 22) -> bool:
    try:
        with inside(_space(lab, one)):
            socket.create_connection((HOSTS[other], port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _arriving(lab: Path, one: str, other: str, count: int) -> int:
    """Send datagrams from one host to another; return how many arrive."""
    with inside(_space(lab, other)):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((HOSTS[other], PORT))
    with inside(_space(lab, one)):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        arrived = 0
        for number in range(count):
            with suppress(PermissionError):  # a host's own rule tells the sender
                sender.sendto(b"one", (HOSTS[other], PORT))
            last = number == count - 1
            if number % 50 == 49 or last:  # no buffer shall lose any
                receiver.settimeout(0.2 if last else 0.01)
                with suppress(TimeoutError):
                    while True:
                        receiver.recv(16)
                        arrived += 1
        return arrived


def test_a_cut_pair_does_not_connect_while_all_others_do(lab: Path) -> None:
    assert _begin(lab, "pi1", "cut", **_drops("pi2")) == ""
    assert not _connects(lab, "pi1", "pi2")
    assert not _connects(lab, "pi2", "pi1")
    assert _connects(lab, "pi1", "pi3")
    assert _connects(lab, "pi3", "pi2")
    assert say(lab, "pi1", "hostname") == ["pi1"]
    assert _active(lab, "pi1") == {"cut"}
    _heal(lab)
    assert _connects(lab, "pi1", "pi2")


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_cut_of_one_way_lets_the_other_pass(lab: Path, way: str) -> None:
    _begin(lab, "pi1", "cut", **_drops("pi2", "pi3", ways=(way,)))
    # An answer to nothing: datagrams alone know one way. Who is where, both know already.
    arrived = (_arriving(lab, "pi2", "pi1", 5), _arriving(lab, "pi1", "pi2", 5))
    assert arrived == ((0, 5) if way == "in" else (5, 0))


def test_a_fifth_of_the_packets_is_lost_and_no_ssh(lab: Path) -> None:
    _begin(lab, "pi1", "loss", **_drops("pi2", "pi3", percent=20))
    assert 720 < _arriving(lab, "pi1", "pi2", 1000) < 880  # six standard deviations
    assert say(lab, "pi1", "hostname") == ["pi1"]


def test_a_slow_link_is_as_slow_as_it_was_asked_for(lab: Path) -> None:
    _begin(lab, "pi1", "slow", rate="10mbit", rate_bits=10_000_000)
    measured = [measure_mbit(lab, *pair, 600_000) for pair in (("pi1", "pi2"), ("pi2", "pi1"))]
    assert max(measured) <= 10.5
    assert max(measured) >= 8, measured  # a busy machine may slow one of them down
    assert "would not slow" in _begin(lab, "pi2", "slow", rate="1gbit", rate_bits=10**9)


def test_a_host_without_power_boots_again(lab: Path) -> None:
    (before,) = say(lab, "pi2", BOOT_ID)
    _begin(lab, "pi2", "power", SHORT_S)
    assert not _reaches(lab, "operator", "pi2")
    until(lambda: not faults.active(lab, "pi2"))
    assert say(lab, "pi2", BOOT_ID) != [before]


SLEEPER = """if True:
    import json, os, subprocess
    from pathlib import Path
    child = subprocess.Popen(["setsid", "sleep", "100"], stdin=-3, stdout=-3, stderr=-3)
    ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    run = Path.home() / "rdht" / "here" / "runs" / "r"
    run.mkdir(parents=True, exist_ok=True)
    who = {"pid": child.pid, "start_ticks": ticks, "boot_id": boot_id}
    record = {"role": "server", "name": "pi3", **who}
    (run / "server.process.json").write_text(json.dumps(record))
    print(child.pid)
"""


def _server(lab: Path) -> str:
    """Start something on pi3 whose record says that it is a server of the cluster's."""
    (pid,) = say(lab, "pi3", "python3 -", SLEEPER)
    return pid


def _state(lab: Path, pid: str) -> list[str]:
    return say(lab, "pi3", f"ps -o state= -p {pid}; true")


def test_a_paused_server_is_stopped_and_goes_on(lab: Path) -> None:
    pid = _server(lab)
    assert "no client of this cluster runs here" in _begin(lab, "pi3", "pause", roles=["client"])
    _begin(lab, "pi3", "pause", roles=["server"])
    assert _state(lab, pid) == ["T"]
    assert _active(lab, "pi3") == {"pause"}
    _heal(lab)
    assert _state(lab, pid) == ["S"]


OPERATOR = """
import os, signal
from pathlib import Path
from tests.cluster import test_faults
for host, kind, settings in {all_of_them!r}:
    assert not test_faults._begin(Path({lab!r}), host, kind, {for_s}, **settings)
os.kill(os.getpid(), signal.SIGKILL)
"""
EACH = [
    ("pi3", "pause", {"roles": ["server"]}),
    ("pi1", "cut", _drops("pi2")),
    ("pi1", "loss", _drops("pi3", percent=20)),
    ("pi1", "slow", {"rate": "10mbit", "rate_bits": 10_000_000}),
    ("pi2", "power", {}),
    ("pi3", "cut", {"cable": True}),
]


def _begin_all_and_be_killed(lab: Path, for_s: float) -> str:
    pid = _server(lab)
    script = OPERATOR.format(all_of_them=EACH, lab=str(lab), for_s=for_s)
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    return pid


def test_every_fault_ends_without_its_operator(lab: Path) -> None:
    pid = _begin_all_and_be_killed(lab, SHORT_S)
    until(lambda: not any(faults.active(lab, host) for host in HOSTS))
    status = netns.status(lab)
    assert status is not None
    assert {(host["power"], host["cable"], host["rate"]) for host in status["hosts"].values()} == {
        (True, True, "100mbit")
    }
    assert links.filters(Names.of(lab)) == set()
    until(lambda: _reaches(lab, "operator", "pi3"))
    until(lambda: _active(lab, "pi3") == set())
    assert _state(lab, pid) == ["S"]


def test_heal_ends_the_faults_of_a_killed_operator(lab: Path) -> None:
    pid = _begin_all_and_be_killed(lab, LONG_S)
    assert {fault["kind"] for fault in faults.active(lab, "pi1")} == {"cut", "loss", "slow"}
    assert links.filters(Names.of(lab)) == {"rdht-cut-pi1", "rdht-loss-pi1"}
    for _ in range(2):
        assert _heal(lab) == dict.fromkeys(HOSTS, NOTHING_LEFT)
    assert links.filters(Names.of(lab)) == set()
    assert _state(lab, pid) == ["S"]


def test_a_second_fault_of_a_kind_is_refused_and_another_kind_is_not(lab: Path) -> None:
    _server(lab)
    for host, kind, settings in EACH[:3]:
        assert _begin(lab, host, kind, **settings) == ""
        refusal = _begin(lab, host, kind, **settings)
        assert f"{kind} for a test is there already and ends in 60 s; fab heal" in refusal
        assert refusal.count("\n") == 0
    assert _begin(lab, "pi2", "cut", **_drops("pi3")) == ""
    _heal(lab)


def test_a_reboot_ends_a_pause_and_its_record_is_known_to_be_old(lab: Path) -> None:
    _server(lab)
    _begin(lab, "pi3", "pause", roles=["server"])
    netns.power_off(lab, "pi3")
    netns.power_on(lab, "pi3")
    assert say(lab, "pi3", "ls rdht/here/faults") == ["pause.json"]
    assert _active(lab, "pi3") == set()
    _server(lab)
    assert _begin(lab, "pi3", "pause", roles=["server"]) == ""
    _heal(lab)


def test_a_lab_that_goes_down_takes_its_faults_along(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    netns.up(folder, netns.addresses(1))
    faults.begin(folder, "pi1", {"kind": "power", "text": "power cut", "for_s": LONG_S})
    switch = [RUN_NETNS / Names.of(folder).switch]
    (keeper,) = processes.inside(switch)
    netns.down(folder)
    stat = Path(f"/proc/{keeper}/stat")  # which stays until its parent has asked for it
    assert not stat.exists() or stat.read_text(encoding="utf-8").split()[2] in "ZX"


class OwnRoot:
    """The steps of a host whose user may be root, as a Pi's: by root, in a host's network."""

    def __init__(self, lab: Path, host: str, home: Path) -> None:
        self._space = _space(lab, host)
        self._home = home
        self.record = home / "rdht" / "pis" / "faults"

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self._space}", *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    def step(self, step: str, **arguments: Any) -> Any:
        told = {"command": f"faults.{step}", "cluster": "pis", "arguments": arguments}
        header = {**told, "modules": [], "timeout_s": 20, "payload_bytes": 0}
        done = subprocess.run(
            ["nsenter", f"--net={self._space}", sys.executable, "-m", "rdht.node"],
            input=json.dumps(header) + "\n",
            env={**os.environ, "HOME": str(self._home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def begin(self, kind: str, for_s: float = LONG_S, **settings: Any) -> Any:
        told = {"kind": kind, "text": kind, "for_s": for_s, "ssh_port": 22, **settings}
        return self.step("begin", **told)

    def heal(self) -> Any:
        return self.step("heal", network=True)["ok"]


@pytest.fixture
def own(lab: Path, tmp_path: Path) -> Iterator[OwnRoot]:
    host = OwnRoot(lab, "pi1", tmp_path)
    host.run("nft", "add table inet others")
    yield host
    left = {"reverters": 0, "paused": 0, "rules": 0, "slowed": 0}
    for _ in range(2):
        assert host.heal()["left"] == left
    assert host.run("nft", "list", "tables").split() == ["table", "inet", "others"]
    host.run("nft", "delete table inet others")


def test_a_host_cuts_itself_off_but_for_ssh(lab: Path, own: OwnRoot) -> None:
    assert "ok" in own.begin("cut", **_drops("pi2"))
    assert not _connects(lab, "pi1", "pi2")
    assert not _connects(lab, "pi2", "pi1")
    assert _connects(lab, "pi1", "pi3")
    assert _reaches(lab, "pi1", "pi2")
    assert _reaches(lab, "pi2", "pi1")
    assert _connects(lab, "pi1", "pi1")
    assert "cut is there already" in own.begin("cut", **_drops("pi3"))["error"]
    assert own.heal()["ended"] == ["cut"]
    assert _connects(lab, "pi1", "pi2")


def test_a_host_cuts_one_way_and_ends_it_by_itself(lab: Path, own: OwnRoot) -> None:
    own.begin("cut", SHORT_S, **_drops("pi2", ways=("in",)))
    assert _arriving(lab, "pi2", "pi1", 5) == 0
    assert _arriving(lab, "pi1", "pi2", 5) == 5
    until(lambda: own.step("active")["ok"]["faults"] == [])
    assert _arriving(lab, "pi2", "pi1", 5) == 5
    assert own.run("nft", "list", "tables").split() == ["table", "inet", "others"]


def test_a_host_loses_some_of_what_it_sends(lab: Path, own: OwnRoot) -> None:
    own.begin("loss", **_drops("pi2", "pi3", percent=20))
    assert 720 < _arriving(lab, "pi1", "pi2", 1000) < 880


def test_a_host_slows_down_what_it_sends(lab: Path, own: OwnRoot) -> None:
    slow: Any = {"peers": {"pi2": HOSTS["pi2"]}, "rate_bits": 10_000_000}
    refusal = own.begin("slow", **slow)["error"]
    assert "eth0 has a queueing discipline that is not ours, tbf" in refusal
    own.run("tc", "qdisc", "del", "dev", "eth0", "root")  # as on a Pi
    try:
        before = own.run("tc", "qdisc", "show")
        own.begin("slow", **slow)
        assert 8 <= measure_mbit(lab, "pi1", "pi2", 600_000) <= 10.5
        own.heal()
        assert own.run("tc", "qdisc", "show") == before
    finally:
        netns.rate(lab, "pi1", netns.DEFAULT_RATE)


def test_a_fault_whose_reverter_was_killed_is_told_and_healed(own: OwnRoot) -> None:
    own.begin("cut", **_drops("pi2"))
    record = json.loads((own.record / "cut.json").read_text(encoding="utf-8"))
    os.kill(record["pid"], signal.SIGKILL)
    until(lambda: not own.step("active")["ok"]["faults"][0]["reverter"])
    assert "has lost its reverter" in own.begin("cut", **_drops("pi2"))["error"]


def test_a_fault_that_cannot_begin_leaves_nothing(own: OwnRoot) -> None:
    wrong: Any = {"peers": {"pi2": "nowhere.invalid"}, "percent": 100, "ways": ["in"]}
    assert "does not know where pi2 is" in own.begin("cut", **wrong)["error"]
    wrong |= {"peers": {"pi2": "127.0.0.1"}}
    assert "on this machine" in own.begin("cut", **wrong)["error"]
    assert "error" in own.begin("loss", **_drops("pi2", percent=999))
    assert list(own.record.iterdir()) == []


def test_what_cannot_begin_at_the_switch_leaves_nothing(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "exceeds valid range" in _begin(lab, "pi1", "loss", **_drops("pi2", percent=999))
    assert faults.active(lab, "pi1") == []
    monkeypatch.setattr(links, "SEARCH_PATH", "/nowhere")
    assert "apt install nftables" in _begin(lab, "pi1", "loss", **_drops("pi2"))
