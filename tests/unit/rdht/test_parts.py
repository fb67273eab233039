import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import parts
from rdht.errors import RemoteProtocolError
from rdht.limits import MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES
from rdht.messages import Message, Name, Operation, Status
from rdht.parts import Result

NAME = Name(1, 2, 3)
U64 = st.integers(0, 2**64 - 1)
RANGES = st.dictionaries(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), max_size=5)
OPERATIONS = st.sampled_from(
    [one for one in Operation if one not in {Operation.NONE, Operation.MANY}]
)
RESULTS = st.lists(st.builds(Result, st.booleans(), U64, st.binary(max_size=20)), max_size=5)


def part(key: bytes, number: int = 0, epoch: int = 0, **changed: object) -> Message:
    whole = Message(Status.REQUEST, NAME, Operation.PUT, range=number, epoch=epoch, key=key)
    return whole._replace(**changed)  # type: ignore[arg-type]


@st.composite
def commands(draw: st.DrawFn) -> tuple[dict[int, int], list[Message]]:
    ranges = draw(RANGES)
    keys = draw(st.sets(st.binary(max_size=40), max_size=6)) if ranges else set()
    numbers = st.sampled_from(sorted(ranges) or [0])
    asked = []
    for key in draw(st.permutations(sorted(keys))):
        number = draw(numbers)
        operation, version = draw(OPERATIONS), draw(U64)
        value = draw(st.binary(max_size=40))
        whole = part(key, number, ranges[number])
        asked.append(whole._replace(operation=operation, version=version, value=value))
    return ranges, asked


@given(commands())
def test_a_command_comes_out_as_it_went_in_with_its_parts_in_order_of_their_keys(
    command: tuple[dict[int, int], list[Message]],
) -> None:
    ranges, asked = command
    pairs, parts_ = parts.unpack(parts.pack(ranges.items(), asked), NAME)
    assert dict(pairs) == ranges
    assert list(parts_) == sorted(asked, key=lambda one: one.key)


@given(RESULTS)
def test_results_come_out_as_they_went_in(results: list[Result]) -> None:
    assert parts.unpack_results(parts.pack_results(results)) == results


def test_parts_have_the_types_of_other_messages() -> None:
    _, (unpacked,) = parts.unpack(parts.pack([(0, 0)], [part(b"k")]), NAME)
    assert type(unpacked) is Message
    assert type(unpacked.operation) is Operation


TWO = parts.pack([(0, 7), (1, 8)], [part(b"a", value=b"one"), part(b"b", 1, value=b"two")])


@pytest.mark.parametrize("size", range(len(TWO)))
def test_a_command_that_is_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"malformed|a command of"):
        parts.unpack(TWO[:size], NAME)


WRONG = {
    "too much": (TWO + b"\0", f"a command of 2 parts on 2 keys, {len(TWO)} of {len(TWO) + 1}"),
    "a range twice": (parts.pack([(0, 7), (0, 8)], [part(b"a")]), "a command of 1 parts"),
    "a range that is not named": (parts.pack([(0, 7)], [part(b"a", 1)]), "malformed: 1"),
    "a key twice": (parts.pack([(0, 7)], [part(b"a"), part(b"a")]), "2 parts on 1 keys"),
    "nothing to do": (parts.pack([(0, 7)], [part(b"a", operation=Operation.NONE)]), "malformed: 0"),
    "a command within": (
        parts.pack([(0, 7)], [part(b"a", operation=Operation.MANY)]),
        "malformed: 6",
    ),
    "too many keys": (
        parts.pack([(0, 7)], [part(b"%d" % number) for number in range(MAX_KEYS + 1)]),
        f"a command of {MAX_KEYS + 1} parts",
    ),
    "a key over its limit": (
        parts.pack([(0, 7)], [part(b"k" * (MAX_KEY_BYTES + 1))]),
        f"a key of {MAX_KEY_BYTES + 1} ",
    ),
    "a value over its limit": (
        parts.pack([(0, 7)], [part(b"k", value=b"v" * (MAX_VALUE_BYTES + 1))]),
        f"a value of {MAX_VALUE_BYTES + 1} ",
    ),
}


@pytest.mark.parametrize(("value", "why"), WRONG.values(), ids=WRONG)
def test_a_command_that_no_client_sends_is_refused_with_the_reason(value: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parts.unpack(value, NAME)


def test_as_many_keys_as_are_allowed_with_the_longest_key_and_value_are_taken() -> None:
    asked = [part(b"%d" % number) for number in range(MAX_KEYS - 1)]
    asked += [part(b"k" * MAX_KEY_BYTES, value=b"v" * MAX_VALUE_BYTES)]
    _, unpacked = parts.unpack(parts.pack([(0, 0)], asked), NAME)
    assert len(unpacked) == MAX_KEYS


ROWS = parts.pack_results(
    [Result(found=True, version=1, value=b"v"), Result(found=False, version=2)]
)


@pytest.mark.parametrize(
    ("size", "why"), [(1, "malformed"), (13, "cut short"), (14 + 12, "malformed")]
)
def test_results_that_are_cut_are_refused(size: int, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parts.unpack_results(ROWS[:size])


NEARLY = st.builds(
    lambda place, change, value: value[:place] + change + value[place + len(change) :],
    st.integers(0, len(TWO)),
    st.binary(max_size=4),
    st.sampled_from([TWO, ROWS]),
)


@given(st.binary(max_size=100) | NEARLY)
def test_garbage_raises_nothing_but_a_remote_protocol_error(value: bytes) -> None:
    try:
        pairs, parts_ = parts.unpack(value, NAME)
    except RemoteProtocolError:
        pass
    else:
        assert len(parts.pack(pairs, parts_)) == len(value)
    try:
        results = parts.unpack_results(value)
    except RemoteProtocolError:
        pass
    else:
        assert len(parts.pack_results(results)) == len(value)
