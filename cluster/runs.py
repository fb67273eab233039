"""A run's folder: logs/<run>/ with a manifest that is written as the run goes."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cluster.errors import ClusterError, UsageError
from cluster.inventory import Cluster
from rdht.records import write_json

MANIFEST = "manifest.json"
_OF_SWEEPS = "sweep-*/runs"  # where those of sweeps are, as cluster/sweeps.py has it


class Run:
    """One run: servers, one set of clients, and what came of them."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Use the folder of a run and its manifest."""
        self.folder = folder
        self.manifest = manifest

    @property
    def name(self) -> str:
        """The run's id, which is its folder's name here and on the hosts."""
        return self.folder.name

    def host_folder(self, host: str) -> Path:
        """Return where a host's files are collected."""
        return self.folder / "hosts" / host

    def note(self, **fields: Any) -> None:
        """Add to the manifest and save it."""
        self.manifest |= fields
        if self.folder.is_dir():
            write_json(self.folder / MANIFEST, self.manifest)

    @contextmanager
    def appending(self, name: str, *, dry_run: bool) -> Iterator[IO[str]]:
        """Open a file of the run's folder to add lines, each kept as soon as it is written."""
        path = Path(os.devnull) if dry_run else self.folder / name
        with path.open("a", encoding="utf-8", buffering=1) as lines:
            yield lines

    @contextmanager
    def step(self, step: str) -> Iterator[None]:
        """Note a step with its times, and how it failed if it did."""
        entry: dict[str, Any] = {"step": step, "started": now()}
        self.manifest["steps"].append(entry)
        self.note()  # so a crash tells what was being done
        try:
            yield
        except BaseException as error:
            entry["failed"] = str(error) or type(error).__name__
            raise
        finally:
            entry["ended"] = now()
            self.note()


def begin(logs: Path, cluster: Cluster, release: str, *, dry_run: bool) -> Run:
    """Make a run's folder with its first manifest, and point `latest` at it.

    On a dry run nothing is written, now or later.
    """
    folder = logs / stamp(cluster)
    run = Run(folder, {})
    if not dry_run:
        folder.mkdir(parents=True)
    run.note(
        run=run.name,
        cluster=cluster.name,
        inventory={"path": cluster.path.name, "sha256": cluster.digest},
        hosts={host.name: {"address": host.address} for host in cluster.hosts},
        release=release,
        git=_git_state(logs.parent),
        started=now(),
        parameters={},
        steps=[],
    )
    if not dry_run:
        link = logs / ".latest.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(logs / "latest")
    return run


def stamp(cluster: Cluster) -> str:
    """Return a name for what is done on a cluster now; no two are alike."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{now}-{cluster.name}-{secrets.token_hex(2)}"


def load(logs: Path, name: str | None, cluster: Cluster | None = None) -> Run:
    """Return the run of that name, or the latest; UsageError if there is none of this cluster.

    The latest one is none of a sweep's, unless it is named.
    """
    places = [logs, *logs.glob(_OF_SWEEPS)] if name else [logs]
    folders = [place / (name or "latest") for place in places]
    folder = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
    if folder is None:
        why = f"there is no run {name} in {logs}" if name else f"{logs} holds no run yet: fab run"
        raise UsageError(why)
    folder = folder.resolve()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        why = f"{folder / MANIFEST} is not readable: {error}"
        raise ClusterError(why) from error
    if cluster and manifest["cluster"] != cluster.name:
        theirs = manifest["cluster"]
        why = f"run {folder.name} is of cluster {theirs}, not {cluster.name}: name one with --run"
        raise UsageError(why)
    return Run(folder, manifest)


def now() -> str:
    """Return the time as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit and whether the tree differs from it; None outside a git checkout."""
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            done = subprocess.run(
                ["git", *arguments],  # noqa: S607 - the user's own git
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "changed": bool(answers[1])}
