"""What `fab reproduce` refuses: a run whose release or options it does not have."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from cluster import release
from cluster.command import ROOT
from tasks import BUNDLE, experiment

RUN = "20261127-100000-pis-3fa9"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, of a release that was not kept and is not this checkout."""
    monkeypatch.setattr(experiment, "LOGS", tmp_path)
    monkeypatch.setenv("RDHT_CLUSTER", "pis")  # on a dry run no host is reached
    folder = tmp_path / RUN
    folder.mkdir()
    write(folder)
    return folder


def write(folder: Path, **changed: Any) -> None:
    five = [f"pi{number}" for number in range(1, 6)]
    parameters = {"clients": {"seed": 7, "threads": 3}, "servers": {"workers": 2}}
    manifest: dict[str, Any] = {
        "run": RUN,
        "cluster": "pis",
        "release": "0123456789ab",
        "git": {"commit": "abc"},
        "servers": five,
        "clients": five,
        "hosts": {name: {} for name in five},
        "parameters": parameters,
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changed}), encoding="utf-8")


def refused() -> str:
    with pytest.raises(Exit) as caught:
        experiment.reproduce(Context(), RUN, dry_run=True)
    assert caught.value.code == 1
    return str(caught.value.message)


def test_a_release_that_was_not_kept_and_is_not_this_checkout_is_named(folder: Path) -> None:
    why = refused()
    assert "ran release 0123456789ab; it was not kept, and this checkout is" in why
    assert "its commit: abc" in why
    write(folder, git=None)
    assert "its commit: unknown" in refused()


def test_a_bundle_of_another_release_is_refused(folder: Path) -> None:
    built = release.build(ROOT)
    (folder / BUNDLE).write_bytes(built.bundle)
    assert f"holds {built.name}" in refused()


@pytest.mark.parametrize("content", [b"", b"no release", b"\x1f\x8b\x08 cut off"])
def test_a_bundle_that_is_none_is_named(folder: Path, content: bytes) -> None:
    (folder / BUNDLE).write_bytes(content)
    assert f"{BUNDLE} holds no release" in refused()


@pytest.mark.parametrize("parameters", [{}, {"clients": {"speed": 1}, "servers": {}}])
def test_options_that_are_not_known_are_named(folder: Path, parameters: dict[str, Any]) -> None:
    write(folder, release=release.build(ROOT).name, parameters=parameters)
    assert "does not say with which options it was run" in refused()


def test_a_run_is_repeated_with_its_release_options_and_seed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = release.build(ROOT)
    fault = {"host": "pi3", "text": "cut from pi1"}
    made = {"host": "pi3", "text": "kill of server pi3", "scheduled": True}
    deed = {"at_s": 2.5, "kind": "kill", "for_s": 1.0, "servers": ["pi3"]}
    planned = {"name": "rough", "deeds": [deed], "end_s": 8.0, "left_out": ["clock"]}
    changed: dict[str, Any] = {"faults": [fault, made], "schedule": planned}
    write(folder, release=built.name, clients=["pi1", "pi2"], **changed)
    (folder / BUNDLE).write_bytes(built.bundle)
    experiment.reproduce(Context(), RUN, dry_run=True)
    out = capsys.readouterr().out
    assert f"release {built.name} · seed 7" in out
    assert out.count("not made again") == 1
    assert "pi3: not made again: cut from pi1" in out
    assert "faults: rough, 1 until 8 s" in out
    assert "2.5   kill of server pi3" in out
    started = [line for line in out.splitlines() if "would start client" in line]
    assert [line.partition(" on ")[2][:3] for line in started if '"client"' in line] == [
        "pi1",
        "pi2",
    ]


def test_a_kept_bundle_is_the_release_that_was_built(folder: Path) -> None:
    built = release.build(ROOT)
    (folder / BUNDLE).write_bytes(built.bundle)
    assert release.load(folder / BUNDLE) == built


def test_a_bundle_with_something_else_than_files_is_refused(folder: Path) -> None:
    with tarfile.open(folder / BUNDLE, "w:gz") as archive:
        link = tarfile.TarInfo("rdht/ring.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "something else than source files is in it" in refused()


def test_a_run_of_another_cluster_is_not_repeated_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDHT_CLUSTER", "lab")
    with pytest.raises(Exit, match="is of cluster pis, not lab"):
        experiment.reproduce(Context(), RUN, dry_run=True)


def test_only_the_hosts_of_the_run_repeat_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = ["pi3", "pi4", "pi5"]
    built = release.build(ROOT)
    write(
        folder, release=built.name, hosts={name: {} for name in three}, servers=three, clients=three
    )
    experiment.reproduce(Context(), RUN, dry_run=True)
    out = capsys.readouterr().out
    assert "on pi3" in out
    assert "on pi1" not in out
