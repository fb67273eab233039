"""Commands on many keys: against all orders of small histories, and beside unknown ones."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from analysis import moments
from analysis.disorder import explain_disorder
from analysis.history import OK, UNKNOWN, VIOLATED, judge
from analysis.moments import has_order
from analysis.register import NEVER, Call, Register, Transaction, carry_out
from rdht.messages import Operation
from rdht.parts import Result

GET, PUT = Operation.GET, Operation.PUT
SINGLE = (GET, PUT, Operation.ADD, Operation.DELETE, Operation.CAS)
KEYS = (b"a", b"b", b"c")
State = Mapping[bytes, Register]


def done(transaction: Transaction, state: State) -> tuple[State, Transaction]:
    """Carry all of it out; return what stands there then, and it with what it is told."""
    after = dict(state)
    calls = []
    for call in transaction.calls:
        after[call.key], told = carry_out(call, state.get(call.key, Register()))
        calls.append(call._replace(told=told))
    return after, Transaction(tuple(calls))


def forgotten(transaction: Transaction) -> Transaction:
    calls = (call._replace(ended_s=NEVER, told=None) for call in transaction.calls)
    return Transaction(tuple(calls))


def is_linearizable(transactions: Sequence[Transaction], state: State) -> bool:
    """Try all orders."""
    sure = [one for one in transactions if one.ended_s < NEVER]
    if not sure:
        return True
    first_end_s = min(one.ended_s for one in sure)
    for at, one in enumerate(transactions):
        if one.called_s > first_end_s:
            continue
        after, told = done(one, state)
        if one.calls[0].told is None or told == one:
            rest = [*transactions[:at], *transactions[at + 1 :]]
            if is_linearizable(rest, after):
                return True
    return False


def make(chance: random.Random, size: int) -> tuple[list[Transaction], State]:
    """Carry some commands out one by one, around their times; most keys are read in the end."""
    start = {b"a": Register(b"start", 2)} if chance.random() < 0.3 else {}
    state: State = start
    transactions = []
    width = chance.choice([0.3, 1.5, 3.0])
    for at in range(size):
        is_many = chance.random() < 0.6
        operation = chance.choice([GET, PUT] if is_many else SINGLE)
        times = at - chance.random() * width, at + chance.random() * width
        writes = operation not in {GET, Operation.DELETE}
        one = Transaction(
            tuple(
                Call(
                    key,
                    operation,
                    *times,
                    (b"same" if chance.random() < 0.1 else b"%s%d" % (key, at)) * writes,
                    state.get(key, Register()).version,
                )
                for key in chance.sample(KEYS, 2 if is_many else 1)
            )
        )
        after, told = done(one, state)
        kind = chance.random()
        transactions.append(told if kind > 0.3 else forgotten(told))
        if kind > 0.15:
            state = after
    for key in KEYS[: chance.randint(0, 3)]:
        last = Transaction((Call(key, GET, size + 9, size + 10),))
        transactions.append(done(last, state)[1])
    return transactions, start


def spoil(chance: random.Random, transactions: list[Transaction]) -> list[Transaction]:
    """Lose one, or half of one, or change a time or what two were told."""
    at = chance.randrange(len(transactions))
    one = transactions[at]
    kind = chance.randrange(4)
    rest = [*transactions[:at], *transactions[at + 1 :]]
    if kind == 0:
        return rest
    if kind == 1:
        return [*rest, Transaction(one.calls[:1])]
    if kind == 2:
        by_s = chance.choice([-3, -1, 1, 3])
        moved = (
            call._replace(called_s=call.called_s + by_s, ended_s=call.ended_s + by_s)
            for call in one.calls
        )
        return [*rest, Transaction(tuple(moved))]
    told = one.calls[0].told
    if told is None:
        return transactions
    wrong = one.calls[0]._replace(told=told._replace(version=max(0, told.version - 1)))
    return [*rest, Transaction((wrong, *one.calls[1:]))]


def test_it_agrees_with_trying_all_orders_on_thousands_of_small_histories() -> None:
    chance = random.Random(1)
    verdicts = Counter[tuple[bool, str]]()
    for _ in range(3000):
        transactions, start = make(chance, chance.randint(2, 5))
        for _ in range(chance.choice([0, 2, 3, 3])):
            transactions = spoil(chance, transactions) or transactions
        expected = is_linearizable(transactions, start)
        assert expected or not has_order(transactions, start), transactions
        verdict = judge(transactions, start=start).verdict
        assert verdict in ((OK if expected else VIOLATED), UNKNOWN), transactions
        if all(one.calls[0].told for one in transactions):
            assert verdict != UNKNOWN, transactions
        if expected:
            assert explain_disorder(transactions, start) is None, transactions
        verdicts[expected, verdict] += 1
    assert verdicts[True, OK] > 750
    assert verdicts[False, VIOLATED] > 750
    assert verdicts[True, UNKNOWN] + verdicts[False, UNKNOWN] < 90


def test_good_histories_are_ok_though_it_is_not_known_what_came_of_many() -> None:
    chance = random.Random(2)
    verdicts = Counter[str]()
    for _ in range(60):
        transactions, start = make(chance, 40)
        verdicts[judge(transactions, start=start).verdict] += 1
    assert verdicts[VIOLATED] == 0
    assert verdicts[OK] > 50


def put(times: tuple[float, float], *parts: tuple[bytes, bytes, int | None]) -> Transaction:
    return Transaction(
        tuple(
            Call(key, PUT, *times, value, told=None if met is None else Result(True, met))
            for key, value, met in parts
        )
    )


def get(times: tuple[float, float], key: bytes, value: bytes, version: int) -> Transaction:
    return Transaction((Call(key, GET, *times, told=Result(True, version, value)),))


# Version 1 of a is of one of two, of which the second has to be on b later; only then is it seen.
WRONG_FIRST = [
    put((0, NEVER), (b"a", b"1", None), (b"b", b"2", None)),
    put((0, NEVER), (b"a", b"3", None)),
    put((1, 2), (b"a", b"4", 1)),
    put((3, 4), (b"b", b"5", 0)),
    put((5, 6), (b"a", b"6", 3)),
    get((7, 8), b"b", b"2", 2),
]


def test_a_wrong_choice_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_linearizable(WRONG_FIRST, {})
    assert has_order(WRONG_FIRST)
    assert judge(WRONG_FIRST).verdict == OK
    monkeypatch.setattr(moments, "MOST_CHOICES", -100)
    assert judge(WRONG_FIRST).verdict == UNKNOWN
