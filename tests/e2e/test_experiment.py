"""The tasks alone and chained, on the lab that is most like real hosts."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from hashlib import sha256

import pytest

from tests.e2e.checkout import Checkout
from tests.needs import BEST_LAB

Edit = Callable[[str, str], None]
pytestmark = pytest.mark.parametrize("checkout", [BEST_LAB], indirect=True, scope="session")


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
    assert set(summary["hosts"]) == set(idle.ports())
    for host, figures in summary["hosts"].items():
        assert 0 < figures["cpu_busy"] <= 1
        assert set(figures["processes_cores"]) == {f"server {host}", f"client {host}"}
    assert sum(int(row["commands"]) for row in rows) == summary["commands"]
    steps = [step["step"] for step in idle.manifest()["steps"]]
    assert steps == ["facts", "start-servers", "read clocks", "start-clients"]


def test_a_number_of_commands_ends_the_clients_and_can_be_reproduced(idle: Checkout) -> None:
    words = ["--commands", "40", "--threads", "2", "--key-size", "1", "--seed", "7"]
    one = idle.json("run", *words, "--warmup", "0", "--clients", "4")
    assert one["commands"] == 4 * 2 * 40
    assert one["connections"] == 4 * 2 * 5
    compared = idle.json("reproduce", one["run"])
    ((other,), differs) = compared["b"], compared["differs"]
    assert compared["a"] == [one]
    assert other["run"] == idle.latest() != one["run"]
    assert (one["gets"], one["puts"]) == (other["gets"], other["puts"])
    assert set(differs) <= {"links"}  # which are measured


def test_a_second_in_which_a_server_stood_still_is_in_the_percentiles_of_a_fixed_rate(
    idle: Checkout,
) -> None:
    before = idle.latest()
    words = ("run", "--target-rate", "200", "--threads", "2", "--duration", "4")
    with idle.start(*words) as process:
        idle.wait_for_clients(before)
        server = idle.pid("pi3", "server")
        os.kill(server, signal.SIGSTOP)
        time.sleep(1.0)  # what is measured
        os.kill(server, signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    # Of the commands that were due in that second, a quarter of all, those that need this server
    # and those behind them in their threads waited for what was left of it.
    latency = idle.summary()["latency_us"]
    assert 800_000 < latency["p99"] < latency["max"] < 3_000_000
    assert latency["p50"] < 400_000


def test_several_servers_and_clients_a_host(idle: Checkout, edited: Edit) -> None:
    edited("defaults:\n", "defaults:\n  clients_per_host: 2\n")
    edited("  pi1:\n", "  pi1:\n    servers_per_host: 2\n")
    words = ["--workload", "ycsb-a", "--records", "30", "--value-bytes", "500"]
    summary = idle.json("run", "--commands", "20", "--threads", "1", *words)
    assert summary["replicas"] == {"keys": 30, "key_range": 10_000, "differing": []}
    assert (summary["servers"], summary["clients"], summary["connections"]) == (6, 10, 60)
    assert summary["replicas"]["differing"] == []
    kept = {path.name for path in (idle.folder / "logs" / "latest" / "hosts" / "pi1").iterdir()}
    assert {"server.0.log", "server.1.log", "results.0.json", "results.1.json"} <= kept


def test_starting_running_servers_again_is_a_no_op(idle: Checkout) -> None:
    first = idle.json("start-servers")
    assert first["started"] == first["servers"]
    assert idle.json("start-servers") == {**first, "started": []}
    idle.fab("start-clients", "--duration", "1", "--wait")
    assert "--restart" in idle.fab("start-clients", code=1).stderr
    assert idle.json("start-servers", "--restart")["run"] != first["run"]


def test_clients_without_servers_are_refused_in_one_line(idle: Checkout) -> None:
    refusal = idle.fab("start-clients", code=1).stderr
    assert refusal.strip().count("\n") == 0
    assert "fab start-servers" in refusal


def test_a_server_and_a_client_killed_in_a_run_fail_it_and_are_named(idle: Checkout) -> None:
    before = idle.latest()
    with idle.start("run", "--duration", "3", "--threads", "2") as process:
        idle.wait_for_clients(before)
        os.kill(idle.pid("pi3", "server"), signal.SIGKILL)
        os.kill(idle.pid("pi4", "client"), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "pi3: server pi3 died" in stderr
    assert "pi4: client pi4 died" in stderr
    assert "cluster" in stdout
    assert set(idle.summary()["lost"]["pi1: client pi1"]) == {"pi3"}
    assert idle.summary()["missing_clients"] == ["pi4"]
    assert "pi4" in idle.fab("assemble", code=1).stdout
    assert (idle.folder / "logs" / "latest" / "hosts" / "pi3" / "server.log").stat().st_size > 0
    assert idle.json("status")["pi1"]["processes"] == []


def test_a_server_killed_and_started_again_in_a_run_takes_its_place(idle: Checkout) -> None:
    before = idle.latest()
    words = ["run", "--duration", "3", "--threads", "2", "--profile", "fast", "--window", "8"]
    with idle.start(*words, "--durable") as process:
        idle.wait_for_clients(before)
        os.kill(idle.pid("pi3", "server"), signal.SIGKILL)
        assert idle.json("start-servers")["started"] == ["pi3"]
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    summary = idle.summary()
    assert summary["run"] == idle.latest() != before
    assert (summary["lost"], summary["lost_ranges"]) == ({}, {})
    assert summary["replicas"]["differing"] == []
    figures = idle.manifest()["server_figures"]
    assert [row["durable"] for row in figures.values()] == [True] * 5
    for number in ("1", "2"):  # of which pi3 holds a copy
        one, other = [row["ranges"][number] for row in figures.values() if number in row["ranges"]]
        assert one == other
        assert one["mode"] == "serving"
        assert one["epoch"] > 1


def test_servers_that_a_fault_kills_or_pauses_come_back(idle: Checkout) -> None:
    idle.fab("start-servers")
    assert idle.json("fault.kill", "--servers", "--limit", "pi3") == {"pi3": ["server pi3"]}
    assert idle.json("start-servers")["started"] == ["pi3"]
    shown = idle.fab("fault.pause", "--limit", "pi1,pi2", "--for", "600", "heal").stdout
    assert shown.count("pause of clients and servers") == 4  # which begin, and are ended
    assert "Nothing is left of any fault." in shown
    assert idle.fab("check", "--replicas").code == 0


def test_a_range_whose_servers_both_came_back_with_nothing_is_lost(idle: Checkout) -> None:
    idle.fab("start-servers")
    for host in ("pi3", "pi4"):
        os.kill(idle.pid(host, "server"), signal.SIGKILL)
    error = idle.fab("start-servers", code=1).stderr
    assert "range 2 is LOST: both its servers, pi3 and pi4, came back with nothing" in error
    assert "--restart" in error
    assert idle.fab("status").stdout.count("range 2 LOST") == 2


def test_durable_servers_that_all_died_come_back_with_what_they_held(idle: Checkout) -> None:
    first = idle.json("start-servers", "--durable")
    idle.fab("start-clients", "--commands", "50", "--threads", "2", "--wait")
    held = idle.json("check", "--replicas")
    assert held["keys"] > 0
    for host in ("pi2", "pi3", "pi4"):
        os.kill(idle.pid(host, "server"), signal.SIGKILL)
    outcome = idle.fab("start-servers")
    assert f"started pi2, pi3, pi4 again in run {first['run']}" in outcome.stdout
    assert idle.json("check", "--replicas") == held
    shown = idle.fab("status").stdout
    assert f"run {first['run']}: its servers keep on disk" in shown
    assert shown.count("2 serving") == 5
    assert "--workers" in idle.fab("start-servers", "--workers", "3", code=2).stderr
    data = idle.home("pi1") / "runs" / first["run"] / "data" / "pi1"
    assert data.is_dir()
    idle.fab("stop", "collect", "clean")
    assert not data.exists()


def test_the_secret_is_on_every_host_and_nowhere_else(idle: Checkout) -> None:
    secret = idle.secret()
    outcomes = [
        idle.fab("deploy", "--json"),
        idle.fab("run", "--commands", "5", "--threads", "1", "--warmup", "0", "--trace"),
        idle.fab("check", "--json"),
        idle.fab("releases", "--json"),
        idle.fab("deploy", "--dry-run"),
    ]
    assert all(secret not in outcome.shown for outcome in outcomes)
    assert json.loads(outcomes[0].stdout)["secret_delivered"] == []
    checked = json.loads(outcomes[2].stdout)
    assert {facts["secret"] for facts in checked.values()} == {"yes"}
    needles = [secret.encode(), bytes.fromhex(secret), sha256(f"{secret}\n".encode()).digest()]
    needles.append(needles[-1].hex().encode())
    places = [idle.lab / "secret", *(idle.home(host) / "secret" for host in idle.ports())]
    for root in (idle.folder / "logs", idle.lab):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink() and path not in places:
                content = path.read_bytes()
                assert not any(needle in content for needle in needles), path
    for path in places:
        assert path.read_text(encoding="ascii").strip() == secret
        assert path.stat().st_mode & 0o777 == 0o600


def test_another_desks_secret_is_not_overwritten_under_its_servers(idle: Checkout) -> None:
    idle.fab("start-servers")
    ours = idle.secret()
    (idle.lab / "secret").unlink()  # as in a fresh checkout
    refusal = idle.fab("deploy", code=1).stderr
    assert refusal.strip().count("\n") == 0
    assert "this desk has none" in refusal
    assert (idle.home("pi1") / "secret").read_text(encoding="ascii").strip() == ours
    assert not (idle.lab / "secret").exists()
    idle.fab("stop")
    assert "took the place" in idle.fab("deploy").stdout
    assert idle.secret() != ours
    assert {facts["secret"] for facts in idle.json("check").values()} == {"yes"}


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
    with idle.connect("pi2") as sock:
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
