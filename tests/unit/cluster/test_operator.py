"""The operator's hands: how many connections they open at once."""

import threading
from collections.abc import Callable, Iterator

import pytest

from cluster import operator as module
from cluster.console import Screen
from cluster.inventory import MAX_HOSTS, Cluster
from cluster.operator import MAX_OPENING, Operator
from cluster.remote import Call

TIMEOUT_S = 10.0


class Opening:
    """Stands for the connections of all hosts; they open once as many as may are about to."""

    def __init__(self) -> None:
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.together = threading.Barrier(MAX_OPENING)

    def __call__(self, *_: object) -> "Opening":
        return self

    def open(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.together.wait(TIMEOUT_S)
        with self.lock:
            self.now -= 1

    def close(self) -> None:
        pass


def test_connections_open_not_all_at_once_but_steps_go_on_at_once(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening()
    all_there = threading.Barrier(MAX_HOSTS)

    def lines(*_: object) -> Iterator[dict[str, object]]:
        all_there.wait(TIMEOUT_S)
        yield {"ok": {}}

    monkeypatch.setattr(module, "Connection", opening)
    monkeypatch.setattr("cluster.remote.lines", lines)
    try:
        operator = Operator(make_cluster(MAX_HOSTS), Screen(json=True))
        results = operator.each("meet", Call("facts.check"), preview={})
    finally:
        module.close_connections()
    assert len(results.require()) == MAX_HOSTS
    assert opening.most == MAX_OPENING
