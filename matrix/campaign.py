"""Cells shared out over teams, which work at the same time."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import clocks, runs
from cluster.collect import purge
from cluster.errors import ClusterError, UsageError
from cluster.faults import Faults
from cluster.operator import Operator
from cluster.release import Release
from matrix.cells import FAULTS, PROFILES, Cell, cells
from matrix.team import BROKEN, KEPT, SIZE, Outcome, Team, teams

MEMORY, DURABLE = MODES = ("memory", "durable")
_LOOK_S = 0.2
_MOST_CELLS = 80  # in one table: a restart takes the longer, the more a disk holds
_HUNTED = 4  # times a batch is carried out before its histories are judged


@dataclass(frozen=True)
class Batch:
    """Cells that one team carries out in one table."""

    profile: str
    mode: str
    cells: tuple[Cell, ...]


def batches(only: str, count: int) -> list[Batch]:
    """Return all cells whose text has `only` in it, in at least `count` batches if that goes."""
    tables = [(profile, mode) for profile in PROFILES for mode in MODES]
    found = []
    for profile, mode in tables:
        found_there = cells(profile, durable=mode == DURABLE)
        chosen = [cell for cell in found_there if only in f"{profile} {mode}: {cell}"]
        shares = max(math.ceil(count / len(tables)), math.ceil(len(chosen) / _MOST_CELLS))
        parts = [tuple(chosen[share::shares]) for share in range(shares)]
        found += [Batch(profile, mode, part) for part in parts if part]
    if not found:
        why = f"--only {only!r} is in the text of no cell: leave it out with --dry-run to see them"
        raise UsageError(why)
    return found


class Campaign:
    """What is done with one release, or several, by all teams of a cluster."""

    def __init__(
        self,
        operator: Operator,
        faults: Callable[[Operator], Faults],
        desk: Path,
        folder: Path,
    ) -> None:
        """Use the operator's hosts, with runs in `folder`; `desk` has the cluster's secret."""
        self._operator = operator
        self._faults = faults
        self._desk = desk
        self._folder = folder
        self._stopping = threading.Event()

    def carry_out(
        self, batch: Batch, built: Release, team: Operator, goes_on: Callable[[Outcome], bool]
    ) -> list[Outcome]:
        """Have a team carry out a batch with a release that is deployed; return what came of it.

        `goes_on` gets each outcome as it is seen at once, before the histories are judged, and
        tells whether there is to be another one.
        """
        hands = Team(
            team,
            self._faults,
            self._desk,
            profile=batch.profile,
            durable=batch.mode == DURABLE,
        )
        run = runs.begin(self._folder / "runs", team.cluster, built.name, dry_run=False)
        run.note(clocks=[clocks.measure(team)])
        try:
            hands.begin(run)
            for cell in batch.cells:
                if self._stopping.is_set() or not goes_on(hands.carry_out(cell)):
                    break
            run.note(clocks=[*run.manifest["clocks"], clocks.measure(team)])
        finally:
            hands.end()
        purge(team, {host.name: [run.name] for host in team.cluster.hosts})  # all of it is here
        hands.judge()
        return hands.outcomes

    def hunt(
        self, batch: Batch, built: Release, team: Operator, limit_s: float
    ) -> tuple[Outcome | None, float]:
        """Carry a batch out until a cell is broken; return it, and how many seconds that took.

        After `limit_s` it ends with none.
        """
        began_s = time.monotonic()
        again = replace(batch, cells=batch.cells * _HUNTED)
        while True:
            outcomes = self.carry_out(again, built, team, is_kept)
            caught = next(filter(is_broken, outcomes), None)
            took_s = time.monotonic() - began_s
            if caught or self._stopping.is_set() or took_s > limit_s:
                return caught, took_s

    def share(self, work: Sequence[Any], do: Callable[[Any, Operator], None]) -> None:
        """Have each piece of work done by a team, as many at once as there are teams.

        On ^C each team ends what it is at and what it has started.
        """
        left = deque(work)
        failures: list[BaseException] = []

        def go_on(hands: Operator) -> None:
            try:
                while left and not self._stopping.is_set():
                    do(left.popleft(), hands)
            except IndexError:  # another team was faster
                pass
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)
                self._stopping.set()

        threads = [threading.Thread(target=go_on, args=[one]) for one in self._hands()]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(_LOOK_S)
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

    def _hands(self) -> Iterator[Operator]:
        for cluster in teams(self._operator.cluster):
            yield Operator(cluster, self._operator.screen)


def check(operator: Operator) -> int:
    """Return how many teams the hosts make; ClusterError if that is none."""
    count = len(teams(operator.cluster))
    if not count:
        why = (
            f"{SIZE} hosts make a team, and there are {len(operator.cluster.hosts)}: "
            f"fab lab.up --kind netns --hosts {4 * SIZE} makes four teams"
        )
        raise ClusterError(why)
    return count


def tables(
    outcomes: Sequence[tuple[Batch, Outcome]],
) -> dict[tuple[str, str], tuple[list[str], list[list[str]]]]:
    """Return the columns and rows of each profile's and mode's table, in the protocol's order.

    A row is a place: message, moment, party, and what became of it with each fault.
    """
    places: dict[tuple[str, str], dict[tuple[str, str, str], dict[str, str]]] = {}
    for batch, outcome in outcomes:
        table = places.setdefault((batch.profile, batch.mode), {})
        table.setdefault(outcome.cell.row, {})[outcome.cell.fault] = outcome.outcome
    every = [cell for profile in PROFILES for cell in cells(profile, durable=True)]
    order = {cell.row: at for at, cell in enumerate(every)}
    found = {}
    for name, table in sorted(places.items()):
        faults = [fault for fault in FAULTS if any(fault in row for row in table.values())]
        rows = [
            [*place, *(table[place].get(fault, "") for fault in faults)]
            for place in sorted(table, key=order.__getitem__)
        ]
        found[name] = (["message", "moment", "party", *faults], rows)
    return found


def is_kept(outcome: Outcome) -> bool:
    """Tell whether the table kept its promises in a cell."""
    return outcome.outcome == KEPT


def is_broken(outcome: Outcome) -> bool:
    """Tell whether it did not."""
    return outcome.outcome == BROKEN
