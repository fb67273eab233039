"""The hosts' interpreter, which ours and the peers' Python clients run with alike.

It is what `fab` finds on a host: python3 in the folders that sshd looks in. The one of `.venv` may
be another build, and slower or faster.
"""

import shutil
import subprocess
from pathlib import Path

from cluster.command import ROOT, STATE

HOST_PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or "/usr/bin/python3"
PEERS_PYTHON = str(STATE / "peers" / "bin" / "python")
_OLDEST = (3, 11)


def build(python: str) -> str:
    """Return `sys.version` of an interpreter, which also says who built it and when; "" if none."""
    words = [python, "-c", "import sys; print(sys.version)"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def version(python: str) -> str:
    """Return the version alone; "" if there is no such interpreter."""
    return build(python).partition(" ")[0]


def unfit(python: str = HOST_PYTHON) -> str | None:
    """Say why ours cannot run with an interpreter; None if it can."""
    found = version(python)
    if not found:
        return f"there is no {python}: apt-get install python3"
    if tuple(map(int, found.split(".")[:2])) < _OLDEST:
        return f"{python} is Python {found}, and ours needs {_OLDEST[0]}.{_OLDEST[1]} or newer"
    return None


def unlike(python: str = PEERS_PYTHON, host: str = HOST_PYTHON) -> str | None:
    """Say why peers' clients cannot be compared if they run with `python`; None if they can."""
    peers, ours = build(python), build(host)
    if peers == ours:
        return None
    shown = Path(python).parents[1]
    if shown.is_relative_to(ROOT):
        shown = shown.relative_to(ROOT)
    what = f"{shown} has Python {peers}, ours {ours}" if peers else f"there is no venv {shown}"
    return f"{what}: {host} -m venv --clear {shown}, and install as table.py's head says"
