"""The network namespace that a cluster's hosts are reached from, if it is not the usual one."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError

_MOUNT, _USER, _NETWORK = 0x20000, 0x10000000, 0x40000000  # CLONE_NEW… of sched.h
_HERE = Path("/proc/thread-self/ns/net")
_OF_A_PROCESS = re.compile(r"/proc/(\d+)/root/.*")
_confined = False


@contextmanager
def inside(namespace: Path | None) -> Iterator[None]:
    """Be in a network namespace for a while: this thread, and what it starts meanwhile.

    So enter it BEFORE the threads start that are to connect. Sockets stay where they were made.
    One that was made without root is in the root folder of the process that keeps it: that is
    joined first.
    """
    if namespace is None:
        if _confined:
            why = (
                "this command has joined a lab that was made without root, and cannot leave it: "
                "type what is for another cluster as a command of its own"
            )
            raise ClusterError(why)
        yield
        return
    if os.geteuid() and (keeper := _keeper(namespace)):
        join(keeper)
    before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            yield
        finally:
            _set(before, _NETWORK)
    finally:
        os.close(before)


def join(pid: int) -> None:
    """Be root in the namespaces of a process of one's own, for good; ClusterError if not possible.

    A process of several threads cannot.
    """
    global _confined  # noqa: PLW0603 - it is the process that is
    here = Path.cwd()
    try:
        keeper = os.pidfd_open(pid)
        try:
            _set(keeper, _USER | _MOUNT | _NETWORK)
        finally:
            os.close(keeper)
    except OSError as error:
        why = (
            f"no way into the namespaces of process {pid}: {error.strerror}. If it is gone, fab "
            "lab.up --kind netns makes the lab anew; if this command has done something on another "
            "cluster before, type the rest as a command of its own"
        )
        raise ClusterError(why) from error
    _confined = True
    os.chdir(here)


def _enter(namespace: Path) -> None:
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set(descriptor, _NETWORK)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        why = f"there is no network namespace {namespace}: fab lab.up --kind netns makes the lab's"
        raise ClusterError(why) from error
    except PermissionError as error:
        why = f"only root may enter the network namespace {namespace}: try sudo .venv/bin/fab"
        raise ClusterError(why) from error
    except OSError as error:
        why = f"{namespace} is no network namespace to enter: {error.strerror}"
        raise ClusterError(why) from error


def _keeper(namespace: Path) -> int | None:
    """Return the process in whose root folder a namespace is linked to be."""
    try:
        target = str(namespace.readlink())
    except OSError:  # no link, or nothing of this user's
        return None
    found = _OF_A_PROCESS.fullmatch(target)
    return int(found[1]) if found else None


def _set(descriptor: int, kind: int) -> None:
    """Call setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kind):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
