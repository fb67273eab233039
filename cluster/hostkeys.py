"""Host keys, and the file in which they are pinned (the format of OpenSSH's known_hosts)."""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

from cluster.errors import ClusterError, HostKeyError

_SSH_PORT = 22


class HostKey(NamedTuple):
    """A host's public key; `kind` is such as ssh-ed25519."""

    kind: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """Its SHA-256 as OpenSSH prints it."""
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def from_paramiko(key: paramiko.PKey) -> HostKey:
    """Return paramiko's key as a value."""
    return HostKey(key.get_name(), key.get_base64())


def name(address: str, port: int) -> str:
    """Return what the file calls a host."""
    return address if port == _SSH_PORT else f"[{address}]:{port}"


def load(known_hosts: Path, into: HostKeys) -> None:
    """Read the pinned keys for paramiko; HostKeyError if the file has anything else."""
    if known_hosts.is_file():
        try:
            into.load(str(known_hosts))
        except (paramiko.SSHException, InvalidHostKey, ValueError) as error:
            why = f"{known_hosts} is no file of host keys: {' '.join(map(str, error.args))}"
            raise HostKeyError(why) from error


def pinned(known_hosts: Path, host: str) -> list[HostKey]:
    """Return the keys that are pinned for a host, by the name that the file has for it."""
    keys = HostKeys()
    load(known_hosts, keys)
    found: Mapping[str, paramiko.PKey] = keys.lookup(host) or {}
    return [from_paramiko(key) for key in found.values()]


def pin(known_hosts: Path, keys: Mapping[str, HostKey]) -> None:
    """Let the file say that these are the hosts' keys; all else in it stays."""
    if not keys:
        return
    lines = known_hosts.read_text(encoding="utf-8").splitlines() if known_hosts.exists() else []
    kept = [rest for line in lines if (rest := _without(line, keys)) is not None]
    added = [f"{host} {key.kind} {key.base64}" for host, key in keys.items()]
    temporary = known_hosts.with_name(f".{known_hosts.name}.{os.getpid()}")
    try:
        known_hosts.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(f"{line}\n" for line in kept + added), encoding="utf-8")
        temporary.replace(known_hosts)
    except OSError as error:
        why = f"cannot keep host keys in {known_hosts}: {error.strerror}"
        raise ClusterError(why) from error


def _without(line: str, names: Mapping[str, object]) -> str | None:
    """Return a line without the hosts of these names; None if it is about no other."""
    entry = None if line.lstrip().startswith(("#", "@")) else HostKeyEntry.from_line(line)
    if entry is None:
        return line
    hosts = [host for host in entry.hostnames if not any(_is(name, host) for name in names)]
    if hosts == entry.hostnames:
        return line
    return f"{','.join(hosts)} {line.split(maxsplit=1)[1]}" if hosts else None


def _is(name: str, written: str) -> bool:
    """Return whether a host's name is the one that is written there, perhaps as a hash."""
    return name == written or (
        written.startswith("|1|") and HostKeys.hash_host(name, written) == written
    )
