"""The README's first command, in a clone."""

import json
import signal
import socket
from typing import Any

import pytest

from tests.e2e.checkout import Checkout


def test_demo_runs_three_experiments_and_leaves_nothing_behind(checkout: Checkout) -> None:
    outcome = checkout.fab("demo", "--json")
    summaries = json.loads(outcome.stdout)["runs"]
    assert summaries[-1] == checkout.summary()
    assert [(summary["profile"], summary["window"]) for summary in summaries] == [
        *(("classic", 1), ("fast", 1), ("fast", 32)),
    ]
    for summary in summaries:
        _assert_whole(checkout, summary)
        assert f"logs/{summary['run']}" in outcome.stderr
    classic, fast, _ = (summary["messages"] / summary["commands"] for summary in summaries)
    assert classic >= 8
    assert fast < 4
    rows = [line.split() for line in outcome.stderr.splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["classic"], ["fast"])] == [
        *(["classic", "1"], ["fast", "1"], ["fast", "32"]),
    ]
    _assert_nothing_is_left(checkout)


def _assert_whole(checkout: Checkout, summary: dict[str, Any]) -> None:
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
    assert summary["replicas"]["keys"] > 0
    assert summary["replicas"]["differing"] == []
    assert summary["lost_ranges"] == {}
    for host in ("pi1", "pi2", "pi3", "pi4", "pi5"):
        folder = checkout.folder / "logs" / summary["run"] / "hosts" / host
        assert {"server.log", "client.log", "results.json"} <= {
            path.name for path in folder.iterdir()
        }


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
