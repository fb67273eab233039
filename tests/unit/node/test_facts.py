"""What a host tells about itself, and whom it reaches."""

import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdht.node import facts, host
from rdht.node.host import Folders, boot_id

HERE = "127.0.0.1"


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that gives a port that nobody listens on."""

    def find() -> int:
        with socket.create_server((HERE, 0)) as taken:
            port: int = taken.getsockname()[1]
            return port

    return find


def check(
    folders: Folders, name: str, listen: list[list[Any]], peers: dict[str, list[Any]]
) -> dict[str, Any]:
    return facts.check(folders, {"name": name, "listen": listen, "peers": peers}, b"")


def test_the_clock_is_the_one_of_histories(folders: Folders) -> None:
    before_s = time.monotonic()
    told = facts.clock(folders, {}, b"")
    assert before_s <= told["monotonic_s"] <= time.monotonic()
    assert told["boot_id"] == boot_id()


def test_the_facts_are_this_hosts(folders: Folders) -> None:
    found = facts.facts(folders, {}, b"")
    assert found["cores"] == os.cpu_count()
    assert found["python"] == platform.python_version()
    assert found["boot_id"] == boot_id()
    assert found["disk_free_bytes"] > 0
    assert found["memory_free_bytes"] > 0
    assert found["current"] is None
    assert abs(found["time_unix_s"] - time.time()) < 5
    json.dumps(found)


def test_what_a_host_has_no_reading_of_is_none(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for module in (facts, host):
        monkeypatch.setattr(module, "read_text", lambda _: None)
    found = facts.facts(folders, {}, b"")
    for name in ("model", "memory_free_bytes", "governor", "temperature_c", "throttled"):
        assert found[name] is None, name


def test_a_pi_tells_its_board_its_temperature_and_its_throttling(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho throttled=0x50005\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    readings = {
        "/proc/device-tree/model": "Raspberry Pi 3 Model B Rev 1.2",
        "/sys/class/thermal/thermal_zone0/temp": "61842",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    }
    for module in (facts, host):
        monkeypatch.setattr(module, "read_text", readings.get)
    found = facts.facts(folders, {}, b"")
    assert found["model"] == "Raspberry Pi 3 Model B Rev 1.2"
    assert found["temperature_c"] == pytest.approx(61.842)
    assert found["governor"] == "ondemand"
    assert found["throttled"] == "0x50005"


def test_hosts_that_check_at_the_same_time_reach_each_other(
    folders: Folders, free_port: Callable[[], int]
) -> None:
    ports = {name: free_port() for name in ("pi1", "pi2", "pi3")}
    answers: dict[str, dict[str, Any]] = {}

    def run(name: str) -> None:
        peers = {other: [HERE, port] for other, port in ports.items() if other != name}
        answers[name] = check(folders, name, [[HERE, ports[name]]], peers)

    threads = [threading.Thread(target=run, args=(name,)) for name in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, port in ports.items():
        assert answers[name]["ports"] == {str(port): "free"}
        assert answers[name]["reached"] == {other: True for other in ports if other != name}


def test_a_host_that_does_not_answer_is_not_reached(
    folders: Folders, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "REACH_TIMEOUT_S", 0.3)
    found = check(folders, "pi1", [[HERE, free_port()]], {"pi2": [HERE, free_port()]})
    assert found["reached"] == {"pi2": False}
    assert found["cores"] == os.cpu_count()


def test_a_port_that_is_taken_is_told_and_the_others_reached_all_the_same(
    folders: Folders,
) -> None:
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
        found = check(folders, "pi1", [[HERE, port]], {"pi2": [HERE, port]})
    assert found["ports"] == {str(port): "Address already in use"}
    assert found["reached"] == {"pi2": True}


@pytest.mark.parametrize(
    "error",
    [
        OSError(99, "Cannot assign requested address"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ],
)
def test_an_address_that_is_not_this_hosts_is_told(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def bind(_sock: object, _address: object) -> None:
        raise error

    monkeypatch.setattr("socket.socket.bind", bind)
    found = check(folders, "pi1", [["pi1.example", 9]], {})
    assert error.strerror in found["ports"]["9"]


def test_a_host_without_servers_and_peers_does_not_wait(folders: Folders) -> None:
    begin_s = time.monotonic()
    found = check(folders, "pi1", [], {})
    assert time.monotonic() - begin_s < facts.REACH_TIMEOUT_S / 2
    assert found["ports"] == {}
    assert found["reached"] == {}


def test_the_ports_are_free_again_afterwards(
    folders: Folders, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "REACH_TIMEOUT_S", 0.1)
    port = free_port()
    check(folders, "pi1", [[HERE, port]], {"pi2": [HERE, free_port()]})
    with socket.create_server((HERE, port)) as server:
        assert server.getsockname()[1] == port
