"""dev.check, dev.fix, dev.test, dev.simulate."""

import os
import subprocess
import sys

from cluster.command import ROOT, task
from cluster.console import Screen
from cluster.errors import ClusterError

_CHECKS = (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"])
_SEEDS = "tests/model/test_simulator.py::test_no_seed_breaks_the_protocol"  # uses all processors
_FIXES = (["ruff", "check", "--fix"], ["ruff", "format"])


@task()
def check(screen: Screen) -> None:
    """Check format, lint and types; changes nothing."""
    _run_all(screen, *_CHECKS)


@task()
def fix(screen: Screen) -> None:
    """Mend what ruff can mend by itself."""
    _run_all(screen, *_FIXES)


@task(only="only tests whose name matches this expression")
def test(screen: Screen, *, only: str = "") -> None:  # noqa: PT028 - a task, no test
    """Run all tests."""
    # In the order of the folders: what takes longest, on whole clusters, comes first. It often
    # waits for something, so there is one process more than processors.
    parallel = ["-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile"]
    pytest = ["pytest", *parallel, "--no-loadscope-reorder"]
    if only:
        _run_all(screen, [*pytest, "-k", only])
    else:
        _run_all(screen, ["pytest", "--durations=1", _SEEDS], [*pytest, f"--deselect={_SEEDS}"])


@task(seeds="how many runs, each of its own seed", start="the first seed")
def simulate(screen: Screen, *, seeds: int = 100, start: int = 0) -> None:
    """Run the protocol against seeded crashes and lost messages."""
    words = ["tests.model.simulator", "--seeds", str(seeds), "--start", str(start)]
    screen.title(" ".join(words))
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=False)
    if done.returncode:
        why = f"failed: {' '.join(words)}"
        error = ClusterError(why)
        error.exit_code = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise error


def _run_all(screen: Screen, *commands: list[str]) -> None:
    failed = []
    for command in commands:
        screen.title(" ".join(command))
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
        if done.returncode:
            failed.append(" ".join(command))
    if failed:
        why = f"failed: {', '.join(failed)}"
        raise ClusterError(why)
