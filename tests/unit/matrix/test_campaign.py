"""Work shared out over teams: all of it is done, an error ends it, a hunt has its limit."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.console import Screen
from cluster.errors import ClusterError
from cluster.inventory import Cluster, Host
from cluster.operator import Operator
from cluster.release import Release
from matrix import campaign
from matrix.campaign import Batch, Campaign
from matrix.cells import cells
from matrix.mistakes import SHOWN_BY
from matrix.team import BROKEN, FAILED, KEPT, Outcome

BATCH = SHOWN_BY["unlock first"]
BUILT = Release("fault-0", {}, b"")


def operator_of(count: int) -> Operator:
    hosts = tuple(Host(f"pi{number}", "127.0.0.1") for number in range(1, count + 1))
    return Operator(Cluster("shelf", Path("shelf.yaml"), "", Path("known"), hosts, {}), Screen())


def campaign_of(operator: Operator) -> Campaign:
    return Campaign(operator, lambda _: pytest.fail("nobody makes a fault"), Path(), Path())


def test_teams_are_of_five_hosts_and_work_at_the_same_time() -> None:
    operator = operator_of(12)
    both = threading.Barrier(campaign.check(operator), timeout=10)
    done: list[tuple[int, tuple[str, ...]]] = []

    def do(work: int, team: Operator) -> None:
        both.wait()
        done.append((work, tuple(host.name for host in team.cluster.hosts)))

    campaign_of(operator).share([1, 2, 3, 4], do)
    assert sorted(work for work, _ in done) == [1, 2, 3, 4]
    first, second = (tuple(f"pi{at + number}" for number in range(1, 6)) for at in (0, 5))
    assert {team for _, team in done} == {first, second}


def test_four_hosts_are_no_team() -> None:
    with pytest.raises(ClusterError, match=r"lab\.up --kind netns --hosts 20 makes four teams"):
        campaign.check(operator_of(4))


def test_an_error_of_one_team_ends_the_work_and_is_raised() -> None:
    done: list[int] = []

    def do(work: int, _team: Operator) -> None:
        done.append(work)
        if work == 2:
            why = "pi2 is gone"
            raise ClusterError(why)

    with pytest.raises(ClusterError, match="pi2 is gone"):
        campaign_of(operator_of(5)).share([1, 2, 3], do)
    assert done == [1, 2]


@pytest.mark.parametrize(
    ("outcomes", "is_caught"),
    [([KEPT, BROKEN], True), ([BROKEN], True), ([KEPT, FAILED, KEPT], False)],
)
def test_a_hunt_ends_with_a_broken_cell_or_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[str], *, is_caught: bool
) -> None:
    told = iter(outcomes)
    clock_s = itertools.count(0.0, 10.0)
    monkeypatch.setattr("matrix.campaign.time.monotonic", lambda: next(clock_s))

    def carry_out(_self: Campaign, batch: Batch, *_more: Any) -> list[Outcome]:
        return [Outcome(batch.cells[0], next(told))]

    monkeypatch.setattr(Campaign, "carry_out", carry_out)
    operator = operator_of(5)
    caught, took_s = campaign_of(operator).hunt(BATCH, BUILT, operator, 10.0 * len(outcomes) - 5)
    assert (caught is not None) == is_caught
    assert took_s == 10.0 * len(outcomes)


def test_a_table_has_a_row_a_place_and_a_column_a_fault_in_the_order_of_the_protocol() -> None:
    found = cells("fast", durable=False)[:4]
    batch = Batch("fast", "memory", tuple(found))
    outcomes = [(batch, Outcome(cell, KEPT)) for cell in reversed(found)]
    ((name, (columns, rows)),) = campaign.tables(outcomes).items()
    assert name == ("fast", "memory")
    assert columns == ["message", "moment", "party", "kill", "pause", "cut"]
    assert rows == [
        ["REQUEST", found[at].place.when, "client", *outcome]
        for at, outcome in ((0, [KEPT] * 3), (3, [KEPT, "", ""]))
    ]
