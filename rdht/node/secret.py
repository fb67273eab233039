"""The cluster's secret on a host: put in place; no step ever reads it out."""

import os
from pathlib import Path
from typing import Any

from rdht.node.host import Folders, NodeError, exclusively, naming, secret_digest


def put(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Make `secret` the cluster's, where the one with the digest `replaces` is now, or none.

    The file is there whole or not at all, and nobody but its owner can read it at any moment.
    """
    with exclusively(folders):
        if secret_digest(folders) != arguments["replaces"]:
            why = "its secret has just changed: does somebody else deploy? Try again"
            raise NodeError(why)
        for left in folders.base.glob(".secret.*"):  # by a step that was cut off
            left.unlink()
        _write(folders.secret, arguments["secret"])
    return {}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with naming(path), os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
