"""The breadth-first search of a small world's states: the first failing trace is a shortest one."""

import sys
import time
from array import array
from hashlib import blake2b
from typing import NamedTuple

from tests.model.specification import Fault
from tests.model.world import Action, World, WorldState


class Verdict(NamedTuple):
    """What an exploration has found."""

    name: str
    states: int
    transitions: int
    depth: int
    rests: int  # states at rest, judged
    seconds: float
    is_complete: bool
    fault: str = ""
    trace: tuple[str, ...] = ()

    def row(self) -> str:
        """Return a line of a table."""
        verdict = self.fault or ("holds, complete" if self.is_complete else "holds so far")
        return (
            f"{self.name:36} {self.states:>9} {self.transitions:>11} {self.depth:>5} "
            f"{self.rests:>7} {self.seconds:>7.1f}  {verdict}"
        )


class Search:
    """One breadth-first search: what was seen, and how each state was come to."""

    def __init__(self, world: World, limit: int | None) -> None:
        self._world = world
        self._limit = sys.maxsize if limit is None else limit
        self._seen: dict[bytes, int] = {}
        self._parents = array("I")
        self._ordinals = array("H")
        self._edges = (array("I"), array("I"))
        self._clean = bytearray()  # at rest and clean, or on a way there
        self._is_new = False
        self._depth = 0
        self._rests = 0
        self._started_s = time.perf_counter()

    def run(self) -> Verdict:
        """Return what was found."""
        initial = self._world.initial()
        self._add(initial, 0, 0)
        level = [initial]
        try:
            while level and len(self._seen) < self._limit:
                level = self._advance(level, len(self._seen) - len(level))
                self._depth += bool(level)
        except _Found as found:
            return self._verdict(str(found), self._trace(found.index, found.action))
        if level:
            return self._verdict()
        stuck = self._stuck()
        if stuck is None:
            return self._verdict(is_complete=True)
        return self._verdict("the world cannot come to rest any more", self._trace(stuck))

    def _advance(self, level: list[WorldState], first: int) -> list[WorldState]:
        world = self._world
        following = []
        sources, targets = self._edges
        for index, state in enumerate(level, first):
            is_at_rest = True
            for ordinal, action in enumerate(world.actions(state)):
                try:
                    new = world.apply(state, action)
                    if new == state:
                        continue
                    number = self._add(new, index, ordinal)
                    if self._is_new:
                        following.append(new)
                        world.check(new)
                except Exception as error:
                    why = f"{type(error).__name__}: {error}"
                    raise _Found(why, index, action) from error
                is_at_rest = is_at_rest and world.is_accident(action)
                sources.append(index)
                targets.append(number)
            if is_at_rest:
                self._rests += 1
                try:
                    world.check_rest(state)
                except Fault as error:
                    raise _Found(str(error), index, None) from error
                self._clean[index] = 1
        return following

    def _add(self, state: WorldState, parent: int, ordinal: int) -> int:
        """Return the state's number; `_is_new` tells whether it was not known."""
        digest = blake2b(array("I", state).tobytes(), digest_size=12).digest()
        count = len(self._seen)
        number = self._seen.setdefault(digest, count)
        self._is_new = number == count
        if self._is_new:
            self._parents.append(parent)
            self._ordinals.append(ordinal)
            self._clean.append(0)
        return number

    def _stuck(self) -> int | None:
        """Return the first state from which no clean state at rest can be reached."""
        sources, targets = self._edges
        clean = self._clean
        is_changed = True
        while is_changed:
            is_changed = False
            for source, target in zip(reversed(sources), reversed(targets), strict=True):
                if clean[target] and not clean[source]:
                    clean[source] = 1
                    is_changed = True
        at = clean.find(0)
        return None if at < 0 else at

    def _trace(self, index: int, last: Action | None = None) -> tuple[str, ...]:
        world = self._world
        ordinals = []
        while index:
            ordinals.append(self._ordinals[index])
            index = self._parents[index]
        state = world.initial()
        lines = list(world.configuration.prelude)
        for ordinal in reversed(ordinals):
            action = world.actions(state)[ordinal]
            lines.append(world.describe(state, action))
            state = world.apply(state, action)
        if last is not None:
            lines.append(world.describe(state, last))
        return tuple(lines)

    def _verdict(
        self, fault: str = "", trace: tuple[str, ...] = (), *, is_complete: bool = False
    ) -> Verdict:
        return Verdict(
            self._world.configuration.name,
            len(self._seen),
            len(self._edges[0]),
            self._depth,
            self._rests,
            time.perf_counter() - self._started_s,
            is_complete,
            fault,
            trace,
        )


class _Found(Exception):  # noqa: N818 - the end of a search
    """A fault, and where: in the state `index`, or in what the action makes of it."""

    def __init__(self, why: str, index: int, action: Action | None) -> None:
        super().__init__(why)
        self.index = index
        self.action = action
