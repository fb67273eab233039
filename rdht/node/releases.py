"""Releases on a host: look, stage and verify, flip.

Who is to change a host holds its deploy lock from `probe` to `flip`: a file that says who that is.
A step that comes with the token of a lock that is no longer there changes nothing, however late.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdht.node.host import (
    Folders,
    NodeError,
    exclusively,
    explain,
    naming,
    read_json,
    secret_digest,
)

KEPT_RELEASES = 5
_LEFT = ".tmp"


def probe(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Tell which releases are here, which one is current, and the digest of the secret.

    With `lock`, a document with a `token` of its own, take the deploy lock if the host is to
    change: where it differs from `wanted`, the `current` and `secret` to be. The lock of another
    stays, unless it has the token `replaces`. The answer's `lock` is the one that is there then.
    """
    found = _look(folders)
    if "lock" in arguments:
        wanted = dict(arguments["wanted"])
        if "secret" in arguments:  # its digest, which travels apart: no plan shows it
            wanted["secret"] = arguments["secret"]
        found["to_change"] = any(
            found[key] is None or found[key] != to for key, to in wanted.items()
        )
        if found["to_change"] or "replaces" in arguments:
            with exclusively(folders):
                found |= _look(folders)  # AFTER nobody else can change it
                if _token(found["lock"]) in (None, arguments.get("replaces")):
                    with naming(_lock(folders)):
                        _lock(folders).write_text(json.dumps(arguments["lock"]), encoding="utf-8")
                    found["lock"] = arguments["lock"]
    return {**found, "time_unix_s": time.time()}


def _look(folders: Folders) -> dict[str, Any]:
    staged = []
    if folders.releases.is_dir():
        by_age = sorted(folders.releases.iterdir(), key=lambda path: path.stat().st_mtime)
        staged = [path.name for path in by_age if path.suffix != _LEFT]
    return {
        "current": folders.linked(folders.current),
        "previous": folders.linked(folders.previous),
        "staged": staged,
        "secret": secret_digest(folders),
        "lock": read_json(_lock(folders)),
    }


def _lock(folders: Folders) -> Path:
    return folders.base / "deploy.lock"


def _token(lock: dict[str, Any] | None) -> str | None:
    """Return a lock's token; a file that a power cut has torn is nobody's."""
    return lock.get("token") if lock else None


def _check_lock(folders: Folders, arguments: dict[str, Any]) -> None:
    """Raise NodeError if the lock is not the one that the step was sent with.

    A flip back finds none where the flip that it `undoes` has let it go.
    """
    held = read_json(_lock(folders))
    if _token(held) == arguments.get("lock"):
        return
    if held is None and folders.linked(folders.current) == arguments.get("undoes", object()):
        return
    now = f"{held.get('who')} holds it now" if held else "nobody holds it now"
    why = f"its deploy lock was taken away meanwhile, {now}: nothing was changed here"
    raise NodeError(why)


def unlock(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Let go the deploy lock with the token `lock`, if it is there."""
    with exclusively(folders):
        if _token(read_json(_lock(folders))) == arguments["lock"]:
            _lock(folders).unlink()
    return {}


def stage(folders: Folders, arguments: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """Unpack and verify a release beside the others; nothing uses it yet.

    `arguments` has `release`, its name, and `files`, the SHA-256 of each file; `payload` is the
    bundle, a gzipped tar. The release appears under its name whole or not at all.
    """
    release, files = arguments["release"], arguments["files"]
    target = folders.releases / release
    with exclusively(folders):
        _check_lock(folders, arguments)
        _sweep(folders)
    temporary = _leaving(target)
    try:
        temporary.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(payload), mode="r:gz") as bundle:
            for member in bundle:
                content = bundle.extractfile(member)
                if member.name not in files or content is None:
                    why = f"the bundle holds {member.name}, which is no file of the release"
                    raise NodeError(why)
                path = temporary / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with naming(path):
                    path.write_bytes(content.read())
        for name, expected in files.items():
            if not (temporary / name).is_file() or _digest(temporary / name) != expected:
                why = f"{name} did not arrive as it was sent"
                raise NodeError(why)
        os.sync()  # BEFORE it has its name: what has one is whole, whenever the power goes
        if not target.exists():
            temporary.rename(target)
    except OSError as error:
        why = explain(error)  # BEFORE what fills the disk is removed
        raise NodeError(why) from error
    except (EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        why = f"the bundle did not arrive whole: {error}"
        raise NodeError(why) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"staged": release}


def flip(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Make `release` the current one and `previous` the one before; None stands for none.

    The deploy lock with the token `lock` is let go, and old releases beyond KEPT_RELEASES go.
    """
    with exclusively(folders):
        _check_lock(folders, arguments)
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
        _sync(folders.base)  # BEFORE the lock goes: what is told as done is there after a power cut
        _lock(folders).unlink(missing_ok=True)
        if target is not None:
            os.utime(folders.releases / target)
            _prune(folders)
    return {}


def _link(link: Path, release: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("releases") / release)
    temporary.replace(link)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folders: Folders) -> None:
    """Remove old releases; one that cannot be removed fails no flip."""
    keep = {folders.linked(folders.current), folders.linked(folders.previous)} | _in_use(folders)
    whole = [path for path in folders.releases.iterdir() if path.suffix != _LEFT]
    for path in sorted(whole, key=lambda path: path.stat().st_mtime)[:-KEPT_RELEASES]:
        if path.name not in keep:
            with suppress(OSError):
                path.rename(_leaving(path))  # BEFORE its first file goes: half of one is none
    _sweep(folders)


def _leaving(release: Path) -> Path:
    """Return the name of a release that is not whole yet, or no longer."""
    return release.with_name(f"{release.name}.{os.urandom(4).hex()}{_LEFT}")


def _sweep(folders: Folders) -> None:
    """Remove what steps that were cut off have left."""
    for path in folders.releases.glob(f"*{_LEFT}"):
        shutil.rmtree(path, ignore_errors=True)


def _in_use(folders: Folders) -> set[str | None]:
    """Return the releases that recorded processes were started from."""
    records = map(read_json, folders.runs.glob("*/*.process.json"))
    return {record.get("release") for record in records if record}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
