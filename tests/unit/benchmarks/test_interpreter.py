"""Which interpreters a benchmark refuses to run ours, or the peers' clients, with."""

from pathlib import Path

import pytest

from benchmarks.interpreter import unfit, unlike


def make(folder: Path, says: str) -> str:
    """Return the path of a program in a venv-like folder that answers as an interpreter."""
    program = folder / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="ascii")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("says", ["3.11.0 (main) [GCC]", "3.14.0+ (main) [GCC]"])
def test_ours_runs_with_a_new_interpreter(says: str, tmp_path: Path) -> None:
    assert unfit(make(tmp_path, says)) is None


def test_an_old_interpreter_is_refused_and_so_is_none(tmp_path: Path) -> None:
    old = make(tmp_path, "3.9.2 (default) [GCC]")
    assert unfit(old) == f"{old} is Python 3.9.2, and ours needs 3.11 or newer"
    assert unfit("/nowhere/python3") == "there is no /nowhere/python3: apt-get install python3"


def test_peers_need_an_interpreter_of_the_same_build(tmp_path: Path) -> None:
    host = make(tmp_path / "host", "3.11.2 (main, Apr) [GCC 12]")
    same = make(tmp_path / "same", "3.11.2 (main, Apr) [GCC 12]")
    other = make(tmp_path / "other", "3.11.2 (main, May) [GCC 13]")
    assert unlike(same, host) is None
    assert "has Python 3.11.2 (main, May) [GCC 13], ours 3.11.2 (main" in str(unlike(other, host))
    assert "there is no venv /nowhere: " in str(unlike("/nowhere/bin/python", host))
