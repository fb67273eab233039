"""Hosts in network namespaces: real sshd, real links, and nothing left of them."""

import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.namespace import inside
from lab import netns, processes
from lab.errors import LabError
from lab.links import RUN_NETNS, Names
from tests.cluster.three_hosts import HOSTS, measure_mbit, say, until
from tests.needs import NETNS, TAPS

pytestmark = NETNS
ROOT = Path(__file__).parents[2]
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def _traces(folder: Path) -> dict[str, object]:
    """Return all that a lab in that folder may leave on the machine."""
    names = Names.of(folder)
    marks = (names.tag, str(folder))
    own = {entry: _command(entry) for entry in processes.everyone()}
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {
        "namespaces": names.existing(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "mounts": [line for line in mounts if any(mark in line for mark in marks)],
        "processes": [argv for argv in own.values() if any(mark in argv for mark in marks)],
        "files": sorted(folder.rglob("*")) + [folder] * folder.exists(),
        "etc": sorted(Path("/etc").glob("netns*")),
    }


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _run_netns_is_in_use_or_gone() -> bool:
    return not RUN_NETNS.exists() or any(RUN_NETNS.iterdir())


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A folder without a lab, of which nothing is left after the test whatever the test did."""
    folder = tmp_path / "lab"
    allowed = ALLOWED.read_text(encoding="ascii")
    before = _traces(folder)
    yield folder
    netns.down(folder)
    assert _traces(folder) == before
    until(lambda: ALLOWED.read_text(encoding="ascii") == allowed)  # another lab may be booting
    until(_run_netns_is_in_use_or_gone)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("netns") / "lab"
    before = _traces(folder)
    assert netns.up(folder, HOSTS)
    during = _traces(folder)
    assert during["interfaces"] == before["interfaces"]
    assert all(during[what] != before[what] for what in ("namespaces", "mounts", "processes"))
    yield folder
    assert netns.down(folder)
    assert not netns.down(folder)
    assert _traces(folder) == before


@pytest.mark.parametrize("name", HOSTS)
def test_each_host_is_reached_as_pi_with_its_pinned_key(lab: Path, name: str) -> None:
    assert say(lab, name, "id -un; hostname; pwd") == ["pi", name, "/home/pi"]


def test_hosts_reach_each_other_by_address_and_by_name(lab: Path) -> None:
    others = ["pi2", "pi3", HOSTS["pi2"], HOSTS["pi3"]]
    script = f"""if True:
        import socket
        for host in {others}:
            print(socket.create_connection((host, 22), 5).recv(4))
    """
    answers = say(lab, "pi1", "python3 -", script)
    assert answers == ["b'SSH-'"] * len(others)


def test_a_host_sees_nothing_of_the_others_or_of_the_machine(lab: Path) -> None:
    say(lab, "pi1", "touch /tmp/mine /dev/shm/mine; setsid sleep 60 >/dev/null 2>&1 </dev/null &")
    shown = say(lab, "pi2", "ls /tmp /dev/shm /home; ps ax | grep -c '[s]leep 60'; cat /etc/passwd")
    assert shown[:6] == ["/dev/shm:", "", "/home:", "pi", "", "/tmp:"]
    assert shown[6] == "0"
    assert {line.partition(":")[0] for line in shown[7:]} == {"root", "pi", "sshd", "nobody"}


def test_a_host_sends_as_a_pi_does(lab: Path) -> None:
    available = ALLOWED.with_name("tcp_available_congestion_control").read_text(encoding="ascii")
    if "cubic" not in available.split():
        pytest.skip("this kernel has no cubic")
    assert say(lab, "pi3", "cat /proc/sys/net/ipv4/tcp_congestion_control") == ["cubic"]


def test_a_link_is_as_fast_as_it_should_be_and_no_faster(lab: Path) -> None:
    measured = [measure_mbit(lab, "pi1", "pi2", 6_000_000) for _ in range(3)]
    assert max(measured) <= 100
    assert max(measured) >= 80, measured  # a busy machine may slow some of them down


def test_a_links_rate_can_be_changed(lab: Path) -> None:
    netns.rate(lab, "pi2", "10mbit")
    try:
        measured = [measure_mbit(lab, "pi1", "pi2", 600_000) for _ in range(3)]
        assert measure_mbit(lab, "pi2", "pi1", 600_000) <= 10.5
        status = netns.status(lab)
    finally:
        netns.rate(lab, "pi2", "100mbit")
    assert max(measured) <= 10.5  # of which the links' buckets hold some
    assert max(measured) >= 8, measured
    assert status is not None
    assert [host["rate"] for host in status["hosts"].values()] == ["100mbit", "10mbit", "100mbit"]


def test_a_second_up_changes_nothing(lab: Path) -> None:
    before = say(lab, "pi1", BOOT_ID)
    assert not netns.up(lab, HOSTS)
    with pytest.raises(LabError, match=r"3 hosts at 100mbit is up.*lab\.down"):
        netns.up(lab, netns.addresses(4))
    with pytest.raises(LabError, match="100mbit is up"):
        netns.up(lab, HOSTS, "10mbit")
    assert say(lab, "pi1", BOOT_ID) == before


def _refused(lab: Path, name: str) -> int:
    """Return why the operator cannot connect to a host, or 0 if it can."""
    with inside(lab / "operator"):
        try:
            socket.create_connection((HOSTS[name], 22), timeout=1).close()
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:
            return error.errno or -1
    return 0


def test_a_power_cut_leaves_the_home_and_a_boot_has_its_own_id(lab: Path) -> None:
    before = say(lab, "pi2", f"{BOOT_ID}; touch kept; touch /tmp/lost; id -un")
    with inside(lab / "operator"):
        witness = socket.create_connection((HOSTS["pi2"], 22), timeout=1)
    with witness:
        assert witness.recv(4) == b"SSH-"
        netns.power_off(lab, "pi2")
        status = netns.status(lab)
        assert status is not None
        assert [host["power"] for host in status["hosts"].values()] == [True, False, True]
        # Nobody answers, not even to refuse: a kernel that lived on would.
        assert _refused(lab, "pi2") in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
        witness.settimeout(0.5)
        witness.recv(4096)  # the rest of what it said while it lived
        with pytest.raises(TimeoutError):  # it has not said goodbye
            witness.recv(4096)
        netns.power_on(lab, "pi2")
    netns.power_on(lab, "pi2")  # which it is
    after = say(lab, "pi2", f"{BOOT_ID}; ls; ls /tmp; id -un")
    assert after[1:] == ["kept", "pi"]
    assert after[0] != before[0]


def test_a_host_that_its_user_reboots_comes_back(lab: Path) -> None:
    if not Path("/etc/sudoers").exists():
        pytest.skip("this machine has no sudo")
    before = say(lab, "pi3", BOOT_ID)
    with suppress(ClusterError):  # the connection may end before the command does
        say(lab, "pi3", "touch kept; sudo -n reboot; sleep 20")

    def is_back() -> bool:
        try:
            after = say(lab, "pi3", f"{BOOT_ID}; ls")
        except ClusterError:
            return False
        return after[1:] == ["kept"] and after[0] != before[0]

    until(is_back)


def test_a_cable_can_be_taken_out_and_put_in(lab: Path) -> None:
    netns.cable(lab, "pi1", plugged=False)
    try:
        assert _refused(lab, "pi1") in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
        assert _refused(lab, "pi2") == 0
        status = netns.status(lab)
        # Power that comes back does not put it in.
        netns.power_off(lab, "pi1")
        netns.power_on(lab, "pi1")
        assert _refused(lab, "pi1") in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
    finally:
        netns.cable(lab, "pi1", plugged=True)
    assert status is not None
    assert [host["cable"] for host in status["hosts"].values()] == [False, True, True]
    until(lambda: _refused(lab, "pi1") == 0)


def test_an_unknown_host_is_named_together_with_the_others(lab: Path) -> None:
    with pytest.raises(LabError, match="no host 'pi9'; there are pi1, pi2, pi3"):
        netns.power_off(lab, "pi9")


def test_two_labs_stand_side_by_side(lab: Path, empty: Path) -> None:
    assert netns.up(empty, netns.addresses(1))
    assert set(Names.of(empty).existing()).isdisjoint(Names.of(lab).existing())
    ids = {folder: say(folder, "pi1", BOOT_ID)[0] for folder in (lab, empty)}
    assert ids[lab] != ids[empty]
    assert netns.down(empty)
    assert say(lab, "pi1", BOOT_ID) == [ids[lab]]


@TAPS
def test_packets_take_as_long_on_each_link_as_was_asked(empty: Path) -> None:
    hosts = netns.addresses(2)
    assert netns.up(empty, hosts, delay="5ms")
    assert not netns.up(empty, hosts, delay="5ms")
    with pytest.raises(LabError, match=r"2 hosts at 100mbit, 5 ms is up.*lab\.down"):
        netns.up(empty, hosts)
    names = Names.of(empty)
    took_s = []
    with inside(RUN_NETNS / names.host("pi2")):
        listener = socket.create_server((hosts["pi2"], 9000))
    with listener, inside(RUN_NETNS / names.host("pi1")):
        for _ in range(20):
            begin_s = time.monotonic()
            socket.create_connection((hosts["pi2"], 9000), timeout=5).close()
            took_s.append(time.monotonic() - begin_s)
    assert min(took_s) >= 0.020  # there and back, two links each
    assert min(took_s) <= 0.025
    assert measure_mbit(empty, "pi1", "pi2", 2_000_000) <= 100
    netns.cable(empty, "pi1", plugged=False)
    assert _refused(empty, "pi1") in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
    netns.cable(empty, "pi1", plugged=True)
    netns.power_off(empty, "pi1")
    netns.power_on(empty, "pi1")
    assert say(empty, "pi1", "hostname") == ["pi1"]


KILLED_AFTER = """
import os, signal
from pathlib import Path
from lab import host_files, links, netns
whole = {function}
def part(*words, **named):
    whole(*words, **named)
    os.kill(os.getpid(), signal.SIGKILL)
{function} = part
netns.up(Path({folder!r}), netns.addresses(2))
"""


@pytest.mark.parametrize(
    "function",
    [
        "netns._write",
        "links._run",  # the namespaces are there, no link is
        "host_files.make",  # the first host's files
        "netns._let_hosts_choose_cubic",  # the machine's setting has changed
        "netns._boot",  # the hosts run
    ],
)
def test_what_a_killed_up_left_is_cleared(empty: Path, function: str) -> None:
    script = KILLED_AFTER.format(function=function, folder=str(empty))
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert netns.status(empty) is None
    assert netns.up(empty, netns.addresses(2))
    assert say(empty, "pi2", "id -un") == ["pi"]


def test_down_alone_clears_a_lab_that_was_killed_or_lost_its_files(empty: Path) -> None:
    script = KILLED_AFTER.format(function="netns._boot", folder=str(empty))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    assert netns.down(empty)
    netns.up(empty, netns.addresses(1))
    subprocess.run(["rm", "-r", empty], check=True)
    assert netns.status(empty) is None
    assert netns.down(empty)


def test_the_operator_is_in_the_namespace_only_for_a_while(lab: Path, tmp_path: Path) -> None:
    own = Path("/proc/thread-self/ns/net")
    here = own.readlink()
    with inside(lab / "operator"):
        assert own.readlink() != here
        assert {name for _, name in socket.if_nameindex()} == {"lo", "eth0"}
    assert own.readlink() == here
    (tmp_path / "file").touch()
    for place, why in (("nothing", "fab lab.up --kind netns"), ("file", "no network namespace")):
        with pytest.raises(ClusterError, match=why), inside(tmp_path / place):
            pass
