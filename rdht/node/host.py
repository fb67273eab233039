"""A host's folders, files and processes, as every step on it needs them.

~/rdht/<cluster>/releases/<release>/   what was deployed; <release>….tmp is half there, or half gone
                 current, previous     links to releases
                 deploy.lock           who changes this just now
                 runs/<run>/           logs, results, and a record of each process
                 runs/<run>/data/      what durable servers keep
                 faults/               a record of each fault that was made on purpose
                 secret                who knows it may speak with the cluster's servers
"""

import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IDENTITY = {"name", "role", "file", "run", "release", "pid", "start_ticks", "boot_id"}


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
        self.faults = self.base / "faults"

    def linked(self, link: Path) -> str | None:
        """Return the name of the release that `current` or `previous` points to."""
        return link.readlink().name if link.is_symlink() and link.exists() else None

    def run(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.runs / run


@contextmanager
def exclusively(folders: Folders) -> Iterator[None]:
    """Let no other step change what is deployed of this cluster meanwhile."""
    folders.base.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folders.base, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def explain(error: OSError) -> str:
    """Say what the system refused, where, and what to do about it."""
    what = error.strerror or str(error)
    if error.filename is None:
        return what
    path = Path(os.fsdecode(error.filename))
    place = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
    what += f": {path}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            free_mb = shutil.disk_usage(place).free / 1e6
            return f"{what}; {free_mb:.1f} MB are free there: fab clean removes collected runs"
        case errno.EROFS:
            return f"{what}: mount it writable; a card that turned read-only is worn out"
        case errno.EACCES | errno.EPERM:
            found = place.stat()
            return (
                f"{what}; {place} belongs to {_user(found.st_uid)}, mode {found.st_mode & 0o777:o},"
                f" and this is {_user(os.geteuid())}: chown it back, or correct its mode"
            )
    return what


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of the system that does not, as when a disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # hidden is only what is another user's, so none of ours
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


def is_alive(record: dict[str, Any]) -> bool:
    """Tell whether the process of a record runs: no other with its pid, and of this boot."""
    ticks = start_ticks(record["pid"])
    return bool(ticks and ticks == record["start_ticks"] and record["boot_id"] == boot_id())


def records(folders: Folders, run: str | None = None) -> list[dict[str, Any]]:
    """Return the record of each process that a run had here, or that all runs had."""
    paths = sorted(folders.runs.glob(f"{run or '*'}/*.process.json"))
    return [record for record in map(read_json, paths) if record and record.keys() >= IDENTITY]


def read_text(path: str) -> str | None:
    """Return what a file of the system says, stripped; None if it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def temperature() -> float | None:
    """Return the processor's temperature in degrees Celsius."""
    text = read_text("/sys/class/thermal/thermal_zone0/temp")
    return int(text) / 1000 if text else None


def throttled() -> str | None:
    """Return a Pi's throttling bits as `vcgencmd` prints them, such as 0x50005."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # the firmware is busy, or not this user's
        return None
    found = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)\s*", done.stdout)
    return found[1] if found else None
