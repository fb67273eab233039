"""The network namespace that a cluster's hosts are reached from, if it is not the usual one."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError

_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h
_HERE = Path("/proc/thread-self/ns/net")


@contextmanager
def inside(namespace: Path | None) -> Iterator[None]:
    """Be in a network namespace for a while: this thread, and what it starts meanwhile.

    So enter it BEFORE the threads start that are to connect. Sockets stay where they were made.
    """
    if namespace is None:
        yield
        return
    before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            yield
        finally:
            _set(before)
    finally:
        os.close(before)


def _enter(namespace: Path) -> None:
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set(descriptor)
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


def _set(descriptor: int) -> None:
    """Call setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NETWORK):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
