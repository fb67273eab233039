"""A reboot, with a sudo that only writes down what it was asked for."""

import time
from pathlib import Path

import pytest

from rdht.node import power
from rdht.node.host import Folders, NodeError

PATIENCE_S = 10.0


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH: this machine's own sudo is out of reach."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _make_sudo(programs: Path, then: str) -> Path:
    asked = programs / "asked"
    (programs / "sudo").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{asked}\n{then}\n', encoding="utf-8"
    )
    (programs / "sudo").chmod(0o755)
    return asked


def test_a_host_reboots_after_its_answer_has_left(programs: Path, folders: Folders) -> None:
    asked = _make_sudo(programs, "exit 0")
    assert power.reboot(folders, {}, b"") == {}
    assert asked.read_text(encoding="utf-8") == "-n --list reboot\n"
    deadline_s = time.monotonic() + PATIENCE_S
    while asked.read_text(encoding="utf-8") != "-n --list reboot\n-n reboot\n":
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # polling to the deadline


def test_a_user_who_may_not_is_told_what_to_allow(programs: Path, folders: Folders) -> None:
    asked = _make_sudo(programs, "echo 'sudo: a password is required' >&2; exit 1")
    with pytest.raises(NodeError, match=r"may not reboot.*a password is required.*sudoers"):
        power.reboot(folders, {}, b"")
    assert asked.read_text(encoding="utf-8") == "-n --list reboot\n"


@pytest.mark.usefixtures("programs")
def test_a_host_without_sudo_says_so(folders: Folders) -> None:
    with pytest.raises(NodeError, match="no sudo"):
        power.reboot(folders, {}, b"")
