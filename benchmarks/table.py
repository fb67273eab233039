"""Time our table beside what people would use instead, on the hosts of a netns lab of its own.

    sudo .venv/bin/python -m benchmarks.table

All run the same closed loop: on each of five hosts with links of 100 Mbit/s one server and one
client of 8 threads; keys of four letters, 60 % gets, values 0 to 99 as text. The latency of one
thread on one host is measured, too, beside an echo of the same frames (see echo.py). A round runs
each once, in another order each time, with servers that hold nothing yet. Ratios are taken within
a round, so that a busy machine slows both sides. The peers are installed by

    apt-get install redis-server memcached etcd-server python3-venv
    /usr/bin/python3 -m venv .rdht/peers
    .rdht/peers/bin/pip install redis hiredis pymemcache etcd3

and left out with a line where they are missing. Ours and the peers' clients run with the hosts' own
interpreter (see interpreter.py). CPU is that of all servers and that of all clients; messages are
what clients ask and are answered; packets are what the hosts' cards send, those between servers
too. All figures go to .rdht/benchmark/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from benchmarks import interpreter, memory, trial
from benchmarks.contenders import CONTENDERS, Contender, Latency, Load
from benchmarks.interpreter import HOST_PYTHON, PEERS_PYTHON
from benchmarks.memory import Memory
from benchmarks.printing import show as show_table
from benchmarks.printing import spread, table
from benchmarks.stage import Stage, TrialError
from benchmarks.trial import WORK, Figures
from cluster.command import ROOT
from lab import netns
from rdht.records import write_json

LAB = WORK / "lab"
TRIAL = WORK / "trial"
HOSTS = netns.addresses(5)
THREADS = 8
WARMUP_S = 1.0
_MEMORY = "memory"
_YES_NO = {True: "reached", False: "missed"}


Round = dict[str, Figures]  # by contender


class Target(NamedTuple):
    """What one contender is to reach, as a multiple of the best of others."""

    title: str
    ours: str
    others: tuple[str, ...]
    goal: float  # for commands/s at least, for a latency at most


TARGETS = [
    Target("classic ÷ C++ of the original's design", "classic", ("yardstick",), 1.0),
    Target("fast ÷ Redis, the better two writes", "fast", ("redis", "redis-together"), 2.5),
    Target("fast ÷ Redis Cluster, WAIT 1", "fast", ("redis-cluster",), 5.0),
    Target("fast ÷ memcached, two writes", "fast", ("memcached",), 1.2),
    Target("fast, window 32 ÷ classic", "fast-32", ("classic",), 8.0),
    Target("durable fast, window 32 ÷ etcd", "durable-32", ("etcd",), 10.0),
]
LATENCY_TARGETS = {
    kind: Target(f"{kind}, one thread ÷ empty echo", "alone", ("echo",), 1.5)
    for kind in ("get", "put")
}


def ratios(
    rounds: Iterable[Round], target: Target, figure: Callable[[Figures], float]
) -> list[float]:
    """Return ours ÷ the best of the others of each round that has all of them."""
    return [
        figure(one[target.ours]) / max(figure(one[name]) for name in target.others)
        for one in rounds
        if {target.ours, *target.others} <= one.keys()
    ]


def run_round(contenders: list[Contender], load: Load) -> Round:
    """Run each once; who fails is named, and has no figures."""
    found = {}
    for contender in contenders:
        try:
            found[contender.name] = trial.run(Stage(LAB, HOSTS, TRIAL), contender, load)
        except TrialError as error:
            sys.stderr.write(f"{contender.name}: {error}\n")
    return found


def show(rounds: list[Round], contenders: Iterable[Contender]) -> None:
    """Print what each has done: medians over the rounds."""
    ours, peers = map(interpreter.version, (HOST_PYTHON, PEERS_PYTHON))
    shown = table(
        *("system", "commands/s", "CPU µs", "messages", "packets"),
        *("get ms p50 / p99", "put ms p50 / p99"),
        title=f"ours in Python {ours}, the peers' clients in {peers or 'none'}",
    )
    notes: dict[str, list[str]] = {}
    for contender in contenders:
        trials = [one[contender.name] for one in rounds if contender.name in one]
        if not trials:
            continue
        notes.setdefault(contender.lacks, []).append(contender.title)
        counted = [trial.counted for trial in trials]
        shown.add_row(
            contender.title,
            spread([one.per_s for one in counted], ",.0f"),
            " + ".join(
                f"{statistics.median(getattr(trial.used, side) for trial in trials):.0f}"
                for side in ("server_cpu_us", "client_cpu_us")
            ),
            f"{statistics.median(one.messages / one.commands for one in counted):.1f}",
            f"{statistics.median(trial.used.packets for trial in trials):.1f}",
            *(_latency([getattr(one, kind) for one in counted]) for kind in ("get", "put")),
        )
    show_table(shown, *(f"{', '.join(titles)}: {lacks}." for lacks, titles in notes.items()))


def show_targets(rounds: list[Round], memory: Memory | None) -> None:
    """Print what was to be reached, and what was."""
    shown = table("ratio within a round", "target", "measured", "", "1 ÷ CPU")
    for target in TARGETS:
        if found := ratios(rounds, target, _per_s):
            reached = statistics.median(found) >= target.goal
            shown.add_row(
                *(target.title, f"≥ {target.goal:g}", spread(found, ".2f"), _YES_NO[reached]),
                spread(ratios(rounds, target, _per_cpu), ".2f"),
            )
    for kind, target in LATENCY_TARGETS.items():
        if found := ratios(rounds, target, partial(_median_us, kind)):
            reached = statistics.median(found) <= target.goal
            shown.add_row(
                *(target.title, f"≤ {target.goal:g}", spread(found, ".2f"), _YES_NO[reached]),
            )
    if memory:
        measured = f"{memory.ratio:.2f} ({memory.ours:.0f} ÷ {memory.redis:.0f} bytes)"
        shown.add_row("memory a key ÷ Redis", "≤ 1", measured, _YES_NO[memory.ratio <= 1])
    show_table(
        shown, "1 ÷ CPU: the same by the CPU of a command, which a busy machine changes less."
    )


def _per_s(figures: Figures) -> float:
    return figures.counted.per_s


def _median_us(kind: str, figures: Figures) -> float:
    return float(getattr(figures.counted, kind)[50])


def _per_cpu(figures: Figures) -> float:
    return 1 / figures.used.cpu_us


def _latency(rounds: list[Latency]) -> str:
    return " / ".join(
        f"{statistics.median(one[percent] for one in rounds) / 1000:.2f}" for percent in (50, 99)
    )


def main() -> None:
    """Measure, print two tables, and keep all figures."""
    options = _options()
    trial.prepare()
    contenders = [one for one in CONTENDERS if one.name in options.only and _is_here(one)]
    path = WORK / time.strftime("table-%Y%m%dT%H%M%S.json")
    kept = {"machine": trial.machine(), "options": vars(options)}
    rounds: list[Round] = []

    def keep(**more: object) -> None:
        write_json(path, {**kept, "rounds": [_plain(one) for one in rounds], **more})

    if contenders:
        with trial.lab(LAB, HOSTS):
            for number in range(options.rounds):
                turn = number % len(contenders)
                load = Load(THREADS, WARMUP_S, options.seconds, seed=number)
                rounds.append(run_round(contenders[turn:] + contenders[:turn], load))
                keep()
                sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
    held = _memory(options.keys) if _MEMORY in options.only else None
    if held:
        keep(memory=held._asdict())
    show(rounds, contenders)
    show_targets(rounds, held)
    sys.stderr.write(f"all figures: {path.relative_to(ROOT)}\n")


def _options() -> argparse.Namespace:
    names = [*(contender.name for contender in CONTENDERS), _MEMORY]
    parser = argparse.ArgumentParser(description="Time our table beside others.")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--seconds", type=float, default=4.0, help="that count (default 4)")
    parser.add_argument("--keys", type=int, default=memory.KEYS, help="whose memory is measured")
    only = f"some of {', '.join(names)}"
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=only
    )
    return parser.parse_args()


def _memory(keys: int) -> Memory | None:
    if why := memory.missing():
        sys.stderr.write(f"{_MEMORY} is left out: {why}\n")
        return None
    return memory.measure(keys)


def _is_here(contender: Contender) -> bool:
    if why := contender.missing():
        sys.stderr.write(f"{contender.name} is left out: {why}\n")
    return not why


def _plain(found: Round) -> dict[str, Any]:
    return {
        name: {**figures.counted._asdict(), "used": figures.used._asdict()}
        for name, figures in found.items()
    }


if __name__ == "__main__":
    main()
