"""Judge a history: could one table, doing the commands one by one, have told what was told?

    python -m analysis.history FILE... [--picture FILE.svg|.png] [--json]

FILEs are histories of our clients (history*.bin, all of one run together), of Jepsen (EDN) or in
the forms that Porcupine's tests have. Exit code 0: ok; 3: violated; 1: unknown; 2: no history.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import foreign
from analysis.disorder import explain_disorder
from analysis.linearizability import UndecidedError, find_order
from analysis.moments import has_order
from analysis.register import NEVER, Call, Register, Transaction
from analysis.smallest import smallest
from rdht.errors import ConfigurationError
from rdht.execution import Outcome
from rdht.history import History, read
from rdht.messages import Operation
from rdht.ycsb import MIXES

OK, VIOLATED, UNKNOWN = "ok", "violated", "unknown"
EXITS = {OK: 0, VIOLATED: 3, UNKNOWN: 1}
EXIT_USAGE = 2
_MOST_SHOWN = 3  # keys whose violation is told in full
_ABSENT = Register()
_COUNTED = {
    "commands": "commands",
    "unknown": "of unknown outcome",
    "many": "on many keys",
    "keys": "keys",
    "longest": "on the busiest key",
}


@dataclass
class Violation:
    """What cannot have been: in words, and the smallest part of the history that shows it."""

    text: str
    calls: list[Call]
    has_clock: bool = True  # else times are lines of a file


@dataclass
class Judgement:
    """What is to be thought of a history, and why."""

    counts: dict[str, int]
    violations: list[Violation] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # what could not be judged

    @property
    def verdict(self) -> str:
        """Ok only if all of it was judged and nothing was found."""
        return VIOLATED if self.violations else UNKNOWN if self.doubts else OK

    @property
    def reasons(self) -> list[str]:
        """A line for each thing that was found or could not be judged."""
        return [*(one.text for one in self.violations), *self.doubts]


def judge(
    transactions: Sequence[Transaction],
    *,
    start: Mapping[bytes, Register] | None = None,
    is_complete: bool = True,
    has_versions: bool = True,
) -> Judgement:
    """Judge a history, key by key, and then what is done to many keys at once.

    `start` has what stood at keys before. Of a history that is not `is_complete` no key is called
    violated, as what it shows may be the effect of what nobody wrote down; nor is all of it ok.
    """
    by_key: dict[bytes, list[Call]] = defaultdict(list)
    for transaction in transactions:
        for call in transaction.calls:
            by_key[call.key].append(call)
    judgement = Judgement(_counts(transactions, by_key))
    if not transactions:
        judgement.doubts.append("it holds no command")
    found = _judge_keys(by_key, start or {}, judgement, has_versions=has_versions)
    if judgement.counts["many"] and not found and not has_order(transactions, start):
        found = _judge_many(transactions, start or {})
        if not found:
            judgement.doubts.append(
                "commands on many keys are not judged: those of unknown outcome could have been in "
                "too many orders"
            )
    if is_complete:
        judgement.violations = found
    else:
        why = f", which may explain this: {found[0].text}" if found else ""
        judgement.doubts.append(f"the history is not complete{why}")
    return judgement


def _judge_keys(
    by_key: Mapping[bytes, Sequence[Call]],
    start: Mapping[bytes, Register],
    judgement: Judgement,
    *,
    has_versions: bool,
) -> list[Violation]:
    """Return what is wrong with keys, each by itself; the first few are told in full."""
    bad, undecided = [], []
    for key, calls in by_key.items():
        try:
            if find_order(calls, start.get(key, _ABSENT), has_versions=has_versions) is None:
                bad.append(key)
        except UndecidedError:
            undecided.append(key)
    if undecided:
        more = f" (and {len(undecided) - 1:,} more)" * (len(undecided) > 1)
        judgement.doubts.append(
            f"key {text_of(undecided[0])}{more} is not judged: the commands of unknown outcome "
            "could have been in too many orders"
        )
    found = []
    for key in bad[:_MOST_SHOWN]:
        first = start.get(key, _ABSENT)
        calls = smallest(by_key[key], first, has_versions=has_versions)
        why = _too_many(calls, by_key[key], first) if has_versions else None
        text = _tell(key, calls, why, has_clock=has_versions)
        found.append(Violation(text, calls, has_versions))
    if len(bad) > _MOST_SHOWN:
        found.append(Violation(f"and {len(bad) - _MOST_SHOWN:,} more keys", []))
    return found


def _judge_many(
    transactions: Sequence[Transaction], start: Mapping[bytes, Register]
) -> list[Violation]:
    """Return what is wrong with commands on many keys, which must be done at one moment."""
    disorder = explain_disorder(transactions, start)
    if disorder is None:
        return []
    calls = [call for transaction in disorder.transactions for call in transaction.calls]
    begin_s = min(call.called_s for call in calls)
    words = "; ".join(describe(call, begin_s, has_clock=True) for call in calls)
    text = f"commands on many keys were not done at one moment: {disorder.why}: {words}"
    return [Violation(text, sorted(calls, key=lambda call: call.called_s))]


def _counts(
    transactions: Sequence[Transaction], by_key: Mapping[bytes, Sequence[Call]]
) -> dict[str, int]:
    return {
        "commands": len(transactions),
        "unknown": sum(transaction.ended_s == NEVER for transaction in transactions),
        "many": sum(len(transaction.calls) > 1 for transaction in transactions),
        "keys": len(by_key),
        "longest": max(map(len, by_key.values()), default=0),
    }


# In words.


def _too_many(calls: Sequence[Call], history: Sequence[Call], start: Register) -> str | None:
    """Say which of the calls met a version that all writes begun by then do not add up to."""
    for call in calls:
        if call.told is None:
            continue
        begun = start.version + sum(
            one.operation is not Operation.GET
            and (one.told is None or one.told.found)
            and one.called_s <= call.ended_s
            for one in history
            if one is not call
        )
        if call.told.version > begun:
            return f"it was at v{call.told.version}, and there had been {begun:,} writes at most"
    return None


def _tell(key: bytes, calls: Sequence[Call], why: str | None, *, has_clock: bool) -> str:
    last = max(calls, key=lambda call: (call.ended_s < NEVER, call.ended_s))
    begin_s = min(call.called_s for call in calls)
    told = [describe(call, begin_s, has_clock=has_clock) for call in calls if call is not last]
    told.append("and then " * bool(told) + describe(last, begin_s, has_clock=has_clock))
    if why is None:
        why = "no order of these explains what they were told"
        if len(told) == 1:
            why = "nothing that was done explains what this was told"
    return f"key {text_of(key)} is not linearizable: {why}: {'; '.join(told)}"


def describe(call: Call, begin_s: float, *, has_clock: bool) -> str:
    """Return a call in words: who, when, what, and what it was told."""
    times_s = [one for one in (call.called_s, call.ended_s) if one < NEVER]
    if has_clock:
        when = " to ".join(f"{(one - begin_s) * 1e3:,.3f}" for one in times_s) + " ms"
    else:
        when = "line " + " to ".join(f"{one + 1:,.0f}" for one in times_s)
    who = f"{call.process} " if call.process else ""
    return f"{who}({when}) {asked(call)}: {answered(call)}"


def asked(call: Call) -> str:
    """Return what a call was to do, in a few words."""
    words = [call.operation.name.lower()]
    if call.operation is Operation.CAS:
        known = call.expected is not None
        words.append(f"{text_of(call.expected or b'')} →" if known else f"at v{call.version}")
    if call.value:
        words.append(text_of(call.value))
    return " ".join(words)


def answered(call: Call) -> str:
    """Return what a call was told, in a few words."""
    if call.told is None:
        return "done" if call.ended_s < NEVER else "unknown"
    found, version, value = call.told
    at = f" at v{version}" if version else ""
    if call.operation is Operation.GET:
        return f"{text_of(value) if found else 'nothing'}{at}"
    return f"{'done' if found else 'not done'}{f', was{at}' if version else ''}"


def text_of(content: bytes) -> str:
    """Return a key, or a value or its hash, as people can read it."""
    try:
        text = content.decode()
        if text.isprintable():
            return text
    except UnicodeDecodeError:
        pass
    return f"#{content.hex()}"


# Our own files, and the command line.


def transactions_of(
    history: History, offset_s: float = 0.0, error_s: float = 0.0
) -> Iterator[Transaction]:
    """Yield the commands of a client that may have had an effect; values are hashes there.

    Their times are by a clock that the host's is ahead of by `offset_s`, and as far apart as they
    may have been if that is wrong by `error_s`.
    """
    for entry in history.entries:
        if entry.outcome is Outcome.ABORTED:
            continue
        called_s, ended_s = entry.begun_ns * 1e-9 - offset_s - error_s, NEVER
        if entry.outcome is Outcome.DONE and entry.ended_ns is not None:
            ended_s = entry.ended_ns * 1e-9 - offset_s + error_s
        told = entry.told or (None,) * len(entry.commands)
        process = f"{history.client}/{entry.thread}"
        yield Transaction(
            tuple(
                Call(key, operation, called_s, ended_s, value, version, one, process)
                for (operation, key, value, version), one in zip(entry.commands, told, strict=True)
            )
        )


def judge_files(paths: Sequence[Path]) -> Judgement:
    """Judge histories that are files; ConfigurationError if one is none, or they do not fit."""
    ours = [path for path in paths if path.suffix == ".bin"]
    if ours and len(ours) < len(paths):
        why = "histories of our clients and of others cannot be of one run"
        raise ConfigurationError(why)
    if not ours:
        calls = [call for path in paths for call in foreign.read(path)]
        if len(paths) > 1:
            why = "only histories of our own clients can be several files of one run"
            raise ConfigurationError(why)
        return judge([Transaction((call,)) for call in calls], has_versions=False)
    histories = [read(path) for path in ours]
    if len({history.boot_id for history in histories}) > 1:
        why = "these histories are by several hosts' clocks: fab assemble judges a collected run"
        raise ConfigurationError(why)
    if any(history.workload in MIXES for history in histories):
        why = "records were written before these histories began: fab assemble judges such a run"
        raise ConfigurationError(why)
    transactions = [one for history in histories for one in transactions_of(history)]
    return judge(transactions, is_complete=not any(history.is_cut for history in histories))


def main(words: Sequence[str] | None = None) -> int:
    """Judge what was named on the command line, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m analysis.history", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw what shows a violation")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args(words)
    try:
        judgement = judge_files(arguments.files)
        if arguments.picture:
            _draw(judgement, arguments.picture)
    except (ConfigurationError, OSError) as error:
        print(f"analysis.history: {error}", file=sys.stderr)
        return EXIT_USAGE
    if arguments.json:
        print(json.dumps(as_json(judgement)))
    else:
        counts = ", ".join(f"{judgement.counts[name]:,} {text}" for name, text in _COUNTED.items())
        print("\n".join([f"{judgement.verdict}: {counts}", *judgement.reasons]))
    return EXITS[judgement.verdict]


def _draw(judgement: Judgement, path: Path) -> None:
    """Draw the first violation, if there is one."""
    from analysis import pictures, timeline  # noqa: PLC0415 - matplotlib would make all others wait

    if path.suffix not in (".svg", ".png"):
        why = f"--picture {path}: pictures are .svg or .png"
        raise ConfigurationError(why)
    shown = [one for one in judgement.violations if one.calls]
    if shown:
        chart = timeline.chart(rows_of(shown[0]))
        is_png = path.suffix == ".png"
        path.write_bytes(pictures.png(chart) if is_png else pictures.svg(chart, "wide").encode())


def rows_of(violation: Violation) -> list[dict[str, Any]]:
    """Return the calls that show a violation as rows of a chart, the earliest first.

    Times are in `unit`; one that never ended has None.
    """
    calls = violation.calls
    begin_s, factor, unit = 0.0, 1.0, "lines of the history"
    if violation.has_clock:
        begin_s, factor = min(call.called_s for call in calls), 1e3
        unit = "ms after the first of them began"
    last = max(calls, key=lambda call: (call.ended_s < NEVER, call.ended_s))

    def shown(time_s: float) -> float | None:
        return None if time_s == NEVER else round((time_s - begin_s) * factor, 6)

    return [
        {
            "process": call.process or "-",
            "key": text_of(call.key),
            "asked": asked(call),
            "told": answered(call),
            "begun": shown(call.called_s),
            "ended": shown(call.ended_s),
            "is_last": call is last,
            "unit": unit,
        }
        for call in calls
    ]


def as_json(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as a document; `failing` has the rows of the first violation."""
    shown = [one for one in judgement.violations if one.calls]
    return {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "counts": judgement.counts,
        "failing": rows_of(shown[0]) if shown else [],
    }


if __name__ == "__main__":
    sys.exit(main())
