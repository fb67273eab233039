"""Which faults are refused where, and what a dry run tells of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from tasks import experiment, faults, soak


@pytest.mark.parametrize(
    ("cluster", "task", "options", "why"),
    [
        ("lab", faults.cut, {}, "no links between them: fab lab.up --kind netns"),
        ("lab", faults.slow, {}, "no links between them: fab lab.up --kind netns"),
        ("lab", faults.loss, {}, "no links between them: fab lab.up --kind netns"),
        ("lab", faults.power, {}, "fab lab.up --kind netns"),
        ("lab", faults.cut, {"cable": True}, "fab lab.up --kind netns"),
        ("pis", faults.power, {}, "nobody here can cut the power of cluster pis"),
        ("pis", faults.cut, {"cable": True}, "leave out --cable"),
        ("netns", faults.cut, {"cable": True, "peer": "pi2"}, "leave out --peer"),
        ("pis", faults.cut, {"one_way": "up"}, "--one-way up is neither in nor out"),
        ("pis", faults.cut, {"limit": "pi1", "peer": "pi1"}, "pi1 is no peer of its own"),
        ("pis", faults.cut, {"peer": "pi9"}, "--peer: no host or group is named 'pi9'"),
        ("pis", faults.slow, {"rate": "fast"}, "--rate: 'fast' is no rate"),
        ("pis", faults.loss, {"percent": 100}, "fab fault.cut loses all"),
        ("pis", faults.pause, {"for_": 601}, "--for 601 is not a number of seconds up to 600"),
        ("pis", faults.pause, {"for_": "soon"}, "--for soon is not a number"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    cluster: str,
    task: "Task[Any]",
    options: dict[str, Any],
    why: str,
) -> None:
    monkeypatch.setenv("RDHT_CLUSTER", cluster)
    with pytest.raises(Exit) as refusal:
        task(Context(), dry_run=True, **options)
    assert refusal.value.code == 2
    assert why in str(refusal.value.message)
    assert "\n" not in str(refusal.value.message)


def test_a_dry_run_tells_what_a_fault_would_be_and_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for cluster in ("pis", "netns"):
        monkeypatch.setenv("RDHT_CLUSTER", cluster)
        faults.cut(Context(), limit="pi1", peer="pi3", one_way="in", for_=5.0, dry_run=True)
        faults.heal(Context(), limit="pi2", dry_run=True)
        shown[cluster] = capsys.readouterr().out
    begin = '{"kind": "cut", "text": "cut from pi3, in only", "for_s": 5.0'
    assert f"would fault.cut on pi1: rdht.node faults.begin {begin}" in shown["pis"]
    assert '"peers": {"pi3": "pi3.local"}, "ssh_port": 22' in shown["pis"]
    assert f"would fault.cut on pi1: lab.faults begin {begin}" in shown["netns"]
    assert '"peers": {"pi3": "10.77.0.13"}' in shown["netns"]
    assert 'would heal on pi2: rdht.node faults.heal {"network": true}' in shown["pis"]
    assert "would heal on pi2: lab.faults heal" in shown["netns"]
    assert 'would heal on pi2: rdht.node faults.heal {"network": false}' in shown["netns"]


@pytest.mark.parametrize(
    ("cluster", "options", "why"),
    [
        ("lab", {"commands": 5}, "--faults are spread over --duration: leave --commands out"),
        ("lab", {"faults": "ruff"}, "neither gentle nor rough nor hell, nor a file"),
        ("lab", {"faults": "FILE"}, "deed 1: this cluster can do no cut; it can kill, pause"),
        (
            "pis",
            {"faults": "FILE"},
            "deed 2: this cluster can do no power; it can clock, cut, kill",
        ),
        ("netns", {"faults": "FILE"}, "deed 3: this cluster can do no clock"),
    ],
)
def test_faults_that_cannot_be_in_a_run_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cluster: str,
    options: dict[str, Any],
    why: str,
) -> None:
    deeds = ("cut", "power", "clock")
    rows = [{"at": 1, "kind": kind, "hosts": ["pi1"], "for": 1} for kind in deeds]
    rows[2]["jump"] = 5
    path = tmp_path / "deeds.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("RDHT_CLUSTER", cluster)
    options = {"faults": "rough", **options}
    if options["faults"] == "FILE":
        options["faults"] = str(path)
    for task in (experiment.run, soak.soak):
        with pytest.raises(Exit) as refusal:
            task(Context(), dry_run=True, **options)
        assert refusal.value.code == 2
        assert why in str(refusal.value.message)
        assert "\n" not in str(refusal.value.message)


@pytest.mark.parametrize(
    ("cluster", "left_out"),
    [("lab", "cut, slow, loss, power, clock"), ("netns", "clock"), ("pis", "power")],
)
def test_a_dry_run_shows_the_schedule_and_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cluster: str,
    left_out: str,
) -> None:
    monkeypatch.setenv("RDHT_CLUSTER", cluster)
    experiment.run(Context(), dry_run=True, faults="hell", seed="5", duration=60.0)
    shown = capsys.readouterr().out
    assert f"left out, as cluster {cluster} can do none: {left_out}\n" in shown
    assert "faults: hell, " in shown
    assert "kill of server pi" in shown
