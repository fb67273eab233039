"""What is told of servers: ranges in a few words, and what makes a run worthless."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster import health
from cluster.inventory import Cluster
from cluster.roster import roster
from rdht.replica import Mode


def figures(*, unsafe: bool = False, **modes: str) -> dict[str, Any]:
    ranges = {number[1:]: {"mode": mode, "epoch": 1} for number, mode in modes.items()}
    return {"ranges": ranges, "unsafe": unsafe}


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, None),
        ({"error": "no answer"}, None),
        (figures(_2="serving", _3="serving"), "2 serving"),
        (figures(_2="serving", _3="joining"), "1 serving, range 3 joining"),
        (figures(_2="giving", _3="lost"), "range 2 giving, range 3 LOST"),
        (figures(unsafe=True, _2="serving"), "UNSAFE, 1 serving"),
    ],
)
def test_ranges_in_a_few_words(told: dict[str, Any], shown: str | None) -> None:
    assert health.describe_ranges(told) == shown


def test_the_words_are_the_servers_own() -> None:
    assert {health._SERVING, health._LOST} == {Mode.SERVING.value, Mode.LOST.value}


def test_a_lost_range_is_told_once_with_both_its_servers(
    make_cluster: Callable[..., Cluster],
) -> None:
    told = {
        "pi1": figures(_0="serving", _4="serving"),
        "pi4": figures(_2="serving", _3="lost"),
        "pi5": figures(_3="lost", _4="joining"),
        "pi2": {"error": "no answer"},
    }
    lost = health.lost_ranges(roster(make_cluster(5)), told)
    assert lost == {"3": ["pi4", "pi5"]}
    (line,) = health.problems(lost, [])
    assert line == "range 3 is LOST: both its servers, pi4 and pi5, came back with nothing"


def test_all_is_served_when_no_range_is_anything_else() -> None:
    serving = figures(_0="serving", _1="serving")
    assert health.all_served({"pi1": serving, "pi2": {"error": "no answer"}})
    assert not health.all_served({"pi1": serving, "pi2": figures(_1="joining")})


def test_an_unsafe_server_is_named() -> None:
    unsafe = health.unsafe_servers({"pi1": figures(), "pi2": figures(unsafe=True), "pi3": {}})
    assert unsafe == ["pi2"]
    (line,) = health.problems({}, unsafe)
    assert line.startswith("server pi2 is unsafe: ")


def test_what_a_server_has_not_settled_is_a_line() -> None:
    told = {
        "pi1": figures(_0="serving") | {"locks": 0, "in_doubt": 0},
        "pi2": figures(_1="serving") | {"locks": 2, "in_doubt": 1},
    }
    line = "server pi2: 2 keys locked, 1 transactions in doubt"
    assert health.unsettled(told, ["pi1", "pi2"]) == [line]
    assert health.all_told(told, ["pi1", "pi2"])
    # What one that is away has voted on waits for it.
    assert health.unsettled(told, ["pi1", "pi2", "pi3"]) is None
    silent = told | {"pi3": {"error": "no answer"}}
    assert health.unsettled(silent, ["pi1", "pi2", "pi3"]) is None
    assert not health.all_told(silent, ["pi1", "pi2", "pi3"])
    joining = told | {"pi1": figures(_0="joining")}
    assert health.unsettled(joining, ["pi1", "pi2"]) is None
    assert health.all_told(joining, ["pi1", "pi2"])
