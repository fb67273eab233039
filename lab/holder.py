"""Root for a user who is not: namespaces of the user's own, kept by a process.

In a user namespace of their own everyone is root, and may make network namespaces. `ip` wants to
keep those in /run/netns, so there is a /run of its own too. As a program, this is the process that
keeps both for one lab; its command line is its record. Whoever joins it (cluster/namespace.py) runs
the lab's other code as root does, but that there is one user: a host's sshd can let in no other,
and sudo can make nobody root.
"""

import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError
from lab.processes import end, everyone, say_begun, start_daemon

_OWN = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
_RUN = Path("/run")
_OWN_RUN = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_RUN)]
_START_TIMEOUT_S = 10.0
_UID_MAP = Path("/proc/self/uid_map")


def missing() -> str | None:
    """Say why this user may not have such namespaces, and what to do; None if they may."""
    if sys.platform != "linux" or shutil.which(_OWN[0]) is None:
        return "user namespaces are Linux's, and unshare (util-linux) makes them"
    if subprocess.run([*_OWN, *_OWN_RUN], capture_output=True, check=False).returncode:
        return (
            "this machine lets only root make network namespaces: try sudo .venv/bin/fab, "
            "or fab lab.up without --kind, which needs none"
        )
    return None


def has_joined() -> bool:
    """Tell whether this process is root of such a namespace, and not the machine's."""
    if not _UID_MAP.exists():  # this kernel knows no user namespaces
        return False
    rows = _UID_MAP.read_text(encoding="ascii").splitlines()
    return len(rows) == 1 and rows[0].split()[2] == "1"  # the number of its users


def find(folder: Path) -> int | None:
    """Return the process that keeps the namespaces of the lab in this folder, if there is one."""
    for entry in everyone():
        with suppress(OSError):  # it has ended
            words = (entry / "cmdline").read_text(encoding="utf-8").split("\0")[:-1]
            if words[1:] == _words(folder)[1:]:  # whichever name its Python was called by
                return int(entry.name)
    return None


def start(folder: Path) -> int:
    """Make namespaces for the lab in this folder; return the process that keeps them."""
    try:
        start_daemon([*_OWN, *_words(folder)], _START_TIMEOUT_S)
    except LabError:
        finish(folder)
        raise
    pid = find(folder)
    assert pid is not None  # it has begun
    return pid


def finish(folder: Path) -> None:
    """End the process that keeps the lab's namespaces; they go with the last one in them."""
    if (pid := find(folder)) is not None and not end([pid], signal.SIGKILL):
        why = f"process {pid}, which keeps the lab's namespaces, does not end"
        raise LabError(why)


def _words(folder: Path) -> list[str]:
    return [sys.executable, "-m", "lab.holder", str(folder.resolve())]


def _keep() -> None:
    subprocess.run(_OWN_RUN, check=True)
    (_RUN / "netns").mkdir()
    say_begun()
    while True:
        signal.pause()


if __name__ == "__main__":
    _keep()
