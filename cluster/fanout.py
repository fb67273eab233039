"""One step on all hosts at once; every host's result or failure comes back."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import HostError, HostsFailedError
from cluster.inventory import Host


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
    """Run `work` for each host in a thread of its own: in some steps they wait for each other.

    No work begins before all threads have, nor once ^C was pressed; what has begun then has
    `settle_s` to come to an end. The threads are daemons: those of hosts that hang are left behind.
    """
    hosts = list(hosts)
    results = Results(step)
    unexpected: list[BaseException] = []
    start = threading.Barrier(len(hosts) + 1)

    def run(host: Host) -> None:
        try:
            start.wait()
            results.values[host.name] = work(host)
        except threading.BrokenBarrierError:
            pass
        except HostError as error:
            results.failures[host.name] = error
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller's thread
            unexpected.append(error)

    threads = [threading.Thread(target=run, args=[host], daemon=True) for host in hosts]
    _run(threads, start, settle_s)
    if unexpected:
        raise unexpected[0]
    order = [host.name for host in hosts]
    results.values = {name: results.values[name] for name in order if name in results.values}
    results.failures = {name: results.failures[name] for name in order if name in results.failures}
    return results


def _run(threads: list[threading.Thread], start: threading.Barrier, settle_s: float) -> None:
    try:
        for thread in threads:
            thread.start()
        start.wait()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        start.abort()  # one that ^C met in its start does not count as alive, and would go on
        deadline_s = time.monotonic() + settle_s
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        raise
