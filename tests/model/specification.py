"""What a small world's history has to obey: its commands, one after the other, explain it."""

from collections.abc import Mapping
from typing import NamedTuple

from rdht.coordinator import Command
from rdht.execution import Execution, Outcome
from rdht.messages import Operation, Status
from rdht.parts import Result
from rdht.table import ABSENT, Entry

History = tuple["Called | None", ...]
Table = dict[bytes, Entry]


class Fault(Exception):  # noqa: N818 - it is what the search looks for
    """An invariant does not hold."""


class Called(NamedTuple):
    """A command that was called: which were done before, and how it ended."""

    before: tuple[int, ...]
    outcome: Outcome | None = None  # none: it is running, or its client has crashed
    results: tuple[Result, ...] = ()
    is_partial: bool = False  # several keys: told by another participant, of those it knows


def carry_out(commands: tuple[Command, ...], table: Table) -> tuple[Table, tuple[Result, ...]]:
    """Return what the specification says becomes of the table, and the results by key."""
    after = dict(table)
    results = []
    for operation, key, value, version in sorted(commands, key=lambda command: command.key):
        value_before, version_before = table.get(key, ABSENT)
        is_present = value_before is not None
        found = {
            Operation.GET: is_present,
            Operation.PUT: True,
            Operation.ADD: not is_present,
            Operation.DELETE: is_present,
            Operation.CAS: version == version_before,
        }[operation]
        if found and operation is not Operation.GET:
            after[key] = Entry(None if operation is Operation.DELETE else value, version_before + 1)
        read = value_before if operation is Operation.GET and value_before is not None else b""
        results.append(Result(found, version_before, read))
    return after, tuple(results)


def is_linearizable(
    commands: tuple[tuple[Command, ...], ...], history: History, seen: Mapping[bytes, Entry]
) -> bool:
    """Return whether some order of the commands explains all results, and what is seen now.

    `seen` has what a reader would find who began now, of the keys that can be read. What is done
    took effect once, between call and return; what was aborted, never; anything else at most once,
    at any time after its call.
    """
    called = {index: one for index, one in enumerate(history) if one is not None}
    done = {index for index, one in called.items() if one.outcome is Outcome.DONE}
    possible = {index for index, one in called.items() if one.outcome is not Outcome.ABORTED}

    def search(placed: frozenset[int], table: Table) -> bool:
        if done <= placed and all(table.get(key, ABSENT) == seen[key] for key in seen):
            return True
        for index in possible - placed:
            one = called[index]
            if not placed.issuperset(one.before):
                continue
            after, results = carry_out(commands[index], table)
            if index in done and not _explains(results, one):
                continue
            if search(placed | {index}, after):
                return True
        return False

    return search(frozenset(), {})


def _explains(results: tuple[Result, ...], called: Called) -> bool:
    """Return whether these results are what was told, or those of them that one was told of."""
    if not called.is_partial:
        return results == called.results
    rest = iter(results)
    return all(one in rest for one in called.results)


def may_be_partial(execution: Execution) -> bool:
    """Return whether one participant's word was enough for a command on several keys."""
    attempt = execution._coordinator
    if attempt is None or len(execution.commands) == 1:
        return False
    return any(vote.status is Status.DONE for vote in attempt._votes.values())
