"""A sweep that is killed in the middle and typed again, on the lab that everybody has."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.three_hosts import until
from tests.e2e.checkout import Checkout

pytestmark = pytest.mark.parametrize("checkout", ["lab"], indirect=True, scope="session")
HOSTS = ["pi1", "pi2", "pi3"]
LIMIT = ["--limit", ",".join(HOSTS)]
SMALL = ["--servers", "2", "--clients", "2", "--threads", "1"]  # pi3 has nothing to do
SHORT = ["--duration", "0.5", "--warmup", "0"]
SWEEP = ["sweep", "--key-size", "1,2,4", "--repeat", "1", *SMALL, *SHORT, *LIMIT]
WITHIN_S = 60.0


def folders(lab: Checkout) -> list[Path]:
    return list((lab.folder / "logs").glob("sweep-*"))


def state(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return document


def counted(folder: Path) -> list[str]:
    return sorted(run for point in state(folder)["points"] for run in point["runs"])


def steps_of_latest(folder: Path) -> list[str]:
    manifest = folder / "runs" / "latest" / "manifest.json"
    return [entry["step"] for entry in json.loads(manifest.read_text(encoding="utf-8"))["steps"]]


def left_on_hosts(lab: Checkout) -> set[str]:
    return {path.name for host in HOSTS for path in (lab.home(host) / "runs").iterdir()}


def test_a_sweep_that_is_killed_in_a_run_goes_on_where_it_was(lab: Checkout) -> None:
    with lab.start(*SWEEP) as process:
        try:
            until(lambda: any(counted(folder) for folder in folders(lab)), WITHIN_S)
            (folder,) = folders(lab)
            until(lambda: steps_of_latest(folder)[-1] == "start-clients", WITHIN_S)
        finally:
            process.send_signal(signal.SIGKILL)
    first = counted(folder)
    before = (folder / "runs" / first[0] / "summary.json").read_bytes()
    abandoned = (folder / "runs" / "latest").resolve().name
    assert len(first) == 1
    assert abandoned not in first

    document = lab.json(*SWEEP)
    assert folders(lab) == [folder]
    assert document["sweep"] == folder.name
    runs = counted(folder)
    assert len(runs) == 3
    assert first[0] in runs
    assert abandoned not in runs
    assert (folder / "runs" / first[0] / "summary.json").read_bytes() == before
    made = {path.name for path in (folder / "runs").iterdir() if not path.is_symlink()}
    assert made == {*runs, abandoned}

    with (folder / "points.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["key_size"], row["threads"], row["runs"]) for row in rows] == [
        ("1", "1", "1"),
        ("2", "1", "1"),
        ("4", "1", "1"),
    ]
    assert all(float(row["throughput_per_s"]) > 0 for row in rows)
    assert [row["throughput_per_s"] for row in document["points"]] == [
        float(row["throughput_per_s"]) for row in rows
    ]
    assert [row["processes"] for row in lab.json("status", *LIMIT).values()] == [[], [], []]
    assert left_on_hosts(lab) == {abandoned}
    lab.fab("collect", "--run", abandoned, "--partial", *LIMIT, "clean", *LIMIT)
    assert left_on_hosts(lab) == set()
