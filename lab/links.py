"""The netns lab's network: a switch, the operator and the hosts, each in its own namespace.

    10.77.0.1 operator ── switch ─┬─ pi1 10.77.0.11
                                  └─ pi2 10.77.0.12 …

Each host's end of its link is its eth0, the other one is the switch's port `to-<host>`; both send
no faster than the link's rate. Nothing of it is in the machine's own namespace.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

from lab.errors import ChoiceError, LabError

NETWORK = IPv4Network("10.77.0.0/24")
OPERATOR = IPv4Address("10.77.0.1")
RUN_NETNS = Path("/run/netns")
LONGEST_NAME = 12  # Linux gives an interface 15 characters, of which the port takes `to-`

SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_ENVIRONMENT = {**os.environ, "PATH": SEARCH_PATH}  # a user's may not lead to ip and tc
_TIMEOUT_S = 20.0
_VETH = "link add {near} type veth peer name eth0 netns {space}"
_RATE = re.compile(r"(\d+)(k|m|g)bit")
_BITS = {"k": 10**3, "m": 10**6, "g": 10**9}
_SLOWEST_BITS, _FASTEST_BITS = 8_000, 10**10
_MOST_WITHOUT_LIST = 30  # the kernel remembers 1,024 neighbours, of all namespaces together
_LEAST_BURST_BYTES = 16 * 1024  # tbf's bucket: what goes out at once
_LEAST_QUEUE_BYTES = 128 * 1024  # what waits for the link before packets are dropped


@dataclass(frozen=True)
class Names:
    """What the namespaces of one lab are called: no two labs of a machine share a name."""

    tag: str

    @classmethod
    def of(cls, folder: Path) -> "Names":
        """Derive the names from the lab's folder alone: they are known when its files are lost."""
        return cls(hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6])

    @property
    def switch(self) -> str:
        """The switch's namespace."""
        return f"rdht-{self.tag}.switch"

    @property
    def operator(self) -> str:
        """The operator's namespace."""
        return f"rdht-{self.tag}.operator"

    def host(self, name: str) -> str:
        """Return the namespace of a host."""
        return f"rdht-{self.tag}-{name}"  # no host's name has a dot

    def all(self, hosts: Iterable[str]) -> list[str]:
        """Return all namespaces of a lab of these hosts."""
        return [self.switch, self.operator, *map(self.host, hosts)]

    def existing(self) -> list[str]:
        """Return those that are there, whole or half made."""
        return sorted(
            path.name for mark in (".", "-") for path in RUN_NETNS.glob(f"rdht-{self.tag}{mark}*")
        )


class Batch(NamedTuple):
    """A program and what it reads: one command a line."""

    words: list[str]
    lines: list[str]


def port(host: str) -> str:
    """Return the name of a host's port on the switch."""
    return f"to-{host}"


def far_end(port: str) -> str:
    """Return the name of a port's other end while it is not yet where it belongs."""
    return f"at-{port[3:]}" if port.startswith("to-") else f"{port}-far"


def bits_per_second(rate: str) -> int:
    """Read a rate such as 100mbit; ChoiceError if it is none."""
    found = _RATE.fullmatch(rate)
    bits = int(found[1]) * _BITS[found[2]] if found else 0
    if not _SLOWEST_BITS <= bits <= _FASTEST_BITS:
        why = f"{rate!r} is no rate from 8kbit to 10gbit: write it like 100mbit"
        raise ChoiceError(why)
    return bits


@contextmanager
def taking_turns() -> Iterator[None]:
    """Wait until no other lab of this machine makes or removes what all labs share."""
    shared = os.open(RUN_NETNS.parent, os.O_RDONLY | os.O_CLOEXEC)  # leaves no file behind
    try:
        fcntl.flock(shared, fcntl.LOCK_EX)
        yield
    finally:
        os.close(shared)


def ports(names: Names, hosts: Iterable[str]) -> dict[str, str]:
    """Return the switch's ports, each with the namespace that its link leads to."""
    return {"operator": names.operator} | {port(host): names.host(host) for host in hosts}


def spaces(names: Names, hosts: Iterable[str]) -> Batch:
    """Return what makes the namespaces."""
    return Batch(["ip", "-batch", "-"], [f"netns add {space}" for space in names.all(hosts)])


def making(
    names: Names, hosts: Mapping[str, str], rate: str, *, wired: bool = False
) -> list[Batch]:
    """Return what makes the links between the namespaces; some are `wired` by wire.py already."""
    to = ports(names, hosts)
    ends = {names.operator: str(OPERATOR)} | {names.host(host): hosts[host] for host in hosts}
    return [
        Batch(["ip", "-n", names.switch, "-batch", "-"], _switch(to, wired=wired)),
        *(Batch(["ip", "-n", space, "-batch", "-"], _end(ends[space])) for space in ends),
        *(knowing(space, hosts) for space in ends),
        Batch(["tc", "-n", names.switch, "-batch", "-"], [_shape(end, rate) for end in to]),
        *(Batch(["tc", "-n", space, "-batch", "-"], [_shape("eth0", rate)]) for space in ends),
    ]


def _switch(to: Mapping[str, str], *, wired: bool) -> list[str]:
    link = "link set {far} netns {space} name eth0" if wired else _VETH
    return [
        # No spanning tree and no waiting: a plugged cable carries at once.
        "link add bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set bridge addrgenmode none up",
        *(link.format(near=end, far=far_end(end), space=space) for end, space in to.items()),
        *(f"link set {end} master bridge addrgenmode none up" for end in to),
    ]


def _end(address: str) -> list[str]:
    return [
        "link set lo up",
        f"addr add {address}/{NETWORK.prefixlen} dev eth0",
        f"link set eth0 address {_hardware(address)} addrgenmode none up",
    ]


def knowing(space: str, hosts: Mapping[str, str]) -> Batch:
    """Return what tells a namespace, its card being on, the hardware addresses of a large lab."""
    others = [str(OPERATOR), *hosts.values()] if len(hosts) > _MOST_WITHOUT_LIST else []
    lines = [
        f"neigh replace {address} lladdr {_hardware(address)} dev eth0 nud permanent"
        for address in others
    ]
    return Batch(["ip", "-n", space, "-batch", "-"], lines)


def _hardware(address: str) -> str:
    return f"02:00:{IPv4Address(address).packed.hex(':')}"


def _shape(device: str, rate: str) -> str:
    per_ms = bits_per_second(rate) // 8 // 1000
    burst = max(_LEAST_BURST_BYTES, per_ms)
    queue = max(_LEAST_QUEUE_BYTES, 10 * per_ms)
    return f"qdisc replace dev {device} root tbf rate {rate} burst {burst}b limit {queue}b"


def shaping(names: Names, host: str, rate: str) -> list[Batch]:
    """Return what gives both ends of a host's link another rate."""
    return [
        Batch(["tc", "-n", names.switch, "-batch", "-"], [_shape(port(host), rate)]),
        Batch(["tc", "-n", names.host(host), "-batch", "-"], [_shape("eth0", rate)]),
    ]


def plugging(names: Names, host: str, *, plugged: bool) -> list[Batch]:
    """Return what plugs a host's cable into the switch, or takes it out."""
    line = f"link set {port(host)} {'up' if plugged else 'down'}"
    return [Batch(["ip", "-n", names.switch, "-batch", "-"], [line])]


def powering(names: Names, host: str, *, powered: bool) -> list[Batch]:
    """Return what gives a host's network card power, or takes it; the cable stays as it is."""
    line = f"link set eth0 {'up' if powered else 'down'}"
    return [Batch(["ip", "-n", names.host(host), "-batch", "-"], [line])]


def forget_connections(names: Names, host: str) -> None:
    """Drop what the kernel still wants to send for processes of a host that are gone."""
    with suppress(LabError):  # a kernel that cannot do it sends some packets after the next boot
        _run(["ss", "-N", names.host(host), "--kill", "--tcp", "state", "all"], "")


def run(batches: Iterable[Batch]) -> None:
    """Run batches one after the other; LabError for the first that fails."""
    for batch in batches:
        _run(batch.words, "".join(f"{line}\n" for line in batch.lines))


def filtering(names: Names, lines: list[str]) -> Batch:
    """Return what changes the rules of the switch: all of the lines take effect, or none."""
    return Batch([*_nft(names), "-f", "-"], lines)


def filters(names: Names) -> set[str]:
    """Return the tables of rules of the switch."""
    rows = json.loads(_run([*_nft(names), "-j", "list", "tables", "bridge"], ""))["nftables"]
    return {row["table"]["name"] for row in rows if "table" in row}


def _nft(names: Names) -> list[str]:
    return ["nsenter", f"--net={RUN_NETNS / names.switch}", "nft"]


def state(names: Names) -> tuple[dict[str, bool], dict[str, str]]:
    """Return of each port of the switch whether its cable is in, and its rate."""
    links = json.loads(_run(["ip", "-n", names.switch, "-json", "link", "show"], ""))
    queues = json.loads(_run(["tc", "-n", names.switch, "-json", "qdisc", "show"], ""))
    plugged = {link["ifname"]: "UP" in link["flags"] for link in links}
    rates = {row["dev"]: _rate(row["options"]) for row in queues if row["kind"] == "tbf"}
    return plugged, rates


def _rate(options: dict[str, Any]) -> str:
    bits = int(options["rate"]) * 8  # tc's JSON has bytes a second
    for letter in "gmk":
        if bits % _BITS[letter] == 0:
            return f"{bits // _BITS[letter]}{letter}bit"
    return f"{bits}bit"


def remove(names: Names) -> None:
    """Remove every namespace of this lab, and with them their links.

    The folder that `ip netns` makes for itself goes when nobody has anything in it.
    """
    for space in names.existing():
        with suppress(LabError):  # a half-made one has a file and no namespace: `ip` complains
            _run(["ip", "netns", "delete", space], "")
        (RUN_NETNS / space).unlink(missing_ok=True)
    if RUN_NETNS.is_dir() and not any(RUN_NETNS.iterdir()):
        with suppress(OSError, LabError):  # somebody has put one there just now
            _run(["umount", str(RUN_NETNS)], "")
            RUN_NETNS.rmdir()


def _run(words: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=_ENVIRONMENT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"{' '.join(words)}: no end within {_TIMEOUT_S:.0f} s"
        raise LabError(why) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        why = f"{' '.join(words)}: {reason}; does this kernel have veth, bridge, tbf and nf_tables?"
        raise LabError(why)
    return done.stdout
