"""The cluster's secret on a host: put in place; no step ever reads it out."""

import os
from typing import Any

from rdht.node.host import Folders, NodeError, secret_digest


def put(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Make `secret` the cluster's, where the one with the digest `replaces` is now, or none.

    The file is there whole or not at all, and nobody but its owner can read it at any moment.
    """
    if secret_digest(folders) != arguments["replaces"]:
        why = "its secret has just changed: does somebody else deploy? Try again"
        raise NodeError(why)
    folders.base.mkdir(parents=True, exist_ok=True)
    temporary = folders.secret.with_name(f".secret.{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(arguments["secret"])
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folders.secret)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return {}
