"""Histories of others: Jepsen's EDN and its log, Porcupine's logs."""

from pathlib import Path

import pytest

from analysis import foreign
from analysis.history import OK, VIOLATED, judge_files
from analysis.register import NEVER, Call
from rdht.errors import ConfigurationError
from rdht.messages import Operation
from rdht.parts import Result

EDN = """
; a register, as jepsen.store writes it
{:type :invoke, :f :write, :value 1, :process 0, :time 10, :index 0}
{:type :info, :f :start, :process :nemesis, :time 11, :value "cut off"}
{:type :invoke, :f :read, :value nil, :process 1, :time 12}
{:type :ok, :f :read, :value nil, :process 1, :time 13}
{:type :ok, :f :write, :value 1, :process 0, :time 14}
{:type :invoke, :f :cas, :value [1 2], :process 2, :time 15}
{:type :info, :f :cas, :value [1 2], :process 2, :time 16, :error :timeout}
{:type :invoke, :f :cas, :value [7 8], :process 0, :time 17}
{:type :fail, :f :cas, :value [7 8], :process 0, :time 18}
{:type :invoke, :f :read, :value nil, :process 1, :time 19}
{:type :ok, :f :read, :value %d, :process 1, :time 20}
"""
LOG = """INFO  jepsen.util - 0\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - :nemesis\t:info\t:start\t"Cut off {:n1 #{:n2}}"
INFO  jepsen.util - 0\t:info\t:write\t:timed-out
INFO  jepsen.util - 1\t:ok\t:read\t%s
INFO  jepsen.util - 2\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 2\t:ok\t:cas\t[3 4]
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:ok\t:read\t%s
"""
KEYED = """
{:process 0, :type :invoke, :f :put, :key "a", :value "x"}
{:process 1, :type :invoke, :f :put, :key "b", :value "y"}
{:process 0, :type :ok, :f :put, :key "a", :value "x"}
{:process 1, :type :ok, :f :put, :key "b", :value "y"}
{:process 0, :type :invoke, :f :get, :key "%s", :value nil}
{:process 0, :type :ok, :f :get, :key "%s", :value "x"}
"""
UNWRITTEN = """
{:process 0, :type :invoke, :f :get, :key "a", :value nil}
{:process 0, :type :ok, :f :get, :key "a", :value "%s"}
{:process 0, :type :invoke, :f :put, :key "a", :value "x"}
{:process 0, :type :ok, :f :put, :key "a", :value "x"}
"""
INDEPENDENT = """[
#jepsen.history.Op{:type :invoke, :f :write, :value [5 1], :process 0}
{:type :ok, :f :write, :value [5 1], :process 0}
{:type :invoke, :f :read, :value [%d nil], :process 1}
{:type :ok, :f :read, :value [%d 1], :process 1}
{:type :invoke, :f :cas, :value [5 [1 2]], :process 1}
]
"""


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (UNWRITTEN % "", OK),
        (UNWRITTEN % "x", VIOLATED),
        (EDN % 1, OK),
        (EDN % 2, OK),
        (EDN % 3, VIOLATED),
        (LOG % ("nil", "4"), OK),
        (LOG % ("3", "4"), OK),
        (LOG % ("3", "3"), VIOLATED),
        (KEYED % ("a", "a"), OK),
        (KEYED % ("b", "b"), VIOLATED),
        (INDEPENDENT % (5, 5), OK),
        (INDEPENDENT % (6, 6), VIOLATED),
    ],
)
def test_histories_of_others_have_the_verdict_that_they_are_known_for(
    tmp_path: Path, text: str, verdict: str
) -> None:
    path = tmp_path / "history.edn"
    path.write_text(text, encoding="utf-8")
    assert judge_files([path]).verdict == verdict


def test_what_failed_was_not_done_and_what_is_unknown_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "history.edn"
    path.write_text(EDN % 2, encoding="utf-8")
    calls = foreign.read(path)
    assert sum(call.operation is Operation.CAS for call in calls) == 1
    (cas,) = [call for call in calls if call.operation is Operation.CAS]
    times = (4.0, NEVER)  # lines, of those that are no nemesis's
    assert cas == Call(b"register", Operation.CAS, *times, b"2", 0, None, "2", b"1")
    (first, last) = sorted(
        (call for call in calls if call.operation is Operation.GET), key=lambda call: call.called_s
    )
    assert first.told == Result(False, 0)
    assert last.told == Result(True, 0, b"2")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no command"),
        ("{:type :ok, :f :read, :process 0}", "ends what it has not begun"),
        ("{:type :invoke, :f :read, :process 0}" * 2, "begins a command within another"),
        ("{:type :invoke, :f :append, :process 0, :value 1}", ":append is none of"),
        ("{:type :invoke, :f :cas, :process 0, :value 1}", "not a history"),
        ("{:type :invoke, :f :cas, :process 0, :value [nil 1]}", "a write of nothing"),
        ("{:type :invoke, :f :write, :process 0, :value nil}", "a write of nothing"),
        ("{:type :invoke, :f :read :process}", "lacks a value"),
        ("{:type :invoke, :f :read, :process 0", "within a form"),
        ("{:type :invoke, :f :read, :process 0)", "unexpected )"),
        ("(1 2 3", "within a form"),
        ("[1 2 3]", "no map"),
        (
            "{:type :invoke, :f :read, :process 0} {:type :maybe, :f :read, :process 0}",
            ":maybe is none of",
        ),
    ],
)
def test_what_is_not_understood_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "history.edn"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        foreign.read(path)
    assert why in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_forms_of_edn() -> None:
    text = r"""nil true -7 12N :key "a \"b\"\n" #{1 2} (x) {"k" [1, 2]} ; the end"""
    assert list(foreign._forms(text)) == [
        *(None, True, -7, 12, ":key", 'a "b"\n', [1, 2], ["x"], {"k": [1, 2]})
    ]
