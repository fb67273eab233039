"""Whether the table kept its promises in a run: its histories, its replicas, its locks.

Times of the histories are of each host's own monotonic clock. They are laid side by side by the
readings of these clocks that the manifest has, and each command is given the time that these may be
wrong by, on both sides: so what is called a violation is one, whichever of the clocks was right.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from analysis.history import OK, UNKNOWN, VIOLATED, as_json, judge, transactions_of
from analysis.register import NEVER, Call, Register, Transaction
from rdht.errors import ConfigurationError
from rdht.history import SAMPLE_SHARE, THE_SERVERS, read
from rdht.messages import Operation
from rdht.parts import Result
from rdht.scan import hash_value
from rdht.ycsb import MIXES, load_commands

VERDICT = "verdict.json"
MAX_DRIFT = 100e-6  # seconds a second, of a clock after it was read last
_OFF, _SAMPLE = "off", "sample"
_POWER = "power"
# What of a manifest a verdict rests on, beside the histories.
_GROUNDS = (
    *("clients", "clocks", "lost_ranges", "nemesis", "replicas", "unsettled"),
    "parameters",
)


class Shift(NamedTuple):
    """How far a host's clock is ahead of the desk's, and how wrong that may be."""

    offset_s: float
    error_s: float
    read_s: float  # by the desk's clock, when last


class Found(NamedTuple):
    """The histories of a run, and what is to be said of them."""

    transactions: list[Transaction]
    gaps: list[str]  # a line for each thing that is missing of them
    error_s: float  # of the clocks, at most


def of(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict of a collected run; it is judged anew only if it rests on other grounds.

    One whose histories were removed keeps its verdict.
    It has `verdict` (ok, violated, unknown) with `reasons`, `counts` and `clock_error_s`, `sample`
    if one key in so many was judged (1: all), and in `failing` the rows of the smallest part of the
    history that shows a violation.
    """
    kept = folder / VERDICT
    if kept.exists():
        document = json.loads(kept.read_text(encoding="utf-8"))
        if not _files(folder) or document["grounds"] == _grounds(folder, manifest):
            before: dict[str, Any] = document["verdict"]
            return before
    return _judge(folder, manifest)


def keep(folder: Path, manifest: dict[str, Any], verdict: dict[str, Any]) -> None:
    """Write down a verdict, and what it rests on."""
    document = {"verdict": verdict, "grounds": _grounds(folder, manifest)}
    (folder / VERDICT).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _grounds(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    files = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    return {"files": files, **{name: manifest.get(name) for name in _GROUNDS}}


def _judge(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    broken = _broken(manifest)
    options = manifest.get("parameters", {}).get("clients", {})
    if options.get("history", _OFF) == _OFF:
        doubts = ["no history was kept (--history off)", *_doubts(manifest)]
        told: dict[str, Any] = {"counts": {}, "failing": []}
    else:
        found = read_histories(folder, manifest)
        doubts = [*found.gaps, *_doubts(manifest)]
        # Replicas that were not compared are a gap in what is known, and none in the histories.
        is_complete = not (found.gaps or manifest.get("lost_ranges"))
        judged = judge(found.transactions, start=_start(options), is_complete=is_complete)
        broken += [one.text for one in judged.violations]
        doubts += judged.doubts
        sample = SAMPLE_SHARE if options["history"] == _SAMPLE else 1
        told = {**as_json(judged), "clock_error_s": round(found.error_s, 6), "sample": sample}
    verdict = VIOLATED if broken else UNKNOWN if doubts else OK
    return {**told, "verdict": verdict, "reasons": [*broken, *doubts]}


def _broken(manifest: dict[str, Any]) -> list[str]:
    """Return a line for each promise that was not kept, as the servers' own figures show."""
    replicas = manifest.get("replicas") or {"differing": [], "keys": 0}
    differing = replicas["differing"]
    return [
        *[f"{len(differing):,} of {replicas['keys']:,} keys differ between replicas"]
        * bool(differing),
        *(f"{line} long after the last command" for line in manifest.get("unsettled") or ()),
    ]


def _doubts(manifest: dict[str, Any]) -> list[str]:
    """Return a line for each thing by which a history may lack what nobody is to blame for."""
    lost = manifest.get("lost_ranges", {})
    return [
        *(f"range {number} was lost with all that it held" for number in lost),
        *["the replicas were not compared"] * (manifest.get("replicas") is None),
        *["a server was away, so nobody knows whether it left locks or transactions in doubt"]
        * (manifest.get("unsettled") is None),
    ]


def read_histories(folder: Path, manifest: dict[str, Any]) -> Found:
    """Return what the clients of a run did, by the desk's clock."""
    shifts = _shifts(manifest)
    booted = _booted_since(manifest)
    transactions: list[Transaction] = []
    gaps: list[str] = []
    errors_s: list[float] = []
    seen: set[str] = set()
    told: set[bytes] | None = None  # keys, by the servers themselves
    for path in _files(folder):
        host = path.parent.name
        try:
            history = read(path)
        except ConfigurationError as error:
            gaps.append(str(error))
            continue
        seen.add(history.client)
        if history.is_cut:
            gaps.append(f"{host}: the history of {history.client} ends early: its disk was full")
        if not history.is_closed and (host, history.boot_id) in booted:
            gaps.append(f"{host}: the history of {history.client} may lack its end: power was lost")
        shift = shifts.get((host, history.boot_id))
        if shift is None:
            gaps.append(
                f"{host}: the history of {history.client} is left out: its clock is unknown"
            )
            continue
        last_s = max((entry.begun_ns for entry in history.entries), default=0) * 1e-9
        later_s = last_s - shift.offset_s - shift.read_s
        errors_s.append(shift.error_s + MAX_DRIFT * max(0.0, later_s))
        found = list(transactions_of(history, shift.offset_s, errors_s[-1]))
        transactions += found
        if history.client == THE_SERVERS:
            told = {call.key for transaction in found for call in transaction.calls}
    expected = {
        *manifest.get("clients", ()),
        *manifest.get("nemesis", {}).get("joined_clients", ()),
    }
    if manifest.get("replicas") is not None:
        expected.add(THE_SERVERS)
    gaps += [f"there is no history of {name}" for name in sorted(expected - seen)]
    if told is not None:
        transactions += _absent(transactions, told)
    return Found(transactions, gaps, max(errors_s, default=0.0))


def _absent(transactions: list[Transaction], told: set[bytes]) -> list[Transaction]:
    """Return a last read for each key of which the servers told nothing: it is not there."""
    end_s = max((one.ended_s for one in transactions if one.ended_s < NEVER), default=0.0)
    nothing = Result(found=False, version=0)
    keys = {call.key for transaction in transactions for call in transaction.calls}
    return [
        Transaction((Call(key, Operation.GET, end_s, end_s, told=nothing, process=THE_SERVERS),))
        for key in sorted(keys - told)
    ]


def _booted_since(manifest: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the hosts, and those of their boots, after which they were booted by themselves.

    A lab that cuts the power of a host loses nothing that was written.
    """
    cut = {
        host
        for row in manifest.get("faults", ())
        if row["text"].startswith(_POWER)
        for host in row["host"].split(", ")
    }
    boots: dict[str, list[str]] = {}
    for measured in manifest.get("clocks", ()):
        for host, one in measured["hosts"].items():
            boots.setdefault(host, []).append(one["boot_id"])
    return {
        (host, boot)
        for host, seen in boots.items()
        for boot in seen
        if boot != seen[-1] and host not in cut
    }


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("hosts/*/history*.bin"))


def _shifts(manifest: dict[str, Any]) -> dict[tuple[str, str], Shift]:
    """Return the shift of the clock of each host and boot, of all that was read of it.

    The clocks are taken to drift one way between two readings; so the truth lies between them.
    """
    readings: dict[tuple[str, str], list[Shift]] = {}
    for measured in manifest.get("clocks", ()):
        for host, one in measured["hosts"].items():
            at_s = measured["at_s"] if one["error_s"] else math.inf  # our own clock does not drift
            shift = Shift(one["offset_s"], one["error_s"], at_s)
            readings.setdefault((host, one["boot_id"]), []).append(shift)
    found = {}
    for place, shifts in readings.items():
        low_s = min(one.offset_s - one.error_s for one in shifts)
        high_s = max(one.offset_s + one.error_s for one in shifts)
        found[place] = Shift((low_s + high_s) / 2, (high_s - low_s) / 2, shifts[-1].read_s)
    return found


def _start(options: dict[str, Any]) -> dict[bytes, Register]:
    """Return what stood at the keys before the clients began."""
    if options["workload"] not in MIXES:
        return {}
    written = load_commands(options["records"], options["value_bytes"], options["seed"])
    return {command.key: Register(hash_value(command.value), 1) for command in written}
