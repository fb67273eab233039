"""From a host with a password to one that tasks can use. Each step is done only where it lacks."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.connection import Connection
from cluster.errors import (
    ClusterError,
    LoginRefusedError,
    PythonMissingError,
    UsageError,
)
from cluster.fanout import Results, fan_out
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

APT_TIMEOUT_S = 600.0
_INSTALL_PYTHON = "sudo -n apt-get -qq update && sudo -n apt-get -qq -y install python3"
_PREPARE = Call("setup.prepare")


def make_identity(path: Path, state: Path) -> bool:
    """Make an ed25519 key pair for the operator, unless there is one; was it made?

    Only in the folder `state`: elsewhere (~/.ssh, say) keys are the user's own business.
    """
    if path.exists():
        return False
    if not path.resolve().is_relative_to(state.resolve()):
        why = (
            f"there is no key {path}: ssh-keygen -t ed25519 -f {path} makes it; a key in {state} "
            "is made by fab setup"
        )
        raise UsageError(why)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
        _public_path(path).write_bytes(public + b" rdht\n")
    except OSError as error:
        why = f"cannot make the key {path}: {error.strerror}"
        raise ClusterError(why) from error
    return True


def without_login(operator: Operator) -> list[Host]:
    """Return the hosts that do not take our key; HostsFailedError if others are not there."""

    def takes_key(host: Host) -> bool:
        try:
            operator.connection(host).open()
        except LoginRefusedError:
            return False
        return True

    answers = fan_out("log in", operator.cluster.hosts, takes_key).require()
    return [host for host in operator.cluster.hosts if not answers[host.name]]


def authorize(operator: Operator, hosts: list[Host], password: str | None = None) -> Results:
    """Bring our key to hosts, and see that it opens them.

    They let us in by the password, or without one by the user's own keys (ssh-agent, ~/.ssh);
    LoginRefusedError is what a host fails with that does not.
    """
    keys = {host: _public_key(host) for host in hosts}

    def bring(host: Host) -> None:
        own = replace(host, identity_file=None)
        with contextlib.closing(Connection(operator.cluster, own, password)) as connection:
            connection.authorize(keys[host])
        operator.connection(host).open()

    return fan_out("bring your key", hosts, bring)


def prepare(operator: Operator, *, apt: bool) -> dict[str, dict[str, Any]]:
    """Make the cluster's folders on all hosts; if `apt`, install Python where there is none."""
    results = operator.each("prepare", _PREPARE, preview={"made": [], "secret": None})
    bare = {
        host.name: host
        for host in operator.cluster.hosts
        if isinstance(results.failures.get(host.name), PythonMissingError)
    }
    if apt and bare:

        def install(host: Host) -> None:
            for _ in operator.connection(host).lines(
                _INSTALL_PYTHON, b"", APT_TIMEOUT_S, lambda _: None
            ):
                pass

        operator.screen.note(f"installing Python on {', '.join(bare)}")
        fan_out("install Python", bare.values(), install).require()
        again = operator.each("prepare", _PREPARE, preview={}, hosts=tuple(bare.values()))
        results.values |= again.values
        results.failures = {
            host: why for host, why in results.failures.items() if host not in bare
        } | again.failures
    return results.require()


def _public_key(host: Host) -> str:
    """Return the public half of the key with which we log in, a line of OpenSSH's format."""
    path = host.identity_file
    if path is None:
        why = f"{host.name} has no identity_file in the inventory: which key is to be brought?"
        raise UsageError(why)
    beside = _public_path(path)
    if not beside.is_file():
        why = f"there is no {beside}, which goes to the hosts: ssh-keygen -y -f {path} > {beside}"
        raise UsageError(why)
    return beside.read_text(encoding="utf-8").strip()


def _public_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")
