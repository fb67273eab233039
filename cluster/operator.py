"""The operator: carries out steps on the hosts of a cluster, or on a dry run only tells them."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster import remote
from cluster.connection import Connection
from cluster.console import Screen
from cluster.fanout import Results, fan_out
from cluster.inventory import Cluster, Host
from cluster.remote import Call

SETTLE_S = 5.0
MAX_OPENING = 32  # connections at once: each wants an answer in time, and a processor of this desk
_DESCRIBED_CHARACTERS = 600
_connections: dict[tuple[str, str], Connection] = {}
_connections_lock = threading.Lock()
_opening = threading.BoundedSemaphore(MAX_OPENING)


def close_connections() -> None:
    """Close the connections that the tasks of this process have opened."""
    with _connections_lock:
        for connection in _connections.values():
            connection.close()
        _connections.clear()


class Operator:
    """One person's hands on one cluster."""

    def __init__(self, cluster: Cluster, screen: Screen, *, dry_run: bool = False) -> None:
        """Act on the cluster's hosts; on a dry run connect to none."""
        self.cluster = cluster
        self.screen = screen
        self.dry_run = dry_run
        screen.planning = dry_run

    def connection(self, host: Host) -> Connection:
        """Return the host's connection, which the whole chain of tasks shares."""
        with _connections_lock:
            key = (str(self.cluster.path), host.name)
            if key not in _connections:
                _connections[key] = Connection(self.cluster, host)
            return _connections[key]

    def each(  # noqa: PLR0913 - what a step is made of
        self,
        step: str,
        call: Call | Callable[[Host], Call | None],
        *,
        preview: Mapping[str, Any],
        hosts: tuple[Host, ...] | None = None,
        report: Callable[[str, dict[str, Any]], None] | None = None,
        sent: Callable[[str, int], None] | None = None,
    ) -> Results:
        """Carry out a call on each host, or a call made for each; a host with no call is left out.

        `preview` stands for the answer on a dry run. `report` gets what a host prints before its
        answer, `sent` the size of each piece of the payload that is off.
        """
        calls = {
            host: made
            for host in (self.cluster.hosts if hosts is None else hosts)
            if (made := call(host) if callable(call) else call) is not None
        }
        if self.dry_run:
            for host, planned in calls.items():
                self.screen.plan(step, host.name, _describe(planned))
            return Results(step, {host.name: dict(preview) for host in calls})

        def work(host: Host) -> Any:
            answer: dict[str, Any] = {}
            arrived_s = answered_s = 0.0
            connection = self.connection(host)
            with _opening:
                connection.open()
            asked_s = time.monotonic()
            for answer in remote.lines(
                connection,
                host,
                self.cluster.name,
                calls[host],
                lambda size: sent(host.name, size) if sent else None,
            ):
                arrived_s, answered_s = time.time(), time.monotonic()
                if report and "ok" not in answer and "error" not in answer:
                    report(host.name, answer)
            result: dict[str, Any] = answer["ok"]
            if "time_unix_s" in result:  # read on the host just before it answered
                result["clock_offset_s"] = result["time_unix_s"] - arrived_s
            if "monotonic_s" in result:
                result |= {"asked_s": asked_s, "answered_s": answered_s}
            return result

        # A host may be about to start what the steps after ^C are to stop.
        is_bounded = all(made.timeout_s is not None for made in calls.values())
        return fan_out(step, calls, work, SETTLE_S if is_bounded else 0.0)


def _describe(call: Call) -> str:
    payload = f" + {len(call.payload)} bytes" if call.payload else ""
    arguments = json.dumps(call.arguments)
    if len(arguments) > _DESCRIBED_CHARACTERS:
        arguments = arguments[:_DESCRIBED_CHARACTERS] + " …"
    return f"rdht.node {call.command} {arguments}{payload}"
