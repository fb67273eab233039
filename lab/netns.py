"""Hosts with real sshd and real links, in namespaces of this machine; needs Linux.

Who is not root may need what holder.py makes, and must have joined it before.

A host is a network namespace with a cable to the switch, and a process tree with its own mounts,
process numbers and name. What is up is found by asking the kernel about names that follow from
the lab's folder; the folder's files say only what was wanted. So `down` clears whatever a killed
`up` left, and touches nothing of another folder's lab.

    <folder>/config.json              what is wanted, and whether all of it is up
             id_ed25519, known_hosts  the operator's key, the hosts' pinned ones
             operator                 a link to the operator's network namespace
             <host>/                  see host_files.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lab import holder, host_files, links, wire
from lab.errors import ChoiceError, LabError
from lab.links import NETWORK, OPERATOR, RUN_NETNS, Names
from lab.processes import end, inside

DEFAULT_RATE, DEFAULT_DELAY = "100mbit", "0ms"
MAX_HOSTS = 100
BOOT_TIMEOUT_S = 20.0

_START_TIMEOUT_S = 3.0  # until a host has any process at all
_POLL_S = 0.01
_HOST_INIT = Path(__file__).with_name("host_init.py")
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ss": "iproute2",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
}


def addresses(count: int) -> dict[str, str]:
    """Return the hosts pi1, pi2, … with their addresses."""
    if not 1 <= count <= MAX_HOSTS:
        why = f"{count} hosts cannot be: from 1 to {MAX_HOSTS}"
        raise ChoiceError(why)
    return {f"pi{number}": str(OPERATOR + 9 + number) for number in range(1, count + 1)}


def missing() -> str | None:
    """Say what this machine lacks for such a lab, and what to do; None if nothing."""
    if sys.platform != "linux":
        return "network namespaces are Linux's: fab lab.up without --kind needs none"
    lacking = [program for program in _PACKAGES if _find(program) is None]
    if lacking:
        packages = sorted({_PACKAGES[program] for program in lacking})
        return (
            f"{', '.join(lacking)} missing: apt install {' '.join(packages)} (openssh-server's own "
            "daemon is not needed: systemctl disable --now ssh)"
        )
    if os.geteuid():
        return holder.missing()
    words = ["unshare", "--net", "--mount", "true"]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return "this root may not make namespaces: is it a container's, without CAP_SYS_ADMIN?"
    return None


def _find(program: str) -> str | None:
    return shutil.which(program, path=links.SEARCH_PATH)


def up(
    folder: Path,
    hosts: Mapping[str, str],
    rate: str = DEFAULT_RATE,
    delay: str = DEFAULT_DELAY,
) -> bool:
    """Bring the hosts up, each a name and an address; False if just these were up already.

    A packet takes the `delay` on each link, so twice that from host to host. LabError, and nothing
    is changed, if the lab is up with others: they may hold results.
    """
    if why := _mistake(hosts, rate):
        raise ChoiceError(why)
    delay_s = wire.seconds(delay)
    if why := missing() or (wire.missing() if delay_s else None):
        raise LabError(why)
    if config := _ready(folder):
        if (config["hosts"], config["rate"], config["delay_s"]) == (dict(hosts), rate, delay_s):
            return False
        slow = f", {config['delay_s'] * 1000:g} ms" if config["delay_s"] else ""
        why = (
            f"a lab of {len(config['hosts'])} hosts at {config['rate']}{slow} is up, and may hold "
            f"results: fab lab.down takes it down, then this can be made"
        )
        raise LabError(why)
    down(folder)  # what a killed lab left
    try:
        with links.taking_turns():
            _make(folder, hosts, rate, delay_s)
    except BaseException:
        down(folder)
        raise
    return True


def _mistake(hosts: Mapping[str, str], rate: str) -> str | None:
    links.bits_per_second(rate)
    for name, address in hosts.items():
        if len(name) > links.LONGEST_NAME:
            return f"{name} is too long for a host's name here: {links.LONGEST_NAME} characters"
        try:
            usable = IPv4Address(address) in NETWORK and IPv4Address(address) != OPERATOR
        except ValueError:
            usable = False
        if not usable:
            return f"{name}: {address} is no address of {NETWORK} beside the operator's {OPERATOR}"
    if len(set(hosts.values())) < len(hosts):
        return f"two hosts have one address: {', '.join(hosts.values())}"
    return None


def _make(folder: Path, hosts: Mapping[str, str], rate: str, delay_s: float) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    allowed = _ways_to_restore()
    wanted = {"hosts": dict(hosts), "rate": rate, "delay_s": delay_s}
    config = {**wanted, "allowed": allowed, "ready": False}
    _write(folder, config)  # BEFORE anything is made or changed: `down` puts it back from here
    names = Names.of(folder)
    links.run([links.spaces(names, hosts)])
    if delay_s:
        wire.lay(names, links.ports(names, hosts), delay_s)
    links.run(links.making(names, hosts, rate, wired=delay_s > 0))
    keeper = holder.find(folder)
    root = Path(f"/proc/{keeper}/root") if keeper else Path("/")
    (folder / "operator").symlink_to(root / (RUN_NETNS / names.operator).relative_to("/"))
    login = host_files.make_key(folder / "id_ed25519", "operator of the rdht lab")
    pins = {name: host_files.make(folder / name, hosts, name, login) for name in hosts}
    (folder / "known_hosts").write_text(
        "".join(f"{hosts[name]} {' '.join(pin.split()[:2])}\n" for name, pin in pins.items()),
        encoding="ascii",
    )
    _let_hosts_choose_cubic(allowed)  # while they boot; what a host has chosen stays
    _boot(folder, hosts)
    _restore(allowed)
    _write(folder, {**config, "allowed": None, "ready": True})  # AFTER all of it is there


def status(folder: Path) -> dict[str, Any] | None:
    """Return the lab's rate, delay, and hosts with power, cable and rate; None if it is not up."""
    config = _ready(folder)
    if config is None:
        return None
    names = Names.of(folder)
    plugged, rates = links.state(names)
    hosts = {
        name: {
            "address": address,
            "power": bool(_processes(names, [name])),
            "cable": plugged[links.port(name)],
            "rate": rates[links.port(name)],
        }
        for name, address in config["hosts"].items()
    }
    wanted = {key: config[key] for key in ("rate", "delay_s")}
    return {**wanted, "operator": names.operator, "hosts": hosts}


def down(folder: Path) -> bool:
    """End the hosts and all that runs on them, remove all that was made; was there anything?"""
    names = Names.of(folder)
    config = _config(folder)
    existed = folder.exists() or bool(names.existing())
    if not existed:
        return False
    if why := missing():
        raise LabError(why)
    spaces = [RUN_NETNS / space for space in names.existing() if space != names.operator]
    _kill(spaces)
    with links.taking_turns():
        links.remove(names)
        if config:
            _restore(config["allowed"])
    shutil.rmtree(folder, ignore_errors=True)
    return True


def power_off(folder: Path, host: str) -> None:
    """Cut a host's power: it is gone from one moment to the next, and keeps only its home."""
    names = look_up(folder, host)
    # BEFORE the processes die: a dead machine's kernel says goodbye to nobody.
    links.run(links.powering(names, host, powered=False))
    _kill([RUN_NETNS / names.host(host)])
    links.forget_connections(names, host)


def power_on(folder: Path, host: str) -> None:
    """Boot a host, with its home as it was and a new boot id; return once its sshd listens."""
    names = look_up(folder, host)
    if _processes(names, [host]):
        return
    config = _config(folder)
    assert config is not None  # look_up has read it
    knowing = links.knowing(names.host(host), config["hosts"])
    links.run([*links.powering(names, host, powered=True), knowing])
    _boot(folder, {host: config["hosts"][host]})


def cable(folder: Path, host: str, *, plugged: bool) -> None:
    """Plug a host's cable into the switch, or take it out.

    The host sees its carrier change, but not where links take time: there nothing arrives.
    """
    links.run(links.plugging(look_up(folder, host), host, plugged=plugged))


def rate(folder: Path, host: str, rate: str) -> None:
    """Give a host's link another rate, such as 10mbit, both ways."""
    links.run(links.shaping(look_up(folder, host), host, rate))


def look_up(folder: Path, host: str) -> Names:
    """Return the names of a lab that is up and has the host; LabError if there is none."""
    config = _ready(folder)
    if config is None:
        why = f"the lab of {folder} is not up: fab lab.up --kind netns"
        raise LabError(why)
    if host not in config["hosts"]:
        why = f"the lab has no host {host!r}; there are {', '.join(config['hosts'])}"
        raise LabError(why)
    return Names.of(folder)


def _boot(folder: Path, hosts: Mapping[str, str]) -> None:
    """Start hosts at once, then wait until each listens for ssh."""
    names = Names.of(folder)
    sshd = _find("sshd")  # it wants to be called by its path
    for name in hosts:
        words = [
            *("setsid", "--fork", "nsenter", f"--net={RUN_NETNS / names.host(name)}"),
            *(sys.executable, "-I", "-S", str(_HOST_INIT), "power"),
            *(str((folder / name).resolve()), name, str(sshd)),
            *([str(host_files.USER_ID)] if holder.has_joined() else []),
        ]
        with (folder / name / "console.log").open("ab") as console:
            subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd="/", check=True
            )
    deadlines = (time.monotonic() + _START_TIMEOUT_S, time.monotonic() + BOOT_TIMEOUT_S)
    for name, address in hosts.items():
        while not (pids := _processes(names, [name])) or not _listens(pids[0], address):
            if time.monotonic() > deadlines[bool(pids)]:
                console_log = folder / name / "console.log"
                lines = console_log.read_text(encoding="utf-8", errors="replace").splitlines()
                why = f"{name} did not boot: {lines[-1] if lines else 'no reason given'}"
                raise LabError(why)
            time.sleep(_POLL_S)


def _listens(pid: int, address: str) -> bool:
    """Tell whether something listens on the ssh port, as a process of that host sees it."""
    number = int.from_bytes(IPv4Address(address).packed, sys.byteorder)
    listening = [f"{number:08X}:0016", "00000000:0000", "0A"]
    try:
        rows = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(row.split()[1:4] == listening for row in rows)


def _processes(names: Names, hosts: Iterable[str]) -> list[int]:
    return inside([RUN_NETNS / names.host(host) for host in hosts])


def _kill(spaces: list[Path]) -> None:
    while pids := inside(spaces):  # one that was ended may have started another just before
        if not end(pids, signal.SIGKILL):
            why = f"these processes do not end: {', '.join(map(str, inside(spaces)))}"
            raise LabError(why)


def _ready(folder: Path) -> dict[str, Any] | None:
    """Return what is wanted if all of it is up; a machine that was rebooted has only the files."""
    config = _config(folder)
    if config is None or not config["ready"]:
        return None
    names = Names.of(folder)
    return config if set(names.all(config["hosts"])) <= set(names.existing()) else None


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except PermissionError as error:
        why = f"the lab in {folder} is root's: only root may look after it"
        raise LabError(why) from error
    return config


def _write(folder: Path, config: dict[str, Any]) -> None:
    temporary = folder / "config.json.new"
    temporary.write_text(json.dumps(config), encoding="utf-8")
    temporary.replace(folder / "config.json")


def _ways_to_restore() -> str | None:
    """Return the machine's list of ways to send that its namespaces may choose from.

    None if it stays: cubic, as a Pi uses, is in it already, or unknown to this kernel, or only the
    machine's root may change it.
    """
    if (
        not os.access(_ALLOWED, os.W_OK)
        or "cubic" not in _AVAILABLE.read_text(encoding="ascii").split()
    ):
        return None
    allowed = _ALLOWED.read_text(encoding="ascii").strip()
    return None if "cubic" in allowed.split() else allowed


def _let_hosts_choose_cubic(allowed: str | None) -> None:
    if allowed is not None:
        _ALLOWED.write_text(f"{allowed} cubic", encoding="ascii")


def _restore(allowed: str | None) -> None:
    if allowed is not None:
        _ALLOWED.write_text(allowed, encoding="ascii")
