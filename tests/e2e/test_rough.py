"""Two minutes in which much breaks by chance, on real links: the table keeps its promises."""

import pytest

from tests.e2e.checkout import Checkout
from tests.needs import FAULTS, NETNS

pytestmark = [
    NETNS,
    FAULTS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]
# The rate leaves room on a machine that others load too; what counts is what breaks.
WORDS = ("run", "--faults", "rough", "--duration", "60", "--workload", "mixed")
LOAD = ("--profile", "fast", "--threads", "2", "--target-rate", "200")


@pytest.mark.parametrize("mode", [[], ["--durable"]], ids=["memory", "durable"])
def test_every_promise_is_kept_while_hosts_links_and_processes_fail(
    idle: Checkout, mode: list[str]
) -> None:
    outcome = idle.fab(*WORDS, *LOAD, *mode)
    summary = idle.summary()
    assert summary["verdict"]["verdict"] == "ok", summary["verdict"]
    assert "verdict: ok" in outcome.stdout
    assert summary["verdict"]["counts"]["commands"] > 8000
    assert summary["verdict"]["counts"]["many"] > 500
    assert sum(summary["faults"]["made"].values()) >= 8
