"""The simulator as a task: this interpreter, the typed seeds, its exit code passed on."""

import subprocess
import sys
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from cluster.command import ROOT
from tasks import dev


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was run, and then the exit code to give."""
    seen: list[Any] = [None, 0]

    def run(words: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        seen[0] = words
        return subprocess.CompletedProcess(words, seen[1])

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_the_simulator_gets_the_seeds(ran: list[Any]) -> None:
    dev.simulate(Context(), seeds="7", start="3")
    words = ["tests.model.simulator", "--seeds", "7", "--start", "3"]
    assert ran[0] == [sys.executable, "-m", *words]
    assert (ROOT / "tests" / "model" / "simulator.py").exists()


@pytest.mark.parametrize(("code", "passed_on"), [(1, 1), (3, 3), (-9, 137)])
def test_its_exit_code_is_passed_on(ran: list[Any], code: int, passed_on: int) -> None:
    ran[1] = code
    with pytest.raises(Exit) as caught:
        dev.simulate(Context())
    assert caught.value.code == passed_on
