"""Faults in the links and the power of the netns lab, each kept by a process that ends it.

A host's user may not touch the network here, as its root is the machine's own; so they are made at
the switch. A keeper begins a fault, waits, and ends it, whether or not the operator is still there.
It lives in the switch's namespace, so that the lab's `down` ends it with all the rest, and its
command line is its record: what is going on is read off the kernel, not off files.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lab import links, netns
from lab.errors import ChoiceError, LabError
from lab.links import RUN_NETNS, Batch, Names
from lab.processes import end, inside, say_begun, start_daemon

CUT, LOSS, SLOW, POWER = KINDS = ("cut", "loss", "slow", "power")
_ALL = 100
_BEGIN_TIMEOUT_S = 30.0


class Keeper(NamedTuple):
    """A process that keeps a fault."""

    pid: int
    fault: dict[str, Any]


def dropping(names: Names, host: str, fault: Mapping[str, Any]) -> Batch:
    """Return what drops the packets of a cut or a loss at the switch, `in` being to the host.

    Only those from and to its peers: the operator's ssh passes.
    """
    table = _table(fault["kind"], host)
    own = f'"{links.port(host)}"'
    others = ", ".join(f'"{links.port(peer)}"' for peer in fault["peers"])
    percent = fault["percent"]
    chance = "" if percent == _ALL else f"numgen random mod 100 < {percent} "
    ways = {
        "in": f"iifname {{ {others} }} oifname {own}",
        "out": f"iifname {own} oifname {{ {others} }}",
    }
    return links.filtering(
        names,
        [
            f"add table bridge {table}",
            f"add chain bridge {table} forward {{ type filter hook forward priority 0; }}",
            *(f"add rule bridge {table} forward {ways[way]} {chance}drop" for way in fault["ways"]),
        ],
    )


def removing(names: Names, host: str, kind: str) -> Batch:
    """Return what removes our rules for a host, whether they are there or not."""
    table = _table(kind, host)
    return links.filtering(names, [f"add table bridge {table}", f"delete table bridge {table}"])


def begin(folder: Path, host: str, fault: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a fault that ends after its `for_s`; LabError if there is one of its kind already.

    `fault` has `kind`, `text`, which says it to people, and of a cut or loss `peers` and either
    `ways` and `percent`, or `cable`; of a slow link `rate`.
    """
    names = netns.look_up(folder, host)
    _refuse_what_cannot_be(folder, fault)
    with _alone(folder, host):
        for keeper in _keepers(folder, host):
            if keeper.fault["kind"] == fault["kind"]:
                first = _shown(keeper)
                left = f"{first['text']} is there already and ends in {first['left_s']:.0f} s"
                why = f"{left}; fab heal ends it now"
                raise LabError(why)
        timed = {**fault, "until_unix_s": time.time() + fault["for_s"]}
        nearby = ["nsenter", f"--net={RUN_NETNS / names.switch}"]
        try:
            start_daemon([*nearby, *_keeper(folder, host), json.dumps(timed)], _BEGIN_TIMEOUT_S)
        except LabError as error:
            why = f"{fault['kind']}: {error}; fab heal leaves no trace of it"
            raise LabError(why) from error
    return _shown(Keeper(0, timed))


def active(folder: Path, host: str) -> list[dict[str, Any]]:
    """Return the faults that are kept on a host."""
    return [_shown(keeper) for keeper in _keepers(folder, host)]


def heal(folder: Path, host: str) -> dict[str, Any]:
    """End all faults of a host, whoever began them, and look at what is left."""
    names = netns.look_up(folder, host)
    with _alone(folder, host):
        kept = _keepers(folder, host)
        end([keeper.pid for keeper in kept], signal.SIGKILL)
        for kind in KINDS:
            _undo(folder, host, kind)
        rows = links.filters(names) if _has_nft() else set()
        status = netns.status(folder)
        assert status is not None  # look_up has seen it up
        seen = status["hosts"][host]
        left = {
            "reverters": len(_keepers(folder, host)),
            "rules": sum(_table(kind, host) in rows for kind in (CUT, LOSS)),
            "slowed": int(seen["rate"] != status["rate"]),
            "unplugged": int(not seen["cable"]),
            "powerless": int(not seen["power"]),
        }
    return {"ended": sorted(keeper.fault["text"] for keeper in kept), "left": left}


def _do(folder: Path, host: str, fault: Mapping[str, Any]) -> None:
    match fault["kind"]:
        case "slow":
            netns.rate(folder, host, fault["rate"])
        case "power":
            netns.power_off(folder, host)
        case _ if fault.get("cable"):
            netns.cable(folder, host, plugged=False)
        case _:
            links.run([dropping(Names.of(folder), host, fault)])


def _undo(folder: Path, host: str, kind: str) -> None:
    """Revert a kind of fault, whether it is there or not."""
    names = Names.of(folder)
    if kind in (CUT, LOSS) and _has_nft():
        links.run([removing(names, host, kind)])
    if kind == CUT:
        netns.cable(folder, host, plugged=True)
    if kind == SLOW and (status := netns.status(folder)):
        netns.rate(folder, host, status["rate"])
    if kind == POWER:
        netns.power_on(folder, host)


def _keep(folder: Path, host: str, fault: dict[str, Any]) -> None:
    """Be a keeper: begin the fault, tell so, and end it in time."""
    try:
        _do(folder, host, fault)
    except BaseException:
        with suppress(LabError):  # the first reason is the one to tell
            _undo(folder, host, fault["kind"])
        raise
    say_begun(folder / host / "console.log")
    time.sleep(fault["for_s"])
    with _alone(folder, host):
        _undo(folder, host, fault["kind"])


def _refuse_what_cannot_be(folder: Path, fault: Mapping[str, Any]) -> None:
    if fault["kind"] in (CUT, LOSS) and not fault.get("cable") and not _has_nft():
        why = "nft is missing on this machine: apt install nftables"
        raise LabError(why)
    if fault["kind"] == SLOW and (status := netns.status(folder)):
        whole, rate = status["rate"], fault["rate"]
        if links.bits_per_second(rate) >= links.bits_per_second(whole):
            why = f"{rate} would not slow a link of {whole}"
            raise ChoiceError(why)


@contextmanager
def _alone(folder: Path, host: str) -> Iterator[None]:
    """Wait until nobody else begins or ends a fault of this host."""
    descriptor = os.open(folder / host, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _keeper(folder: Path, host: str) -> list[str]:
    """Return the command line of a host's keepers, up to the fault."""
    return [sys.executable, "-m", "lab.faults", str(folder.resolve()), host]


def _keepers(folder: Path, host: str) -> list[Keeper]:
    found = []
    for pid in inside([RUN_NETNS / Names.of(folder).switch]):
        with suppress(OSError):  # it has ended
            words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")[:-1]
            if words[-5:-1] == _keeper(folder, host)[1:]:
                found.append(Keeper(pid, json.loads(words[-1])))
    return found


def _shown(keeper: Keeper) -> dict[str, Any]:
    fault = keeper.fault
    return {
        **{key: fault[key] for key in ("kind", "text", "until_unix_s")},
        "left_s": max(0.0, fault["until_unix_s"] - time.time()),
        "reverter": True,
    }


def _table(kind: str, host: str) -> str:
    return f"rdht-{kind}-{host}"


def _has_nft() -> bool:
    return shutil.which("nft", path=links.SEARCH_PATH) is not None


if __name__ == "__main__":
    try:
        _keep(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    except LabError as why:
        sys.exit(str(why))
