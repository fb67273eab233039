"""Five SSH servers on 127.0.0.1 in one process: no root, no system package.

Each host has its own home folder, host key and port; login is by key only. Every process that is
started on a host inherits the mark of this lab in its environment, by which `down` finds and ends
them all: the hosts share one process table, so nothing else tells them apart. They share one
session too: Linux schedules by session first, and ten sessions on two cores give a run stalls of
up to a second that no cluster has.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.processes import end, everyone

ADDRESS = "127.0.0.1"
MARK = "RDHT_LAB"
READY_TIMEOUT_S = 20.0
_SERVERS = "lab.ssh_servers"  # the module that is these hosts: no other needs asyncssh


def up(folder: Path, ports: dict[str, int]) -> bool:
    """Bring a host up for each name and ssh port; False if they were up already.

    Writes `id_ed25519`, the operator's key, and `known_hosts` into the folder.
    """
    if status(folder) is not None:
        return False
    down(folder)  # what a killed lab left
    try:
        _start(folder, ports)
    except BaseException:
        down(folder)
        raise
    return True


def _start(folder: Path, ports: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    mark = uuid.uuid4().hex
    config = folder / "config.json"
    config.write_text(json.dumps({"mark": mark, "ports": ports}), encoding="utf-8")
    with (folder / "lab.log").open("ab") as log:
        try:
            subprocess.run(
                [sys.executable, "-m", _SERVERS, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent,
                env={**os.environ, MARK: mark},
                timeout=READY_TIMEOUT_S,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            why = f"the lab did not come up within {READY_TIMEOUT_S:.0f} s"
            raise LabError(why) from error
        except subprocess.CalledProcessError as error:
            lines = (folder / "lab.log").read_text(encoding="utf-8").splitlines()
            why = f"the lab did not come up: {lines[-1] if lines else 'no reason given'}"
            raise LabError(why) from error


def status(folder: Path) -> dict[str, Any] | None:
    """Return the lab's ports and process id, or None if it is not up."""
    config = _config(folder)
    if config is None:
        return None
    pids = [pid for pid, argv in _marked(config["mark"]).items() if _SERVERS in argv]
    return {"pid": pids[0], "ports": config["ports"]} if pids else None


def down(folder: Path) -> bool:
    """End the hosts and everything that runs on them, and remove their files; was there any?"""
    config = _config(folder)
    for number in (signal.SIGTERM, signal.SIGKILL):
        while config and (pids := _marked(config["mark"])) and end(pids, number):
            pass  # a process that was ended may have started another one just before
    existed = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return existed


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return config


def _marked(mark: str) -> dict[int, list[str]]:
    """Return the processes that bear the mark: pid and command line, without zombies."""
    found = {}
    needle = f"{MARK}={mark}".encode()
    for entry in everyone():
        with suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(entry.name)] = argv
    return found
