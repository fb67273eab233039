"""The tasks alone and chained, on a loopback cluster with real ssh."""

import csv
import json
import os
import signal
import socket
from collections.abc import Callable

from tests.e2e.checkout import Checkout

Edit = Callable[[str, str], None]


def test_a_second_deploy_changes_nothing(lab: Checkout) -> None:
    assert lab.fab("deploy").stdout.count("unchanged") == 5


def test_the_tasks_chain_to_a_whole_experiment(idle: Checkout) -> None:
    idle.fab("deploy", "start-servers", "start-clients", "--duration", "2", "collect", "assemble")
    summary = idle.summary()
    assert summary["threads"] == 40
    assert 1.8 < summary["duration_s"] < 2.5
    with (idle.folder / "logs" / "latest" / "threads.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 40
    assert sum(int(row["commands"]) for row in rows) == summary["commands"]
    steps = [step["step"] for step in idle.manifest()["steps"]]
    assert steps == ["facts", "start-servers", "start-clients"]


def test_a_number_of_commands_ends_the_clients_too(idle: Checkout) -> None:
    summary = idle.json("run", "--commands", "50", "--threads", "2", "--key-size", "1")
    assert summary["commands"] == 5 * 2 * 50
    assert summary["connections"] == 5 * 2 * 5


def test_the_same_seed_gives_the_same_commands(idle: Checkout) -> None:
    counts = [
        [
            idle.json("run", "--commands", "40", "--threads", "2", "--seed", "7")[name]
            for name in ("gets", "puts")
        ]
        for _ in range(2)
    ]
    assert counts[0] == counts[1]


def test_several_servers_and_clients_a_host(idle: Checkout, edited: Edit) -> None:
    edited("defaults:\n", "defaults:\n  clients_per_host: 2\n")
    edited("  pi1:\n", "  pi1:\n    servers_per_host: 2\n")
    summary = idle.json("run", "--commands", "20", "--threads", "1")
    assert (summary["servers"], summary["clients"], summary["connections"]) == (6, 10, 60)
    assert summary["replicas"]["differing"] == []
    kept = {path.name for path in (idle.folder / "logs" / "latest" / "hosts" / "pi1").iterdir()}
    assert {"server.0.log", "server.1.log", "results.0.json", "results.1.json"} <= kept


def test_starting_running_servers_again_is_a_no_op(idle: Checkout) -> None:
    first = idle.json("start-servers")
    assert idle.json("start-servers") == first
    idle.fab("start-clients", "--duration", "1", "--wait")
    assert "--restart" in idle.fab("start-clients", code=1).stderr
    assert idle.json("start-servers", "--restart")["run"] != first["run"]


def test_clients_without_servers_are_refused_in_one_line(idle: Checkout) -> None:
    refusal = idle.fab("start-clients", code=1).stderr
    assert refusal.strip().count("\n") == 0
    assert "fab start-servers" in refusal


def test_a_server_killed_while_clients_run_fails_the_run_and_names_its_host(idle: Checkout) -> None:
    before = idle.latest()
    with idle.start("run", "--duration", "60") as process:
        idle.wait_for_clients(before)
        os.kill(idle.pid("pi3", "server"), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pi3: server pi3 died" in stderr
    assert "cluster" in stdout
    assert set(idle.summary()["lost"]["pi1: client pi1"]) == {"pi3"}
    assert (idle.folder / "logs" / "latest" / "hosts" / "pi3" / "server.log").stat().st_size > 0
    assert idle.json("status")["pi1"]["processes"] == []


def test_a_client_killed_in_a_run_is_missed_everywhere(idle: Checkout) -> None:
    before = idle.latest()
    with idle.start("run", "--duration", "4") as process:
        idle.wait_for_clients(before)
        os.kill(idle.pid("pi3", "client"), signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pi3: client pi3 died" in stderr
    assert idle.summary()["missing_clients"] == ["pi3"]
    assert "pi3" in idle.fab("assemble", code=1).stdout


def test_clients_on_some_hosts_use_all_servers(idle: Checkout) -> None:
    idle.fab("start-servers")
    idle.fab("start-clients", "--limit", "pi1,pi2", "--duration", "1", "--wait")
    idle.fab("collect", "assemble")
    summary = idle.summary()
    assert (summary["servers"], summary["clients"], summary["connections"]) == (5, 2, 80)


def test_interrupt_stops_everything_and_still_collects(idle: Checkout) -> None:
    before = idle.latest()
    with idle.start("run", "--duration", "60") as process:
        idle.wait_for_clients(before)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(not answer["processes"] for answer in idle.json("status").values())
    results = idle.folder / "logs" / "latest" / "hosts" / "pi1" / "results.json"
    assert json.loads(results.read_text(encoding="utf-8"))["interrupted"]


def test_garbage_on_a_servers_port_does_not_stop_it(idle: Checkout) -> None:
    idle.fab("start-servers")
    address = ("127.0.0.1", idle.ports()["pi2"]["server_port"])
    with socket.create_connection(address, timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: pi2\r\n\r\n")
        while sock.recv(4096):
            pass
    figures = idle.json("status")
    server = next(row for row in figures["pi2"]["processes"] if row["role"] == "server")
    status = idle.json("status")["pi2"]
    assert server["alive"]
    assert idle.fab("check", "--replicas").code == 0
    assert "frame" in idle.fab("tail", "--grep", "closed the connection").stdout
    assert status["processes"]


def test_stop_touches_only_what_it_started(idle: Checkout) -> None:
    idle.fab("start-servers")
    record = next((idle.home("pi1") / "runs").glob(f"{idle.manifest()['run']}/server.process.json"))
    document = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**document, "pid": os.getpid()}), encoding="utf-8")
    assert idle.json("stop")["pi1"] == []
    record.write_text(json.dumps(document), encoding="utf-8")
    assert idle.json("stop")["pi1"] == ["server pi1"]


def test_clean_removes_what_is_collected_and_keeps_the_rest(idle: Checkout) -> None:
    idle.fab("start-servers", "start-clients", "--duration", "1", "--wait", "stop")
    run = idle.manifest()["run"]
    assert {row[0] for row in idle.json("clean")["kept"] if row[1] == run} == set(idle.ports())
    idle.fab("collect")
    assert idle.json("clean")["freed_bytes"] > 0
    assert not (idle.home("pi1") / "runs" / run).exists()


def test_rollback_goes_back_on_all_hosts(idle: Checkout) -> None:
    before = idle.json("releases")["pi1"]["current"]
    source = idle.folder / "rdht" / "limits.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text + "# another release\n", encoding="utf-8")
    try:
        deployed = idle.json("deploy")["release"]
    finally:
        source.write_text(text, encoding="utf-8")
    assert deployed != before
    assert idle.json("rollback")["release"] == before
    assert {answer["current"] for answer in idle.json("releases").values()} == {before}
