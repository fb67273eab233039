"""Faults that are made on purpose, each with an end that this host itself sees to.

A fault is there once at a time. Its record, `<kind>.json` in the cluster's folder of faults, says
what it is, when it ends, and which process reverts it then: one of its own session, which goes on
when the operator is gone. A reboot ends every fault; what it leaves is a record of another boot.
In the network we touch nothing but a table of nftables and a queueing discipline of our own.
"""

import fcntl
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from rdht.node.host import (
    Folders,
    NodeError,
    boot_id,
    is_alive,
    read_json,
    start_ticks,
    write_json,
)

PAUSE, CUT, LOSS, SLOW, CLOCK = "pause", "cut", "loss", "slow", "clock"
HANDLE = "7d47:"  # of our queueing discipline, by which it is known
_KERNELS_OWN = "0:"  # the handle of what stands where nobody has put anything
_QUEUE_BYTES = 128 * 1024
_LEAST_BURST_BYTES = 16 * 1024
_WAIT_S = 5.0
_CLOCK_OFF_S = 1.0  # less is nothing: to set it takes a moment
_ALL = 100
_STOPPED = "T"
_POLL_S = 0.005

Address = IPv4Address | IPv6Address


def dropping(
    table: str, ways: Iterable[str], peers: Iterable[Address], percent: int, ssh_port: int
) -> list[str]:
    """Return the command that drops so many of the packets from (`in`) and to (`out`) peers.

    ssh and what the host says to itself pass. nft takes all of a command's clauses, or none.
    """
    sides = {"in": ("input", "iifname", "saddr"), "out": ("output", "oifname", "daddr")}
    chance = "" if percent == _ALL else f"numgen random mod 100 < {percent} "
    clauses = [f"add table inet {table};"]
    for way in ways:
        hook, interface, end = sides[way]
        rules = [f"{interface} lo accept", f"tcp sport {ssh_port} accept"]
        rules.append(f"tcp dport {ssh_port} accept")
        for version, family in ((4, "ip"), (6, "ip6")):
            chosen = sorted({str(peer) for peer in peers if peer.version == version})
            if chosen:
                rules.append(f"{family} {end} {{ {', '.join(chosen)} }} {chance}drop")
        clauses.append(f"add chain inet {table} {hook} {{ type filter hook {hook} priority 0; }};")
        clauses += [f"add rule inet {table} {hook} {rule};" for rule in rules]
    return ["nft", *clauses]


def removing(table: str) -> list[str]:
    """Return the command that removes our table, whether it is there or not."""
    return ["nft", f"add table inet {table};", f"delete table inet {table};"]


def slowing(device: str, rate_bits: int) -> list[str]:
    """Return the command that lets an interface send no faster than that."""
    burst = max(_LEAST_BURST_BYTES, rate_bits // 8 // 1000)
    shape = ["tbf", "rate", f"{rate_bits}bit", "burst", f"{burst}b", "limit", f"{_QUEUE_BYTES}b"]
    return ["tc", "qdisc", "replace", "dev", device, "root", "handle", HANDLE, *shape]


def kill(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Kill this cluster's processes of the roles in `roles`, or of those only `names`, at once."""
    chosen = _ours(folders, arguments["roles"], arguments.get("names"))
    return {"killed": [_name(record) for record in chosen if _end(record)]}


def begin(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Begin a fault that ends by itself after `for_s`.

    `arguments`: `kind`, `text`, which says it to people, and of a pause `roles` and perhaps
    `names`; of the clock `jump_s` and `desk_boot_id`, as the desk itself keeps its clock; of the
    others `peers` (name → address of the other hosts), and `ways`, `percent` and `ssh_port`, or
    `rate_bits`.
    """
    kind = arguments["kind"]
    with _alone(folders):
        path = folders.faults / f"{kind}.json"
        first = read_json(path)
        if first and first["boot_id"] == boot_id():
            raise NodeError(_refusal(_shown(first)))
        act = _prepare(folders, kind, arguments)
        until = {"until_unix_s": time.time() + arguments["for_s"]}
        record = {"kind": kind, "text": arguments["text"], **until, "booted_unix_s": _booted()}
        # BEFORE anything is done: whatever happens to this step, somebody reverts it.
        record |= _leave_reverter(folders, path, kind, arguments["for_s"])
        try:
            write_json(path, record)
            act()
        except BaseException:
            _end(record)
            with suppress(NodeError):  # the first reason is the one to tell
                _undo(folders, kind)
            path.unlink(missing_ok=True)
            raise
    return _shown(record)


def wait(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Wait until a process of ours stands still, for `timeout_s` at most; tell whether it does."""
    found = _ours(folders, arguments["roles"], arguments["names"])
    if not found:
        why = f"{arguments['roles'][0]} {arguments['names'][0]} does not run here"
        raise NodeError(why)
    deadline_s, record = time.monotonic() + arguments["timeout_s"], found[0]
    while (state := _state(record)) != _STOPPED and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return {"stands": state == _STOPPED}


def active(folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """List the faults of this boot."""
    return {"faults": [_shown(record) for record in _records(folders)]}


def heal(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """End all faults, whoever began them, and look at what is left; with `network` there too.

    What cannot be looked at, as this host lets nobody have rules, is None.
    """
    with _alone(folders):
        records = _records(folders)
        recorded = {record["kind"] for record in records}
        for record in records:
            _end(record)
        for kind in (PAUSE, CLOCK, CUT, LOSS, SLOW) if arguments["network"] else (PAUSE,):
            try:
                _undo(folders, kind)
            except NodeError:
                if kind in recorded:
                    raise
        left: dict[str, int | None] = {
            "reverters": sum(map(is_alive, records)),
            "paused": len(_paused(folders)),
        }
        if arguments["network"]:
            left["rules"] = _count(lambda: _tables(folders))
            left["slowed"] = _count(_slowed)
            clocks = [record for record in records if record["kind"] == CLOCK]
            if clocks:
                left["clocks"] = sum(abs(_jumped(record)) > _CLOCK_OFF_S for record in clocks)
        for path in folders.faults.glob("*.json"):
            path.unlink()
    return {"ended": [record["text"] for record in records], "left": left}


def _count(look: Callable[[], list[str]]) -> int | None:
    try:
        return len(look())
    except NodeError:
        return None


def _prepare(folders: Folders, kind: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """Return what does it; NodeError, and nothing is done, if it cannot be."""
    if kind == PAUSE:
        chosen = _ours(folders, arguments["roles"], arguments.get("names"))
        if not chosen:
            why = f"no {' or '.join(arguments['roles'])} of this cluster runs here"
            raise NodeError(why)
        return lambda: _signal(chosen, signal.SIGSTOP)
    if kind == CLOCK:
        if arguments["desk_boot_id"] == boot_id():
            why = "its clock is that of the desk, which nobody touches"
            raise NodeError(why)
        return lambda: _set_clock(time.time() + arguments["jump_s"])
    peers = _resolve(arguments["peers"])
    if kind == SLOW:
        devices = sorted({_device(peer) for peer in peers})
        for device in devices:
            _refuse_others_queue(device)
        return lambda: [_root(slowing(device, arguments["rate_bits"])) for device in devices]
    words = dropping(
        _table(folders, kind), arguments["ways"], peers, arguments["percent"], arguments["ssh_port"]
    )
    return lambda: _root(words)


def _undo(folders: Folders, kind: str) -> None:
    """Revert a kind of fault, whether it is there or not."""
    if kind == PAUSE:
        _signal(_paused(folders), signal.SIGCONT)
    elif kind == CLOCK:
        record = read_json(folders.faults / f"{CLOCK}.json")
        if record and record["boot_id"] == boot_id() and abs(_jumped(record)) > _CLOCK_OFF_S:
            _set_clock(time.time() - _jumped(record))  # NTP may have been here
    elif kind == SLOW:
        for device in _slowed():  # AFTER which the kernel puts its own there again
            _root(["tc", "qdisc", "del", "dev", device, "root", "handle", HANDLE])
    else:
        _root(removing(_table(folders, kind)))


@contextmanager
def _alone(folders: Folders) -> Iterator[None]:
    """Wait until no other step and no reverter begins or ends a fault."""
    folders.faults.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folders.faults, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a reverter may still have a copy of it
        os.close(descriptor)


def _leave_reverter(folders: Folders, path: Path, kind: str, for_s: float) -> dict[str, Any]:
    """Leave a process that reverts a fault after its time; return its identity."""
    pid = os.fork()
    if pid:
        return {"pid": pid, "start_ticks": start_ticks(pid), "boot_id": boot_id()}
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # an open one would hold the ssh channel
            os.dup2(null, stream)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        time.sleep(for_s)
        with _alone(folders):
            record = read_json(path)
            if record is None or record["pid"] == os.getpid():  # else another fault's
                _undo(folders, kind)
                path.unlink(missing_ok=True)
    finally:
        os._exit(0)


def _records(folders: Folders) -> list[dict[str, Any]]:
    """Return the records of the faults of this boot."""
    found = [read_json(path) for path in sorted(folders.faults.glob("*.json"))]
    return [record for record in found if record and record["boot_id"] == boot_id()]


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: record[key] for key in ("kind", "text", "until_unix_s")},
        "left_s": max(0.0, record["until_unix_s"] - time.time()),
        "reverter": is_alive(record),
    }


def _refusal(first: dict[str, Any]) -> str:
    end = f"ends in {first['left_s']:.0f} s" if first["reverter"] else "has lost its reverter"
    return f"{first['text']} is there already and {end}; fab heal ends it now"


def _ours(
    folders: Folders, roles: Iterable[str], names: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Return the records of this cluster's processes that run, of these roles and names."""
    records = map(read_json, sorted(folders.runs.glob("*/*.process.json")))
    return [
        record
        for record in records
        if record
        and record["role"] in roles
        and (names is None or record["name"] in names)
        and is_alive(record)
    ]


def _paused(folders: Folders) -> list[dict[str, Any]]:
    return [record for record in _ours(folders, ("server", "client")) if _state(record) == _STOPPED]


def _state(record: dict[str, Any]) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        stat = Path(f"/proc/{record['pid']}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0]
    return ""


def _name(record: dict[str, Any]) -> str:
    return f"{record['role']} {record['name']}"


@contextmanager
def _held(record: dict[str, Any]) -> Iterator[int | None]:
    """Hold a pidfd of a record's process; None if it has ended."""
    try:
        descriptor = os.pidfd_open(record["pid"])
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if is_alive(record) else None  # AFTER it is open: now it is no other
    finally:
        os.close(descriptor)


def _signal(records: Iterable[dict[str, Any]], number: signal.Signals) -> None:
    for record in records:
        with _held(record) as descriptor:
            if descriptor is not None:
                signal.pidfd_send_signal(descriptor, number)


def _end(record: dict[str, Any]) -> bool:
    """Kill the process of a record and see it gone; False if it was before."""
    with _held(record) as descriptor:
        if descriptor is None:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], _WAIT_S)[0]:
            why = f"process {record['pid']} is still there {_WAIT_S:.0f} s after KILL"
            raise NodeError(why)
    return True


def _booted() -> float:
    """Return when this host was booted (Unix time), by what its clock says now."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _jumped(record: dict[str, Any]) -> float:
    """Return how far the clock is from what it would show without the record's fault."""
    return _booted() - float(record["booted_unix_s"])


def _set_clock(unix_s: float) -> None:
    _root(["date", "--set", f"@{unix_s:.3f}"])


def _resolve(peers: dict[str, str]) -> list[Address]:
    found = []
    for name, address in peers.items():
        try:
            rows = socket.getaddrinfo(address, None, proto=socket.IPPROTO_TCP)
        except OSError as error:
            why = f"does not know where {name} is: {address}: {error.strerror}"
            raise NodeError(why) from error
        found += [ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
    if any(address.is_loopback for address in found):
        why = "reaches the other hosts without any link: they are on this machine"
        raise NodeError(why)
    return found


def _device(peer: Address) -> str:
    """Return the interface that leads to a peer."""
    (route,) = json.loads(_root(["ip", "-j", "route", "get", str(peer)]))
    return str(route["dev"])


def _queues(device: str | None = None) -> list[dict[str, Any]]:
    """Return the queueing disciplines at the root of one interface, or of all."""
    words = ["tc", "-j", "qdisc", "show", *(["dev", device] if device else [])]
    return [row for row in json.loads(_root(words)) if row.get("root")]


def _refuse_others_queue(device: str) -> None:
    for row in _queues(device):
        if row["handle"] not in (_KERNELS_OWN, HANDLE):
            why = (
                f"{device} has a queueing discipline that is not ours, {row['kind']} "
                f"{row['handle']}: tc qdisc del dev {device} root would take it away"
            )
            raise NodeError(why)


def _slowed() -> list[str]:
    return [str(row["dev"]) for row in _queues() if row["handle"] == HANDLE]


def _table(folders: Folders, kind: str) -> str:
    return f"rdht-{folders.base.name}-{kind}"


def _tables(folders: Folders) -> list[str]:
    ours = {_table(folders, kind) for kind in (CUT, LOSS)}
    rows = json.loads(_root(["nft", "-j", "list", "tables", "inet"]))["nftables"]
    return [row["table"]["name"] for row in rows if row.get("table", {}).get("name") in ours]


def _root(words: list[str]) -> str:
    """Run a command as root and return what it prints; NodeError says why it failed."""
    as_root = words if os.geteuid() == 0 else ["sudo", "-n", *words]
    shown = shlex.join(as_root[: as_root.index(words[0]) + 1])
    try:
        done = subprocess.run(
            as_root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        why = f"{shown}: {error.filename} is not on this host: apt install sudo nftables iproute2"
        raise NodeError(why) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        why = f"{shown}: {reason}; needed are sudo without a password, nftables and iproute2"
        raise NodeError(why)
    return done.stdout
