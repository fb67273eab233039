"""The loopback lab itself."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import loopback
from lab.errors import LabError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lab"
    loopback.down(tmp_path / "lab")


@pytest.fixture
def ports() -> dict[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return {"pi1": listener.getsockname()[1]}


def test_up_is_idempotent_and_down_leaves_nothing(folder: Path, ports: dict[str, int]) -> None:
    assert loopback.status(folder) is None
    assert loopback.up(folder, ports)
    assert not loopback.up(folder, ports)
    status = loopback.status(folder)
    assert status is not None
    assert loopback.down(folder)
    assert not loopback.down(folder)
    assert not folder.exists()
    assert _is_gone(status["pid"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports["pi1"]))


def test_a_killed_lab_is_cleared_by_the_next_one(folder: Path, ports: dict[str, int]) -> None:
    loopback.up(folder, ports)
    status = loopback.status(folder)
    assert status is not None
    os.kill(status["pid"], signal.SIGKILL)
    deadline_s = time.monotonic() + 20
    while not _is_gone(status["pid"]):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)  # polling to the deadline
    (folder / "pi1" / "home" / "old").touch()
    assert loopback.up(folder, ports)
    assert not (folder / "pi1" / "home" / "old").exists()


def test_a_port_in_use_is_named(folder: Path, ports: dict[str, int]) -> None:
    with (
        socket.create_server(("127.0.0.1", ports["pi1"])),
        pytest.raises(LabError, match=f"pi1: port {ports['pi1']}"),
    ):
        loopback.up(folder, ports)
    assert not folder.exists()


def _is_gone(pid: int) -> bool:
    """Tell whether a process has ended; its parent may not have asked for its exit code yet."""
    stat = Path(f"/proc/{pid}/stat")
    return (
        not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    )
