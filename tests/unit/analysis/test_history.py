"""Judging a history: the verdict, why, and the smallest part of it; files of ours and of others."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import history, linearizability
from analysis.history import OK, UNKNOWN, VIOLATED, judge, rows_of
from analysis.linearizability import find_order
from analysis.register import NEVER, Call, Register, Transaction, carry_out
from analysis.smallest import smallest
from rdht.coordinator import Command
from rdht.execution import Outcome
from rdht.history import Recorder
from rdht.messages import Operation
from rdht.parts import Result

GET, PUT, ADD, DELETE, CAS = (
    *(Operation.GET, Operation.PUT, Operation.ADD, Operation.DELETE),
    Operation.CAS,
)


def put(key: bytes, times: tuple[float, float], value: bytes, before: int) -> Call:
    return Call(key, PUT, *times, value, told=Result(True, before), process="c1")


def get(key: bytes, times: tuple[float, float], value: bytes, version: int) -> Call:
    return Call(key, GET, *times, told=Result(bool(value), version, value), process="c2")


def lone(*calls: Call) -> list[Transaction]:
    return [Transaction((call,)) for call in calls]


STALE = [
    put(b"k", (0.0, 0.001), b"a", 0),
    put(b"k", (0.002, 0.003), b"b", 1),
    get(b"k", (0.004, 0.005), b"a", 1),
]


def test_a_good_history_is_ok() -> None:
    judged = judge(lone(*STALE[:2], get(b"k", (4.0, 5.0), b"b", 2)))
    assert (judged.verdict, judged.reasons) == (OK, [])
    assert judged.counts == {"commands": 3, "unknown": 0, "many": 0, "keys": 1, "longest": 3}


def test_a_stale_read_is_told_in_words_with_who_when_and_what() -> None:
    judged = judge(lone(*STALE, put(b"other", (0.0, 9.0), b"x", 0)))
    assert judged.verdict == VIOLATED
    (text,) = judged.reasons
    assert text.startswith("key k is not linearizable")
    assert "c1 (2.000 to 3.000 ms) put b: done, was at v1" in text
    assert text.endswith("and then c2 (4.000 to 5.000 ms) get: a at v1")


def test_a_version_that_no_write_explains_is_told_with_how_many_there_can_have_been() -> None:
    later = get(b"k", (0.004, 0.005), b"b", 4)
    (text,) = judge(lone(*STALE[:2], later)).reasons
    assert "it was at v4, and there had been 2 writes at most" in text
    no_effect = Call(b"k", ADD, 0.0012, 0.0018, b"c", told=Result(False, 1))
    unknown = Call(b"k", PUT, 0.0, value=b"d")
    (text,) = judge(lone(*STALE[:2], no_effect, unknown, later)).reasons
    assert "it was at v4, and there had been 3 writes at most" in text


def test_what_histories_that_are_missing_may_explain_is_unknown() -> None:
    judged = judge(lone(*STALE), is_complete=False)
    assert judged.verdict == UNKNOWN
    assert judged.reasons[0].startswith("the history is not complete, which may explain this: key")


def test_a_history_that_is_not_complete_is_never_ok() -> None:
    judged = judge(lone(*STALE[:2]), is_complete=False)
    assert (judged.verdict, judged.reasons) == (UNKNOWN, ["the history is not complete"])


def test_what_is_given_up_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "MOST_STATES", -1)
    calls = [Call(b"k", PUT, 0.0, value=b"x"), Call(b"k", CAS, 0.1, value=b"y")]
    calls.append(put(b"k", (1.0, 2.0), b"z", 2))  # the cas must have been the first
    judged = judge(lone(*calls))
    assert judged.verdict == UNKNOWN
    assert "key k is not judged" in judged.reasons[0]


def test_no_command_is_not_ok() -> None:
    assert judge([]).verdict == UNKNOWN


def test_keys_may_have_held_something_before() -> None:
    read = get(b"k", (0.0, 1.0), b"x", 7)
    assert judge(lone(read)).verdict == VIOLATED
    assert judge(lone(read), start={b"k": Register(b"x", 7)}).verdict == OK


def test_of_many_bad_keys_the_first_few_are_told_in_full() -> None:
    bad = [call._replace(key=b"k%d" % at) for at in range(10) for call in STALE]
    reasons = judge(lone(*bad)).reasons
    assert len(reasons) == 4
    assert reasons[-1] == "and 7 more keys"


BOTH = Transaction((put(b"a", (0.0, 1.0), b"1", 0), put(b"b", (0.0, 1.0), b"2", 0)))


def test_half_of_a_command_on_many_keys_is_a_violation() -> None:
    torn = Transaction((get(b"a", (0.5, 0.6), b"1", 1), get(b"b", (0.5, 0.6), b"", 0)))
    whole = Transaction((get(b"a", (0.5, 0.6), b"1", 1), get(b"b", (0.5, 0.6), b"2", 1)))
    assert judge([BOTH, whole]).verdict == OK
    judged = judge([BOTH, torn])
    assert judged.verdict == VIOLATED
    assert "not done at one moment" in judged.reasons[0]
    assert len(judged.violations[0].calls) == 4


def test_commands_on_many_keys_are_judged_where_values_repeat_too() -> None:
    again = put(b"a", (2.0, 3.0), b"1", 1)
    torn = Transaction((get(b"a", (4.0, 5.0), b"1", 2), get(b"b", (4.0, 5.0), b"", 0)))
    assert judge([BOTH, *lone(again)]).verdict == OK
    assert judge([BOTH, *lone(again), torn]).verdict == VIOLATED


def open_put(key: bytes, value: bytes) -> Call:
    return Call(key, PUT, 0.0, value=value, process="c3")


# Of unknown outcome; it was seen on the key a.
SEEN = [
    Transaction((open_put(b"a", b"1"), open_put(b"b", b"2"))),
    *lone(get(b"a", (1.0, 2.0), b"1", 1)),
]


def test_a_command_that_was_seen_may_not_have_left_something_out() -> None:
    gone = lone(get(b"b", (3.0, 4.0), b"", 0))
    assert judge([*SEEN, *gone]).verdict == VIOLATED
    assert judge([*SEEN, *lone(get(b"b", (1.0, 2.0), b"", 0))]).verdict == OK


def test_what_could_be_of_a_command_that_was_seen_or_of_another_is_not_ok_for_sure() -> None:
    after = lone(put(b"b", (5.0, 6.0), b"3", 1))  # somebody wrote version 1 before
    other = lone(open_put(b"b", b"4"))
    assert judge([*SEEN, *after]).verdict == OK
    assert judge([*SEEN, *after, *other]).verdict == OK
    # The other one did, as the key was still empty when the first had been seen. So it was torn.
    empty = lone(get(b"b", (3.0, 4.0), b"", 0))
    last = lone(get(b"b", (7.0, 8.0), b"3", 2))
    assert judge([*SEEN, *after, *other, *empty, *last]).verdict != OK


# The smallest part.


def long_history(chance: random.Random, size: int) -> list[Call]:
    """Return a good history of six clients."""
    register, calls = Register(), []
    for at in range(size):
        operation = chance.choice([GET, GET, PUT, ADD, DELETE, CAS])
        value = b"v%d" % at if operation in {PUT, ADD, CAS} else b""
        times = at - chance.choice([0.1, 1.5]), at + chance.choice([0.1, 1.5])
        call = Call(b"k", operation, *times, value, register.version, process=f"c{at % 6}")
        register, told = carry_out(call, register)
        calls.append(call._replace(told=told))
    return calls


def spoil(chance: random.Random, calls: list[Call]) -> list[Call]:
    """Have one get see what another write than it saw had left, long after or before."""
    at = chance.choice([n for n, call in enumerate(calls) if call.operation is GET and n > 20])
    writes = [call for call in calls[: at - 10] if call.operation is PUT]
    other = chance.choice(writes or [calls[0]])
    assert other.told
    changed = Result(True, other.told.version + 1, other.value)
    return [*calls[:at], calls[at]._replace(told=changed), *calls[at + 1 :]]


@pytest.mark.parametrize("seed", range(12))
def test_a_violation_is_shown_by_a_few_calls_and_none_of_them_is_idle(seed: int) -> None:
    chance = random.Random(seed)
    calls = spoil(chance, long_history(chance, 200))
    assert find_order(calls) is None
    shown = smallest(calls, Register())
    assert len(shown) <= 5
    assert all(call in calls for call in shown)
    # With the end of one of them forgotten, and all others there, there may be an order.
    rest = [call._replace(ended_s=NEVER) for call in calls if call not in shown]
    rest = [call for call in rest if call.operation is not GET]
    assert find_order([*shown, *rest]) is None


def test_a_long_history_becomes_small_in_time() -> None:
    chance = random.Random(3)
    calls = long_history(chance, 5000)
    calls[4000] = calls[4000]._replace(operation=GET, value=b"", told=Result(True, 5, b"nobody's"))
    assert len(smallest(calls, Register())) <= 5


def test_without_versions_values_are_what_is_met() -> None:
    calls = [
        Call(b"r", PUT, 0.0, 1.0, b"1", told=Result(True, 0)),
        *(Call(b"r", PUT, at, at + 0.5, b"%d" % at, told=Result(True, 0)) for at in range(2, 30)),
        Call(b"r", GET, 40.0, 41.0, told=Result(True, 0, b"3")),
    ]
    shown = smallest(calls, Register(), has_versions=False)
    assert {call.value for call in shown if call.operation is PUT} >= {b"3"}
    assert len(shown) == 3


# Files, and the command line.


@pytest.fixture
def ours(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a history of one client."""

    def write(
        name: str, rows: list[tuple[Command, Result | None]], workload: str = "mixed"
    ) -> Path:
        recorder = Recorder(tmp_path / name, name, samples=False, workload=workload)
        for number, (command, told) in enumerate(rows):
            outcome = Outcome.UNKNOWN if told is None else Outcome.DONE
            one: Any = SimpleNamespace(sequence=number, commands=[command], outcome=outcome)
            recorder.begin(0, one)
            recorder.end(0, one, [] if told is None else [told])
        recorder.close()
        return tmp_path / name

    return write


def run(*words: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.history", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_our_files_are_judged_together(ours: Callable[..., Path]) -> None:
    one = ours("history.bin", [(Command(PUT, b"k", b"x"), Result(True, 0))])
    other = ours("history.1.bin", [(Command(GET, b"k"), Result(True, 1, b"x"))])
    code, out, _ = run(one, other)
    assert (code, out) == (
        0,
        "ok: 2 commands, 0 of unknown outcome, 0 on many keys, 1 keys, 2 on the busiest key\n",
    )
    code, out, _ = run(other)
    assert code == 3
    assert out.startswith("violated: 1 commands")


def test_a_violation_has_a_picture_and_a_document(
    ours: Callable[..., Path], tmp_path: Path
) -> None:
    bad = ours("history.bin", [(Command(GET, b"k"), Result(True, 1, b"x"))])
    code, out, _ = run(bad, "--json", "--picture", tmp_path / "why.svg")
    document = json.loads(out)
    assert (code, document["verdict"]) == (3, VIOLATED)
    assert [row["asked"] for row in document["failing"]] == ["get"]
    assert "get: #" in (tmp_path / "why.svg").read_text(encoding="utf-8")
    assert run(bad, "--picture", tmp_path / "why.png")[0] == 3
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_a_line_and_exit_code_2(ours: Callable[..., Path], tmp_path: Path) -> None:
    good = ours("history.bin", [(Command(PUT, b"k", b"x"), Result(True, 0))])
    loaded = ours("history.1.bin", [(Command(GET, b"k"), Result(True, 1, b"y"))], "ycsb-a")
    other = tmp_path / "other.edn"
    other.write_text("{:process 0, :type :invoke, :f :read}", encoding="utf-8")
    for words, why in (
        ([tmp_path / "none.bin"], "No such file"),
        ([tmp_path / "none.edn"], "No such file"),
        ([good, "--picture", "why.pdf"], ".svg or .png"),
        ([good, other], "cannot be of one run"),
        ([other, other], "several files"),
        ([good, loaded], "fab assemble"),
    ):
        code, out, error = run(*words)
        assert (code, out) == (2, "")
        assert why in error
        assert len(error.splitlines()) == 1


def test_rows_of_a_chart_say_when_what_and_who() -> None:
    rows = rows_of(judge(lone(*STALE)).violations[0])
    assert [row["process"] for row in rows] == ["c1", "c1", "c2"][-len(rows) :]
    assert rows[-1]["is_last"]
    assert rows[0]["begun"] == 0.0
    assert rows[-1] == {
        "process": "c2",
        "key": "k",
        "asked": "get",
        "told": "a at v1",
        "begun": pytest.approx((STALE[2].called_s - STALE[-len(rows)].called_s) * 1e3),
        "ended": pytest.approx((STALE[2].ended_s - STALE[-len(rows)].called_s) * 1e3),
        "is_last": True,
        "unit": "ms after the first of them began",
    }


def test_a_cas_and_what_is_no_text_are_shown() -> None:
    cas = Call(b"k", CAS, 0.0, 1.0, b"\xff\x00", 3, Result(False, 4))
    assert history.asked(cas) == "cas at v3 #ff00"
    assert history.answered(cas) == "not done, was at v4"
    assert history.asked(cas._replace(expected=b"1", value=b"2")) == "cas 1 → 2"
    assert history.answered(cas._replace(told=None)) == "done"
    assert history.answered(cas._replace(told=None, ended_s=NEVER)) == "unknown"
