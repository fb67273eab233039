"""The fault build: a release that is known for what it is, and arms itself or does not start."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cluster import release

ROOT = Path(__file__).parents[3]


def run(folder: Path, built: release.Release) -> "subprocess.CompletedProcess[str]":
    """Unpack a release, and start one of its processes there."""
    with tarfile.open(fileobj=io.BytesIO(built.bundle)) as archive:
        archive.extractall(folder, filter="data")
    words = [sys.executable, "-m", "rdht", "client", "--name", "c1", "--help"]
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_normal_release_has_nothing_of_a_fault_build() -> None:
    built = release.build(ROOT)
    assert all(name.startswith("rdht/") for name in built.files)
    assert "faultbuild" not in str([(ROOT / name).read_text() for name in built.files])
    assert release.objection(built.name) is None


def test_a_fault_build_is_known_by_its_name_which_differs_with_the_mistake(tmp_path: Path) -> None:
    plain, mutant = release.build_fault(ROOT), release.build_fault(ROOT, "missing unlock")
    assert plain.name != mutant.name
    for built in (plain, mutant):
        assert built.name.startswith("fault-")
        assert "made to break" in str(release.objection(built.name))
        kept = tmp_path / built.name
        kept.write_bytes(built.bundle)
        assert release.load(kept) == built


@pytest.mark.parametrize("mutant", ["", "missing unlock", "early acknowledgement"])
def test_a_process_of_it_starts(tmp_path: Path, mutant: str) -> None:
    done = run(tmp_path, release.build_fault(ROOT, mutant))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_cannot_be_armed_does_not_go_on_as_if_it_were(tmp_path: Path) -> None:
    done = run(tmp_path, release.build_fault(ROOT, "no such mistake"))
    assert done.returncode == 70
    assert "no such mistake" in done.stderr
