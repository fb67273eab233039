"""A run's files on a host: list with checksums, follow the logs, remove."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdht.node.host import Folders, NodeError

_HIDDEN = (".process.json", ".progress.json")
_FOLLOW_POLL_S = 0.2
_CHUNK_BYTES = 1 << 20
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_TIME_CHARACTERS = 27


def listing(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """List the files of a run that are worth keeping, with size and SHA-256."""
    folder = folders.run(arguments["run"])
    return {"folder": str(folder.relative_to(Path.home())), "files": _files(folder)}


def runs(folders: Folders, _arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """List the runs on this host, each with its size and its files as `listing` tells them."""
    found = [
        {"run": folder.name, "size_bytes": _size(folder), "files": _files(folder)}
        for folder in (sorted(folders.runs.iterdir()) if folders.runs.is_dir() else [])
    ]
    return {"runs": found}


def purge(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Remove the folders of the runs named in `runs`; return how much that freed."""
    freed = 0
    here = {folder.name: folder for folder in folders.runs.iterdir() if folder.is_dir()}
    for run in arguments["runs"]:
        if run not in here:
            why = f"{run} is no run on this host"
            raise NodeError(why)
        freed += _size(here[run])
        shutil.rmtree(here[run])
    return {"freed_bytes": freed}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _files(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        _describe(path)
        for path in paths
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_HIDDEN)
    ]


def _describe(path: Path) -> dict[str, Any]:
    """Return name, size and SHA-256 of the same bytes, also while a log grows."""
    digest = hashlib.sha256()
    left = size = path.stat().st_size
    with path.open("rb") as content:
        while left and (data := content.read(min(left, _CHUNK_BYTES))):
            digest.update(data)
            left -= len(data)
    return {"name": path.name, "size_bytes": size - left, "sha256": digest.hexdigest()}


def tail(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Print a run's log lines as JSON; with `follow` go on until the connection ends.

    Each line is told with its `end` in its log. `ends` has `end` and `time` of the last line that
    is known of a log: it goes on behind that. Of the others, `since` drops lines whose time (UTC,
    as in the log) is not later, and `lines` keeps the last. A line without a time, as in a
    traceback, has that of the line before.
    """
    folder = folders.run(arguments["run"])
    known = {folder / f"{log}.log": last for log, last in arguments.get("ends", {}).items()}
    offsets = {path: last["end"] for path, last in known.items()}
    times = {path: last["time"] for path, last in known.items()}
    while True:
        for path in sorted(folder.glob("*.log")):
            rows = []
            for line, end in _lines(path, offsets.get(path, 0)):
                moment = line[:_TIME_CHARACTERS]
                times[path] = moment if _TIME.fullmatch(moment) else times.get(path, "")
                if path in known or times[path] > arguments["since"] or not arguments["since"]:
                    rows.append({"log": path.stem, "time": times[path], "line": line, "end": end})
                offsets[path] = end
            for row in rows if path in known else rows[-arguments["lines"] :]:
                print(json.dumps(row), flush=True)
            known.setdefault(path, {})
        if not arguments["follow"]:
            return {}
        print("{}", flush=True)  # fails once the operator is gone, which ends this process
        time.sleep(_FOLLOW_POLL_S)


def _lines(path: Path, offset: int) -> Iterator[tuple[str, int]]:
    """Yield each whole line of a log behind an offset, with where it ends."""
    with path.open("rb") as log:
        # A power cut may have taken what was told already: then there is less than that.
        offset = log.seek(min(offset, path.stat().st_size))
        data = log.read()
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        yield line.decode(errors="replace").rstrip("\r\n"), offset
