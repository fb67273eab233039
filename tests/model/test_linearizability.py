import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import linearizability
from analysis.disorder import explain_disorder
from analysis.linearizability import UndecidedError, find_order
from analysis.register import NEVER, Call, Register, Transaction, carry_out
from analysis.shortcuts import is_impossible, order_by_versions
from rdht.messages import Operation
from rdht.parts import Result

GET, PUT, ADD, DELETE, CAS = (
    Operation.GET,
    Operation.PUT,
    Operation.ADD,
    Operation.DELETE,
    Operation.CAS,
)
KEY, OTHER = b"k", b"l"


def put(
    called_s: float, ended_s: float, value: bytes, before: int | None = None, key: bytes = KEY
) -> Call:
    told = None if before is None else Result(found=True, version=before)
    return Call(key, PUT, called_s, ended_s, value, told=told)


def get(
    called_s: float, ended_s: float, value: bytes | None, version: int, key: bytes = KEY
) -> Call:
    return Call(key, GET, called_s, ended_s, told=Result(value is not None, version, value or b""))


def unknown(called_s: float, value: bytes, key: bytes = KEY) -> Call:
    return put(called_s, NEVER, value, key=key)


def lone(*calls: Call) -> list[Transaction]:
    return [Transaction((call,)) for call in calls]


GOOD = {
    "nothing": [],
    "one after the other": [put(0, 1, b"a", 0), get(2, 3, b"a", 1)],
    "a read beside a write sees either": [
        put(0, 9, b"a", 0),
        get(1, 2, None, 0),
        get(3, 4, b"a", 1),
    ],
    "an unknown write took effect late": [unknown(0, b"a"), get(1, 2, None, 0), get(3, 4, b"a", 1)],
    "a write that was told nothing is the last": [put(0, 1, b"a"), put(2, 3, b"b")],
    "a write that was told nothing stands before another": [put(0, 1, b"a"), put(2, 3, b"b", 1)],
    "an unknown write never took effect": [unknown(0, b"a"), get(1, 2, None, 0)],
    "an unknown write that nobody saw stands between two others": [
        put(0, 1, b"a", 0),
        unknown(0, b"b"),
        put(2, 3, b"c", 2),
    ],
    "a deleted key keeps its version": [
        put(0, 1, b"a", 0),
        Call(KEY, DELETE, 2, 3, told=Result(found=True, version=1)),
        get(4, 5, None, 2),
        Call(KEY, CAS, 6, 7, b"b", version=2, told=Result(found=True, version=2)),
        Call(KEY, ADD, 8, 9, b"c", told=Result(found=False, version=3)),
    ],
}
BAD = {
    "a write is not seen": [put(0, 1, b"a", 0), get(2, 3, None, 0)],
    "a write that was told nothing is not seen": [put(0, 1, b"a"), get(2, 3, None, 0)],
    "a write that was told nothing left no version": [put(0, 1, b"a"), put(2, 3, b"b", 0)],
    "a write is seen before it began": [get(0, 1, b"a", 1), put(2, 3, b"a", 0)],
    "a write is seen and then not": [unknown(0, b"a"), get(1, 2, b"a", 1), get(3, 4, None, 0)],
    "a value comes from nowhere": [get(0, 1, b"a", 1)],
    "two writes met the same version": [put(0, 9, b"a", 0), put(0, 9, b"b", 0)],
    "an unknown write took effect twice": [
        unknown(0, b"a"),
        get(1, 2, b"a", 1),
        put(3, 4, b"b", 1),
        get(5, 6, b"a", 3),
    ],
    "a version is lost": [put(0, 1, b"a", 0), put(2, 3, b"b", 2)],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_histories_that_can_be_explained(history: list[Call]) -> None:
    assert find_order(history) is not None
    assert explain_disorder(lone(*history)) is None


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_histories_that_cannot_be_explained(history: list[Call]) -> None:
    assert find_order(history) is None


def test_an_order_is_one_that_can_be_carried_out() -> None:
    history = [get(0, 9, b"a", 1), put(0, 9, b"b", 1), put(0, 9, b"a", 0), unknown(0, b"c")]
    order = find_order(history)
    assert order == [history[2], history[0], history[1]]


def test_many_unknown_writes_do_not_keep_it_busy() -> None:
    history = [unknown(0, b"u%d" % at) for at in range(60)]
    history += [put(at, at + 0.5, b"p%d" % at, 2 * at) for at in range(1, 20)]
    history.append(get(30, 31, b"u7", 40))
    assert find_order(history) is not None


NEEDS_A_SEARCH = [unknown(0, b"x"), Call(KEY, CAS, 0.1, value=b"y"), put(1, 2, b"z", 2)]


def test_too_many_possibilities_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    order = find_order(NEEDS_A_SEARCH)
    assert order is not None
    assert [call.value for call in order] == [b"y", b"x", b"z"]
    monkeypatch.setattr(linearizability, "MOST_STATES", -1)
    with pytest.raises(UndecidedError):
        find_order(NEEDS_A_SEARCH)


def test_of_two_writes_of_one_kind_the_one_that_was_met_is_found() -> None:
    calls = [
        unknown(0, b"x"),
        unknown(0.1, b"y"),
        Call(KEY, CAS, 0.2, value=b"z"),  # can only have been the first, or never
        put(1, 2, b"a", 2),
        get(3, 4, b"a", 3),
    ]
    met = [*calls, get(1, 2, b"y", 2)]
    for history in (calls, met):
        search = linearizability._Search(history, Register(), has_versions=True)
        assert search.run(Register()) is not None


def plain(operation: Operation, called_s: float, ended_s: float, value: bytes) -> Call:
    told = Result(True, 0, value if operation is GET else b"")
    return Call(KEY, operation, called_s, ended_s, b"" if operation is GET else value, told=told)


def test_values_that_were_written_once_stood_one_after_the_other() -> None:
    first = [plain(PUT, 0, 1, b"x"), plain(GET, 4, 5, b"x")]  # stood from 1 to 4
    for others, is_bad in (
        ([plain(PUT, 2, 3, b"y")], True),  # within
        ([plain(PUT, 0, 3, b"y")], False),  # may have been before
        ([plain(PUT, 2, 9, b"y")], False),
        ([plain(PUT, 0, 3, b"y"), plain(GET, 3.5, 6, b"y")], True),  # stood from 3 to 3.5
        ([plain(PUT, 4, 4.2, b"y"), plain(GET, 6, 7, b"y")], False),  # from 4.2 on
        ([plain(PUT, 0, 4, b"y"), plain(GET, 4.5, 6, b"y")], False),  # from 4 on: it just fits
    ):
        calls = [*first, *others]
        assert is_impossible(calls, Register(), has_versions=False) == is_bad, others
        assert (find_order(calls, has_versions=False) is None) == is_bad, others


MOMENT = [
    Transaction((put(0, 1, b"a", 0), put(0, 1, b"b", 0, OTHER))),
    Transaction((get(2, 3, b"a", 1), get(2, 3, b"b", 1, OTHER))),
]


def test_many_keys_at_one_moment() -> None:
    assert explain_disorder(MOMENT) is None


def test_half_of_a_command_is_seen() -> None:
    torn = Transaction((get(0, 1, b"a", 1), get(0, 1, None, 0, OTHER)))
    assert "circle" in str(explain_disorder([MOMENT[0], torn]))


def test_reads_of_many_keys_disagree_on_an_order() -> None:
    writes = lone(put(0, 9, b"a", 0), put(0, 9, b"b", 0, OTHER))
    one = Transaction((get(0, 9, b"a", 1), get(0, 9, None, 0, OTHER)))
    other = Transaction((get(0, 9, None, 0), get(0, 9, b"b", 1, OTHER)))
    assert explain_disorder([*writes, one]) is None
    assert "circle" in str(explain_disorder([*writes, one, other]))


def test_an_unknown_command_must_be_whole_once_it_was_seen() -> None:
    half = Transaction((unknown(0, b"a"), unknown(0, b"b", OTHER)))
    seen = lone(get(1, 2, b"a", 1))
    assert explain_disorder([half, *lone(get(1, 2, None, 0, OTHER))]) is None
    assert explain_disorder([half, *seen, *lone(get(3, 4, b"b", 1, OTHER))]) is None
    assert "circle" in str(explain_disorder([half, *seen, *lone(get(3, 4, None, 0, OTHER))]))
    # Both reads at the same time: the other one may have been the first.
    assert explain_disorder([half, *seen, *lone(get(1, 2, None, 0, OTHER))]) is None


def test_what_stood_there_before_was_written_by_nobody() -> None:
    read = lone(get(0, 1, b"x", 1))
    whole = Transaction((put(2, 3, b"a", 1), put(2, 3, b"b", 0, OTHER)))
    assert "nobody wrote" in str(explain_disorder([*read, whole]))
    assert explain_disorder([*read, whole], {KEY: Register(b"x", 1)}) is None


def test_a_circle_is_shown_by_as_few_as_there_can_be() -> None:
    long = [Transaction((put(at, at + 0.5, b"%d" % at, at),)) for at in range(50)]
    stale = Transaction((get(60, 61, b"7", 8), get(60, 61, b"49", 50)))
    disorder = explain_disorder([*long, stale])
    assert disorder is not None
    assert set(disorder.transactions) == {long[8], stale}


def make(chance: random.Random, size: int, *, has_versions: bool = True) -> list[Call]:
    """Carry out some calls one by one; each began and ended around its moment.

    Without versions few values are there, and a cas expects one.
    """
    register = Register()
    calls = []
    for at in range(size):
        operation = chance.choice([GET, GET, PUT, ADD, DELETE, CAS])
        written = b"v%d" % (at if has_versions else chance.randint(0, 2))
        call = Call(
            KEY,
            operation,
            at - chance.choice([0.1, 1.5, 3.2]),
            at + chance.choice([0.1, 1.5, 3.2]),
            written if operation in {PUT, ADD, CAS} else b"",
            version=max(0, register.version - chance.randint(0, 1)),
        )
        if operation is CAS and not has_versions:
            call = call._replace(expected=b"v%d" % chance.randint(0, 2))
        register, told = carry_out(call, register)
        fate = chance.random()
        if fate < 0.75:
            calls.append(call._replace(told=told if has_versions else told._replace(version=0)))
        else:  # it is told nothing, and mostly does not even end
            calls.append(call if fate < 0.8 else call._replace(ended_s=NEVER))
    return calls


def spoil(chance: random.Random, calls: list[Call], *, has_versions: bool = True) -> list[Call]:
    """Change a time or an answer; the history may be good all the same."""
    at = chance.randrange(len(calls))
    call = calls[at]
    if call.told is None:
        changed = call._replace(called_s=call.called_s + 2, ended_s=call.ended_s + 2)
    elif chance.random() < 0.5 and has_versions:
        told = call.told._replace(version=max(0, call.told.version + chance.choice([-1, 1])))
        changed = call._replace(told=told)
    elif chance.random() < 0.5 and call.operation is GET:
        value = b"v%d" % chance.randint(0, 2)
        changed = call._replace(told=call.told._replace(found=True, value=value))
    elif chance.random() < 0.5 and call.operation is not PUT:
        told = call.told._replace(found=not call.told.found, value=b"")
        changed = call._replace(told=told)
    else:
        changed = call._replace(called_s=call.called_s + 3, ended_s=call.ended_s + 3)
    return [*calls[:at], changed, *calls[at + 1 :]]


def try_all(
    left: list[Call],
    register: Register = Register(),  # noqa: B008 - immutable
    *,
    has_versions: bool,
) -> bool:
    """Carry out the calls in every order that their times allow."""
    if all(call.ended_s == NEVER for call in left):
        return True
    for at, call in enumerate(left):
        if any(other.ended_s < call.called_s for other in left):
            continue
        after, told = carry_out(call, register)
        if not has_versions:
            told = told._replace(version=0)
        if call.told in {None, told} and try_all(
            left[:at] + left[at + 1 :], after, has_versions=has_versions
        ):
            return True
    return False


def explains(order: Sequence[Call]) -> bool:
    register = Register()
    for call in order:
        register, told = carry_out(call, register)
        if call.told is not None and call.told != told:
            return False
    return not any(later.ended_s < earlier.called_s for earlier, later in combinations(order, 2))


def is_linearizable(calls: list[Call]) -> bool:
    """Try all orders of all choices of what took effect."""
    done = [call for call in calls if call.ended_s < NEVER]
    open_ones = [call for call in calls if call.ended_s == NEVER]
    return any(
        explains(order)
        for count in range(len(open_ones) + 1)
        for chosen in combinations(open_ones, count)
        for order in permutations([*done, *chosen])
    )


@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_what_was_done_one_by_one_can_be_explained(chance: random.Random, size: int) -> None:
    calls = make(chance, size)
    chance.shuffle(calls)
    assert find_order(calls) is not None
    assert explain_disorder(lone(*calls)) is None


@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_it_finds_what_trying_all_orders_finds(chance: random.Random, size: int) -> None:
    calls = make(chance, size)
    for _ in range(chance.randint(1, 2)):
        calls = spoil(chance, calls)
    order = find_order(calls)
    assert (order is not None) == is_linearizable(calls)
    if order is not None:
        assert explains(order)


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_versions_tell_the_same_where_all_is_known(chance: random.Random, size: int) -> None:
    calls = [call for call in make(chance, size) if call.told is not None]
    if calls:
        calls = spoil(chance, calls)
    if is_linearizable(calls):
        assert explain_disorder(lone(*calls)) is None


@pytest.mark.parametrize("has_versions", [True, False])
def test_it_agrees_with_trying_all_orders_on_thousands_of_small_histories(
    *, has_versions: bool
) -> None:
    chance = random.Random(1)
    verdicts = Counter[bool]()
    for _ in range(5000):
        calls = make(chance, chance.randint(1, 6), has_versions=has_versions)
        for _ in range(chance.randint(0, 3)):
            calls = spoil(chance, calls, has_versions=has_versions)
        expected = try_all(calls, has_versions=has_versions)
        assert (find_order(calls, has_versions=has_versions) is not None) == expected, calls
        # The search by itself, and what is known before it.
        search = linearizability._Search(calls, Register(), has_versions=has_versions)
        assert (search.run(Register()) is not None) == expected, calls
        if expected:
            assert not is_impossible(calls, Register(), has_versions=has_versions), calls
        elif has_versions:
            assert order_by_versions(calls, Register()) is None, calls
        verdicts[expected] += 1
    assert min(verdicts.values()) > 5000 / 4
