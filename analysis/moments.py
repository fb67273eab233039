"""An order of commands on many keys that explains what was told, each done at one moment.

What was told has versions, so most of the order is forced: a command is done as soon as its keys
stand at the versions that it met, and nobody else has still to meet them. Only where it is not
known who wrote a version there is a choice, of the commands of unknown outcome; a wrong one is
soon stuck, and taken back.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.register import NEVER, Call, Register, Transaction, carry_out
from analysis.shortcuts import was_there
from rdht.messages import Operation

MOST_CHOICES = 20_000  # that may be wrong
_ABSENT = Register()


def has_order(
    transactions: Sequence[Transaction], start: Mapping[bytes, Register] | None = None
) -> bool:
    """Return whether an order was found; if all outcomes are known, there is none otherwise."""
    return _Search(transactions, start or {}).run()


class _Key:
    """What is known of a key before: who wrote its versions, how many met them, what they met."""

    def __init__(self, start: Register) -> None:
        self.start = start
        self.last = start.version  # that anybody was told of
        self.writers: dict[int, int] = {}  # by the version before
        self.readers: dict[int, int] = defaultdict(int)  # how many have still to meet it
        self.told: dict[int, list[int]] = defaultdict(list)  # who was told of it
        self.met: dict[int, bytes | None] = {}
        self.values: dict[bytes, set[int]] = defaultdict(set)  # where they were met
        self.is_there: dict[int, bool] = {}
        self.unsure: list[int] = []


class _Done(NamedTuple):
    """A transaction that was done, and what stood at its keys before."""

    at: int
    before: list[tuple[bytes, Register]]


class _Search:
    """The state of the search; it goes on and back in one place."""

    def __init__(
        self, transactions: Sequence[Transaction], start: Mapping[bytes, Register]
    ) -> None:
        self._all = transactions
        self._start = start
        self._keys: dict[bytes, _Key] = {}
        self._is_fair = True  # no version was written twice
        for at, transaction in enumerate(transactions):
            for call in transaction.calls:
                self._know(at, call)
        self._registers = {key: known.start for key, known in self._keys.items()}
        self._is_done = bytearray(len(transactions))
        sure = [at for at, one in enumerate(transactions) if one.ended_s < NEVER]
        self._by_begin = sorted(sure, key=lambda at: transactions[at].called_s)
        self._by_end = sorted(sure, key=lambda at: transactions[at].ended_s)
        self._begun = self._ended = self._low = 0  # how far these have come
        self._first_end_s = transactions[self._by_end[0]].ended_s if sure else NEVER
        self._journal: list[_Done] = []

    def run(self) -> bool:
        choices: list[tuple[tuple[int, ...], Iterator[int]]] = []
        is_good, tried = self._is_fair and self._go_on(), 0
        while self._ended < len(self._by_end) or not is_good:
            if is_good:
                choices.append((self._mark(), iter(self._choices())))
            is_good = False
            while choices and not is_good:
                mark, untried = choices[-1]
                self._take_back(mark)
                at = next(untried, None)
                if at is None:
                    choices.pop()
                    continue
                tried += 1
                is_good = self._do(at) is not None and self._go_on(at)
            if not is_good or tried > MOST_CHOICES + len(self._journal):
                return False
        return True

    def _know(self, at: int, call: Call) -> None:
        known = self._keys.get(call.key)
        if known is None:
            known = self._keys[call.key] = _Key(self._start.get(call.key, _ABSENT))
        told = call.told
        if told is None or call.ended_s == NEVER:
            if call.operation is not Operation.GET:
                known.unsure.append(at)
            return
        version = told.version
        known.told[version].append(at)
        if call.operation is not Operation.GET and told.found:
            self._is_fair &= version not in known.writers
            known.writers[version] = at
            known.last = max(known.last, version + 1)
        else:
            known.readers[version] += 1
            known.last = max(known.last, version)
        if call.operation is Operation.GET:
            known.met[version] = told.value if told.found else None
            if told.found:
                known.values[told.value].add(version)
        there = was_there(call, told)
        if there is not None:
            known.is_there[version] = there

    # On: all that is forced.

    def _go_on(self, last: int | None = None) -> bool:
        """Do all that nothing stands in the way of; return whether it was told what is there."""
        todo = [] if last is None else self._next(last)
        while True:
            while todo:
                at = todo.pop()
                if self._may_be_done(at):
                    if self._do(at) is None:
                        return False
                    todo += self._next(at)
            self._see_ends()
            while self._begun < len(self._by_begin):
                at = self._by_begin[self._begun]
                if self._all[at].called_s > self._first_end_s:
                    break
                self._begun += 1
                todo.append(at)
            if not todo:
                break
        while self._low < self._begun and self._is_done[self._by_begin[self._low]]:
            self._low += 1
        return True

    def _next(self, last: int) -> list[int]:
        """Return who may come now that one was done."""
        found: list[int] = []
        for call in self._all[last].calls:
            known, version = self._keys[call.key], self._registers[call.key].version
            told = call.told
            if told is None or version != told.version:
                found += known.told.get(version, ())
            elif version in known.writers and not known.readers[version]:
                found.append(known.writers[version])
        return found

    def _see_ends(self) -> None:
        while self._ended < len(self._by_end) and self._is_done[self._by_end[self._ended]]:
            self._ended += 1
        self._first_end_s = NEVER
        if self._ended < len(self._by_end):
            self._first_end_s = self._all[self._by_end[self._ended]].ended_s

    def _may_be_done(self, at: int) -> bool:
        transaction = self._all[at]
        if self._is_done[at] or transaction.called_s > self._first_end_s:
            return False
        for call in transaction.calls:
            told = call.told
            if told is None:
                if call.operation is not Operation.GET:
                    return False
                continue
            if self._registers[call.key].version != told.version:
                return False
            if _has_written(call) and self._keys[call.key].readers[told.version]:
                return False
        return True

    def _do(self, at: int) -> _Done | None:
        """Do a transaction; None if it was told what is not there."""
        before = []
        results = []
        for call in self._all[at].calls:
            register = self._registers[call.key]
            after, told = carry_out(call, register)
            if call.told is not None and call.told != told:
                return None
            before.append((call.key, register))
            results.append(after)
        for call, after in zip(self._all[at].calls, results, strict=True):
            self._registers[call.key] = after
            self._count(call, -1)
        self._is_done[at] = True
        done = _Done(at, before)
        self._journal.append(done)
        return done

    def _count(self, call: Call, change: int) -> None:
        if call.told is not None and call.ended_s < NEVER and not _has_written(call):
            self._keys[call.key].readers[call.told.version] += change

    # Back.

    def _mark(self) -> tuple[int, ...]:
        return len(self._journal), self._begun, self._ended, self._low

    def _take_back(self, mark: tuple[int, ...]) -> None:
        length, self._begun, self._ended, self._low = mark
        while len(self._journal) > length:
            at, before = self._journal.pop()
            self._is_done[at] = False
            self._registers.update(before)
            for call in self._all[at].calls:
                self._count(call, 1)
        self._see_ends()

    # Choices.

    def _choices(self) -> list[int]:
        """Return what may have been done next, of those that nobody was told of; the best first."""
        found: dict[int, tuple[int, float]] = {}
        kinds = set()
        for key in self._keys_in_question():
            for at in self._keys[key].unsure:
                if at in found or self._is_done[at] or not self._fits(at):
                    continue
                kind = self._kind(at)
                if kind is None or kind not in kinds:
                    kinds.add(kind)
                    found[at] = self._rank(at)
        return sorted(found, key=found.__getitem__)

    def _keys_in_question(self) -> dict[bytes, None]:
        """Return the keys of what waits, and of what may have to come before on several keys."""
        keys = {
            call.key: None
            for at in self._by_begin[self._low : self._begun]
            if not self._is_done[at]
            for call in self._all[at].calls
        }
        others = {
            call.key: None
            for key in keys
            for at in self._keys[key].unsure
            if not self._is_done[at] and self._all[at].called_s <= self._first_end_s
            for call in self._all[at].calls
        }
        return keys | others

    def _fits(self, at: int) -> bool:
        """Return whether one of unknown outcome can be next, and fills a gap (or has ended)."""
        transaction = self._all[at]
        if transaction.called_s > self._first_end_s:
            return False
        fills = transaction.ended_s < NEVER
        for call in transaction.calls:
            known, register = self._keys[call.key], self._registers[call.key]
            after, told = carry_out(call, register)
            if call.told not in (None, told):
                return False
            if after is register:
                continue
            version = register.version
            there = after.value is not None
            if (
                version in known.writers
                or known.readers[version]
                or known.met.get(version + 1, after.value) != after.value
                or known.is_there.get(version + 1, there) != there
                or version + 1 not in known.values.get(call.value, {version + 1})
            ):
                return False
            fills |= version < known.last
        return fills

    def _kind(self, at: int) -> tuple[object, ...] | None:
        """Return what is the same of those that might as well change places."""
        transaction = self._all[at]
        if len(transaction.calls) > 1 or transaction.ended_s < NEVER:
            return None
        (call,) = transaction.calls
        value = call.value if self._is_met(call) else None
        return call.key, call.operation, value, call.version, call.told

    def _is_met(self, call: Call) -> bool:
        return call.value in self._keys[call.key].values

    def _rank(self, at: int) -> tuple[int, float]:
        """Return the smaller the likelier it is that this was the one, and needed nowhere else."""
        transaction = self._all[at]
        is_certain = any(
            self._registers[call.key].version + 1 in self._keys[call.key].met
            for call in transaction.calls
        )
        is_seen = any(map(self._is_met, transaction.calls))
        is_many = len(transaction.calls) > 1
        order = 0 if is_certain else 1 if is_many and is_seen else 3 if is_many or is_seen else 2
        return order, transaction.ended_s if transaction.ended_s < NEVER else transaction.called_s


def _has_written(call: Call) -> bool:
    return call.told is not None and call.told.found and call.operation is not Operation.GET
