"""What the tests of a host's steps share: a home of their own, bundles, a way to poll."""

import gzip
import hashlib
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rdht.node.host import Folders

DEADLINE_S = 10.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def folders(home: Path) -> Folders:
    return Folders("shelf")


@pytest.fixture
def make_bundle() -> Callable[[dict[str, bytes]], tuple[dict[str, str], bytes]]:
    """Return a function that gives the checksums and the bundle of some files."""

    def make(contents: dict[str, bytes]) -> tuple[dict[str, str], bytes]:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        return sums, gzip.compress(tar.getvalue())

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits until something holds, and fails if it never does."""

    def wait(holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, "it never came to hold"
            time.sleep(0.01)

    return wait
