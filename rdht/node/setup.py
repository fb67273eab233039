"""What a new host needs once: the cluster's folders."""

from pathlib import Path
from typing import Any

from rdht.node.host import Folders, secret_digest


def prepare(folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Make the cluster's folders; return which were missing, and the digest of the secret."""
    missing = [folder for folder in (folders.releases, folders.runs) if not folder.is_dir()]
    for folder in missing:
        folder.mkdir(parents=True)
    return {
        "made": [str(folder.relative_to(Path.home())) for folder in missing],
        "secret": secret_digest(folders),
    }
