"""Let this host boot again."""

import os
import subprocess
import sys
from typing import Any

from rdht.node.host import Folders, NodeError

_SUDO = ["sudo", "-n"]  # never ask: nobody could answer
_TRY_TIMEOUT_S = 10.0
_LATER = "import os, sys, time; time.sleep(1); os.execvp(sys.argv[1], sys.argv[1:])"


def reboot(_folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Boot again a second from now, AFTER this answer has left."""
    command = [*_SUDO, "reboot"]
    try:
        allowed = subprocess.run(
            [*_SUDO, "--list", "reboot"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRY_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        why = "there is no sudo on this host: reboot it by hand"
        raise NodeError(why) from error
    if allowed.returncode:
        said = (allowed.stderr.strip().splitlines() or ["no reason given"])[-1]
        why = (
            f"this user may not reboot it without a password ({said}): allow it in a file of "
            "/etc/sudoers.d, as Raspberry Pi OS does for its first user"
        )
        raise NodeError(why)
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    words = [sys.executable, "-c", _LATER, *command]
    os.posix_spawn(words[0], words, os.environ, file_actions=nowhere, setsid=True)
    return {}
