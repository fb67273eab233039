"""Releases: a content-addressed bundle; staged and verified everywhere, then flipped everywhere."""

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.deploy_lock import changing
from cluster.errors import ClusterError, HostsFailedError
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

UNCHANGED, DEPLOYED = "unchanged", "deployed"
_NAME_DIGITS = 12
_LARGEST_BYTES = 50_000_000
_FAULT = "fault-"


@dataclass(frozen=True)
class Release:
    """The node side's code: its name is a hash of all paths and contents."""

    name: str
    files: dict[str, str]  # path → SHA-256
    bundle: bytes


def build(root: Path) -> Release:
    """Bundle the node side; the same tree always gives the same name and the same bytes."""
    return _bundle(_sources(root, "rdht"))


def build_fault(root: Path, mutant: str = "") -> Release:
    """Bundle the node side with what breaks it on purpose, and perhaps with a mistake of that name.

    It is known by its name, and only by what runs it on purpose it is ever deployed.
    """
    extra = _sources(root, "faultbuild")
    extra["sitecustomize.py"] = extra.pop("faultbuild/sitecustomize.py")
    extra["faultbuild/chosen.py"] = f"MUTANT = {mutant!r}\n".encode()
    return _bundle(_sources(root, "rdht") | extra)


def objection(name: str | None) -> str | None:
    """Say what is against using a release of this name: one was made to break."""
    if name is None or not name.startswith(_FAULT):
        return None
    return f"release {name} is a fault build, made to break: fab deploy takes its place"


def _sources(root: Path, package: str) -> dict[str, bytes]:
    paths = sorted(path for path in (root / package).rglob("*.py") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _bundle(contents: dict[str, bytes]) -> Release:
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return Release(_name_of(files), files, gzip.compress(tar.getvalue(), mtime=0))


def load(path: Path) -> Release:
    """Read a bundle that was kept, and verify it; ClusterError if it is none."""
    files = {}
    try:
        bundle = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
            members = archive.getmembers()
            if (
                not all(member.isfile() for member in members)
                or sum(member.size for member in members) > _LARGEST_BYTES
            ):
                why = f"{path} holds no release: something else than source files is in it"
                raise ClusterError(why)
            for member in members:
                content = archive.extractfile(member)
                files[member.name] = hashlib.sha256(content.read() if content else b"").hexdigest()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0]
        why = f"{path} holds no release: {reason}"
        raise ClusterError(why) from error
    return Release(_name_of(files), files, bundle)


def _name_of(files: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:_NAME_DIGITS]
    is_fault = any(not name.startswith("rdht/") for name in files)
    return _FAULT * is_fault + digest


def wanted(release: Release, secret: str | None) -> dict[str, str | None]:
    """Return what a host has once a release is deployed to it, and the secret of that digest."""
    return {"current": release.name, "secret": secret}


def deploy(operator: Operator, release: Release, was: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Bring a release to all hosts and make it current, or leave all as they are.

    `was` has what `deploy_lock.changing` yields. Returns UNCHANGED or DEPLOYED a host.
    """
    missing = {name for name, answer in was.items() if release.name not in answer["staged"]}
    if missing:

        def stage(host: Host) -> Call | None:
            if host.name not in missing:
                return None
            what = {"release": release.name, "files": release.files}
            return _locked_call("releases.stage", what, was[host.name], release.bundle)

        with operator.screen.transfer("push", dict.fromkeys(missing, len(release.bundle))) as sent:
            staged = operator.each("stage", stage, preview={}, sent=sent)
        staged.require("Nothing was flipped: every host keeps its old release.")
    flip(operator, release.name, was)
    return {
        name: UNCHANGED if answer["current"] == release.name else DEPLOYED
        for name, answer in was.items()
    }


def rollback(operator: Operator, to: str | None, *, break_lock: bool = False) -> str:
    """Make an older release current on all hosts: `to`, or the one before; return its name."""
    preview = {"current": "new", "previous": "old", "staged": ["old", "new"], "lock": None}
    with changing(operator, "rollback", {"current": to}, preview, break_lock=break_lock) as was:
        targets = {to or _before(answer) for answer in was.values()}
        target = targets.pop()
        if targets or target is None:
            why = "the hosts do not agree on a release before this one: name one with --to"
            raise ClusterError(why)
        lacking = [name for name, answer in was.items() if target not in answer["staged"]]
        if lacking:
            hosts = ", ".join(lacking)
            why = f"release {target} is not on {hosts}; fab releases lists what is there"
            raise ClusterError(why)
        if objection(target):
            why = f"{target} is a fault build, made to break: name another, as fab releases has it"
            raise ClusterError(why)
        flip(operator, target, was)
    return target


def _before(answer: dict[str, Any]) -> str | None:
    """Return the release before; a power cut in a flip leaves the current one as that."""
    return answer["previous"] if answer["previous"] != answer["current"] else None


def flip(operator: Operator, release: str, was: dict[str, dict[str, Any]]) -> None:
    """Make a staged release current on all hosts; if one fails, or on ^C, take it back on all.

    `was` has what `deploy_lock.changing` yields.
    """

    def forward(host: Host) -> Call:
        answer = was[host.name]
        before = answer["previous" if answer["current"] == release else "current"]
        return _flip_call(release, before, answer)

    def back(host: Host) -> Call:
        answer = was[host.name]
        return _flip_call(answer["current"], answer["previous"], answer, undoes=release)

    changing = tuple(
        host
        for host in operator.cluster.hosts
        if was[host.name]["current"] != release or was[host.name].get("token")
    )
    try:
        flipped = operator.each("flip", forward, preview={}, hosts=changing)
    except BaseException:
        operator.each("flip back", back, preview={}, hosts=changing)
        raise
    if flipped.failures:
        # Also where the flip failed: it may have happened, and only its answer was lost.
        undone = operator.each("flip back", back, preview={}, hosts=changing)
        who = "Every other host" if undone.failures else "Every host"
        consequence = f"{who} has its old release again."
        raise HostsFailedError(flipped.step, flipped.failures | undone.failures, consequence)


def _flip_call(
    release: str | None, previous: str | None, answer: dict[str, Any], **more: str
) -> Call:
    what = {"release": release, "previous": previous, **more}
    return _locked_call("releases.flip", what, answer)


def _locked_call(
    command: str, arguments: dict[str, Any], answer: dict[str, Any], payload: bytes = b""
) -> Call:
    """Return a call that a host refuses if its lock is no longer the one that was taken."""
    return Call(command, {**arguments, "lock": answer.get("token")}, payload)
