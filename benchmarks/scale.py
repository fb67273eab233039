"""Measure how cost grows with servers, clients, threads, window, value size and keys held.

    sudo .venv/bin/python -m benchmarks.scale

On a netns lab of its own, of twelve hosts with links of 100 Mbit/s: servers from the first host on,
clients from the last one back. One thing is varied at a time; the rest stays at five servers, five
clients of 8 threads, window 1, the table's keys and values. Value sizes are those of YCSB's
workload A. What a number of keys takes is measured on two servers that hold all of them: one in
memory, which is killed and comes back, and one durable, which is stopped and started. A round
measures all once, in another order each time. Tables, a picture and all figures: scale.json and
scale.png in the folder that --into says.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from analysis import pictures
from benchmarks import memory, trial
from benchmarks.contenders import Load, Ours
from benchmarks.growth import Axis, Curve, Curves, Measured, curves_of
from benchmarks.growth_chart import chart
from benchmarks.interpreter import HOST_PYTHON, version
from benchmarks.printing import show, table
from benchmarks.stage import Stage, TrialError
from benchmarks.trial import WORK, Figures
from lab import netns
from rdht import roster
from rdht.client import observe
from rdht.errors import RdhtError
from rdht.messages import Message, Status
from rdht.records import write_json
from rdht.replica import Mode
from rdht.transport import read_json

LAB = WORK / "scale-lab"
STAGE = WORK / "scale-trial"
HOSTS = netns.addresses(12)
_LINK_BYTES_PER_S = 100e6 / 8
_WARMUP_S = 0.5
_RECORDS = 300  # of each value size
_FILL_TIMEOUT_S = 180.0
_SERVED_TIMEOUT_S = 60.0
_POLL_S = 0.02


class Setting(NamedTuple):
    """What a trial runs with."""

    servers: int = 5
    clients: int = 5
    threads: int = 8
    window: int = 1
    value_bytes: int = 0  # 0: the table's workload


_LOADS = ["commands/s", "CPU µs", "get p50 ms", "get p99 ms", "put p50 ms", "put p99 ms"]
_HELD = ["bytes a key", "Redis's", "start-up s", "snapshot s", "rejoin s", "of the link"]
_KEYS = "keys"
AXES = [
    Axis("servers", "servers", (2, 3, 5, 8, 12), _LOADS),
    Axis("clients", "clients", (1, 2, 5, 12), _LOADS),
    Axis("threads", "threads of a client", (1, 2, 8, 32), _LOADS),
    Axis("window", "window of a thread", (1, 8, 32, 128), _LOADS),
    Axis("value_bytes", "bytes of a value", (8, 128, 1024, 8192, 65_536), _LOADS),
    Axis(_KEYS, "keys on a server", (1000, 10_000, 100_000, 1_000_000), _HELD),
]


class Loaded(Ours):
    """Ours with the load of a setting."""

    def __init__(self, setting: Setting) -> None:
        """Take what is varied."""
        super().__init__("scale", "fast", setting.window)
        self._setting = setting

    def clients(self, stage: Stage) -> list[str]:
        """Return hosts without servers, as long as there are any."""
        del stage
        return list(HOSTS)[-self._setting.clients :]

    def threads(self, load: Load) -> int:
        """Return the setting's."""
        del load
        return self._setting.threads

    def serve(self, stage: Stage) -> None:
        """Have the records in the table, too, that will be read."""
        super().serve(stage)
        if self._setting.value_bytes:
            words = [HOST_PYTHON, "-m", "rdht", "load", "--roster", str(self.roster(stage))]
            stage.run([*words, *self._records(), "--seed", "0"])

    def workload(self) -> list[str]:
        """Return YCSB's workload A for a value size."""
        if self._setting.value_bytes:
            return ["--workload", "ycsb-a", *self._records()]
        return super().workload()

    def _records(self) -> list[str]:
        return ["--records", str(_RECORDS), "--value-bytes", str(self._setting.value_bytes)]


class Pair(Ours):
    """Two servers: the first in memory, the second durable."""

    def __init__(self) -> None:
        """Have no clients."""
        super().__init__("pair", "fast", 1)

    def is_durable(self, stage: Stage, host: str) -> bool:
        """Return whether it is the second."""
        return host == list(stage.hosts)[1]


def measure_load(setting: Setting, seconds: float, seed: int) -> dict[str, float]:
    """Run one setting."""
    stage = Stage(LAB, dict(list(HOSTS.items())[: setting.servers]), STAGE)
    load = Load(setting.threads, _WARMUP_S, seconds, seed)
    return _figures(trial.run(stage, Loaded(setting), load))


def _figures(found: Figures) -> dict[str, float]:
    counted = found.counted
    latencies = [one[percent] / 1000 for one in (counted.get, counted.put) for percent in (50, 99)]
    return dict(zip(_LOADS, (counted.per_s, found.used.cpu_us, *latencies), strict=True))


def measure_held(keys: int) -> dict[str, float]:
    """Fill two servers, and have one come back from the other, and one from its disk."""
    stage, pair = Stage(LAB, dict(list(HOSTS.items())[:2]), STAGE), Pair()
    volatile, durable = stage.hosts
    try:
        pair.serve(stage)
        before = memory.resident_bytes(stage.pid(volatile))
        fill = [HOST_PYTHON, "-m", "benchmarks.keys", "fill", "--keys", str(keys)]
        stage.run([*fill, "--roster", str(pair.roster(stage))], _FILL_TIMEOUT_S)
        held = (memory.resident_bytes(stage.pid(volatile)) - before) / keys

        stage.end(volatile, signal.SIGKILL)
        begun_s = time.monotonic()
        pair.start_server(stage, volatile)
        _, before_bytes = stage.sent(durable)
        _wait_until_served(stage, pair.roster(stage), volatile)
        rejoin_s = time.monotonic() - begun_s
        link = (stage.sent(durable)[1] - before_bytes) / rejoin_s / _LINK_BYTES_PER_S

        stage.end(durable, signal.SIGTERM)
        words = [HOST_PYTHON, "-m", "benchmarks.keys", "snapshot", "--name", durable]
        words += ["--roster", str(pair.roster(stage)), "--folder", str(pair.files(stage, durable))]
        snapshot_s = json.loads(stage.run(words))["written_s"]
        begun_s = time.monotonic()
        pair.start_server(stage, durable)
        stage.wait_until_ready(durable)
        start_s = time.monotonic() - begun_s
    finally:
        stage.clear()
    figures = (held, memory.measure_redis(keys), start_s, snapshot_s, rejoin_s, link)
    return dict(zip(_HELD, figures, strict=True))


def _wait_until_served(stage: Stage, path: Path, host: str) -> None:
    """Poll a server until it serves all its ranges."""
    deadline_s = time.monotonic() + _SERVED_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with stage.at_the_operator(), observe(roster.load(path), host) as connection:
                while time.monotonic() < deadline_s:
                    ranges = read_json(connection.ask(Message(Status.STATS)))["ranges"].values()
                    if all(one["mode"] == Mode.SERVING for one in ranges):
                        return
                    time.sleep(_POLL_S)
        except RdhtError:  # it has not started to listen
            time.sleep(_POLL_S)
    why = f"the server on {host} has not come back within {_SERVED_TIMEOUT_S:.0f} s"
    raise TrialError(why)


def measure_round(axes: list[Axis], seconds: float, number: int) -> dict[str, Measured]:
    """Measure each setting once; who fails is named, and has no figures."""
    settings = list(dict.fromkeys(_setting(axis, x) for axis in axes for x in axis.values))
    turn = number % len(settings)
    found: dict[Setting | int, dict[str, float]] = {}
    for setting in settings[turn:] + settings[:turn]:
        try:
            if isinstance(setting, int):
                found[setting] = measure_held(setting)
            else:
                found[setting] = measure_load(setting, seconds, number)
        except TrialError as error:
            sys.stderr.write(f"{setting}: {error}\n")
    return {
        axis.name: {x: found[_setting(axis, x)] for x in axis.values if _setting(axis, x) in found}
        for axis in axes
    }


def _setting(axis: Axis, x: int) -> Setting | int:
    """Return what one point of an axis runs with; of keys on a server, their number says all."""
    return x if axis.name == _KEYS else Setting(**{axis.name: x})


def print_tables(curves: Curves, axes: list[Axis]) -> None:
    """Print medians with their spread, and how each column grows."""
    title = f"Python {version(HOST_PYTHON)}; median of the rounds ± half of their range"
    for quantities in (_LOADS, _HELD):
        shown = table("", *quantities, title=title)
        for axis in axes:
            if axis.quantities != quantities:
                continue
            mine = [curves.get((axis.name, quantity)) for quantity in quantities]
            shown.add_row(f"n {axis.title}")
            for x in axis.values:
                shown.add_row(f"{x:>10,}", *(_at(one, x) for one in mine))
            shown.add_row("grows as n^", *(_exponent(one) for one in mine))
            shown.add_row("at its end", *(one and f"{one.last_exponent:.2f}" for one in mine))
            shown.add_section()
        show(shown)


def _at(found: Curve | None, x: int) -> str:
    for point in found.points if found else []:
        if point.x == x:
            return f"{_short(point.median)} ± {(point.high - point.low) / 2 / point.median:.0%}"
    return ""


def _exponent(found: Curve | None) -> str:
    if not found:
        return ""
    return f"{found.exponent:.2f} ± {(max(found.exponents) - min(found.exponents)) / 2:.2f}"


def _short(value: float) -> str:
    """Return three figures of a number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def main() -> None:
    """Measure, print, draw, and keep all figures."""
    options = _options()
    trial.prepare()
    if memory.missing():
        sys.exit(f"{memory.missing()}: see the top of table.py")
    axes = [axis for axis in AXES if axis.name in options.only]
    rounds: list[dict[str, Measured]] = []
    kept = {"machine": trial.machine(), "options": {**vars(options), "into": str(options.into)}}
    options.into.mkdir(parents=True, exist_ok=True)
    with trial.lab(LAB, HOSTS):
        for number in range(options.rounds):
            rounds.append(measure_round(axes, options.seconds, number))
            write_json(options.into / "scale.json", {**kept, "rounds": rounds})
            sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
    curves = curves_of(rounds, axes)
    print_tables(curves, axes)
    picture = options.into / "scale.png"
    picture.write_bytes(pictures.png(chart(curves, axes)))
    sys.stderr.write(f"{picture}, and all figures in scale.json beside it\n")


def _options() -> argparse.Namespace:
    names = [axis.name for axis in AXES]
    parser = argparse.ArgumentParser(description="Measure how cost grows.")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--seconds", type=float, default=1.5, help="that count (default 1.5)")
    parser.add_argument("--into", type=Path, default=WORK, metavar="DIR", help="(.rdht/benchmark)")
    only = f"some of {', '.join(names)}"
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="AXIS", help=only
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
