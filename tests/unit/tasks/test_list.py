"""What `fab --list` shows, and what `fab` refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.collection import Collection

import fabfile

ROOT = Path(__file__).parents[3]
COLUMNS = 79
TIMEOUT_S = 60.0
TASKS = [
    *("use", "setup", "trust", "check", "reboot", "deploy", "rollback", "releases"),
    *("start-servers", "start-clients"),
    *("stop", "status", "tail", "collect", "assemble", "compare", "report", "clean"),
    *("run", "sweep", "soak", "reproduce", "demo"),
    *("lab.up", "lab.status", "lab.down", "dev.check", "dev.fix", "dev.test"),
    *("dev.simulate", "fault.kill", "fault.pause", "fault.power", "fault.cut", "fault.slow"),
    *("fault.loss", "heal"),
]


def fab(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fabric", *words],
        cwd=ROOT,
        env={**os.environ, "RDHT_CLUSTER": "pis"},  # none of whose keys is pinned
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """The name and the text of every task, as a person sees them."""
    done = fab("--list")
    assert (done.returncode, done.stderr) == (0, "")
    title, *lines = [line for line in done.stdout.splitlines() if line]
    assert title == "Available tasks:"
    rows = {}
    for line in lines:
        assert len(line) <= COLUMNS, line
        row = re.fullmatch(r"  (\S+)  +(\S.*)", line)
        assert row is not None, f"no task with its text: {line!r}"
        rows[row[1]] = row[2]
    return rows


def texts(collection: Collection, prefix: str = "") -> dict[str, str]:
    """Return the first line of each task's docstring."""
    own = {
        prefix + collection.transform(name): (task.__doc__ or "").strip().partition("\n")[0]
        for name, task in collection.tasks.items()
    }
    for name, inner in collection.collections.items():
        own |= texts(inner, f"{prefix}{collection.transform(name)}.")
    return own


def test_every_task_is_listed(listed: dict[str, str]) -> None:
    assert set(TASKS) <= set(listed)


def test_every_text_is_one_whole_line(listed: dict[str, str]) -> None:
    assert listed == texts(fabfile.namespace)
    for name, text in listed.items():
        assert text.endswith("."), name


@pytest.mark.parametrize("task", ["deploy", "stop", "clean"])
def test_a_choice_of_hosts_by_fabric_is_refused_and_limit_is_named(task: str) -> None:
    done = fab("-H", "a,b", task)
    assert done.returncode == 2
    assert "--limit" in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("task", ["deploy", "status", "run", "sweep", "fault.cut"])
def test_every_task_of_the_cluster_takes_the_shared_options(task: str) -> None:
    done = fab("--help", task)
    assert done.returncode == 0
    for option in ("--limit", "--json", "--dry-run"):
        assert option in done.stdout
