"""Releases on a host: look, stage and verify, flip."""

import hashlib
import io
import os
import shutil
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

from rdht.node.host import Folders, NodeError, read_json, secret_digest

KEPT_RELEASES = 5


def probe(folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Tell which releases are here, which one is current, and the digest of the secret."""
    staged = []
    if folders.releases.is_dir():
        by_age = sorted(folders.releases.iterdir(), key=lambda path: path.stat().st_mtime)
        staged = [path.name for path in by_age if not path.name.endswith(".tmp")]
    return {
        "current": folders.linked(folders.current),
        "previous": folders.linked(folders.previous),
        "staged": staged,
        "secret": secret_digest(folders),
        "time_unix_s": time.time(),
    }


def stage(folders: Folders, arguments: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """Unpack and verify a release beside the others; nothing uses it yet.

    `arguments` has `release`, its name, and `files`, the SHA-256 of each file; `payload` is the
    bundle, a gzipped tar. The release appears under its name whole or not at all.
    """
    release, files = arguments["release"], arguments["files"]
    target = folders.releases / release
    temporary = folders.releases / f"{release}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(payload), mode="r:gz") as bundle:
            for member in bundle:
                content = bundle.extractfile(member)
                if member.name not in files or content is None:
                    why = f"the bundle holds {member.name}, which is no file of the release"
                    raise NodeError(why)
                path = temporary / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
        for name, expected in files.items():
            if not (temporary / name).is_file() or _digest(temporary / name) != expected:
                why = f"{name} did not arrive as it was sent"
                raise NodeError(why)
        os.sync()
        if not target.exists():
            temporary.rename(target)
    except OSError as error:
        free_mb = shutil.disk_usage(folders.releases).free / 1e6
        shutil.rmtree(temporary, ignore_errors=True)
        why = f"cannot unpack into {temporary}: {error.strerror}; {free_mb:.1f} MB are free there"
        raise NodeError(why) from error
    except (EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        why = f"the bundle did not arrive whole: {error}"
        raise NodeError(why) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(temporary, ignore_errors=True)
    return {"staged": release}


def flip(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Make `release` the current one and `previous` the one before; None stands for none.

    Old releases beyond KEPT_RELEASES go.
    """
    target = arguments["release"]
    if target is not None and not (folders.releases / target).is_dir():
        why = f"release {target} is not on this host"
        raise NodeError(why)
    for link, release in (
        (folders.previous, arguments["previous"]),
        (folders.current, target),
    ):
        if release is None:
            link.unlink(missing_ok=True)
        elif (folders.releases / release).is_dir():
            _link(link, release)
    if target is not None:
        os.utime(folders.releases / target)
        _prune(folders)
    return {}


def _link(link: Path, release: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("releases") / release)
    temporary.replace(link)


def _prune(folders: Folders) -> None:
    keep = {folders.linked(folders.current), folders.linked(folders.previous)} | _in_use(folders)
    whole = [path for path in folders.releases.iterdir() if not path.name.endswith(".tmp")]
    for path in sorted(whole, key=lambda path: path.stat().st_mtime)[:-KEPT_RELEASES]:
        if path.name not in keep:
            shutil.rmtree(path)


def _in_use(folders: Folders) -> set[str | None]:
    """Return the releases that recorded processes were started from."""
    records = map(read_json, folders.runs.glob("*/*.process.json"))
    return {record.get("release") for record in records if record}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
