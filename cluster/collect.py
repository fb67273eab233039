"""Fetch a run's files from the hosts, verified by checksum; and remove what was fetched."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cluster.connection import Connection
from cluster.errors import HostError
from cluster.fanout import Results, fan_out
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call
from cluster.runs import Run


def collect(operator: Operator, run: Run) -> Results:
    """Bring every file of the run into its folder; a host's value is the bytes now held of it.

    A file that is here and complete is not fetched again, a part of one is completed.
    """
    call = Call("files.listing", {"run": run.name}, timeout_s=120.0)
    listed = operator.each("list files", call, preview={"folder": "", "files": []})
    wanted = {
        host: [row for row in answer["files"] if not _complete(run, host, row)]
        for host, answer in listed.values.items()
    }
    sizes = {host: sum(row["size_bytes"] for row in rows) for host, rows in wanted.items() if rows}
    with operator.screen.transfer("fetch", sizes) as received:

        def fetch(host: Host) -> None:
            for row in wanted[host.name]:
                if Path(row["name"]).name != row["name"]:
                    why = f"the host lists {row['name']!r}, which is no file's name"
                    raise HostError(why)
                remote = f"{listed.values[host.name]['folder']}/{row['name']}"
                target = run.host_folder(host.name) / row["name"]
                _fetch(operator.connection(host), target, row, remote, partial(received, host.name))

        fetched = fan_out(
            "fetch", [host for host in operator.cluster.hosts if host.name in sizes], fetch
        )
    failures = {**listed.failures, **fetched.failures}
    complete = [host for host in listed.values if host not in failures]
    if not operator.dry_run:
        _note(run, complete, failures)
    sizes_held = {
        host: sum(row["size_bytes"] for row in listed.values[host]["files"]) for host in complete
    }
    return Results("collect", sizes_held, failures)


def purge(operator: Operator, runs: dict[str, list[str]]) -> int:
    """Remove the runs named for each host; return how many bytes that freed."""

    def call(host: Host) -> Call | None:
        named = runs.get(host.name)
        return Call("files.purge", {"runs": named}) if named else None

    answers = operator.each("clean", call, preview={"freed_bytes": 0}).require()
    return sum(answer["freed_bytes"] for answer in answers.values())


def _note(run: Run, complete: list[str], failures: dict[str, HostError]) -> None:
    """Note in the manifest what is here now; of other hosts it keeps what it says."""
    here = {*run.manifest.get("collected", ()), *complete} - set(failures)
    missing = {
        host: why
        for host, why in run.manifest.get("not_collected", {}).items()
        if host not in complete
    }
    missing |= {host: str(why) for host, why in failures.items()}
    run.note(collected=sorted(here), not_collected=missing)


def is_complete(run: Run, host: str, files: list[dict[str, Any]]) -> bool:
    """Tell whether all files that a host lists of a run are here, with its checksums."""
    return all(_complete(run, host, row) for row in files)


def _complete(run: Run, host: str, row: dict[str, Any]) -> bool:
    path = run.host_folder(host) / row["name"]
    size, sha256 = int(row["size_bytes"]), str(row["sha256"])
    return path.is_file() and path.stat().st_size == size and _digest(path) == sha256


def _fetch(
    connection: Connection,
    target: Path,
    row: dict[str, Any],
    remote: str,
    received: Callable[[int], None],
) -> None:
    """Fetch one file into a part beside `target`, and let it take its name once it is verified."""
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    size = row["size_bytes"]
    for attempt in ("resume", "afresh"):
        if attempt == "afresh" or (part.exists() and part.stat().st_size > size):
            part.unlink(missing_ok=True)
        connection.fetch(remote, part, size, received)
        if _digest(part) == row["sha256"]:
            part.replace(target)
            return
    why = f"{row['name']} does not have the checksum that the host told: collect again"
    raise HostError(why)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
