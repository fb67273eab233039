"""Releases: a content-addressed bundle; staged and verified everywhere, then flipped everywhere."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, HostsFailedError
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

UNCHANGED, DEPLOYED = "unchanged", "deployed"
_NAME_DIGITS = 12


@dataclass(frozen=True)
class Release:
    """The node side's code: its name is a hash of all paths and contents."""

    name: str
    files: dict[str, str]  # path → SHA-256
    bundle: bytes


def build(root: Path) -> Release:
    """Bundle the node side; the same tree always gives the same name and the same bytes."""
    paths = sorted(path for path in (root / "rdht").rglob("*.py") if path.is_file())
    contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    name = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:_NAME_DIGITS]
    return Release(name, files, gzip.compress(tar.getvalue(), mtime=0))


def probe(operator: Operator) -> dict[str, dict[str, Any]]:
    """Ask each host which releases and which secret it has; every host must answer."""
    preview: dict[str, Any] = {"current": None, "previous": None, "staged": [], "secret": None}
    before = operator.each("probe", Call("releases.probe"), preview=preview)
    return before.require("Nothing was changed: every host keeps its release.")


def deploy(operator: Operator, release: Release, was: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Bring a release to all hosts and make it current, or leave all as they are.

    `was` has what `probe` returned. Returns UNCHANGED or DEPLOYED a host.
    """
    missing = {name for name, answer in was.items() if release.name not in answer["staged"]}
    if missing:
        stage = Call(
            "releases.stage", {"release": release.name, "files": release.files}, release.bundle
        )
        with operator.screen.transfer("push", dict.fromkeys(missing, len(release.bundle))) as sent:
            staged = operator.each(
                "stage",
                lambda host: stage if host.name in missing else None,
                preview={},
                sent=sent,
            )
        staged.require("Nothing was flipped: every host keeps its old release.")
    flip(operator, release.name, was)
    return {
        name: UNCHANGED if answer["current"] == release.name else DEPLOYED
        for name, answer in was.items()
    }


def rollback(operator: Operator, to: str | None) -> str:
    """Make an older release current on all hosts: `to`, or the one before; return its name."""
    preview = {"current": "new", "previous": "old", "staged": ["old", "new"]}
    before = operator.each("probe", Call("releases.probe"), preview=preview)
    was = before.require("Nothing was changed.")
    targets = {to or answer["previous"] for answer in was.values()}
    target = targets.pop()
    if targets or target is None:
        why = "the hosts do not agree on a release before this one: name one with --to"
        raise ClusterError(why)
    lacking = [name for name, answer in was.items() if target not in answer["staged"]]
    if lacking:
        why = f"release {target} is not on {', '.join(lacking)}; fab releases lists what is there"
        raise ClusterError(why)
    flip(operator, target, was)
    return target


def flip(operator: Operator, release: str, was: dict[str, dict[str, Any]]) -> None:
    """Make a staged release current on all hosts; if one fails, take it back on all.

    `was` has what each host answered to `releases.probe`.
    """

    def forward(host: Host) -> Call:
        return _flip_call(release, was[host.name]["current"])

    def back(host: Host) -> Call:
        return _flip_call(was[host.name]["current"], was[host.name]["previous"])

    changing = tuple(
        host for host in operator.cluster.hosts if was[host.name]["current"] != release
    )
    flipped = operator.each("flip", forward, preview={}, hosts=changing)
    if flipped.failures:
        # Also where the flip failed: it may have happened, and only its answer was lost.
        undone = operator.each("flip back", back, preview={}, hosts=changing)
        who = "Every other host" if undone.failures else "Every host"
        consequence = f"{who} has its old release again."
        raise HostsFailedError(flipped.step, flipped.failures | undone.failures, consequence)


def _flip_call(release: str | None, previous: str | None) -> Call:
    return Call("releases.flip", {"release": release, "previous": previous})
