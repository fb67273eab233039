"""dev.check, dev.fix, dev.test."""

import subprocess
import sys

from cluster.command import ROOT, task
from cluster.console import Screen
from cluster.errors import ClusterError

_CHECKS = (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"])
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
    _run_all(screen, ["pytest", *(["-k", only] if only else [])])


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
