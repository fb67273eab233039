"""Merging the hosts' logs, and following them while hosts come and go."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cluster import logs
from cluster.console import Screen
from cluster.errors import HostUnreachableError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.logs import Merge
from cluster.operator import Operator
from cluster.remote import Call

EARLY, MIDDLE, LATE, NEXT_YEAR = (f"{year}-11-26T10:00:00.000000Z" for year in range(2023, 2027))


def line(moment: str, text: str = "", end: int = 0) -> dict[str, Any]:
    return {"log": "server", "time": moment, "line": text or moment, "end": end}


@pytest.fixture
def merge(make_cluster: Callable[..., Cluster]) -> Merge:
    return Merge(Operator(make_cluster(3), Screen()), "")


def times(rows: list[dict[str, str]]) -> list[str]:
    return [row["time"] for row in rows]


def test_lines_are_in_the_order_of_their_times(merge: Merge) -> None:
    for host, moment in (("pi1", LATE), ("pi2", EARLY), ("pi3", MIDDLE)):
        merge.add(host, line(moment))
    shown = merge.show()
    assert times(shown) == [EARLY, MIDDLE, LATE]
    assert shown[0] == {"host": "pi2", "log": "server", "time": EARLY, "line": EARLY}
    assert merge.show() == []


def test_a_line_waits_for_an_earlier_one_of_another_host(merge: Merge) -> None:
    merge.add("pi1", line(MIDDLE))
    merge.add("pi1", line(LATE))
    now_s = time.monotonic()
    merge.add("pi2", line(EARLY))
    assert merge.show(now_s - 1) == []
    time.sleep(0.001)
    assert times(merge.show(now_s)) == [EARLY, MIDDLE, LATE], "what came late is before its time"


def test_a_host_whose_clock_is_far_ahead_is_shown_as_soon_as_others(merge: Merge) -> None:
    merge.add("pi1", line(NEXT_YEAR))
    time.sleep(0.001)
    now_s = time.monotonic()
    merge.add("pi2", line(LATE))
    assert times(merge.show(now_s)) == [LATE, NEXT_YEAR]


def test_only_lines_with_a_text_are_shown(make_cluster: Callable[..., Cluster]) -> None:
    merge = Merge(Operator(make_cluster(1), Screen()), "needle")
    merge.add("pi1", line(EARLY, "hay"))
    merge.add("pi1", line(LATE, "a needle"))
    assert times(merge.show()) == [LATE]


class EndingError(Exception):
    """Ends what would go on for ever."""


class Coming:
    """Stands for an Operator whose one host gives documents, dies, and comes back."""

    def __init__(self, cluster: Cluster, *lives: list[dict[str, Any]] | None) -> None:
        self.cluster = cluster
        self.screen = Screen()
        self.asked: list[Mapping[str, Any]] = []
        self.closed = 0
        self._lives = list(lives)

    def each(self, step: str, call: Call, **named: Any) -> Results:
        if not self._lives:
            raise EndingError
        self.asked.append(call.arguments)
        assert call.silence_s == logs.SILENCE_S
        for document in self._lives.pop(0) or []:
            named["report"]("pi1", document)
        return Results(step, {}, {"pi1": HostUnreachableError("no connection")})

    def connection(self, _: Host) -> "Coming":
        return self

    def close(self) -> None:
        self.closed += 1


def test_a_host_that_comes_back_goes_on_where_each_of_its_logs_was(
    make_cluster: Callable[..., Cluster],
    merge: Merge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logs, "RETRY_S", 0)
    first = [{}, line(EARLY, end=7), {**line(MIDDLE, end=9), "log": "client"}, line(LATE, end=20)]
    operator: Any = Coming(make_cluster(1), first, None, None, [{}])
    arguments = {"run": "r", "lines": 5, "since": "", "follow": True}
    with pytest.raises(EndingError):
        logs._follow_host(operator, operator.cluster.hosts[0], arguments, merge)
    assert operator.asked[0] == {**arguments, "ends": {}}
    ends = {"server": {"end": 20, "time": LATE}, "client": {"end": 9, "time": MIDDLE}}
    assert [asked["ends"] for asked in operator.asked[1:]] == [ends] * 3
    assert operator.asked[1]["lines"] > 5
    assert operator.closed == 4, "no connection is trusted that has failed"
    away, back, again = capsys.readouterr().out.splitlines()
    assert away == "pi1 is away: no connection; its lines follow when it is back"
    assert back == "pi1 is back"
    assert again == away
    assert times(merge.show()) == [EARLY, MIDDLE, LATE]
