"""The hosts' logs, merged by time; followed live, over the death and the return of hosts."""

import math
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

MERGE_WINDOW_S = 1.0  # a line waits so long for an earlier one of another host
SILENCE_S = 5.0  # a host says five times a second that it is there
RETRY_S = 2.0
_ALL_LINES = 1_000_000


class Merge:
    """Log lines of many hosts, to be shown in the order of their times."""

    def __init__(self, operator: Operator, grep: str) -> None:
        """Show lines with the text `grep` on the operator's screen."""
        self._screen = operator.screen
        self._hosts = [host.name for host in operator.cluster.hosts]
        self._grep = grep
        self._lines: queue.SimpleQueue[tuple[float, dict[str, str]]] = queue.SimpleQueue()
        self._waiting: list[tuple[float, dict[str, str]]] = []

    def add(self, host: str, document: Mapping[str, str]) -> None:
        """Take a line from a host; in any thread."""
        if self._grep in document["line"]:
            row = {key: document[key] for key in ("log", "time", "line")}
            self._lines.put((time.monotonic(), {"host": host, **row}))

    def show(self, came_before_s: float = math.inf) -> list[dict[str, str]]:
        """Show the lines that came before that moment, and all of earlier times; return them.

        So a host whose clock is wrong has its lines shown too, and as soon as any other.
        """
        while not self._lines.empty():
            self._waiting.append(self._lines.get())
        self._waiting.sort(key=lambda line: line[1]["time"])  # keeps the order within a log
        came = [moment_s < came_before_s for moment_s, _ in self._waiting]
        count = len(came) - came[::-1].index(True) if True in came else 0
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, row in ready:
            self._screen.log_line(self._hosts, row["host"], row["log"], row["line"])
        return [row for _, row in ready]


def follow(operator: Operator, arguments: Mapping[str, Any], merge: Merge) -> None:
    """Show new lines until ^C; of a host that was away, all that its disk got meanwhile."""
    for host in operator.cluster.hosts:
        words = (operator, host, arguments, merge)
        threading.Thread(target=_follow_host, args=words, daemon=True).start()
    try:
        while True:
            time.sleep(MERGE_WINDOW_S / 5)
            merge.show(time.monotonic() - MERGE_WINDOW_S)
    finally:
        merge.show()


def _follow_host(
    operator: Operator, host: Host, arguments: Mapping[str, Any], merge: Merge
) -> None:
    ends: dict[str, dict[str, Any]] = {}  # of each log: where the last line that came ends
    away = False
    lines = arguments["lines"]

    def report(name: str, document: dict[str, Any]) -> None:
        nonlocal away
        if away:
            away = False
            operator.screen.note(f"{name} is back")
        if document:
            merge.add(name, document)
            ends[document["log"]] = {key: document[key] for key in ("end", "time")}

    while True:
        call = Call(
            "files.tail",
            {**arguments, "lines": lines, "ends": dict(ends)},
            timeout_s=None,
            silence_s=SILENCE_S,
        )
        failures = operator.each("tail", call, preview={}, hosts=(host,), report=report).failures
        for why in failures.values():
            if not away:
                away = True
                operator.screen.warn(
                    f"{host.name} is away: {why}; its lines follow when it is back"
                )
        operator.connection(host).close()  # it may look alive for long
        lines = _ALL_LINES  # of a log that is new since
        time.sleep(RETRY_S)
