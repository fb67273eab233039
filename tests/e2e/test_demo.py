"""The README's first command, in a clone."""

import signal
import socket

import pytest

from tests.e2e.checkout import Checkout


def test_demo_runs_a_whole_experiment_and_leaves_nothing_behind(checkout: Checkout) -> None:
    shown = checkout.fab("demo").stdout
    summary = checkout.summary()
    assert (
        summary["servers"],
        summary["clients"],
        summary["threads"],
        summary["connections"],
    ) == (5, 5, 40, 200)
    assert summary["commands"] == sum(
        summary[name] for name in ("succeeded", "not_found", "already_there", "aborted", "unknown")
    )
    assert summary["unknown"] == summary["aborted"] == 0
    assert summary["throughput_per_s"] > 0
    assert summary["messages"] >= 8 * summary["commands"]
    assert summary["replicas"]["keys"] > 0
    assert summary["replicas"]["differing"] == []
    assert f"logs/{summary['run']}" in shown
    for host in ("pi1", "pi2", "pi3", "pi4", "pi5"):
        kept = {
            path.name for path in (checkout.folder / "logs" / "latest" / "hosts" / host).iterdir()
        }
        assert {"server.log", "client.log", "results.json"} <= kept
    _assert_nothing_is_left(checkout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_behind(
    checkout: Checkout, number: signal.Signals
) -> None:
    before = checkout.latest()
    with checkout.start("demo") as process:
        checkout.wait_for_clients(before)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert (checkout.folder / "logs" / "latest" / "hosts" / "pi5" / "results.json").exists()
    _assert_nothing_is_left(checkout)


def _assert_nothing_is_left(checkout: Checkout) -> None:
    assert checkout.processes() == []
    assert not checkout.lab.exists()
    for ports in checkout.ports().values():
        for port in ports.values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
