"""One step on all hosts, in parallel, bounded; every host's result or failure comes back."""

import queue
import threading
from collections.abc import Callable, Iterable
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


def fan_out(step: str, hosts: Iterable[Host], work: Callable[[Host], Any]) -> Results:
    """Run `work` for each host in up to MAX_PARALLEL threads.

    The threads are daemons: ^C leaves them behind instead of waiting for a host that hangs.
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
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if unexpected:
        raise unexpected[0]
    order = [host.name for host in hosts]
    results.values = {name: results.values[name] for name in order if name in results.values}
    results.failures = {name: results.failures[name] for name in order if name in results.failures}
    return results
