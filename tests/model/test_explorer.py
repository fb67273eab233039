import pytest

from faultbuild.mutants import MUTANTS
from rdht.coordinator import Command
from rdht.execution import Outcome
from rdht.messages import Operation
from rdht.parts import Result
from rdht.table import ABSENT, Entry
from tests.model import explorer
from tests.model.plans import PLANS
from tests.model.specification import Called, is_linearizable

CAUGHT_BY = {
    "early no": "writer, server crash, classic",
    "no roll forward": "writer twice, server crash",
    "forgetful veto": "writer, reader",
    "fickle vote": "writer, reader",
    "read through locks": "writer, reader",
    "unlock first": "writer, reader",
    "any epoch": "writer twice, server crash",
    "missing unlock": "two writers, classic",
    "abort all at once": "put_many, server b refuses",
    "broken pledge": "put_many, server b refuses",
    "forgotten many": "put_many in a range, client crash",
    "lost memories": "writer, server a refuses, crash",
    "begun anew": "3 servers, a and b crash",
    "begun in secret": "founding, 3 servers",
    "epoch given twice": "writer, b takes a copy, crash",
    "one no": "put_many, left, c crash",
    "no versions": "writer, reader",
    "half told": "put_many in a range, client crash",
    "hasty acknowledgement": "writer, server a refuses, crash",
}
WALKS = 200


@pytest.mark.parametrize("name", [name for name, plan in PLANS.items() if plan.is_quick])
def test_the_protocol_holds_in_every_state(name: str) -> None:
    verdict = explorer.explore(name)

    assert verdict.fault == "", "\n".join([verdict.fault, *verdict.trace])
    assert verdict.is_complete
    assert verdict.rests > 0


@pytest.mark.parametrize("name", [name for name, plan in PLANS.items() if plan.limit])
def test_the_protocol_holds_where_it_is_walked_only(name: str) -> None:
    verdict = explorer.walk(name, WALKS)

    assert verdict.fault == "", "\n".join([verdict.fault, *verdict.trace])
    assert verdict.rests > WALKS / 10


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught(name: str) -> None:
    with MUTANTS[name].apply():
        verdict = explorer.explore(CAUGHT_BY[name], explorer.MUTANT_LIMIT)

    assert verdict.fault
    assert verdict.trace


def test_a_world_that_cannot_come_to_rest_is_a_fault() -> None:
    with MUTANTS["missing unlock"].apply():
        verdict = explorer.explore("writer, give-up")

    assert verdict.fault == "at rest, a holds a lock"
    assert verdict.trace[0] == "begin v"


KEY = b"key"
PUT = (Command(Operation.PUT, KEY, b"1"),)
GET = (Command(Operation.GET, KEY),)
DONE, ABORTED, UNKNOWN = Outcome.DONE, Outcome.ABORTED, Outcome.UNKNOWN
PUT_DONE = Called((), DONE, (Result(found=True, version=0),))


@pytest.mark.parametrize(
    ("put", "get", "final", "is_explained"),
    [
        pytest.param(PUT_DONE, (1, b"1"), 1, True, id="read after put"),
        pytest.param(PUT_DONE, None, 1, False, id="old value read after put"),
        pytest.param(PUT_DONE, (1, b"1"), 2, False, id="put twice"),
        pytest.param(PUT_DONE, (1, b"1"), 0, False, id="put lost"),
        pytest.param(Called((), ABORTED), None, 0, True, id="aborted"),
        pytest.param(Called((), ABORTED), None, 1, False, id="aborted, yet done"),
        pytest.param(Called((), UNKNOWN), None, 1, True, id="unknown, done late"),
        pytest.param(Called((), UNKNOWN), None, 0, True, id="unknown, never done"),
        pytest.param(Called(()), (1, b"1"), 0, False, id="read, then lost"),
    ],
)
def test_which_histories_are_linearizable(
    put: Called, get: tuple[int, bytes] | None, final: int, *, is_explained: bool
) -> None:
    read = Result(found=False, version=0) if get is None else Result(True, *get)
    before = (0,) if put.outcome is DONE else ()
    history = (put, Called(before, DONE, (read,)))
    seen = {KEY: Entry(b"1", final) if final else ABSENT}

    assert is_linearizable((PUT, GET), history, seen) == is_explained
