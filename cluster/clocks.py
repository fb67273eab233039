"""How far the hosts' monotonic clocks are off this desk's, each with the error of that.

A host's clock is read between two moments of this desk's, so it is off by what it shows less
something between the two; of some readings the bounds that are closest count. Monotonic clocks are
not set while a run lasts, as those of the day may be.
"""

import math
import time
from pathlib import Path
from typing import Any

from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

_READINGS = 8
_UNKNOWN = (-math.inf, math.inf)
_PREVIEW = {"monotonic_s": 0.0, "boot_id": ""}


def measure(operator: Operator, hosts: tuple[Host, ...] | None = None) -> dict[str, Any]:
    """Return `at_s` of this desk's clock, and of each host `offset_s`, `error_s` and `boot_id`.

    A host that cannot be asked is left out. One that shows our boot id has our clock.
    """
    own = Path("/proc/sys/kernel/random/boot_id")
    own_id = own.read_text(encoding="ascii").strip() if own.exists() else None
    bounds: dict[str, tuple[float, float]] = {}
    boots: dict[str, str] = {}
    asked = operator.cluster.hosts if hosts is None else hosts
    for _ in range(1 if operator.dry_run else _READINGS):
        answers = operator.each("clock", Call("facts.clock"), preview=_PREVIEW, hosts=asked)
        asked = tuple(host for host in asked if host.name in answers.values)  # waited for once
        for host, answer in answers.values.items():
            if "asked_s" in answer:  # this is no dry run
                shown_s, (low_s, high_s) = answer["monotonic_s"], bounds.get(host, _UNKNOWN)
                low_s = max(low_s, shown_s - answer["answered_s"])
                bounds[host] = low_s, min(high_s, shown_s - answer["asked_s"])
                boots[host] = answer["boot_id"]
    found = {
        host: {
            "boot_id": boots[host],
            "offset_s": 0.0 if boots[host] == own_id else (low_s + high_s) / 2,
            "error_s": 0.0 if boots[host] == own_id else (high_s - low_s) / 2,
        }
        for host, (low_s, high_s) in bounds.items()
    }
    return {"at_s": time.monotonic(), "hosts": found}
