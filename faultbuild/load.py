"""The load of a fault build's clients: commands on the few keys that the plan names, until it ends.

Where a run has no plan, its clients do what they are told, as those of any release.

A thread goes on as fast as it can with its first commands of a load, so that its point is met soon,
and then slowly, so that histories stay short. The same load, client and thread make the same
commands; only what a cas expects, and a part of each value, are of the moment.
"""

import os
import random
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from faultbuild.hook import FILE, Plan
from rdht.coordinator import Command
from rdht.loop import Programme
from rdht.messages import Operation
from rdht.records import ThreadRecord
from rdht.session import Session
from rdht.workload import ClientProcess

_SHARES = [  # of operations on one key, and on several
    *((Operation.GET, False, 16), (Operation.PUT, False, 30), (Operation.ADD, False, 8)),
    *((Operation.DELETE, False, 8), (Operation.CAS, False, 14)),
    *((Operation.PUT, True, 16), (Operation.GET, True, 8)),
]
_FAR = 0.7  # share of the commands on several keys that are of two ranges
_QUICK = 150  # commands of a thread
_PAUSES_S = (0.002, 0.05)
_IDLE_S = 0.02


def commands(
    load: Mapping[str, Any], thread: str, versions: Mapping[bytes, int]
) -> Iterator[tuple[Command, ...]]:
    """Yield the commands of a thread on the keys of a load: `near`, of one range, and `far`."""
    rng = random.Random(f"{load['name']}/{thread}")  # noqa: S311 - no secret
    near, far = ([key.encode() for key in load[place]] for place in ("near", "far"))
    writer = f"{load['name']}/{thread}/{os.urandom(3).hex()}"
    number = 0
    while True:
        ((operation, is_many, _),) = rng.choices(_SHARES, [share for _, _, share in _SHARES])
        keys = rng.sample(near, 2 if is_many else 1)
        if is_many and rng.random() < _FAR:
            keys.append(rng.choice(far))
        parts = []
        for key in keys:
            number += 1
            is_read = operation in (Operation.GET, Operation.DELETE)
            value = b"" if is_read else f"{writer}/{number}".encode()
            version = versions.get(key, 0) if operation is Operation.CAS else 0
            parts.append(Command(operation, key, value, version))
        yield tuple(parts)


def install(folder: Path) -> None:
    """Have clients do the load of the plan in `folder`, whatever else they are told to do."""
    if not (folder / FILE).exists():
        return

    def programme(
        self: ClientProcess, times: tuple[float, float], session: Session, record: ThreadRecord
    ) -> Programme:
        plan, thread = Plan(folder), record.thread
        session.on_end = partial(self._note_end, record, times[1])
        if self._recorder:
            session.on_begin = partial(self._recorder.begin, thread)
        load: Mapping[str, Any] | None = None
        begun, next_s = 0, 0.0
        while not self._stop.is_set():
            wanted = plan.read().get("load")
            if wanted != load:
                load, begun, next_s = wanted, 0, 0.0
                if load:
                    stream = commands(load, f"{self._name}/{thread}", self._versions[thread])
            if load is None or (now_s := time.monotonic()) < next_s:
                yield time.monotonic() + _IDLE_S if load is None else next_s
                continue
            session.submit(next(stream))
            while session.is_busy:
                yield None
            begun += 1
            next_s = now_s + _PAUSES_S[begun > _QUICK]
        record.ended_s = max(0.0, time.monotonic() - times[1])

    ClientProcess._programme = programme  # type: ignore[method-assign]
