"""A sweep: the same experiment at many points, over and over, until the figures are sure.

logs/sweep-<time>-<cluster>-<tag>/ has sweep.json, what is swept and what was done, and runs/. The
file is written after each run, so a sweep goes on where it was after whatever has ended it.
"""

import fcntl
import json
import os
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, UsageError
from cluster.inventory import Cluster
from cluster.runs import now, stamp
from rdht.records import write_json

STATE = "sweep.json"
RUNS = "runs"
MAX_POINTS = 1000
_PREFIX = "sweep-"
_YES_NO = {True: "yes", False: "no"}
BETWEEN_RUNS = "the servers are started anew, and hold nothing"
Value = int | float | str | bool
Axes = dict[str, list[Value]]  # the values of each option


@dataclass
class Point:
    """A choice of values, and the runs that were made with it."""

    part: str
    values: dict[str, Value]
    runs: list[str] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)  # a run; what its repeats must agree on
    is_sure: bool = False


class Sweep:
    """What is swept, and how far it is."""

    def __init__(self, folder: Path, plan: dict[str, Any], points: list[Point]) -> None:
        """Use the folder of a sweep, its plan and what was done."""
        self.folder = folder
        self.plan = plan
        self.points = points

    @property
    def name(self) -> str:
        """The sweep's id, which is its folder's name."""
        return self.folder.name

    @property
    def runs(self) -> Path:
        """The folder of its runs."""
        return self.folder / RUNS

    @property
    def done(self) -> int:
        """How many runs were made."""
        return sum(len(point.runs) for point in self.points)

    @property
    def left(self) -> int:
        """How many runs there still are, if no point is sure before it has all its repeats."""
        missing = (self.plan["repeat"] - len(one.runs) for one in self.points if not one.is_sure)
        return sum(missing)

    def said(self, point: Point) -> str:
        """Return a point's values as they are typed, of what has several."""
        axes = self.plan["parts"][point.part]
        varied = {name: value for name, value in point.values.items() if len(axes[name]) > 1}
        return f"{point.part} {typed(varied)}".strip()

    def next(self) -> Point | None:
        """Return the point to run next; None once there is enough of each.

        Each round has all points that are not yet sure, in an order of its own, so that what slowly
        changes on the hosts does not come down on a few points.
        """
        numbers = [
            len(one.runs)
            for one in self.points
            if not one.is_sure and len(one.runs) < self.plan["repeat"]
        ]
        if not numbers:
            return None
        number, order = min(numbers), list(self.points)
        random.Random(f"{self.plan['order_seed']}/{number}").shuffle(order)  # noqa: S311 - no secret
        return next(one for one in order if len(one.runs) == number and not one.is_sure)

    def add(self, point: Point, run: str, figure: float, *, is_sure: bool) -> None:
        """Note a run of a point, and whether its repeats agree now."""
        point.runs.append(run)
        point.figures.append(figure)
        point.is_sure = is_sure
        self.save()

    def fail(self, why: str) -> None:
        """Note a run that came to nothing; its point is to be run again."""
        self.note(failures=[*self.plan["failures"], why])

    def seed(self, point: Point) -> int:
        """Return the seed of the next run of a point: the same for all points in a round."""
        chance = random.Random(f"{self.plan['order_seed']}/seed/{len(point.runs)}")  # noqa: S311 - no secret
        return chance.getrandbits(32)

    def end(self) -> None:
        """Note that there is nothing left to do."""
        self.note(ended=now())

    def note(self, **fields: Any) -> None:
        """Add to what is known of the sweep and save it."""
        self.plan |= fields
        self.save()

    def save(self) -> None:
        """Write the state; it is there whole or not at all."""
        write_json(self.folder / STATE, {**self.plan, "points": list(map(asdict, self.points))})


def plan(
    cluster: Cluster, release: str, parts: dict[str, Axes], repeat: int, precision: float
) -> dict[str, Any]:
    """Return what makes a sweep the one that it is; UsageError for what cannot be.

    Each of its parts, of which an ordinary sweep has one without a name, has axes of its own.
    """
    if repeat < 1:
        why = f"--repeat {repeat} is not a number from 1 on"
        raise UsageError(why)
    if not 0 < precision < 1:
        why = f"--precision {precision} is not a number between 0 and 1"
        raise UsageError(why)
    hosts = [host.name for host in cluster.hosts]
    where = {"cluster": cluster.name, "inventory": cluster.digest, "hosts": hosts}
    how = {"parts": parts, "repeat": repeat, "precision": precision}
    return {**where, "release": release, **how}


def typed(values: dict[str, Value]) -> str:
    """Return values as they are typed, or what to say where none is."""
    words = [
        f"--{name.replace('_', '-')} {_YES_NO[value] if isinstance(value, bool) else value}"
        for name, value in values.items()
    ]
    return " ".join(words) or "the one point"


@contextmanager
def alone(logs: Path, cluster: Cluster) -> Iterator[None]:
    """Be the one sweep of a cluster that goes on; ClusterError while another process has one.

    Two would stop each other's servers, and each forget what the other has done.
    """
    logs.mkdir(exist_ok=True)
    lock = os.open(logs / f".{_PREFIX}{cluster.name}", os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = (
                f"another fab sweep is at work on cluster {cluster.name}: wait until it ends, or "
                "end it with ^C and type this again"
            )
            raise ClusterError(why) from error
        yield
    finally:
        os.close(lock)


def begin(logs: Path, cluster: Cluster, plan: dict[str, Any], points: Sequence[Point]) -> Sweep:
    """Make the folder of a new sweep over these points."""
    folder = logs / f"{_PREFIX}{stamp(cluster)}"
    (folder / RUNS).mkdir(parents=True)
    began: dict[str, Any] = {"sweep": folder.name, "started": now(), "ended": None, "failures": []}
    chance = {"order_seed": secrets.randbits(32), "between_runs": BETWEEN_RUNS}
    sweep = Sweep(folder, {**plan, **began, **chance}, list(points))
    sweep.save()
    return sweep


def points_of(parts: dict[str, Axes]) -> list[Point]:
    """Return all combinations of the values of each part; UsageError if they are too many."""
    number = sum(prod(map(len, axes.values())) for axes in parts.values())
    if number > MAX_POINTS:
        why = f"{number:,} points in one sweep; at most {MAX_POINTS:,}: leave some values out"
        raise UsageError(why)
    return [
        Point(part, dict(zip(axes, values, strict=True)))
        for part, axes in parts.items()
        for values in product(*axes.values())
    ]


def unfinished(logs: Path, plan: dict[str, Any]) -> Sweep | None:
    """Return the latest sweep of this plan that has not ended."""
    for folder in sorted(logs.glob(f"{_PREFIX}*"), reverse=True):
        found = read(folder)
        if found and not found.plan.get("ended") and found.plan | plan == found.plan:
            return found
    return None


def read(folder: Path) -> Sweep | None:
    """Return the sweep of a folder; None if it has none that can be read."""
    try:
        document = json.loads((folder / STATE).read_text(encoding="utf-8"))
        points = [Point(**row) for row in document.pop("points")]
        return Sweep(folder, document, points)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged, or of old
        return None


def axes_of(typed: Mapping[str, str], kinds: Mapping[str, type]) -> Axes:
    """Return the values of each option that was typed, each once, in the order typed."""
    return {
        name: list(dict.fromkeys(_values(name, text, kinds[name]))) for name, text in typed.items()
    }


def _values(name: str, text: str, kind: type) -> Iterator[Value]:
    for word in text.split(","):
        try:
            yield _truth(word) if kind is bool else kind(word)
        except ValueError:
            expected = {int: "a whole number", float: "a number", bool: "yes or no"}.get(kind, "")
            why = f"--{name.replace('_', '-')}: {word!r} is not {expected}"
            raise UsageError(why) from None


def _truth(word: str) -> bool:
    try:
        return {"yes": True, "no": False}[word]
    except KeyError:
        raise ValueError(word) from None
