"""Random walks through a small world, each until it rests, where all is to be clean.

A breadth-first search that is cut off has seen the beginning of everything and the end of little. A
walk gets to an end each time, but along one way of many: it shows faults, and never that there are
none.
"""

import random
import time

from tests.model.search import Verdict
from tests.model.world import Action, World, WorldState

MOST_STEPS = 5_000  # of a walk; more is a circle
ACCIDENT_RATES = (0.01, 0.05, 0.2)  # chance of each step to be one, if one is possible
ACCIDENT_AT_REST = 0.5


class Walks:
    """So many walks, the first of which starts from the seed 0."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._count = count
        self._states: set[int] = set()
        self._rests: set[int] = set()
        self._steps = 0
        self._longest = 0
        self._path: list[tuple[WorldState, Action]] = []

    def run(self) -> Verdict:
        """Return what was found: states are distinct ones, the depth is that of the longest."""
        started_s = time.perf_counter()
        fault, walks = "", 0
        while walks < self._count and not fault:
            fault = self._walk(random.Random(walks))
            walks += 1
        describe, prelude = self._world.describe, self._world.configuration.prelude
        path = (describe(state, action) for state, action in self._path)
        return Verdict(
            f"  {walks} walks",
            len(self._states),
            self._steps,
            self._longest,
            len(self._rests),
            time.perf_counter() - started_s,
            is_complete=False,
            fault=fault,
            trace=(*prelude, *path) if fault else (),
        )

    def _walk(self, rng: random.Random) -> str:
        """Go from the initial state to one at rest; return what is wrong on the way."""
        world = self._world
        state: WorldState | None = world.initial()
        rate = rng.choice(ACCIDENT_RATES)
        self._path = []
        try:
            while state is not None:
                self._states.add(hash(state))
                state = self._step(state, rate, rng)
                if state is not None:
                    world.check(state)
                if len(self._path) > MOST_STEPS:
                    return f"the world does not come to rest in {MOST_STEPS} steps"
        except Exception as error:  # noqa: BLE001 - the core is not to raise, whatever it is
            return f"{type(error).__name__}: {error}"
        self._steps += len(self._path)
        self._longest = max(self._longest, len(self._path))
        return ""

    def _step(self, state: WorldState, rate: float, rng: random.Random) -> WorldState | None:
        """Return a next state; None at the end."""
        world = self._world
        actions = world.actions(state)
        rng.shuffle(actions)
        accidents = [one for one in actions if world.is_accident(one)]
        if accidents and rng.random() < rate:
            return self._apply(state, accidents[0])
        for action in actions:
            if not world.is_accident(action):
                new = self._apply(state, action)
                if new != state:
                    return new
                self._path.pop()
        world.check_rest(state)
        self._rests.add(hash(state))
        if accidents and rng.random() < ACCIDENT_AT_REST:
            return self._apply(state, accidents[0])
        return None

    def _apply(self, state: WorldState, action: Action) -> WorldState:
        self._path.append((state, action))
        return self._world.apply(state, action)
