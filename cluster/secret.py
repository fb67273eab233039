"""The cluster's secret: made at the operator's desk, kept there, delivered to the hosts.

It travels in that direction only, inside a step's arguments. Desk and hosts tell each other which
secret they hold by its SHA-256.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cluster import processes
from cluster.errors import ClusterError, UsageError
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call
from rdht.authentication import make_secret, read_secret
from rdht.errors import ConfigurationError

_FILE = "secret"


def deliver(operator: Operator, desk: Path, digests: Mapping[str, str | None]) -> list[str]:
    """Give the secret in the folder `desk` to all hosts that lack it; return their names.

    `digests` has that of each host's own, or None. Where there is none at the desk, one is made.
    Raises ClusterError, and changes nothing, where another one would have to go while processes
    of the cluster run: they know each other by it.
    """
    if operator.dry_run:
        operator.each("deliver secret", Call("secret.put", {"replaces": None}), preview={})
        return []
    text = _read(desk)
    held = {host: _compare(text, digest) for host, digest in digests.items()}
    others = [host for host, holds in held.items() if holds == "no"]
    if others and (busy := [host for host, rows in processes.running(operator).items() if rows]):
        has = f"than {desk / _FILE}" if text else "and this desk has none"
        why = (
            f"{', '.join(others)}: another secret is there {has}, and processes use it on "
            f"{', '.join(busy)}: is another desk at work? fab stop ends them, fab deploy goes on"
        )
        raise ClusterError(why)
    lacking = [host for host, holds in held.items() if holds != "yes"]
    if not lacking:
        return []
    text = text or _make(desk)

    def call(host: Host) -> Call | None:
        replaces = {"replaces": digests[host.name]}
        return Call("secret.put", replaces, secret=text) if host.name in lacking else None

    operator.each("deliver secret", call, preview={}).require()
    operator.screen.note(f"the secret in {desk / _FILE} is on {', '.join(lacking)} now")
    if others:
        operator.screen.warn(f"{', '.join(others)}: it took the place of another desk's secret")
    return lacking


def digest(desk: Path) -> str | None:
    """Return the SHA-256 of the desk's secret; None if it has none yet."""
    text = _read(desk)
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def compare(desk: Path, digests: Mapping[str, str | None]) -> dict[str, str]:
    """Tell whether each host's secret is the desk's: yes, no, or missing."""
    text = _read(desk)
    return {host: _compare(text, digest) for host, digest in digests.items()}


def _compare(text: str | None, digest: str | None) -> str:
    if digest is None:
        return "missing"
    return "yes" if text and hashlib.sha256(text.encode()).hexdigest() == digest else "no"


def _read(desk: Path) -> str | None:
    """Return the text of the desk's secret; UsageError if it is not to be used."""
    if not (desk / _FILE).exists():
        return None
    try:
        return read_secret(desk / _FILE).hex() + "\n"
    except ConfigurationError as error:
        why = f"{error}. Take it away, and fab deploy makes another one"
        raise UsageError(why) from error


def _make(desk: Path) -> str:
    """Make the desk's secret, unless somebody else has made it just now; return its text."""
    temporary = desk / f".{_FILE}.{os.urandom(8).hex()}"
    try:
        desk.mkdir(mode=0o700, parents=True, exist_ok=True)
        desk.chmod(0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(make_secret())
                file.flush()
                os.fsync(file.fileno())
            (desk / _FILE).hardlink_to(temporary)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        why = f"cannot keep a secret in {desk}: {error.strerror}"
        raise ClusterError(why) from error
    text = _read(desk)
    assert text is not None
    return text
