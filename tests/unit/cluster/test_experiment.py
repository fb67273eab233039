"""A deploy as a whole: the release, the secret, the lock, and a word on wrong clocks."""

from pathlib import Path
from typing import Any

import pytest

from cluster import experiment, secret
from cluster.console import Screen
from cluster.errors import ClusterError
from cluster.operator import Operator
from cluster.release import DEPLOYED, UNCHANGED, Release


@pytest.fixture
def desk(tmp_path: Path, shelf: Any) -> Path:
    """A desk whose secret all hosts have."""
    text = secret._make(tmp_path / "desk")
    for host in shelf.cluster.hosts:
        place = shelf.folders(host.name).secret
        place.parent.mkdir(parents=True)
        place.touch(0o600)
        place.write_text(text, encoding="ascii")
    return tmp_path / "desk"


def test_a_deploy_of_what_is_there_is_one_step(
    shelf: Any, built: list[Release], desk: Path
) -> None:
    outcome, delivered = experiment.deploy(shelf, built[0], desk)
    assert (set(outcome.values()), delivered) == ({DEPLOYED}, [])
    assert shelf.steps() == ["probe", "stage", "flip"]
    outcome, delivered = experiment.deploy(shelf, built[0], desk)
    assert (set(outcome.values()), delivered) == ({UNCHANGED}, [])
    assert shelf.steps() == ["probe"]


@pytest.mark.parametrize("offset_s", [-3_600.0, 86_400.0 * 365])
def test_a_clock_that_is_far_off_is_said_in_a_line(
    shelf: Any, built: list[Release], desk: Path, offset_s: float
) -> None:
    shelf.clocks = {"pi1": 0.4, "pi2": offset_s}
    outcome, _ = experiment.deploy(shelf, built[0], desk)
    assert set(outcome.values()) == {DEPLOYED}
    (said,) = shelf.screen.said
    assert said.startswith(f"pi2: its clock is {offset_s:+,.0f} s off this desk's")
    assert "NTP" in said


def test_another_desks_secret_is_refused_and_no_lock_is_left(
    shelf: Any, built: list[Release], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "secret").unlink()
    busy = {"pi1": [{"name": "pi1"}], "pi2": [], "pi3": []}
    monkeypatch.setattr("cluster.processes.running", lambda _: busy)
    with pytest.raises(ClusterError, match="another secret is there"):
        experiment.deploy(shelf, built[0], desk)
    assert shelf.locks() == [None] * 3
    assert shelf.steps() == ["probe", "unlock"]


def test_a_plan_shows_no_digest_of_the_secret(
    shelf: Any, built: list[Release], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = Operator(shelf.cluster, Screen(), dry_run=True)
    experiment.deploy(operator, built[0], desk)
    shown = capsys.readouterr().out
    assert "would probe on pi3" in shown
    assert "would flip on pi3" in shown
    digest = secret.digest(desk)
    assert digest is not None
    assert digest not in shown
