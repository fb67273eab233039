"""Faults as values: what is sent, what is noted, what is left."""

import math
import time
from pathlib import Path

import pytest

from cluster.errors import ClusterError, HostError, HostsFailedError, UsageError
from cluster.fanout import Results
from cluster.faults import LONGEST_S, Fault, note, noted, prove
from cluster.inventory import Host


@pytest.mark.parametrize("for_s", [0, -1, LONGEST_S + 1, math.inf, math.nan])
def test_a_fault_has_an_end_in_sight(for_s: float) -> None:
    with pytest.raises(UsageError, match=r"--for .* up to 600"):
        Fault("cut", "cut", for_s).checked()
    assert Fault("cut", "cut", LONGEST_S).checked()


def test_a_host_is_no_peer_of_its_own_and_is_told_its_ssh_port() -> None:
    fault = Fault("cut", "cut", 3, {"peers": {"pi1": "one", "pi2": "two"}})
    assert fault.on(Host("pi1", "one", ssh_port=2222)) == {
        "kind": "cut",
        "text": "cut",
        "for_s": 3,
        "peers": {"pi2": "two"},
        "ssh_port": 2222,
    }


def test_a_run_finds_the_faults_that_lasted_into_it(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert noted(logs, "here", 0.0) == []
    note(logs, "here", ["pi1"], "healed before", 600.0)
    note(logs, "here", ["pi1"], None, 0.0)
    note(logs, "here", ["pi2"], "over before", 0.0)
    note(logs, "here", ["pi2", "pi3"], "began before", 600.0)
    note(logs, "there", ["pi4"], "elsewhere", 600.0)
    began = time.time()
    note(logs, "here", ["pi4"], "kill", 0.0)
    note(logs, "here", ["pi3"], None, 0.0)
    found = noted(logs, "here", began)
    assert [(row["host"], row["text"]) for row in found] == [
        *(("pi2", "began before"), ("pi3", "began before"), ("pi4", "kill")),
    ]
    assert found[1]["until_unix_s"] < time.time() < found[0]["until_unix_s"]


def test_what_is_left_is_named_with_its_host() -> None:
    clean = {"ended": ["cut"], "left": {"rules": 0, "slowed": None}}
    prove(Results("heal", {"pi1": clean}))
    left = {"ended": [], "left": {"rules": 1, "reverters": 0}}
    with pytest.raises(ClusterError, match=r"^pi2: left after heal: 1 rules$"):
        prove(Results("heal", {"pi1": clean, "pi2": left}))
    failed = Results("heal", {"pi1": clean}, {"pi2": HostError("no answer")})
    with pytest.raises(HostsFailedError, match=r"pi2: heal failed: no answer"):
        prove(failed)
