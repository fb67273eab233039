"""Watching a run: what its clients report, and how the host is meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdht.node import watch as module
from rdht.node.host import Folders, boot_id, start_ticks, write_json
from rdht.node.watch import sample, watch

RUN = "20261127-100000-shelf-3fa9"
ASKED = {"run": RUN, "clientless_s": 0.0}


def running(folders: Folders, role: str, pid: int) -> dict[str, Any]:
    """Record a process as one of the run's."""
    folders.run(RUN).mkdir(parents=True, exist_ok=True)
    identity = {"pid": pid, "start_ticks": start_ticks(pid), "boot_id": boot_id()}
    record = {**identity, "name": "pi1", "role": role, "file": role, "run": RUN, "release": "r"}
    write_json(folders.run(RUN) / f"{role}.process.json", record)
    return record


@pytest.fixture
def client(folders: Folders) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    running(folders, "client", child.pid)
    return child


def test_a_line_a_second_has_the_clients_progress_and_a_sample(
    folders: Folders,
    client: "subprocess.Popen[bytes]",
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_json(folders.run(RUN) / "client.progress.json", {"commands": 17})

    def end_the_client(_: float) -> None:
        client.send_signal(signal.SIGKILL)
        client.communicate()

    monkeypatch.setattr("rdht.node.watch.time.sleep", end_the_client)
    assert watch(folders, ASKED, b"") == {}
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert shown["progress"] == [{"commands": 17}]
    assert set(shown["sample"]["processes_cpu_s"]) == {"client pi1"}


def test_a_host_whose_clients_have_ended_is_not_watched(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    running(folders, "server", os.getpid())
    assert watch(folders, ASKED, b"") == {}
    assert capsys.readouterr().out == ""


def test_a_host_without_clients_is_watched_for_a_time(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    running(folders, "server", os.getpid())
    assert watch(folders, {**ASKED, "clientless_s": 1.1}, b"") == {}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["progress"] for line in lines] == [[], []]
    assert all(set(line["sample"]["processes_cpu_s"]) == {"server pi1"} for line in lines)


def test_a_client_that_joins_is_watched_too(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = time.sleep

    def join(_: float) -> None:
        running(folders, "client", os.getpid())
        write_json(folders.run(RUN) / "client.progress.json", {"commands": 3})
        really(0.01)

    monkeypatch.setattr("rdht.node.watch.time.sleep", join)
    monkeypatch.setattr("rdht.node.watch.is_alive", lambda _: False)
    running(folders, "server", os.getpid())
    assert watch(folders, {**ASKED, "at_least_s": 1.1}, b"") == {}
    lines = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
    assert lines == [[], [{"commands": 3}]]


def test_a_sample_counts_what_is_used(folders: Folders) -> None:
    me = running(folders, "server", os.getpid())
    before = sample([me])
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    after = sample([me])
    used_s = after["processes_cpu_s"]["server pi1"] - before["processes_cpu_s"]["server pi1"]
    assert 0.05 <= used_s <= 1
    assert after["cpu_s"]["busy"] >= before["cpu_s"]["busy"] + 0.05
    assert set(after["cpu_s"]) == {"busy", "idle", "stolen"}
    assert after["time_unix_s"] > before["time_unix_s"]
    assert "lo" not in after["network"]
    for card in after["network"].values():
        assert all(isinstance(count, int) for count in card.values())
    assert after["segments_sent"] >= before["segments_sent"] >= 0
    assert after["segments_sent_again"] >= 0


def test_a_process_that_has_ended_is_not_sampled(
    folders: Folders, client: "subprocess.Popen[bytes]"
) -> None:
    record = running(folders, "client", client.pid)
    client.communicate()
    assert sample([record])["processes_cpu_s"] == {}


def test_a_host_without_such_readings_has_none(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "read_text", lambda _: None)
    monkeypatch.setattr(module, "temperature", lambda: None)
    found = sample([running(folders, "server", os.getpid())])
    assert found["cpu_s"] == {"busy": 0, "idle": 0, "stolen": 0}
    assert (found["clock_khz"], found["temperature_c"]) == (None, None)
    assert (found["segments_sent"], found["segments_sent_again"]) == (None, None)
    assert found["processes_cpu_s"] == {}
