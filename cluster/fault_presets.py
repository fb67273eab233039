"""Schedules by chance: gentle, rough and hell, the same for the same seed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from cluster.schedule import (
    CLOCK,
    CUT,
    FEWEST_OF_A_RING,
    KILL,
    KINDS,
    LOSS,
    ONE_WAYS,
    PAUSE,
    POWER,
    SLOW,
    Deed,
    Scene,
    Schedule,
    quiet_s,
)

LEAD_S = 1.0  # whole seconds before the first deed
REJOIN_S = 3.0  # until a server that came back has its copies again, as planned
_SPARE_S = 0.5  # between two deeds at one place
_TRIES = 20


class _Preset(NamedTuple):
    """How often what is done; of a word a bag is filled, and drawn until it is empty."""

    gap_s: float  # between two deeds, on average
    most: int  # at the same time
    bag: Mapping[str, int]
    lasts: Mapping[str, tuple[float, float]]  # seconds, from and to
    rates: tuple[str, ...]
    percents: tuple[int, ...]


_GENTLE = _Preset(
    gap_s=6.0,
    most=1,
    bag={
        "kill server": 2,
        "kill client": 1,
        "pause server": 2,
        "pause client": 1,
        "cut host": 1,
        "slow": 1,
        "loss": 1,
    },
    lasts={
        KILL: (0.3, 1.0),
        PAUSE: (0.2, 1.0),
        CUT: (0.5, 2.0),
        SLOW: (2.0, 5.0),
        LOSS: (2.0, 5.0),
    },
    rates=("10mbit",),
    percents=(2, 5),
)
_ROUGH = _Preset(
    gap_s=3.0,
    most=3,
    bag={
        "kill server": 6,
        "kill client": 3,
        "kill all": 1,
        "pause server": 4,
        "pause client": 2,
        "cut host": 1,
        "cut pair": 2,
        "cut one way": 2,
        "cut halves": 2,
        "cut ring": 1,
        "slow": 2,
        "loss": 2,
        "power": 2,
    },
    lasts={
        KILL: (0.2, 3.0),
        PAUSE: (0.1, 4.0),
        CUT: (0.5, 6.0),
        SLOW: (2.0, 8.0),
        LOSS: (2.0, 8.0),
        POWER: (1.0, 5.0),
    },
    rates=("1mbit", "4mbit", "10mbit"),
    percents=(5, 20),
)
_HELL = _Preset(
    gap_s=1.5,
    most=4,
    bag={
        "kill server": 8,
        "kill client": 3,
        "kill all": 2,
        "pause server": 6,
        "pause client": 2,
        "cut host": 2,
        "cut pair": 3,
        "cut one way": 3,
        "cut halves": 3,
        "cut ring": 2,
        "slow": 2,
        "loss": 3,
        "power": 3,
        "clock": 1,
    },
    lasts={
        KILL: (0.0, 4.0),
        PAUSE: (0.05, 5.0),
        CUT: (0.3, 5.0),
        SLOW: (1.0, 5.0),
        LOSS: (1.0, 5.0),
        POWER: (0.5, 8.0),
        CLOCK: (2.0, 10.0),
    },
    rates=("256kbit", "1mbit", "4mbit"),
    percents=(10, 20, 40),
)
PRESETS = {"gentle": _GENTLE, "rough": _ROUGH, "hell": _HELL}
NAMES = ", ".join(PRESETS)


def make(name: str, seed: int, duration_s: float, scene: Scene) -> Schedule:
    """Draw a preset's deeds; the same seed draws the same."""
    preset = PRESETS[name]
    end_s = duration_s - quiet_s(duration_s)
    rng = random.Random(f"{seed}/faults/{name}")  # noqa: S311 - no secret
    words = {word: times for word, times in preset.bag.items() if _can(word, scene)}
    bag = _bag(words, rng)
    deeds: list[Deed] = []
    beside: list[Deed] = []  # those that last, or that something has yet to come back from
    at_s = LEAD_S
    while words and at_s < end_s:
        beside = [deed for deed in beside if deed.until_s + REJOIN_S > at_s]
        for _ in range(_TRIES):
            deed = _draw(next(bag), at_s, end_s, preset, scene, rng)
            if deed is not None and _fits(deed, beside, preset.most, scene):
                deeds.append(deed)
                beside.append(deed)
                break
        at_s = round(at_s + preset.gap_s * rng.uniform(0.3, 1.7), 2)
    asked = {word.partition(" ")[0] for word in preset.bag}
    left_out = [kind for kind in KINDS if kind in asked - scene.kinds]
    few = [word for word in preset.bag if word not in words and word in _FEWEST]
    left_out += [word for word in few if CUT in scene.kinds]
    return Schedule(name, tuple(deeds), round(end_s, 3), tuple(left_out))


def _can(word: str, scene: Scene) -> bool:
    kind = word.partition(" ")[0]
    if word == "kill all":
        return scene.durable
    if word.startswith("cut ") and len(scene.hosts) < _FEWEST.get(word, 2):
        return False
    return kind in scene.kinds and bool(scene.clients if word.endswith("client") else scene.servers)


_FEWEST = {"cut halves": 3, "cut ring": FEWEST_OF_A_RING}  # hosts


def _bag(words: Mapping[str, int], rng: random.Random) -> Iterator[str]:
    """Draw words without end, every one before any comes again."""
    while True:
        bag = [word for word, times in words.items() for _ in range(times)]
        rng.shuffle(bag)
        yield from bag


def _draw(  # noqa: PLR0913, PLR0917 - what chance decides on
    word: str, at_s: float, end_s: float, preset: _Preset, scene: Scene, rng: random.Random
) -> Deed | None:
    """Return a deed of that word, or None if the run is too short for it."""
    kind, _, what = word.partition(" ")
    low_s, high_s = preset.lasts[kind]
    high_s = min(high_s, end_s - at_s)
    if high_s < low_s:
        return None
    # Short ones are more frequent.
    for_s = round(low_s + (high_s - low_s) * rng.random() ** 2, 2)
    deed = Deed(at_s, kind, for_s, hosts=(rng.choice(scene.hosts),))
    match kind:
        case "kill" | "pause":
            deed = _of_processes(deed, what, scene, rng)
        case "cut":
            deed = _of_links(deed, what, scene, rng)
        case "slow":
            deed = replace(deed, rate=rng.choice(preset.rates))
        case "loss":
            deed = replace(deed, percent=rng.choice(preset.percents))
        case "clock":
            jump_s = rng.choice((-1, 1)) * round(10 ** rng.uniform(0, 4), 1)
            deed = replace(deed, jump_s=jump_s)
    return deed


def _of_processes(deed: Deed, what: str, scene: Scene, rng: random.Random) -> Deed:
    if what == "client":
        return replace(deed, hosts=(), clients=(rng.choice(list(scene.clients)),))
    servers = tuple(scene.servers)
    return replace(deed, hosts=(), servers=servers if what == "all" else (rng.choice(servers),))


def _of_links(deed: Deed, what: str, scene: Scene, rng: random.Random) -> Deed:
    hosts = tuple(rng.sample(scene.hosts, len(scene.hosts)))
    few = (len(hosts) - 1) // 2
    match what:
        case "pair":
            return replace(deed, hosts=hosts[:1], peers=hosts[1:2])
        case "one way":
            return replace(deed, one_way=rng.choice(ONE_WAYS[1:]))
        case "halves":
            return replace(deed, hosts=hosts[:few], peers=hosts[few:])
        case "ring":
            return replace(deed, hosts=hosts, ring=True)
    return deed


def _fits(deed: Deed, beside: list[Deed], most: int, scene: Scene) -> bool:
    """Tell whether a deed may come beside those that were before it."""
    at_once = [other for other in beside if other.until_s > deed.at_s]
    if len(at_once) >= most:
        return False
    if any(
        scene.places(deed) & scene.places(other)
        for other in beside
        if other.until_s + _SPARE_S > deed.at_s
    ):
        return False
    down = scene.downed(deed)
    already = frozenset(name for other in beside for name in scene.downed(other))
    if scene.durable:
        return True
    return not (down & already) and not scene.loses(down | already)
