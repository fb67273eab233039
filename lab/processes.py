"""The processes of this machine, as both kinds of lab find and end theirs."""

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

STOP_TIMEOUT_S = 5.0


def everyone() -> Iterator[Path]:
    """Yield the folder in /proc of each process."""
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def inside(network_namespaces: Iterable[Path]) -> list[int]:
    """Return the processes in any of these network namespaces, which no process can hide."""
    places = set()
    for path in network_namespaces:
        with suppress(FileNotFoundError):
            places.add(_identity(path))
    found = []
    for entry in everyone():
        with suppress(OSError):  # it has ended, or is nobody's business of ours
            if _identity(entry / "ns" / "net") in places:
                found.append(int(entry.name))
    return found


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def end(pids: Iterable[int], number: signal.Signals) -> bool:
    """Signal processes and wait until they are gone; False if some are not in time."""
    waiting = []
    for pid in pids:
        with suppress(ProcessLookupError):
            waiting.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(waiting[-1], number)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for gone in select.select(waiting, [], [], left_s)[0]:
            waiting.remove(gone)
            os.close(gone)
    for descriptor in waiting:
        os.close(descriptor)
    return not waiting
