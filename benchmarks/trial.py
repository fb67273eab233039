"""One contender's run on the hosts of a lab, and the lab: what table.py and scale.py share."""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import interpreter
from benchmarks.contenders import Contender, Counted, Load
from benchmarks.interpreter import HOST_PYTHON, PEERS_PYTHON
from benchmarks.stage import Stage, TrialError, Usage
from cluster.command import ROOT, STATE
from lab import netns

WORK = STATE / "benchmark"


class Figures(NamedTuple):
    """What a trial has measured."""

    counted: Counted
    used: Usage  # a command


def run(stage: Stage, contender: Contender, load: Load) -> Figures:
    """Start servers, then clients, measure, end all; TrialError says what went wrong."""
    try:
        contender.serve(stage)
        counted_from_s = contender.start(stage, load) + load.warmup_s
        _sleep_until(counted_from_s)
        before = stage.usage()
        _sleep_until(counted_from_s + load.seconds)
        used = stage.usage().since(before)
        counted = contender.count(stage)
        if not counted.commands:
            why = "its clients have not ended a single command"
            raise TrialError(why)
    finally:
        stage.clear()
    return Figures(counted, used.a(counted.commands))


def _sleep_until(unix_s: float) -> None:
    time.sleep(max(0.0, unix_s - time.time()))


def prepare() -> None:
    """Make the folder for all results; exit with a line if this machine cannot do a benchmark."""
    if os.geteuid():
        sys.exit("only root may start programs on the lab's hosts: sudo .venv/bin/python …")
    if why := netns.missing() or interpreter.unfit():
        sys.exit(why)
    WORK.mkdir(parents=True, exist_ok=True)
    if file_system() in ("tmpfs", "ramfs"):
        sys.exit(f"{WORK} is in memory: what is durable must be written to a disk")
    for sent in (signal.SIGINT, signal.SIGTERM):  # & would have the former ignored
        signal.signal(sent, lambda *_: sys.exit("interrupted: the lab goes down"))


@contextmanager
def lab(folder: Path, hosts: Mapping[str, str]) -> Iterator[None]:
    """Have a lab up meanwhile; what a killed run has left goes first."""
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run is using {folder}: wait for its end")
        netns.down(folder)
        netns.up(folder, hosts)
        try:
            yield
        finally:
            netns.down(folder)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    commands = {
        "commit": ["git", "describe", "--always", "--dirty"],
        "redis": ["redis-server", "--version"],
        "memcached": ["memcached", "--version"],
        "etcd": ["etcd", "--version"],
        "peers": [PEERS_PYTHON, "-m", "pip", "list", "--format", "freeze"],
    }
    return {
        "python": {python: interpreter.build(python) for python in (HOST_PYTHON, PEERS_PYTHON)},
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "disk": file_system(),
        **{name: _said(words) for name, words in commands.items()},
    }


def _said(words: list[str]) -> list[str]:
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.strip().splitlines()


def file_system() -> str:
    """Return the kind of file system that durable servers write to."""
    return "".join(_said(["stat", "--file-system", "--format", "%T", str(WORK)]))
