"""The processes of this machine, as both kinds of lab find, start and end theirs."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError

STOP_TIMEOUT_S = 5.0
_BEGUN = "begun"
_ROOT = Path(__file__).parent.parent


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


def start_daemon(words: list[str], timeout_s: float) -> None:
    """Start a program in a session of its own; return once it has called `say_begun`.

    LabError with its last line if it ends before, or takes longer.
    """
    words = ["setsid", "--fork", *words]
    try:
        started = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # until the program closes it
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"it did not begin within {timeout_s:.0f} s"
        raise LabError(why) from error
    said = started.stdout.strip().splitlines() or ["it ended without a word"]
    if said[-1] != _BEGUN:
        raise LabError(said[-1])


def say_begun(log: Path = Path(os.devnull)) -> None:
    """Tell who waits in `start_daemon`, and from now on say everything else to a log."""
    with suppress(BrokenPipeError):  # who started this is gone; nobody waits
        os.write(1, f"{_BEGUN}\n".encode())
    console = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(console, stream)
    os.close(console)
