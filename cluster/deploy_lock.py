"""The deploy lock: a file on each host that is to change, which says who changes it.

`releases.probe` takes it and `releases.flip` lets it go, so it costs no call of its own. A deploy
that was killed leaves its locks behind. The next one from the same desk sees that their process is
no more, and takes them over; another desk cannot know, and is told to wait or to break them.
"""

import getpass
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import HostError, HostsFailedError, HostUnreachableError
from cluster.operator import Operator
from cluster.remote import Call
from rdht.node.host import boot_id, start_ticks

_NOTHING_CHANGED = "Nothing was changed: every host keeps its release."
_MACHINE_ID = Path("/etc/machine-id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_Lock = dict[str, Any]


def who() -> str:
    """Return the name of the person at this desk, as others see it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@contextmanager
def changing(
    operator: Operator,
    action: str,
    wanted: Mapping[str, str | None],
    preview: Mapping[str, Any],
    *,
    break_lock: bool = False,
) -> Iterator[dict[str, dict[str, Any]]]:
    """Lock the hosts that differ from `wanted`, for a body that stages and flips.

    Yields what each host answered to `releases.probe`, and as `token` that of the lock if it has
    one. A flip lets the lock go; if the body raises, all are let go. Raises HostsFailedError, and
    nothing is changed or locked, if a host does not answer or somebody else is at work there.
    """
    mine = _make(action)
    was = _take(operator, mine, wanted, preview, break_lock=break_lock)
    try:
        yield was
    except BaseException as error:
        unreachable = _unreachable(error.failures) if isinstance(error, HostsFailedError) else set()
        _let_go(operator, mine, [host for host in was if host not in unreachable], was)
        raise


def _make(action: str) -> _Lock:
    """Return a lock that names this process, and tells it from any other."""
    return {
        "token": secrets.token_hex(16),
        "who": who(),
        "action": action,
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "desk": _desk(),
        "boot_id": boot_id(),
        "pid_namespace": str(_PID_NAMESPACE.readlink()),
        "pid": os.getpid(),
        "start_ticks": start_ticks(os.getpid()),
    }


def _desk() -> str | None:
    """Return what tells this machine from others also after a reboot; None if nothing does."""
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
    text = f"rdht {machine} {socket.gethostname()}"  # the id itself is for no other's eyes
    return hashlib.sha256(text.encode()).hexdigest() if machine else None


def _is_over(held: _Lock, mine: _Lock) -> bool:
    """Tell whether the process that held a lock was one of this desk and is no more, or is this."""
    if held.get("boot_id") != mine["boot_id"]:
        return mine["desk"] is not None and held.get("desk") == mine["desk"]
    if held.get("pid_namespace") != mine["pid_namespace"]:
        return False  # a container beside this one, whose numbers mean nothing here
    return _is_of_this_process(held, mine) or start_ticks(held["pid"]) != held["start_ticks"]


def _is_of_this_process(held: _Lock, mine: _Lock) -> bool:
    return all(held[key] == mine[key] for key in ("boot_id", "pid_namespace", "pid", "start_ticks"))


def _take(
    operator: Operator,
    mine: _Lock,
    wanted: Mapping[str, str | None],
    preview: Mapping[str, Any],
    *,
    break_lock: bool,
) -> dict[str, dict[str, Any]]:
    def call(**more: str) -> Call:
        shown = {key: None if key == "secret" else to for key, to in wanted.items()}
        arguments = {"wanted": shown, "lock": mine, **more}
        return Call("releases.probe", arguments, secret=wanted.get("secret") or "")

    probed = operator.each("probe", call(), preview=preview)
    was, failures = probed.values, probed.failures
    over = {
        host: held
        for host, held in _others(was, mine).items()
        if _is_over(held, mine) or (break_lock and was[host]["to_change"])
    }
    refused = set(_others(was, mine)) - set(over)
    if over and not failures and not any(was[host]["to_change"] for host in refused):
        again = operator.each(
            "take over the lock",
            lambda host: call(replaces=over[host.name]["token"]) if host.name in over else None,
            preview=preview,
        )
        was |= again.values
        failures |= again.failures
        _tell(operator, {host: over[host] for host in over if _is_mine(was[host], mine)}, mine)
    held_by = {
        host: HostError(_refusal(held, mine))
        for host, held in _others(was, mine).items()
        if was[host]["to_change"] and over.get(host) != held
    }
    if failures or held_by:
        _let_go(operator, mine, [host for host in was if host not in _unreachable(failures)], was)
        step = "probe" if failures else "lock"
        raise HostsFailedError(step, failures | held_by, _NOTHING_CHANGED)
    for answer in was.values():
        answer["token"] = mine["token"] if _is_mine(answer, mine) else None
    return was


def _is_mine(answer: Mapping[str, Any], mine: _Lock) -> bool:
    lock = answer["lock"]
    return lock is not None and lock.get("token") == mine["token"]


def _others(was: Mapping[str, Mapping[str, Any]], mine: _Lock) -> dict[str, _Lock]:
    """Return the locks that somebody else holds."""
    return {
        host: answer["lock"]
        for host, answer in was.items()
        if answer["lock"] is not None and not _is_mine(answer, mine)
    }


def describe(held: _Lock) -> str:
    """Say who holds a lock, for what and since when."""
    who, action, pid, since = (held.get(key, "?") for key in ("who", "action", "pid", "since"))
    return f"{who} holds it ({action}, process {pid}) since {since}"


def _refusal(held: _Lock, mine: _Lock) -> str:
    return (
        f"{describe(held)}: wait until that has ended, or, if it never will, "
        f"fab {mine['action']} --break-lock"
    )


def _tell(operator: Operator, over: Mapping[str, _Lock], mine: _Lock) -> None:
    """Say whose locks were taken, a line for those of one deploy."""
    for held in {held["token"]: held for held in over.values()}.values():
        hosts = ", ".join(host for host, one in over.items() if one["token"] == held["token"])
        whose = f"the lock of {held['who']} ({held['action']} since {held['since']})"
        if not _is_over(held, mine):
            operator.screen.warn(f"{hosts}: broke {whose}")
        elif not _is_of_this_process(held, mine):
            operator.screen.note(f"{hosts}: took over {whose}: its process is no more")


def _unreachable(failures: Mapping[str, HostError]) -> set[str]:
    return {host for host, why in failures.items() if isinstance(why, HostUnreachableError)}


def _let_go(
    operator: Operator, mine: _Lock, names: list[str], was: Mapping[str, Mapping[str, Any]]
) -> None:
    """Unlock those of these hosts that this process has locked."""
    holding = tuple(
        host
        for host in operator.cluster.hosts
        if host.name in names and _is_mine(was[host.name], mine)
    )
    if not holding:
        return
    call = Call("releases.unlock", {"lock": mine["token"]})
    for host, why in operator.each("unlock", call, preview={}, hosts=holding).failures.items():
        operator.screen.warn(f"{host}: its deploy lock stays: {why}")
