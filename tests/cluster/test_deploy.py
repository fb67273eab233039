"""A deploy that is killed at its desk, on real ssh servers: the next one needs no hand."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment, release
from cluster.console import Screen
from cluster.errors import ClusterError
from cluster.fanout import Results
from cluster.operator import Operator, close_connections
from tests.cluster.two_hosts import Lab

ROOT = Path(__file__).parents[2]
DESK = """
import os, signal
from pathlib import Path
from cluster import experiment, inventory, release
from cluster.console import Screen
from cluster.operator import Operator

class Doomed(Operator):
    def each(self, step, call, **named):
        if step == {step!r}:
            hosts = self.cluster.hosts[:{hosts}]
            if hosts:
                super().each(step, call, **{{**named, "hosts": hosts}})
            os.kill(os.getpid(), signal.SIGKILL)
        return super().each(step, call, **named)

cluster = inventory.load(Path({inventory!r}))
experiment.deploy(Doomed(cluster, Screen()), release.build(Path({tree!r})), Path({desk!r}))
"""


class Recorder(Operator):
    """An operator that keeps which steps it carried out on which hosts."""

    done: tuple[tuple[str, str], ...] = ()

    def each(self, step: str, *words: Any, **named: Any) -> Results:
        results = super().each(step, *words, **named)
        self.done += tuple((step, host) for host in results.values)
        return results


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree to deploy, which no other test has deployed."""
    source = tmp_path / "tree" / "rdht" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text(f"# {tmp_path}\n", encoding="utf-8")
    return tmp_path / "tree"


@pytest.fixture
def operator(lab: Lab) -> Iterator[Operator]:
    yield Operator(lab.cluster(), Screen())
    close_connections()


def _current(lab: Lab) -> list[str]:
    bases = [lab.folder / host / "home" / "rdht" / "here" for host in lab.ports]
    return [(base / "current").readlink().name for base in bases]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(("deliver secret", 1), id="between the secrets of two hosts"),
        pytest.param(("stage", 0), id="before it stages"),
        pytest.param(("stage", 1), id="between the stages of two hosts"),
        pytest.param(("flip", 0), id="between stage and flip"),
        pytest.param(("flip", 1), id="between the flips of two hosts"),
    ],
)
def test_what_a_killed_deploy_left_is_mended_by_the_next(
    lab: Lab,
    operator: Operator,
    tree: Path,
    moment: tuple[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    step, hosts = moment
    bases = [lab.folder / host / "home" / "rdht" / "here" for host in lab.ports]
    for base in bases:
        (base / "secret").unlink(missing_ok=True)
    desk = tree.parent / "desk"
    words = {"inventory": str(lab.path), "tree": str(tree), "desk": str(desk)}
    script = DESK.format(step=step, hosts=hosts, **words)
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    held = [base for base in bases if (base / "deploy.lock").exists()]
    assert held == (bases[1:] if (step, hosts) == ("flip", 1) else bases)
    left = bases[1] / "releases" / "0123.abcd.tmp"
    left.mkdir(parents=True, exist_ok=True)
    built = release.build(tree)
    capsys.readouterr()
    experiment.deploy(operator, built, desk)
    assert _current(lab) == [built.name] * 2
    shown = capsys.readouterr().out
    names = ", ".join(base.parents[2].name for base in held)
    assert f"{names}: took over the lock of " in shown
    assert "its process is no more" in shown
    assert not any((base / "deploy.lock").exists() for base in bases)
    assert len({(base / "secret").read_bytes() for base in bases}) == 1
    assert not left.exists()
    steps = Recorder(lab.cluster(), Screen())
    experiment.deploy(steps, built, desk)
    assert steps.done == (("probe", "pi1"), ("probe", "pi2")), "an unchanged tree costs one call"


def test_a_second_desk_is_told_who_is_at_work(lab: Lab, operator: Operator, tree: Path) -> None:
    base = lab.folder / "pi1" / "home" / "rdht" / "here"
    base.mkdir(parents=True, exist_ok=True)
    held = {"token": "t", "who": "anna@kiosk", "action": "deploy", "pid": 7, "since": "noon"}
    (base / "deploy.lock").write_text(json.dumps(held), encoding="utf-8")
    built, desk = release.build(tree), tree.parent / "desk"
    for place in lab.ports:
        (lab.folder / place / "home" / "rdht" / "here" / "secret").unlink(missing_ok=True)
    with pytest.raises(ClusterError, match=r"^pi1: lock failed: anna@kiosk holds it"):
        experiment.deploy(operator, built, desk)
    experiment.deploy(operator, built, desk, break_lock=True)
    assert _current(lab) == [built.name] * 2
