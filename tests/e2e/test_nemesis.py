"""fab soak as typed: runs in which what is killed comes back, and nothing stays on the hosts."""

import json

import pytest

from tests.e2e.checkout import Checkout

pytestmark = pytest.mark.parametrize("checkout", ["lab"], indirect=True, scope="session")
LOAD = ("--threads", "2", "--warmup", "0", "--profile", "fast", "--window", "4")


def test_servers_come_back_clients_are_replaced_and_the_hosts_are_tidy(
    idle: Checkout,
) -> None:
    deeds = [
        {"at": 0.5, "kind": "kill", "servers": ["pi1"], "for": 0.5},
        {"at": 0.5, "kind": "kill", "clients": ["pi2"], "for": 0.2},
        {"at": 2.0, "kind": "pause", "servers": ["pi3"], "for": 0.5},
        {"at": 2.0, "kind": "pause", "clients": ["pi4"], "for": 0.5},
    ]
    (idle.folder / "deeds.json").write_text(json.dumps(deeds), encoding="utf-8")
    words = ("--hours", "0.0001", "--duration", "6", "--seed", "3", "--faults", "deeds.json")
    outcome = idle.fab("soak", *words, *LOAD, "--json")
    summary, manifest = idle.summary(), idle.manifest()
    made = {"kill client": 1, "kill server": 1, "pause client": 1, "pause server": 1}
    (row,) = json.loads(outcome.stdout)["runs"]
    assert (row["run"], row["seed"], row["faults"]) == (idle.latest(), 3, made)
    assert "1 run ended" in outcome.stderr
    assert "1 client was killed on purpose: what it did is not in these figures" in summary["flaws"]
    assert summary["missing_clients"] == []
    assert summary["clients"] == 5
    assert summary["duration_s"] > 5.5
    assert summary["replicas"]["differing"] == []
    assert summary["faults"]["joined_clients"] == ["pi2.1"]
    assert summary["faults"]["recoveries"] == 1
    assert manifest["problems"] == []
    assert sorted(row["text"] for row in manifest["faults"]) == [
        *("kill of client pi2", "kill of server pi1", "pause of client pi4", "pause of server pi3"),
    ]
    files = {path.name for path in (idle.folder / "logs/latest/hosts/pi2").iterdir()}
    assert {"client.log", "client.1.log", "results.1.json"} <= files
    assert "results.json" not in files
    assert not (idle.home("pi1") / "runs" / row["run"]).exists()
