"""A host's folders, files and processes, as every step on it needs them.

~/rdht/<cluster>/releases/<release>/   what was deployed
                 current, previous     links to releases
                 runs/<run>/           logs, results, and a record of each process
                 runs/<run>/data/      what durable servers keep
                 secret                who knows it may speak with the cluster's servers
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any


class NodeError(Exception):
    """A step that cannot be done on this host; the text says why and what to do."""


class Folders:
    """Where a cluster keeps its things on this host."""

    def __init__(self, cluster: str) -> None:
        """Use the folders of the cluster of that name."""
        self.base = Path.home() / "rdht" / cluster
        self.releases = self.base / "releases"
        self.runs = self.base / "runs"
        self.current = self.base / "current"
        self.previous = self.base / "previous"
        self.secret = self.base / "secret"

    def linked(self, link: Path) -> str | None:
        """Return the name of the release that `current` or `previous` points to."""
        return link.readlink().name if link.is_symlink() and link.exists() else None

    def run(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.runs / run


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None if the file is missing or none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def secret_digest(folders: Folders) -> str | None:
    """Return the SHA-256 of the cluster's secret on this host; None if it has none.

    A file that no process would take, as others can read it, has what is no secret's digest.
    """
    try:
        descriptor = os.open(folders.secret, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return "unusable"
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            return "unusable"
        return hashlib.sha256(os.read(descriptor, 4096)).hexdigest()
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Return what tells this boot of the host from any other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is not running.

    Together with the boot id this tells a process from a later one with the same pid.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])
