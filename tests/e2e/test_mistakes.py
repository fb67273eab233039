"""Mistakes and broken hosts: one clear line each, the right exit code, nothing half done."""

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.e2e.checkout import Checkout

Edit = Callable[[str, str], None]


def test_a_typo_in_the_inventory_names_file_line_and_field(
    checkout: Checkout, edited: Edit
) -> None:
    edited("ssh_port", "shs_port")
    error = checkout.fab("deploy", code=2).stderr
    assert error.startswith("inventory/lab.yaml:10: hosts.pi1.shs_port: ")
    assert "'ssh_port'" in error


def test_two_hosts_with_the_same_name(checkout: Checkout, edited: Edit) -> None:
    edited("  pi2:", "  pi1:")
    assert "hosts.pi1" in checkout.fab("deploy", code=2).stderr


def test_a_key_range_below_the_number_of_servers(checkout: Checkout) -> None:
    error = checkout.fab("run", "--key-range", "3", code=2).stderr
    assert "key range 3" in error
    assert "5" in error


@pytest.mark.parametrize(
    "words",
    [
        ("--key-size", "x"),
        ("--duration", "-1"),
        ("--get-ratio", "2"),
        ("--threads", "0"),
        ("--profile", "baroque"),
        ("--window", "1024"),
        ("--seed", "one"),
        ("--limit", "pi9"),
    ],
)
def test_an_option_that_cannot_be(checkout: Checkout, words: tuple[str, str]) -> None:
    error = checkout.fab("run", *words, code=2).stderr
    assert words[0] in error
    assert words[1] in error
    assert error.strip().count("\n") == 0


def test_fabrics_own_host_option_is_refused(checkout: Checkout) -> None:
    assert "--limit" in checkout.fab("-H", "pi1,pi2", "deploy", code=2).stderr


def test_a_dry_run_connects_to_nothing_and_writes_nothing(checkout: Checkout) -> None:
    logs = checkout.folder / "logs"
    before = sorted(logs.glob("*"))
    shown = checkout.fab("run", "--dry-run", cluster="pis").stdout
    for step in (
        "deliver secret on pi5",
        "stage on pi5",
        "flip on pi5",
        "start server on pi5",
        "start client on pi5",
    ):
        assert f"would {step}" in shown
    assert sorted(logs.glob("*")) == before


def test_a_host_whose_key_is_not_pinned_gets_nothing(idle: Checkout) -> None:
    pins = idle.lab / "known_hosts"
    before = pins.read_text(encoding="utf-8")
    rows = before.splitlines(keepends=True)
    pins.write_text("".join([*rows[:2], *rows[3:]]), encoding="utf-8")
    try:
        error = idle.fab("deploy", code=1).stderr
    finally:
        pins.write_text(before, encoding="utf-8")
    assert error.startswith("pi3: ")
    assert "not pinned" in error
    assert "SHA256:" in error


def test_a_host_whose_key_changed_gets_nothing(idle: Checkout) -> None:
    pins = idle.lab / "known_hosts"
    before = pins.read_text(encoding="utf-8")
    rows = before.splitlines()
    rows[2] = " ".join([rows[2].split()[0], *rows[3].split()[1:]])
    pins.write_text("\n".join(rows) + "\n", encoding="utf-8")
    try:
        error = idle.fab("deploy", code=1).stderr
    finally:
        pins.write_text(before, encoding="utf-8")
    assert error.startswith("pi3: ")
    assert "has changed" in error
    assert error.count("SHA256:") == 2


def test_a_host_that_is_down_leaves_all_on_the_old_release(idle: Checkout, edited: Edit) -> None:
    before = idle.json("releases")
    ssh_port = idle.ports()["pi3"]["ssh_port"]
    source = idle.folder / "rdht" / "limits.py"
    text = source.read_text(encoding="utf-8")
    edited(f"ssh_port: {ssh_port}", f"ssh_port: {_unused_port()}")
    source.write_text(text + "# another release\n", encoding="utf-8")
    try:
        error = idle.fab("deploy", code=1).stderr
    finally:
        source.write_text(text, encoding="utf-8")
    assert error.startswith("pi3: ")
    assert "every host keeps its release" in error
    edited(f"ssh_port: {idle.ports()['pi3']['ssh_port']}", f"ssh_port: {ssh_port}")
    assert {h: a["current"] for h, a in idle.json("releases").items()} == {
        h: a["current"] for h, a in before.items()
    }


def test_collect_status_and_stop_do_the_others_and_report_the_one(
    idle: Checkout, edited: Edit
) -> None:
    idle.fab("start-servers", "start-clients", "--duration", "1", "--wait")
    ssh_port = idle.ports()["pi3"]["ssh_port"]
    edited(f"ssh_port: {ssh_port}", f"ssh_port: {_unused_port()}")
    for task in ("collect", "status", "stop"):
        outcome = idle.fab(task, code=1)
        assert "pi3: " in outcome.stderr
        assert all(host in outcome.stdout for host in ("pi1", "pi2", "pi4", "pi5"))
    hosts = {path.name for path in (idle.folder / "logs" / "latest" / "hosts").iterdir()}
    assert hosts == {"pi1", "pi2", "pi4", "pi5"}
    edited(f"ssh_port: {idle.ports()['pi3']['ssh_port']}", f"ssh_port: {ssh_port}")
    assert idle.json("stop") == {
        "pi1": [],
        "pi2": [],
        "pi3": ["server pi3"],
        "pi4": [],
        "pi5": [],
    }


def test_a_missing_python_on_a_host(idle: Checkout, edited: Edit) -> None:
    edited("  pi4:\n", "  pi4:\n    python: python9\n")
    error = idle.fab("deploy", code=1).stderr
    assert "pi4: " in error
    assert "python9" in error


def test_a_port_in_use_starts_no_server(idle: Checkout) -> None:
    with socket.create_server(("127.0.0.1", idle.ports()["pi5"]["server_port"])):
        error = idle.fab("start-servers", code=1).stderr
        assert "in use" in idle.fab("check", code=1).stderr
    assert error.startswith("pi5: ")
    assert "Address already in use" in error
    assert all(not answer["processes"] for answer in idle.json("status").values())


def test_a_full_disk_leaves_all_on_the_old_release(idle: Checkout) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount the small file system that this fills")
    before = {host: answer["current"] for host, answer in idle.json("releases").items()}
    releases = idle.home("pi2") / "releases"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", releases], check=True)
    try:
        error = idle.fab("deploy", code=1).stderr
    finally:
        subprocess.run(["umount", releases], check=True)
    assert error.startswith("pi2: ")
    assert "No space left" in error
    assert {host: answer["current"] for host, answer in idle.json("releases").items()} == before


def test_a_roster_that_names_an_unknown_server(idle: Checkout) -> None:
    idle.fab("start-servers")
    roster = next(idle.home("pi1").glob("runs/*/roster.json"))
    asked = subprocess.run(
        ["python3", "-m", "rdht", "server", "--roster", roster, "--name", "pi9"],
        cwd=idle.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert "pi9" in asked.stderr
    assert "pi1, pi2, pi3, pi4, pi5" in asked.stderr


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
