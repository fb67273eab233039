"""A run's folder: readable from its first moment, whatever happens later."""

import json
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cluster import runs
from cluster.errors import EXIT_USAGE, ClusterError, UsageError
from cluster.inventory import Cluster
from cluster.runs import MANIFEST, Run

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "checkout" / "logs"


@pytest.fixture
def run(logs: Path, make_cluster: MakeCluster) -> Run:
    logs.parent.mkdir()
    return runs.begin(logs, make_cluster(2), "0123456789ab", dry_run=False)


def saved(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.folder / MANIFEST).read_text(encoding="utf-8"))
    return document


def test_a_run_begins_with_a_manifest(run: Run) -> None:
    manifest = saved(run)
    assert manifest == run.manifest
    assert manifest["run"] == run.name == run.folder.name
    assert manifest["cluster"] == "shelf"
    assert manifest["inventory"] == {"path": "shelf.yaml", "sha256": "0123456789ab"}
    assert manifest["release"] == "0123456789ab"
    assert manifest["hosts"] == {"pi1": {"address": "10.0.0.1"}, "pi2": {"address": "10.0.0.2"}}
    assert manifest["steps"] == []


def test_a_runs_name_has_time_and_cluster_and_no_two_are_alike(
    run: Run, logs: Path, make_cluster: MakeCluster
) -> None:
    day, moment, cluster, mark = run.name.split("-")
    datetime.strptime(f"{day}-{moment}+0000", "%Y%m%d-%H%M%S%z")
    assert cluster == "shelf"
    assert len(mark) == 4
    others = {runs.begin(logs, make_cluster(), "x", dry_run=False).name for _ in range(5)}
    assert len(others | {run.name}) == 6


def test_latest_is_the_run_that_began_last(run: Run, logs: Path, make_cluster: MakeCluster) -> None:
    assert runs.load(logs, None).name == run.name
    second = runs.begin(logs, make_cluster(), "x", dry_run=False)
    assert runs.load(logs, None).name == second.name
    assert (logs / "latest").readlink() == Path(second.name)
    assert runs.load(logs, run.name).manifest == run.manifest


def test_a_dry_run_writes_nothing(logs: Path, make_cluster: MakeCluster) -> None:
    logs.parent.mkdir()
    run = runs.begin(logs, make_cluster(), "x", dry_run=True)
    with run.step("deploy"):
        run.note(more=1)
    assert not logs.exists()
    assert run.manifest["more"] == 1


def test_notes_are_saved_at_once(run: Run) -> None:
    run.note(servers=["pi1"])
    run.note(replicas=None)
    assert saved(run) == run.manifest
    assert saved(run)["servers"] == ["pi1"]


def test_a_step_is_noted_with_its_times(run: Run) -> None:
    with run.step("deploy"):
        pass
    (step,) = saved(run)["steps"]
    assert step["step"] == "deploy"
    assert "failed" not in step
    started, ended = (datetime.fromisoformat(step[name]) for name in ("started", "ended"))
    assert started <= ended
    assert started.tzinfo is not None


@pytest.mark.parametrize(
    ("error", "noted"),
    [(ClusterError("pi2: no connection"), "pi2: no connection"), (KeyboardInterrupt(), "Keyb")],
)
def test_a_step_that_fails_is_noted_with_why_and_still_fails(
    run: Run, error: BaseException, noted: str
) -> None:
    with pytest.raises(type(error)) as caught, run.step("deploy"):
        raise error
    assert caught.value is error
    (step,) = saved(run)["steps"]
    assert noted in step["failed"]
    assert step["ended"]


def test_each_host_has_its_own_folder(run: Run) -> None:
    assert run.host_folder("pi1") == run.folder / "hosts" / "pi1"


def test_the_git_state_is_that_of_the_checkout(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def state() -> Any:
        run = runs.begin(root / "logs", make_cluster(), "x", dry_run=True)
        return run.manifest["git"]

    assert state() is None
    git("init")
    assert state() is None, "there is no commit yet"
    (root / "file").write_text("one", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "first")
    assert state() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (root / "file").write_text("two", encoding="utf-8")
    assert state()["changed"]


def test_a_checkout_without_git_has_no_git_state(
    logs: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logs.parent.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.begin(logs, make_cluster(), "x", dry_run=True).manifest["git"] is None


@pytest.mark.parametrize("name", [None, "20260101-000000-shelf-0000"])
def test_a_run_that_is_not_there_is_a_mistake_of_usage(logs: Path, name: str | None) -> None:
    with pytest.raises(UsageError, match=name or "no run yet") as caught:
        runs.load(logs, name)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_run_of_another_cluster_is_refused(
    run: Run, logs: Path, make_cluster: MakeCluster, tmp_path: Path
) -> None:
    pis = Cluster("pis", tmp_path / "pis.yaml", "", tmp_path, make_cluster().hosts, {})
    with pytest.raises(UsageError, match=f"{run.name} is of cluster shelf, not pis"):
        runs.load(logs, None, pis)
    assert runs.load(logs, None, make_cluster()).name == run.name


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"run": '])
def test_a_manifest_that_cannot_be_read_is_named(run: Run, logs: Path, text: str) -> None:
    (run.folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(ClusterError, match=MANIFEST):
        runs.load(logs, run.name)
