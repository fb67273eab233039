"""One step on all hosts, in parallel, bounded; every host's result or failure comes back."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import HostError, HostsFailedError
from cluster.inventory import Host

MAX_PARALLEL = 32


@dataclass
class Results:
    """What a step gave: a value a host, or why it has none."""

    step: str
    values: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, HostError] = field(default_factory=dict)

    def require(self, consequence: str = "") -> dict[str, Any]:
        """Return the values if no host failed; otherwise raise HostsFailedError."""
        if self.failures:
            raise HostsFailedError(self.step, self.failures, consequence)
        return self.values


def fan_out(
    step: str, hosts: Iterable[Host], work: Callable[[Host], Any], settle_s: float = 0.0
) -> Results:
    """Run `work` for each host in up to MAX_PARALLEL threads.

    On ^C they have `settle_s` to come to an end. The threads are daemons: then it leaves them
    behind instead of waiting for a host that hangs.
    """
    hosts = list(hosts)
    results = Results(step)
    unexpected: list[BaseException] = []
    waiting: queue.SimpleQueue[Host] = queue.SimpleQueue()
    for host in hosts:
        waiting.put(host)

    def run() -> None:
        while True:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.values[host.name] = work(host)
            except HostError as error:
                results.failures[host.name] = error
            except BaseException as error:  # noqa: BLE001 - re-raised in the caller's thread
                unexpected.append(error)

    threads = [
        threading.Thread(target=run, daemon=True) for _ in range(min(MAX_PARALLEL, len(hosts)))
    ]
    _run(threads, waiting, settle_s)
    if unexpected:
        raise unexpected[0]
    order = [host.name for host in hosts]
    results.values = {name: results.values[name] for name in order if name in results.values}
    results.failures = {name: results.failures[name] for name in order if name in results.failures}
    return results


def _run(
    threads: list[threading.Thread], waiting: "queue.SimpleQueue[Host]", settle_s: float
) -> None:
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()  # nothing is begun any more
        deadline_s = time.monotonic() + settle_s
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        raise
